package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// interimFunc takes a 1xx answer.
type interimFunc = func(status int, header textproto.MIMEHeader) error

// withInterim is out with interim as net/http's Transport calls it.
func withInterim(out *http.Request, interim interimFunc) *http.Request {
	return out.WithContext(httptrace.WithClientTrace(out.Context(), &httptrace.ClientTrace{Got1xxResponse: interim}))
}

// An origin is where a request goes: scheme, host and, unless it is the scheme's default, port.
type origin struct{ scheme, host string }

func originOf(out *http.Request) origin { return origin{out.URL.Scheme, out.URL.Host} }

// address of out's upstream, as host:port.
func address(out *http.Request) string {
	if out.URL.Port() != "" {
		return out.URL.Host
	}
	return net.JoinHostPort(out.URL.Hostname(), strconv.Itoa(defaultPort(out.URL.Scheme)))
}

// A directPool sends bodyless requests over HTTP/1.1 in the caller's own goroutine. net/http's Transport has two
// goroutines for each connection, and handing a request over to them and back costs more than anything else on its way.
type directPool struct {
	dial      func(ctx context.Context, network, address string) (net.Conn, error)
	tlsConfig *tls.Config

	mu     sync.Mutex
	idle   map[origin][]*directConn // the most recently used last
	count  int
	closed bool
}

const (
	maxIdle        = 512
	maxIdlePerHost = 64
	maxIdleTime    = 90 * time.Second
)

func (p *directPool) init(tr *http.Transport) {
	p.dial = tr.DialContext
	p.tlsConfig = tr.TLSClientConfig.Clone()
	p.tlsConfig.NextProtos = []string{"http/1.1"}
	p.idle = map[origin][]*directConn{}
}

// A directConn is one upstream connection. One goroutine at a time uses it.
type directConn struct {
	net.Conn
	raw     net.Conn    // the TCP connection below TLS
	records *recordConn // between the two; nil without TLS
	to      origin
	r       *bufio.Reader
	head    int64 // how much of a head may still be read; negative: no head is being read
	state   *tls.ConnectionState
	reused  bool
	expiry  *time.Timer // closes the connection while it is idle
}

var errHeadTooLarge = errors.New("the head of the answer is too large")

// Read bounds what is read while a head is awaited.
func (c *directConn) Read(p []byte) (int, error) {
	if c.head == 0 {
		return 0, errHeadTooLarge
	}
	if c.head > 0 && int64(len(p)) > c.head {
		p = p[:c.head]
	}
	n, err := c.Conn.Read(p)
	if c.head > 0 {
		c.head -= int64(n)
	}
	return n, err
}

// clean reports whether nothing has come since the last answer, which would be the end of the connection or an answer to
// a request that was never sent. It does not wait. It looks everywhere: bytes may be in our buffer, in TLS's, and in the
// kernel's.
func (c *directConn) clean() bool {
	if c.r.Buffered() > 0 || !silent(c.raw) {
		return false
	}
	if c.records == nil {
		return true
	}
	if !c.records.whole() {
		return false
	}
	c.records.dry = true
	_, err := c.r.Peek(1)
	c.records.dry = false
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// roundTrip sends out and returns the answer's head. A kept connection that turns out dead is replaced.
func (p *directPool) roundTrip(out *http.Request, interim interimFunc) (*http.Response, error) {
	head, err := appendHead(nil, out)
	if err != nil {
		return nil, err
	}
	for {
		c, err := p.get(out)
		if err != nil {
			return nil, err
		}
		resp, answered, err := p.exchange(c, out, head, interim)
		if err == nil {
			return resp, nil
		}
		_ = c.Close()
		if answered || !c.reused || out.Context().Err() != nil {
			return nil, err
		}
	}
}

// appendHead appends out as it goes on the wire (RFC 9112 section 3). It refuses what would break the framing.
func appendHead(b []byte, out *http.Request) ([]byte, error) {
	uri := out.URL.RequestURI()
	if !httpguts.ValidHostHeader(out.Host) || strings.ContainsFunc(uri, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return nil, errors.New("the request's target is not valid")
	}
	b = slices.Grow(b, 1024)
	b = append(append(append(b, out.Method...), ' '), uri...)
	b = append(append(append(b, " HTTP/1.1\r\nHost: "...), out.Host...), '\r', '\n')
	for name, values := range out.Header {
		if framing[name] {
			continue
		}
		if !httpguts.ValidHeaderFieldName(name) {
			return nil, errors.New("a header's name is not valid")
		}
		for _, value := range values {
			if !httpguts.ValidHeaderFieldValue(value) {
				return nil, fmt.Errorf("the value of header %s is not valid", name)
			}
			b = append(append(append(append(b, name...), ": "...), value...), '\r', '\n')
		}
	}
	return append(b, '\r', '\n'), nil
}

// framing holds the fields that say how long a message is, or stand in the request line's place.
var framing = map[string]bool{"Host": true, "Content-Length": true, "Transfer-Encoding": true, "Trailer": true}

// exchange writes head, which is all of out, on c and reads the answer's head. answered says that the upstream began to answer.
func (p *directPool) exchange(c *directConn, out *http.Request, head []byte, interim interimFunc) (resp *http.Response, answered bool, err error) {
	stop := afterEnd(out.Context(), func() { _ = c.raw.Close() })
	defer func() {
		if err != nil {
			stop()
		}
	}()
	if _, err := c.Write(head); err != nil {
		return nil, false, err
	}
	c.head = maxHeaderBytes
	if _, err := c.r.Peek(1); err != nil {
		return nil, false, err
	}
	for {
		resp, err := http.ReadResponse(c.r, out)
		if err != nil {
			return nil, true, err
		}
		if resp.StatusCode == http.StatusSwitchingProtocols {
			return nil, true, errors.New("the upstream switched protocols unasked")
		}
		if resp.StatusCode/100 == 1 {
			if err := interim(resp.StatusCode, textproto.MIMEHeader(resp.Header)); err != nil {
				return nil, true, err
			}
			c.head = maxHeaderBytes
			continue
		}
		c.head = -1
		resp.TLS = c.state
		p.own(c, resp, stop)
		return resp, true, nil
	}
}

// own makes resp's body give c back.
func (p *directPool) own(c *directConn, resp *http.Response, stop func() bool) {
	keep := !resp.Close && resp.StatusCode/100 != 1
	release := func(whole bool) {
		if !stop() || !whole || !keep || !p.put(c) {
			_ = c.Close()
		}
	}
	if resp.Body == http.NoBody {
		release(true)
		return
	}
	resp.Body = &directBody{ReadCloser: resp.Body, conn: c, release: release}
}

// A directBody gives its connection back when it has been read to its end, and closes it otherwise.
type directBody struct {
	io.ReadCloser
	conn    *directConn
	release func(whole bool)
	err     error // what ended the body
}

// ready reports whether the first bytes have already come.
func (b *directBody) ready() bool { return b.conn.r.Buffered() > 0 }

func (b *directBody) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.end(err)
	}
	return n, err
}

func (b *directBody) end(err error) {
	if b.err == nil {
		b.err = err
		b.release(err == io.EOF)
	}
}

// Close ends the exchange. A body that was not read to its end costs the connection.
func (b *directBody) Close() error {
	b.end(http.ErrBodyReadAfterClose)
	return nil
}

// get returns a kept connection or a new one.
func (p *directPool) get(out *http.Request) (*directConn, error) {
	to := originOf(out)
	for {
		c := p.take(to)
		if c == nil {
			return p.open(out, to)
		}
		if c.clean() {
			c.reused = true
			return c, nil
		}
		_ = c.Close()
	}
}

func (p *directPool) take(to origin) *directConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.idle[to]
	for len(list) > 0 {
		c := list[len(list)-1]
		list = list[:len(list)-1]
		p.idle[to] = list
		p.count--
		if len(list) == 0 {
			delete(p.idle, to)
		}
		if c.expiry.Stop() {
			return c
		}
	}
	return nil
}

// put keeps c for the next request, unless there are enough.
func (p *directPool) put(c *directConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.count >= maxIdle || len(p.idle[c.to]) >= maxIdlePerHost {
		return false
	}
	p.idle[c.to] = append(p.idle[c.to], c)
	p.count++
	if c.expiry == nil {
		c.expiry = time.AfterFunc(maxIdleTime, func() { p.expire(c) })
	} else {
		c.expiry.Reset(maxIdleTime)
	}
	return true
}

// expire closes c if it is still idle.
func (p *directPool) expire(c *directConn) {
	p.mu.Lock()
	list := p.idle[c.to]
	for i, other := range list {
		if other == c {
			p.idle[c.to] = append(list[:i:i], list[i+1:]...)
			p.count--
			break
		}
	}
	if len(p.idle[c.to]) == 0 {
		delete(p.idle, c.to)
	}
	p.mu.Unlock()
	_ = c.Close()
}

// open dials and, for https, verifies.
func (p *directPool) open(out *http.Request, to origin) (*directConn, error) {
	ctx, cancel := context.WithTimeout(out.Context(), dialTimeout)
	defer cancel()
	raw, err := p.dial(ctx, "tcp", address(out))
	if err != nil {
		return nil, err
	}
	c := &directConn{Conn: raw, raw: raw, to: to, head: -1}
	if out.URL.Scheme == "https" {
		config := p.tlsConfig
		if config.ServerName == "" {
			config = config.Clone()
			config.ServerName = out.URL.Hostname()
		}
		c.records = &recordConn{Conn: raw}
		conn := tls.Client(c.records, config)
		if err := conn.HandshakeContext(ctx); err != nil {
			_ = raw.Close()
			return nil, err
		}
		state := conn.ConnectionState()
		c.Conn, c.state = conn, &state
	}
	c.r = bufio.NewReader(c)
	return c, nil
}

// closeIdle closes the kept connections, and those that come back later.
func (p *directPool) closeIdle() {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle, p.count = map[origin][]*directConn{}, 0
	p.mu.Unlock()
	for _, list := range idle {
		for _, c := range list {
			c.expiry.Stop()
			_ = c.Close()
		}
	}
}
