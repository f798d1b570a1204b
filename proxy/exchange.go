package proxy

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/credproxy/credproxy/audit"
	"github.com/credproxy/credproxy/internal/mask"
	"github.com/credproxy/credproxy/secrets"
)

// An exchange is one request and its answer. It is the http.ResponseWriter that goproxy writes the answer to.
type exchange struct {
	server  *Server
	w       http.ResponseWriter
	client  string
	target  authority
	upgrade string // protocol that the client asks to switch to
	event   audit.Event

	used     []secrets.Value    // that must not come back
	mask     *mask.Set          // takes them out; nil: there are none
	body     *requestBody       // nil: the request has none
	h1       bool               // the client speaks HTTP/1
	http10   bool               // and that HTTP/1.0
	interims int                // answers with 1xx so far
	upstream io.ReadWriteCloser // the upstream's side after a 101
	stall    stallTimer         // ends writing to w if the client takes nothing
	failed   error              // the upstream's body ended before its end
	answered bool               // the head of the answer is written
	hijacked bool

	mu        sync.Mutex // guards w against the goroutines of interim answers and of the head's timer
	finalHead bool       // no interim answer any more
	bodyBegun bool       // the head needs no flush of its own any more
}

// serve runs one request through goproxy and the forwarder.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, client, scheme string, target authority) {
	if strings.ContainsAny(r.RequestURI, "# ") {
		// Servers end the query or the whole target there, and with it a credential that stands behind.
		s.refuse(w, r, client, faultf(badRequest, "the request's target has a # or a space in it"))
		return
	}
	host := target.hostHeader(scheme)
	x := &exchange{
		server: s, w: w, client: client, target: target, upgrade: requestedUpgrade(r),
		h1: r.ProtoMajor == 1, http10: !r.ProtoAtLeast(1, 1), stall: stallTimer{w: w, after: s.limits.stall},
		event: audit.Event{Time: now(), Client: client, Method: r.Method, Host: host, Path: r.URL.EscapedPath()},
	}
	defer x.finish()
	endHop(r.Header)
	// A copy, because net/http looks at the body of its own request to decide how to close the connection.
	var watched net.Conn
	if t, ok := r.Context().Value(tunnelKey{}).(*tunnelConn); ok && t.watched {
		watched = t.tcp()
	}
	ctx := newRequestContext(r.Context(), x, watched)
	defer ctx.end()
	r = r.WithContext(ctx)
	r.URL.Scheme, r.URL.Host, r.Host = scheme, host, host
	s.engine.ServeHTTP(x, r)
	if x.body != nil && !x.body.ended.Load() {
		x.body.stop()
	}
	if x.failed != nil {
		x.breakOff()
	}
}

// breakOff tells the client that the body is not whole.
func (x *exchange) breakOff() {
	if !x.hijacked {
		x.Flush() // what there is, so that it does not look as if no answer had come
	}
	if x.http10 && !x.hijacked {
		// Where the end of the connection is the end of the body, only a reset is no end.
		if conn, _, err := http.NewResponseController(x.w).Hijack(); err == nil {
			reset(conn)
		}
	}
	panic(http.ErrAbortHandler)
}

// reset closes the TCP connection below conn so that the other side gets an error.
func reset(conn net.Conn) {
	for {
		switch c := conn.(type) {
		case *h1Conn:
			conn = c.Conn
		case *tls.Conn:
			conn = c.NetConn()
		case *tunnelConn:
			conn = c.Conn
		case *prefixConn:
			conn = c.Conn
		case *clientConn:
			_ = c.SetLinger(0)
			_ = c.Close()
			return
		case *net.TCPConn:
			_ = c.SetLinger(0)
			_ = c.Close()
			return
		default:
			_ = conn.Close()
			return
		}
	}
}

// finish writes the audit event, whatever happened. A panic ends this exchange and no other.
func (x *exchange) finish() {
	v := recover()
	if v != nil && v != http.ErrAbortHandler {
		x.server.logPanic()
		x.event.Error = internal
		if !x.answered && !x.hijacked {
			f, header, body := refusal(faultf(internal, "an unexpected error; the log has more"), x.event.Rule)
			for name, values := range header {
				x.Header()[name] = values
			}
			x.WriteHeader(f.status)
			_, _ = x.w.Write(body)
			v = nil
		}
	}
	x.event.Duration = time.Since(x.event.Time)
	if x.body != nil {
		x.event.Sent += x.body.count.Load()
	}
	x.server.cfg.Audit.Write(x.event)
	if !x.hijacked {
		x.server.limitLast(x.w)
	}
	if v != nil {
		panic(http.ErrAbortHandler)
	}
}

// logPanic logs where a panic happened. Its value may hold anything, so it is not logged.
func (s *Server) logPanic() { s.log.Error("panic", "stack", string(debug.Stack())) }

// Header is the answer's header.
func (x *exchange) Header() http.Header { return x.w.Header() }

// Unwrap gives http.ResponseController the real writer.
func (x *exchange) Unwrap() http.ResponseWriter { return x.w }

// Flush sends what is buffered.
func (x *exchange) Flush() {
	x.stall.begin()
	defer x.stall.end()
	_ = http.NewResponseController(x.w).Flush()
}

// Hijack always fails: goproxy asks for it after a 101, which WriteHeader has already served to its end.
func (x *exchange) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, http.ErrHijacked }

// WriteHeader sends the head of the answer. For a 101 it then relays both ways until the connection ends.
func (x *exchange) WriteHeader(status int) {
	x.answered = true
	x.event.Status = status
	if status == http.StatusSwitchingProtocols && x.upstream != nil {
		x.switchProtocols()
		return
	}
	// An upstream that answers 2xx before the upload has ended talks both ways at once. Without full duplex net/http
	// would read the rest of the body before it sends the head, and take it from the upstream. For other early answers
	// full duplex would cost net/http's protection against a reset that overtakes the answer.
	if x.h1 && status/100 == 2 && x.body != nil && !x.body.ended.Load() {
		_ = http.NewResponseController(x.w).EnableFullDuplex()
		// If the upstream does not want the rest, net/http reads it too late to use the connection again: it would
		// look for the next request with two readers.
		x.Header()["Connection"] = []string{"close"}
	}
	x.w.WriteHeader(status)
}

// Write writes a part of the answer's body.
func (x *exchange) Write(p []byte) (int, error) {
	if x.hijacked {
		return 0, http.ErrHijacked
	}
	x.stall.begin()
	defer x.stall.end()
	return x.w.Write(p)
}

// ReadFrom copies the answer's body. What the upstream has sent goes out at once, unless it is already all of it.
func (x *exchange) ReadFrom(src io.Reader) (n int64, err error) {
	if x.hijacked {
		return 0, http.ErrHijacked
	}
	length := contentLength(x.Header())
	flusher := http.NewResponseController(x.w)
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		got, readErr := src.Read(*buf)
		if got > 0 {
			x.stall.begin()
			wrote, writeErr := x.w.Write((*buf)[:got])
			n += int64(wrote)
			if writeErr == nil && n != length && readErr == nil {
				writeErr = flusher.Flush()
			}
			x.stall.end()
			if writeErr != nil {
				x.event.Error = clientGone
				return n, writeErr
			}
		}
		if readErr == io.EOF {
			return n, nil
		}
		if readErr != nil {
			return n, readErr
		}
	}
}

// maxInterim bounds the interim answers to one request.
const maxInterim = 1000

var errInterim = errors.New("the upstream sends interim answers without end")

// interim passes a 1xx on. 100 is not: the server sends its own once the body is wanted. Neither is any to a client of
// HTTP/1.0, which would take it for the answer (RFC 9110 section 15.2).
func (x *exchange) interim(status int, header textproto.MIMEHeader) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.interims++; x.interims > maxInterim {
		return errInterim
	}
	if x.finalHead || status == http.StatusContinue || x.http10 {
		return nil
	}
	h := x.w.Header()
	for name, values := range header {
		h[name] = values
	}
	stripHopByHop(h)
	x.hideCookies(h)
	if x.mask != nil {
		scrubHeader(x.mask, h)
	}
	x.stall.begin()
	x.w.WriteHeader(status)
	x.stall.end()
	clear(h)
	return nil
}

// headDelay is how long the head of an answer waits for the first bytes of the body, to travel with them.
const headDelay = time.Millisecond

// flushHead sends the head when the upstream takes its time with the body.
func (x *exchange) flushHead() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.bodyBegun {
		x.Flush()
	}
}

// beginBody ends what flushHead does.
func (x *exchange) beginBody() {
	x.mu.Lock()
	x.bodyBegun = true
	x.mu.Unlock()
}

// noMoreInterim ends interim answers, before the final head is written.
func (x *exchange) noMoreInterim() {
	x.mu.Lock()
	x.finalHead = true
	x.mu.Unlock()
}

// switchProtocols sends the 101 and relays bytes of whatever protocol.
func (x *exchange) switchProtocols() {
	conn, rw, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		_ = x.upstream.Close()
		x.failed = err
		return
	}
	x.hijacked = true
	closeBoth := func() { _ = conn.Close(); _ = x.upstream.Close() }
	if !x.server.live.add(&closeBoth) {
		closeBoth()
		return
	}
	defer x.server.live.remove(&closeBoth)
	head := bufio.NewWriter(conn)
	_, _ = head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = x.Header().Write(head)
	_, _ = head.WriteString("\r\n")
	if head.Flush() != nil {
		closeBoth()
		return
	}
	client := net.Conn(conn)
	if n := rw.Reader.Buffered(); n > 0 {
		ahead, _ := rw.Reader.Peek(n)
		client = &prefixConn{Conn: conn, prefix: append([]byte(nil), ahead...)}
	}
	x.event.Sent, x.event.Received = x.server.relay(client, x.upstream, closeNow)
}
