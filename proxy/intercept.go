package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/credproxy/credproxy/audit"
)

// recordTypeHandshake is the first byte of a TLS connection (RFC 8446 section 5.1).
const recordTypeHandshake = 0x16

// A tunnelConn is the client's side of an intercepted tunnel, with what its CONNECT said.
type tunnelConn struct {
	prefixConn
	client string
	opened *http.Request // the CONNECT
	target authority

	tls     bool
	sni     string // the name in the client's TLS handshake, if any
	watched bool   // we look whether the client leaves, and not net/http: see h1Conn
}

// tcp is the client's connection below everything.
func (t *tunnelConn) tcp() net.Conn {
	if p, ok := t.prefixConn.Conn.(*prefixConn); ok {
		return p.Conn
	}
	return t.prefixConn.Conn
}

// intercept ends the tunnel here: TLS with our leaf, or plain HTTP inside it, goes to the inner server. It owns conn.
func (s *Server) intercept(r *http.Request, conn net.Conn, client string, target authority) {
	closeConn := func() { _ = conn.Close() }
	if !s.live.add(&closeConn) {
		closeConn()
		return
	}
	defer s.live.remove(&closeConn)
	t := &tunnelConn{prefixConn: prefixConn{Conn: conn}, client: client, opened: r, target: target}
	_ = conn.SetDeadline(deadline(s.limits.header))
	if _, err := conn.Write([]byte(established)); err != nil || !t.sniff() {
		closeConn()
		return
	}
	var ready net.Conn = t
	if t.prefix[0] == recordTypeHandshake {
		// Here and not in the inner server, so that a client that refuses our certificate can be told apart.
		tlsConn := tls.Server(t, s.serverTLS)
		if err := tlsConn.HandshakeContext(r.Context()); err != nil {
			s.handshakeFailed(r, t, err)
			closeConn()
			return
		}
		state := tlsConn.ConnectionState()
		t.tls, t.sni = true, state.ServerName
		ready = tlsConn
		if canWatch && state.NegotiatedProtocol != "h2" {
			t.watched = true
			ready = &h1Conn{tlsConn, t}
		}
	}
	_ = conn.SetDeadline(time.Time{})
	if !s.tunnels.push(ready) {
		closeConn()
	}
}

// sniff waits for the first bytes and keeps them.
func (t *tunnelConn) sniff() bool {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	n, _ := t.prefixConn.Conn.Read(*buf)
	t.prefix = slices.Clone((*buf)[:n])
	return n > 0
}

func (s *Server) handshakeFailed(r *http.Request, t *tunnelConn, err error) {
	reason := "the TLS handshake with the client failed"
	// OpenSSL sends its alert in the clear where Go expects it encrypted, so that it becomes an error of our side.
	if alert, ok := errors.AsType[*net.OpError](err); ok && (alert.Op == "remote error" || alert.Op == "local error") {
		reason = "the client broke off the TLS handshake; it may not trust our certificate (" + alert.Err.Error() + ")"
		s.log.Warn(reason, "host", t.target.host, "hint", `start the program with: credproxy run -- CMD, or in its shell first: eval "$(credproxy env)"`)
	}
	s.cfg.Audit.Write(audit.Event{
		Time: now(), Client: t.client, Method: r.Method, Host: t.target.hostHeader("https"),
		Decision: "refuse", Reason: reason, Error: clientTLS,
	})
}

// newServerTLS is one immutable configuration for all tunnels, so that session tickets work.
func (s *Server) newServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			// Always for the CONNECT target. Another name in SNI is answered with 421 once HTTP can be spoken.
			return s.cfg.Leaf(hello.Conn.(*tunnelConn).target.host)
		},
	}
}

type tunnelKey struct{}

// withTunnel gives requests access to the tunnel that they came through.
func withTunnel(ctx context.Context, c net.Conn) context.Context {
	switch outer := c.(type) {
	case *h1Conn:
		c = outer.tunnel
	case *tls.Conn:
		c = outer.NetConn()
	}
	return context.WithValue(ctx, tunnelKey{}, c)
}

// serveInner answers one request that came through an intercepted tunnel. Its destination is the CONNECT target, and
// whatever names another one is refused.
func (s *Server) serveInner(w http.ResponseWriter, r *http.Request) {
	s.handlers.enter()
	defer s.handlers.leave()
	t := r.Context().Value(tunnelKey{}).(*tunnelConn)
	scheme := "http"
	if t.tls {
		scheme = "https"
	}
	switch {
	case s.cfg.Known != nil && !s.cfg.Known(t.opened):
		s.refuse(w, r, t.client, faultf(clientUnknown, "the client's token was removed").advise("credproxy client add NAME"))
	case r.Method == http.MethodConnect:
		s.refuse(w, r, t.client, faultf(nestedConnect, "a tunnel inside a tunnel is not possible"))
	case t.sni != "" && !t.target.names(t.sni):
		s.refuse(w, r, t.client, faultf(misdirected, "the TLS server name is not %s, the target of the CONNECT", t.target.host))
	case r.URL.Opaque != "" || r.URL.User != nil || r.Method == "PRI":
		s.refuse(w, r, t.client, faultf(badRequest, "want a path as the request's target"))
	case r.URL.IsAbs() && (r.URL.Scheme != scheme || !t.target.names(r.URL.Host)):
		s.refuse(w, r, t.client, faultf(misdirected, "the request's URL is not for %s, the target of the CONNECT", t.target.address()))
	case r.Host != "" && !t.target.names(r.Host): // only HTTP/1.0 may leave it out
		s.refuse(w, r, t.client, faultf(misdirected, "the Host is not %s, the target of the CONNECT", t.target.address()))
	default:
		s.serve(w, r, t.client, scheme, t.target)
	}
}

// A tunnelListener gives intercepted connections to the inner server.
type tunnelListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newTunnelListener() *tunnelListener {
	return &tunnelListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// push reports whether the inner server took c.
func (l *tunnelListener) push(c net.Conn) bool {
	select {
	case l.conns <- c:
		return true
	case <-l.closed:
		return false
	}
}

func (l *tunnelListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *tunnelListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *tunnelListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
