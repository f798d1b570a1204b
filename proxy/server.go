// Package proxy is the life of one request: accept, CONNECT, intercept, decide, inject, send, answer.
// docs/ARCHITECTURE.md shows the path with the file of each step.
package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/credproxy/credproxy/audit"
	"github.com/credproxy/credproxy/rules"
	"github.com/credproxy/credproxy/secrets"
	"github.com/elazarl/goproxy"
)

// maxHeaderBytes bounds the head of a request, and of a response.
const maxHeaderBytes = 1 << 20

// limits bound both HTTP servers. There is no read or write timeout: streams may last for hours.
type limits struct {
	header   time.Duration // until the whole head of a request, or the TLS handshake, is there
	idle     time.Duration // between two requests
	halfOpen time.Duration // how long one direction of a tunnel may go on after the other has ended
	stall    time.Duration // how long a client may take nothing of what it is sent

	conns   int // that all clients together have open
	each    int // that one client has open
	streams int // requests at once on an HTTP/2 connection
}

var defaultLimits = limits{
	header: 10 * time.Second, idle: 2 * time.Minute, halfOpen: 10 * time.Minute, stall: 5 * time.Minute,
	conns: 1024, each: 512, streams: 100,
}

// Config is what a Server needs.
type Config struct {
	Rules func() *rules.Set // called once per request; required

	// Leaf returns the certificate to show to a client that asked for host; required.
	Leaf func(host string) (*tls.Certificate, error)

	// Clients says who is asking, from the headers of the CONNECT or plain request. Nil: everybody, with the name "".
	Clients func(*http.Request) (name string, ok bool)

	// Conn is told of each connection to the proxy's port. What it adds to the context, Clients finds in the request's.
	Conn func(context.Context, net.Conn) context.Context // nil: nobody wants to know

	// Known reports whether who opened a tunnel with this CONNECT may still use it. It is asked for each request in it.
	Known func(connect *http.Request) bool // nil: yes

	// Stranger says what to tell a client that Clients does not know, as an error of the slug proxy_auth. It may wait.
	Stranger func(*http.Request) error // nil: to start with credproxy run

	Secrets *secrets.Resolver // resolves the keys of rules' tls fields; nil: there are none
	Audit   *audit.Log        // nil: no audit
	Log     *slog.Logger      // nil: slog.Default
	Roots   *x509.CertPool    // upstream roots; nil: the system's

	// Own reports whether a certificate is the CA's behind Leaf, or was signed by it. Upstreams are not believed on its
	// word, whatever Roots and the rules' tls fields hold. Nil: there is none.
	Own func(*x509.Certificate) bool

	resolver *net.Resolver // of the tests; nil: net.DefaultResolver

	// Drain bounds how long Serve waits for requests in flight when it ends. 0 is 10 s.
	Drain time.Duration
}

// A Server is a running proxy. Make one with New and run it with Serve, once.
type Server struct {
	cfg        Config
	limits     limits
	log        *slog.Logger
	masks      masks
	engine     *goproxy.ProxyHttpServer
	outer      *http.Server // plain requests and CONNECT
	inner      *http.Server // requests inside tunnels
	tunnels    *tunnelListener
	transports *transports
	serverTLS  *tls.Config
	dialer     *dialer
	slots      *slots  // for the connections of clients
	live       connSet // hijacked connections, which no http.Server tracks
	handlers   gate    // what Serve waits for at its end
}

// New returns a Server for cfg.
func New(cfg Config) (*Server, error) { return newServer(cfg, defaultLimits) }

func newServer(cfg Config, lim limits) (*Server, error) {
	if cfg.Rules == nil || cfg.Leaf == nil {
		return nil, errors.New("proxy: Rules and Leaf are required")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Drain == 0 {
		cfg.Drain = 10 * time.Second
	}
	s := &Server{cfg: cfg, limits: lim, log: cfg.Log, masks: newMasks(), dialer: &dialer{resolver: cfg.resolver}, tunnels: newTunnelListener()}
	s.slots = newSlots(lim.conns, lim.each)
	s.transports = newTransports(&cfg, s.dialer)
	s.serverTLS = s.newServerTLS()
	s.engine = s.newEngine()
	s.outer = s.newHTTPServer(http.HandlerFunc(s.serveOuter))
	s.inner = s.newHTTPServer(http.HandlerFunc(s.serveInner))
	s.outer.ConnContext = s.withConn
	s.inner.ConnContext = withTunnel
	return s, nil
}

// newEngine sets up goproxy as dispatcher and pipeline. Its own interception, CA, dialers and transport stay unused.
func (s *Server) newEngine() *goproxy.ProxyHttpServer {
	g := goproxy.NewProxyHttpServer()
	g.Logger = quietLogger{s.log}
	g.Tr = s.transports.system()
	g.ConnectDial = nil // its default reads HTTPS_PROXY, which may be this proxy
	g.KeepAcceptEncoding = true
	g.NonproxyHandler = http.HandlerFunc(s.notProxied)
	g.OnRequest().HandleConnectFunc(s.connectAction)
	g.OnRequest().DoFunc(func(r *http.Request, ctx *goproxy.ProxyCtx) (*http.Request, *http.Response) {
		ctx.RoundTripper = s
		return r, nil
	})
	return g
}

func (s *Server) newHTTPServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:                      h,
		ReadHeaderTimeout:            s.limits.header,
		IdleTimeout:                  s.limits.idle,
		MaxHeaderBytes:               maxHeaderBytes,
		DisableGeneralOptionsHandler: true,
		// Floods of resets, settings, pings and continuations are ended by net/http (TestHTTP2Floods).
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: s.limits.streams, WriteByteTimeout: s.limits.stall},
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
}

// Serve accepts connections on l until ctx ends. Then requests in flight finish, for at most Config.Drain, and what
// is left is cut. It returns nil after a shutdown that ctx asked for.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	s.dialer.refuse(l.Addr())
	failed := make(chan error, 2)
	var wg sync.WaitGroup
	wg.Go(func() { failed <- s.outer.Serve(s.limited(l)) })
	wg.Go(func() { failed <- s.inner.Serve(s.tunnels) })
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("accepting connections: %w", err)
	}
	s.shutdown(context.WithoutCancel(ctx))
	wg.Wait()
	return err
}

// shutdown drains both servers and the hijacked connections, then closes what is left.
func (s *Server) shutdown(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Drain)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() {
		if s.outer.Shutdown(ctx) != nil {
			_ = s.outer.Close()
		}
	})
	wg.Go(func() {
		if s.inner.Shutdown(ctx) != nil {
			_ = s.inner.Close()
		}
	})
	wg.Go(func() { s.live.drain(ctx) })
	wg.Wait()
	s.handlers.wait() // every connection is closed, so that none of them can hang
	s.transports.closeIdle()
}

// serveOuter answers one request that came to the proxy's own port.
func (s *Server) serveOuter(w http.ResponseWriter, r *http.Request) {
	s.handlers.enter()
	defer s.handlers.leave()
	client, ok := "", true
	if s.cfg.Clients != nil {
		client, ok = s.cfg.Clients(r)
	}
	switch {
	case !r.URL.IsAbs() && r.Method != http.MethodConnect:
		s.notProxied(w, r)
	case !ok:
		s.refuseClient(w, r)
	case !admitted(r, client):
		w.Header().Set("Connection", "close")
		s.refuseConnect(w, r, client, tooMany())
	case r.Method == http.MethodConnect:
		s.engine.ServeHTTP(replayHijack{w}, r.WithContext(withClient(r.Context(), client)))
	default:
		s.servePlain(w, r, client)
	}
}

// servePlain answers a request with an absolute URL. RFC 9112 section 3.2.2: its Host header does not count.
func (s *Server) servePlain(w http.ResponseWriter, r *http.Request, client string) {
	if r.URL.Scheme != "http" && r.URL.Scheme != "https" || r.URL.Opaque != "" || r.URL.User != nil {
		s.refuse(w, r, client, faultf(badRequest, "the request's URL must be http:// or https:// with a host and no user name"))
		return
	}
	target, err := parseAuthority(r.URL.Host, defaultPort(r.URL.Scheme))
	if err != nil {
		s.refuse(w, r, client, faultf(badRequest, "the request's URL: %v", err))
		return
	}
	s.serve(w, r, client, r.URL.Scheme, target)
}

// notProxied is the one answer to requests for the proxy itself, such as from a browser.
func (s *Server) notProxied(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Connection", "close") // it has no business here, and does not keep a slot
	s.refuse(w, r, "", faultf(badRequest, "this is a proxy; send it requests with an absolute URL or CONNECT"))
}

// quietLogger takes goproxy's warnings. Their text may hold URLs, so it goes nowhere.
type quietLogger struct{ log *slog.Logger }

func (q quietLogger) Printf(format string, _ ...any) { q.log.Debug("goproxy: " + format) }
