package proxy

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"slices"

	"github.com/credproxy/credproxy/audit"
	"github.com/credproxy/credproxy/rules"
	"github.com/elazarl/goproxy"
)

const established = "HTTP/1.1 200 Connection established\r\n\r\n"

type clientKey struct{}

func withClient(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, clientKey{}, name)
}

func clientOf(r *http.Request) string {
	name, _ := r.Context().Value(clientKey{}).(string)
	return name
}

// connectAction takes every CONNECT from goproxy, whose default is an open tunnel.
func (s *Server) connectAction(host string, _ *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) {
	return &goproxy.ConnectAction{Action: goproxy.ConnectHijack, Hijack: s.connect}, host
}

// connect decides what becomes of a CONNECT. It owns conn.
func (s *Server) connect(r *http.Request, conn net.Conn, _ *goproxy.ProxyCtx) {
	client := clientOf(r)
	defer s.contain(func() { _ = conn.Close() })
	// RequestURI and not r.URL: url.Parse would accept user names, paths and queries here.
	target, err := parseAuthority(r.RequestURI, 0)
	if err != nil {
		s.refuseRaw(conn, r, client, faultf(badRequest, "CONNECT: %v", err))
		return
	}
	switch s.cfg.Rules().Connect(client, target.host, target.port) {
	case rules.Intercept:
		s.intercept(r, conn, client, target)
	case rules.Tunnel:
		s.tunnel(r, conn, client, target)
	default:
		s.refuseRaw(conn, r, client, faultf(noRule, "no rule names %s, and the default is deny", target.address()).
			advise("credproxy explain https://%s/", target.hostHeader("https")))
	}
}

// A stranger's error may say more to the audit log than to the client, and may ask not to be written down each time.
type stranger interface {
	slugged
	Remark() string
	Silent() bool
	Drop() bool // the connection is closed without an answer
}

// recordRefusal writes the audit event of a request that was refused before it entered the pipeline.
func (s *Server) recordRefusal(r *http.Request, client string, err slugged, status int) {
	e := refusalEvent(r, client, err, status)
	if known, ok := err.(stranger); ok {
		if known.Silent() {
			return
		}
		e.Reason += " (" + known.Remark() + ")"
	}
	s.cfg.Audit.Write(e)
}

// refusalEvent is the audit event of a request that was refused before it entered the pipeline.
func refusalEvent(r *http.Request, client string, err slugged, status int) audit.Event {
	host := "" // if it is not a host name, a client may have put anything there: it is not logged
	if t, parseErr := parseAuthority(r.Host, 443); parseErr == nil {
		host = t.hostHeader("https")
	}
	return audit.Event{
		Time: now(), Client: client, Method: r.Method, Host: host,
		Decision: "refuse", Reason: err.Error(), Status: status, Error: err.Slug(),
	}
}

// replayHijack makes goproxy's Hijack return a connection that still has the bytes that the server read ahead, such as
// a ClientHello sent without waiting for the 200.
type replayHijack struct{ http.ResponseWriter }

func (h replayHijack) Unwrap() http.ResponseWriter { return h.ResponseWriter }

func (h replayHijack) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil || rw.Reader.Buffered() == 0 {
		return conn, rw, err // the bare *clientConn, for splice(2)
	}
	ahead, err := rw.Reader.Peek(rw.Reader.Buffered())
	return &prefixConn{Conn: conn, prefix: slices.Clone(ahead)}, rw, err
}

// A prefixConn is a connection whose first bytes have already been read.
type prefixConn struct {
	net.Conn
	prefix []byte
}

func (c *prefixConn) Read(p []byte) (int, error) {
	if len(c.prefix) > 0 {
		n := copy(p, c.prefix)
		c.prefix = c.prefix[n:]
		if len(c.prefix) == 0 {
			c.prefix = nil
		}
		return n, nil
	}
	return c.Conn.Read(p)
}

// CloseWrite passes the half-close on.
func (c *prefixConn) CloseWrite() error { return closeWrite(c.Conn) }
