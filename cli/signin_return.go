package cli

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A browserReturn waits for the browser to come back from the authorization server (RFC 8252 section 7.3). It listens on
// loopback, and every program of this machine, and every page in the browser, may try to come in its place: only the
// state and the proof key tell them apart.
type browserReturn struct {
	uri  string
	came chan url.Values // the first parameters that came; nil: the browser cannot come back by itself

	host, path string
	server     *http.Server
	served     sync.WaitGroup

	mu    sync.Mutex
	open  []net.Conn    // the oldest first
	held  net.Conn      // the one that waits for the end
	times int           // that it came
	ended chan struct{} // closed when it is known how it ended
	good  bool          // how
}

const (
	maxReturns      = 64       // connections at once; for one more the oldest goes
	maxReturnHeader = 32 << 10 // codes can be long
	returnTimeout   = 5 * time.Second
	verdictTimeout  = 30 * time.Second // until it is known what the code is worth
)

// httpPort is left out of addresses by browsers.
const httpPort = ":80"

// listenForBrowser opens the port that redirect names, or if it names none port, or any. It listens nowhere if redirect
// is not on this machine.
func listenForBrowser(redirect *url.URL, port int) (*browserReturn, error) {
	u := *redirect
	b := &browserReturn{ended: make(chan struct{}), path: u.Path}
	if b.path == "" {
		b.path = "/"
	}
	if u.Scheme != "http" {
		b.uri = u.String()
		return b, nil
	}
	if port == 0 {
		port, _ = strconv.Atoi(u.Port()) // 0 without one; loading has checked it
	}
	listeners, err := listenOnLoopback(u.Hostname(), port)
	if err != nil {
		return nil, err
	}
	_, actual, _ := net.SplitHostPort(listeners[0].Addr().String())
	u.Host = net.JoinHostPort(u.Hostname(), actual)
	b.uri, b.host, b.came = u.String(), strings.TrimSuffix(u.Host, httpPort), make(chan url.Values, 1)
	b.server = &http.Server{
		Handler: b, ReadHeaderTimeout: returnTimeout, ReadTimeout: returnTimeout, WriteTimeout: verdictTimeout + returnTimeout,
		MaxHeaderBytes: maxReturnHeader, ErrorLog: log.New(io.Discard, "", 0),
		ConnState: b.count, ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, returnConn{}, c) },
	}
	b.server.SetKeepAlivesEnabled(false)
	for _, l := range listeners {
		b.served.Go(func() { _ = b.server.Serve(l) }) // it ends with close
	}
	return b, nil
}

// listenOnLoopback listens on 127.0.0.1 and, for the name localhost, where browsers may go to ::1 first, on that too.
func listenOnLoopback(name string, port int) ([]net.Listener, error) {
	l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, portTaken(port, err)
	}
	if name != "localhost" {
		return []net.Listener{l}, nil
	}
	_, actual, _ := net.SplitHostPort(l.Addr().String())
	l6, err := net.Listen("tcp6", net.JoinHostPort("::1", actual))
	switch {
	case err == nil:
		return []net.Listener{l, l6}, nil
	case portInUse(err): // whoever that is would get the code
		return nil, errors.Join(portTaken(port, err), l.Close())
	}
	return []net.Listener{l}, nil // a machine without IPv6
}

func portTaken(port int, err error) error {
	f := &failure{slug: slugPortInUse, text: "opening port " + strconv.Itoa(port) + " for the browser", err: err}
	if f.next = "credproxy login RULE --port N, with a port that the server knows"; port == 0 {
		f.next = "try again"
	}
	return f
}

// The pages hold nothing that came with a request.
const (
	pageHead = `<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark"><title>credproxy</title>` +
		`<body style="font-family:sans-serif;margin:4em auto;max-width:30em">`
	pageGood = pageHead + "<h1>Signed in</h1><p>credproxy has what it needs. You can close this window.</p>\n"
	pageBad  = pageHead + "<h1>Not signed in</h1><p>The terminal where credproxy runs says why.</p>\n"
	pageElse = pageHead + "<h1>Nothing here</h1><p>credproxy waits here for the end of a sign-in.</p>\n"
)

// ServeHTTP takes the parameters of the first request that is the browser's return, and answers it once it is known what
// came of it.
func (b *browserReturn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	params, status := b.read(r)
	if params == nil {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, pageElse) // whoever asked may have gone
		return
	}
	status, page := http.StatusBadRequest, pageBad
	if b.take(r, params) {
		select {
		case <-b.ended:
		case <-r.Context().Done():
		case <-time.After(verdictTimeout):
		}
		b.mu.Lock()
		if b.good {
			status, page = http.StatusOK, pageGood
		}
		b.mu.Unlock()
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, page)
}

// read returns the parameters of r if a server can have sent the browser here, or the status for anything else.
func (b *browserReturn) read(r *http.Request) (url.Values, int) {
	switch {
	case strings.TrimSuffix(r.Host, httpPort) != b.host: // a page whose name leads here (DNS rebinding)
		return nil, http.StatusMisdirectedRequest
	case r.URL.EscapedPath() != (&url.URL{Path: b.path}).EscapedPath():
		return nil, http.StatusNotFound
	case r.Method != http.MethodGet:
		return nil, http.StatusMethodNotAllowed
	case !navigates(r):
		return nil, http.StatusForbidden
	}
	params, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || !params.Has("state") && !params.Has("code") && !params.Has("error") {
		return nil, http.StatusBadRequest
	}
	return params, 0
}

// navigates reports whether a browser opens r as a page, and not a picture or a script of another page. Other programs
// do not say.
func navigates(r *http.Request) bool {
	mode, dest := r.Header.Get("Sec-Fetch-Mode"), r.Header.Get("Sec-Fetch-Dest")
	return (mode == "" || mode == "navigate") && (dest == "" || dest == "document")
}

// take reports whether these are the first parameters that came.
func (b *browserReturn) take(r *http.Request, params url.Values) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.times++
	if b.times == 1 {
		b.held, _ = r.Context().Value(returnConn{}).(net.Conn)
		b.came <- params
	}
	return b.times == 1
}

// returnConn is the key of a request's connection in its context.
type returnConn struct{}

// count keeps the number of connections down. A browser sends its request at once, so the oldest are those of programs
// that want to keep it out.
func (b *browserReturn) count(c net.Conn, state http.ConnState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch state {
	case http.StateNew:
		b.open = append(b.open, c)
		if len(b.open) <= maxReturns {
			return
		}
		if i := slices.IndexFunc(b.open, func(c net.Conn) bool { return c != b.held }); i >= 0 {
			_ = b.open[i].Close() // the server finds out, and counts it out
			b.open = slices.Delete(b.open, i, i+1)
		}
	case http.StateClosed:
		b.open = slices.DeleteFunc(b.open, func(o net.Conn) bool { return o == c })
	}
}

// cameAgain reports whether the browser, or somebody else, came more than once.
func (b *browserReturn) cameAgain() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.times > 1
}

// done says that the sign-in was a success.
func (b *browserReturn) done() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.good = true
}

// close tells the browser how it ended, closes the port and waits for both.
func (b *browserReturn) close() {
	close(b.ended)
	if b.server == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if b.server.Shutdown(ctx) != nil {
		_ = b.server.Close() // somebody reads slowly
	}
	b.served.Wait()
}
