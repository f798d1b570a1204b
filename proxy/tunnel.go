package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/credproxy/credproxy/audit"
)

// lingerTime bounds how long a refused client may take to read its answer.
const lingerTime = time.Second

var errNoHalfClose = errors.New("the connection cannot be closed in one direction")

func now() time.Time                         { return time.Now() }
func deadline(after time.Duration) time.Time { return time.Now().Add(after) }

// tunnel relays bytes between conn and target without looking at them.
func (s *Server) tunnel(r *http.Request, conn net.Conn, client string, target authority) {
	start := now()
	up, err := s.transports.dialTunnel(r.Context(), target)
	if err != nil {
		s.refuseRaw(conn, r, client, upstreamFault(err, target.host))
		return
	}
	// Before the 200, so that a shutdown that follows it finds the tunnel.
	closeBoth := func() { _ = conn.Close(); _ = up.Close() }
	if !s.live.add(&closeBoth) {
		closeBoth()
		return
	}
	defer s.live.remove(&closeBoth)
	event := audit.Event{Time: start, Client: client, Method: r.Method, Host: target.hostHeader("https"), Decision: "tunnel"}
	if s.cfg.Rules().Trial() {
		event.Trial = noRule
	}
	if _, err := io.WriteString(conn, established); err != nil {
		closeBoth()
		event.Error = clientGone
	} else {
		event.Sent, event.Received = s.relay(conn, up, closeWrite)
	}
	event.Duration = time.Since(start)
	s.cfg.Audit.Write(event)
}

// relay copies both ways until both directions have ended, closes both ends and returns the bytes that went up and down.
// The upstream learns of the client's end by a half-close, the client of the upstream's by end; an error there closes both.
func (s *Server) relay(client, upstream io.ReadWriteCloser, end func(any) error) (up, down int64) {
	closeBoth := func() { _ = client.Close(); _ = upstream.Close() }
	defer closeBoth()

	ended := make(chan struct{}, 2)
	pipe := func(dst, src io.ReadWriteCloser, n *int64, end func(any) error) {
		defer s.contain(closeBoth)
		defer func() { ended <- struct{}{} }()
		var err error
		*n, err = copyStream(dst, src)
		if err != nil || end(dst) != nil {
			closeBoth()
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { pipe(upstream, client, &up, closeWrite) })
	wg.Go(func() { pipe(client, upstream, &down, end) })
	<-ended
	limit := time.AfterFunc(s.limits.halfOpen, closeBoth)
	wg.Wait()
	limit.Stop()
	return up, down
}

// closeWrite passes the end of one direction on.
func closeWrite(c any) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errNoHalfClose
}

// closeNow ends both directions at once: a protocol that was switched to has no use for one of them.
func closeNow(any) error { return errNoHalfClose }

// linger lets the client read the answer before the connection closes: closing with unread input sends a reset, which
// can overtake the answer.
func linger(conn net.Conn) {
	if closeWrite(conn) != nil {
		return
	}
	const most = 256 << 10
	_, _ = io.CopyN(io.Discard, conn, most) // ends with the deadline at the latest
}

// contain ends a panic at the root of a goroutine: it logs where, not what, and runs end.
func (s *Server) contain(end func()) {
	if v := recover(); v != nil {
		s.logPanic()
		end()
	}
}

// A connSet is the connections that no http.Server tracks. The zero connSet is empty and open.
type connSet struct {
	mu      sync.Mutex
	closers map[*func()]struct{}
	closed  bool
	empty   chan struct{} // closed when the set is closed and empty
}

// add reports whether the set still takes connections.
func (c *connSet) add(closer *func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	if c.closers == nil {
		c.closers = map[*func()]struct{}{}
	}
	c.closers[closer] = struct{}{}
	return true
}

func (c *connSet) remove(closer *func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.closers, closer)
	if c.closed && len(c.closers) == 0 && c.empty != nil {
		close(c.empty)
		c.empty = nil
	}
}

// drain takes no more connections, waits for those it has until ctx ends, then closes them and waits for their owners.
func (c *connSet) drain(ctx context.Context) {
	c.mu.Lock()
	c.closed = true
	if len(c.closers) == 0 {
		c.mu.Unlock()
		return
	}
	empty := make(chan struct{})
	c.empty = empty
	c.mu.Unlock()
	select {
	case <-empty:
		return
	case <-ctx.Done():
	}
	c.mu.Lock()
	closers := make([]*func(), 0, len(c.closers))
	for closer := range c.closers {
		closers = append(closers, closer)
	}
	c.mu.Unlock()
	for _, closer := range closers {
		(*closer)()
	}
	<-empty
}
