package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// bufferSize is what one copy step moves: a TLS record holds 16 KiB.
const bufferSize = 32 << 10

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// maxReplay bounds how much of a request's body is kept for the case that it must be sent again.
const maxReplay = 64 << 10

// A requestBody reads the client's body for the transport. Close does not close it: net/http's server would then read
// on for the rest, and a client that waits for 100 Continue would wait with it.
type requestBody struct {
	src     io.Reader
	length  int64       // -1: unknown
	trailer http.Header // as the server fills it at the end of the body
	drop    []string    // trailers to remove
	keep    bool        // keep what was read, up to maxReplay
	kept    []byte
	count   atomic.Int64
	ended   atomic.Bool   // everything has been read; kept does not change any more
	turn    chan struct{} // held while a Read runs
	closed  atomic.Bool
	broken  atomic.Pointer[error] // why the client's side did not come to its end
}

func (b *requestBody) Read(p []byte) (int, error) {
	b.turn <- struct{}{}
	defer func() { <-b.turn }()
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	n, err := b.src.Read(p)
	count := b.count.Add(int64(n))
	if b.keep && n > 0 { // after the end, whole may be reading kept
		if len(b.kept)+n > maxReplay {
			b.keep, b.kept = false, nil
		} else {
			b.kept = append(b.kept, p[:n]...)
		}
	}
	if err == io.EOF || count == b.length {
		removeFields(b.trailer, b.drop)
		b.ended.Store(true)
	} else if err != nil && !b.closed.Load() {
		b.broken.Store(&err)
	}
	return n, err
}

// fault says what the client did to its body, or nil.
func (b *requestBody) fault(h1 bool) error {
	if b == nil || b.broken.Load() == nil {
		return nil
	}
	err := *b.broken.Load()
	_, network := errors.AsType[net.Error](err)
	if !h1 || network || errors.Is(err, io.ErrUnexpectedEOF) {
		return &fault{slug: clientGone, detail: "the client left in the middle of its request", cause: err}
	}
	return &fault{slug: badRequest, detail: "the request's body is malformed", cause: err}
}

// Close ends reading. The server closes the body itself.
func (b *requestBody) Close() error {
	b.closed.Store(true)
	return nil
}

// stopDelay bounds how long a handler waits for a Read that waits for the client.
const stopDelay = 10 * time.Millisecond

// stop ends reading before its handler does. net/http breaks off a Read that is still running then, takes that for the
// end of the connection, and closes it with a reset that can overtake the answer.
func (b *requestBody) stop() {
	b.closed.Store(true)
	select {
	case b.turn <- struct{}{}:
		<-b.turn
	case <-time.After(stopDelay):
	}
}

// whole returns the body if all of it was read and kept.
func (b *requestBody) whole() ([]byte, bool) {
	if !b.ended.Load() || !b.keep {
		return nil, false
	}
	return b.kept, true
}

// A responseBody counts the upstream's body and remembers whether it broke off.
type responseBody struct {
	io.ReadCloser
	x     *exchange
	ctx   context.Context // the request's
	resp  *http.Response  // whose trailers come with the body's end
	begun bool
}

func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.read(p)
	b.x.event.Received += int64(n)
	if err == io.EOF {
		b.x.hideCookies(b.resp.Trailer)
	}
	if err != nil && err != io.EOF {
		b.x.failed = err
		b.x.event.Error = upstreamProtocol
	}
	if err != nil && b.ctx.Err() != nil {
		b.x.event.Error = clientGone // which may also have made the upstream end well
	}
	return n, err
}

// read reads. While the first bytes do not come, the head goes out alone.
func (b *responseBody) read(p []byte) (int, error) {
	if b.begun {
		return b.ReadCloser.Read(p)
	}
	b.begun = true
	if waiting, ok := b.ReadCloser.(*directBody); ok && waiting.ready() {
		return b.ReadCloser.Read(p)
	}
	head := time.AfterFunc(headDelay, b.x.flushHead)
	n, err := b.ReadCloser.Read(p)
	if !head.Stop() {
		b.x.beginBody()
	}
	return n, err
}

// copyStream copies src to dst until it ends and returns how much it was. Between two TCP connections the kernel does
// it (splice).
func copyStream(dst io.Writer, src io.Reader) (int64, error) {
	if to := tcpOf(dst); to != nil {
		if from := tcpOf(src); from != nil {
			src = from
		}
		return to.ReadFrom(src)
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	return io.CopyBuffer(onlyWriter{dst}, onlyReader{src}, *buf)
}

// tcpOf is c's TCP connection if there is nothing between, or nil.
func tcpOf(c any) *net.TCPConn {
	switch c := c.(type) {
	case *net.TCPConn:
		return c
	case *clientConn:
		return c.TCPConn
	}
	return nil
}

type onlyWriter struct{ io.Writer }
type onlyReader struct{ io.Reader }

// contentLength is the length that h announces, or -1.
func contentLength(h http.Header) int64 {
	n, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64)
	if err != nil {
		return -1
	}
	return n
}
