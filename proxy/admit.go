package proxy

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// slots are the connections that clients may have open, in all and each.
type slots struct {
	all, each int

	mu    sync.Mutex
	taken int
	by    map[string]int // for each client that has a name
	said  time.Time      // when we last complained
}

func newSlots(all, each int) *slots { return &slots{all: all, each: each, by: map[string]int{}} }

// take reports whether there is a slot left, which is then the caller's.
func (s *slots) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken >= s.all {
		return false
	}
	s.taken++
	return true
}

// complain reports whether it is time to say that there are no slots left: a flood of clients must not become one of lines.
func (s *slots) complain() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now().Sub(s.said) < time.Minute {
		return false
	}
	s.said = now()
	return true
}

// move counts a connection for the client to and not for from any more. It reports whether to may have it.
func (s *slots) move(from, to string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if from == to {
		return true
	}
	if to != "" && s.by[to] >= s.each {
		return false
	}
	s.forget(from)
	if to != "" {
		s.by[to]++
	}
	return true
}

func (s *slots) forget(client string) {
	if client == "" {
		return
	}
	if s.by[client]--; s.by[client] == 0 {
		delete(s.by, client)
	}
}

func (s *slots) give(client string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken--
	s.forget(client)
}

// A clientConn is an accepted connection, which gives its slot back when it is closed, whoever owns it then.
type clientConn struct {
	*net.TCPConn
	slots *slots

	mu     sync.Mutex
	client string
	closed bool
}

// is reports whether client may have this connection among its others.
func (c *clientConn) is(client string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || !c.slots.move(c.client, client) {
		return false
	}
	c.client = client
	return true
}

// NetConn is what the connection is made of.
func (c *clientConn) NetConn() net.Conn { return c.TCPConn }

// Close closes the connection.
func (c *clientConn) Close() error {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		c.slots.give(c.client)
	}
	c.mu.Unlock()
	return c.TCPConn.Close()
}

type connKey struct{}

// withConn gives requests access to the connection that they came on.
func (s *Server) withConn(ctx context.Context, c net.Conn) context.Context {
	if s.cfg.Conn != nil {
		ctx = s.cfg.Conn(ctx, c)
	}
	return context.WithValue(ctx, connKey{}, c)
}

// admitted reports whether client may have the connection that r came on among its others.
func admitted(r *http.Request, client string) bool {
	c, ok := r.Context().Value(connKey{}).(*clientConn)
	return !ok || c.is(client)
}

// A limitedListener accepts as many connections as there are slots, and tells the others that there are none.
type limitedListener struct {
	net.Listener
	server *Server
	busy   chan struct{} // holds one for each client that is being told
}

// maxTold bounds how many clients are told at once why they are not served; others are closed.
const maxTold = 64

func (s *Server) limited(l net.Listener) net.Listener {
	return &limitedListener{l, s, make(chan struct{}, maxTold)}
}

// Accept waits for a connection that can be served.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		tcp, ok := conn.(*net.TCPConn)
		if err != nil || !ok {
			return conn, err
		}
		if l.server.slots.take() {
			limitStall(tcp, l.server.limits.stall)
			return &clientConn{TCPConn: tcp, slots: l.server.slots}, nil
		}
		l.turnAway(tcp)
	}
}

// turnAway tells a client that it cannot be served. Nobody waits for it.
func (l *limitedListener) turnAway(conn *net.TCPConn) {
	if l.server.slots.complain() {
		l.server.log.Warn("clients have too many connections open; new ones are refused", "connections", l.server.slots.all)
	}
	select {
	case l.busy <- struct{}{}:
	default:
		_ = conn.Close()
		return
	}
	l.server.handlers.enter()
	go func() {
		defer l.server.handlers.leave()
		defer func() { <-l.busy }()
		defer l.server.contain(func() { _ = conn.Close() })
		answerRaw(conn, tooMany())
	}()
}

func tooMany() *fault {
	return faultf(tooManyConnections, "there are too many connections open to credproxy").
		advise("close some, or let the program keep and use again those that it has")
}
