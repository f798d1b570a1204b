package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/credproxy/credproxy/audit"
	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/rules"
	"github.com/credproxy/credproxy/secrets"
)

func TestMain(m *testing.M) {
	if code, ok := secrets.RunHelper(); ok {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// canary is the secret of the tests. It must never be seen outside the upstream.
const canary = "CANARY-9f3c1b7e5d"

// patience bounds how long a test waits for what must happen. It is not a measurement.
const patience = 20 * time.Second

// A testCA signs leaves for the upstreams or for the proxy.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	made sync.Map // host → *tls.Certificate
}

func newTestCA(t testing.TB, name string) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name + " " + t.Name()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	ca := &testCA{cert: cert, key: key, pool: x509.NewCertPool()}
	ca.pool.AddCert(cert)
	return ca
}

func (ca *testCA) leaf(host string) (*tls.Certificate, error) {
	if found, ok := ca.made.Load(host); ok {
		return found.(*tls.Certificate), nil
	}
	cert, err := ca.sign(host, time.Now().Add(time.Hour))
	if err == nil {
		ca.made.Store(host, cert)
	}
	return cert, err
}

func (ca *testCA) sign(host string, notAfter time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: notAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der, ca.cert.Raw}, PrivateKey: key}, nil
}

// An upstream is a real TLS server that answers for every *.localhost name.
type upstream struct {
	*httptest.Server
	port  string
	conns atomic.Int64 // accepted so far
}

func (u *upstream) url(host, path string) string { return "https://" + host + ":" + u.port + path }

// startUpstream runs h behind TLS with leaves of ca, over HTTP/2 too if h2.
func startUpstream(t testing.TB, ca *testCA, h2 bool, h http.HandlerFunc) *upstream {
	t.Helper()
	u := &upstream{}
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = h2
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			u.conns.Add(1)
		}
	}
	srv.TLS = &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if hello.ServerName == "" {
			return ca.leaf("127.0.0.1")
		}
		return ca.leaf(hello.ServerName)
	}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	u.Server = srv
	_, u.port, _ = net.SplitHostPort(srv.Listener.Addr().String())
	return u
}

// A testProxy is a running Server with what a test wants to look at.
type testProxy struct {
	*Server
	addr   string
	ca     *testCA // what clients must trust
	env    inject.Env
	set    atomic.Pointer[rules.Set]
	logged *lockedBuffer
	events *eventLog
	stop   func() // ends Serve and waits
	log    *audit.Log
}

// secretFile stores value in a file and returns the reference to it.
func secretFile(t testing.TB, value string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
	return "file:" + path
}

// backwards is how upstreams say what they saw: as it is, it would be taken out of the answer.
func backwards(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}

// bearerRule is a rule that puts the canary on requests for host.
func bearerRule(t testing.TB, host, port string) string {
	return fmt.Sprintf("  - name: %s\n    match: {host: %q, port: %s}\n    inject: {type: bearer, token: %q}\n",
		strings.ReplaceAll(strings.TrimPrefix(host, "*."), ".", "-"), host, port, secretFile(t, canary))
}

type proxyOption func(*Config, *limits)

// startProxy runs a proxy with the rules of the body (the list under rules:), trusting upstreams signed by up.
func startProxy(t testing.TB, up *testCA, body string, options ...proxyOption) *testProxy {
	t.Helper()
	p := &testProxy{ca: newTestCA(t, "proxy"), logged: &lockedBuffer{}, events: &eventLog{}}
	p.events.arrived = sync.NewCond(&p.events.mu)
	resolver := secrets.NewResolver(secrets.Config{Recheck: 100 * time.Millisecond})
	asks := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: up.pool}}
	p.env = inject.Env{Secrets: resolver, Tokens: oauth.NewCache(), HTTP: &http.Client{Transport: asks}}
	t.Cleanup(asks.CloseIdleConnections)
	p.setRules(t, body)
	p.log = audit.New(p.logged, p.events.add)
	cfg := Config{
		Rules: p.set.Load, Leaf: p.ca.leaf, Secrets: resolver, Audit: p.log, Roots: up.pool,
		Log:   slog.New(slog.NewTextHandler(p.logged, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Drain: patience,
	}
	lim := defaultLimits
	for _, option := range options {
		option(&cfg, &lim)
	}
	var err error
	if p.Server, err = newServer(cfg, lim); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- p.Serve(ctx, l) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(func() {
		p.stop()
		if err := p.log.Close(); err != nil {
			t.Errorf("audit: %v", err)
		}
		if strings.Contains(p.logged.String(), canary) {
			t.Errorf("the secret is in the log or the audit log:\n%s", p.logged)
		}
	})
	return p
}

func (p *testProxy) setRules(t testing.TB, body string) {
	t.Helper()
	text := "version: 1\n"
	if strings.HasPrefix(body, "default:") {
		first, rest, _ := strings.Cut(body, "\n")
		text += first + "\n"
		body = rest
	}
	set, err := rules.Parse("rules.yaml", []byte(text+"rules:\n"+body), p.env)
	if err != nil {
		t.Fatal(err)
	}
	p.set.Store(set)
}

// client is an HTTP client that goes through the proxy: over HTTP/2 if h2, otherwise HTTP/1.1.
func (p *testProxy) client(t testing.TB, h2 bool) *http.Client {
	t.Helper()
	tr := &http.Transport{
		Proxy:              http.ProxyURL(&url.URL{Scheme: "http", Host: p.addr}),
		TLSClientConfig:    &tls.Config{RootCAs: p.ca.pool},
		ForceAttemptHTTP2:  h2,
		DisableCompression: true,
	}
	if !h2 {
		tr.TLSClientConfig.NextProtos = []string{"http/1.1"}
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{
		Transport: tr, Timeout: patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// connect opens a tunnel and returns it after the proxy's 200.
func (p *testProxy) connect(t testing.TB, target string) net.Conn {
	t.Helper()
	conn := p.dialRaw(t)
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
	status, _ := readHead(t, conn)
	if !strings.HasPrefix(status, "HTTP/1.1 200 ") {
		t.Fatalf("CONNECT %s: %s", target, status)
	}
	return conn
}

func (p *testProxy) dialRaw(t testing.TB) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// connectTLS is connect and a TLS handshake for sni ("" for none), without a check of the name.
func (p *testProxy) connectTLS(t testing.TB, target, sni string, protos ...string) *tls.Conn {
	t.Helper()
	conn := tls.Client(p.connect(t, target), &tls.Config{ServerName: sni, InsecureSkipVerify: true, NextProtos: protos})
	if err := conn.Handshake(); err != nil {
		t.Fatalf("handshake for %q through %s: %v", sni, target, err)
	}
	return conn
}

// readHead reads one message head, byte by byte, so that nothing of what follows is lost.
func readHead(t testing.TB, r io.Reader) (status, head string) {
	t.Helper()
	var b []byte
	one := make([]byte, 1)
	for !bytes.HasSuffix(b, []byte("\r\n\r\n")) {
		if _, err := io.ReadFull(r, one); err != nil {
			t.Fatalf("reading a head: %v after %q", err, b)
		}
		b = append(b, one[0])
	}
	status, _, _ = strings.Cut(string(b), "\r\n")
	return status, string(b)
}

// rawRequest sends text on conn and returns the response.
func rawRequest(t testing.TB, conn net.Conn, text string) *http.Response {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("reading the response: %v", err)
	}
	return resp
}

// readAll returns the body and the error that ended it.
func readAll(resp *http.Response) (string, error) {
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func mustGet(t testing.TB, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	body, err := readAll(resp)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

// refused checks that resp is credproxy's own answer for slug, whole and without a secret.
func refused(t testing.TB, resp *http.Response, status int, slug string) problem {
	t.Helper()
	body, err := readAll(resp)
	if err != nil {
		t.Fatalf("reading the refusal: %v", err)
	}
	if resp.StatusCode != status || resp.Header.Get("Credproxy-Error") != slug {
		t.Fatalf("got %d %q %s, want %d %q", resp.StatusCode, resp.Header.Get("Credproxy-Error"), body, status, slug)
	}
	if !strings.HasPrefix(resp.Header.Get("Proxy-Status"), "credproxy; error=") {
		t.Errorf("Proxy-Status is %q", resp.Header.Get("Proxy-Status"))
	}
	if resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("Content-Type is %q", resp.Header.Get("Content-Type"))
	}
	if strings.Contains(body, canary) {
		t.Errorf("the secret is in the refusal: %s", body)
	}
	var p problem
	if err := json.Unmarshal([]byte(body), &p); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	if p.Status != status || p.Detail == "" || p.Hint == "" && slug != badRequest && slug != misdirected && slug != nestedConnect && slug != internal {
		t.Errorf("the problem lacks something: %s", body)
	}
	return p
}

// overBoth runs f once with HTTP/1.1 and once with HTTP/2 on both legs.
func overBoth(t *testing.T, f func(t *testing.T, h2 bool)) {
	t.Helper()
	t.Run("h1", func(t *testing.T) { t.Parallel(); f(t, false) })
	t.Run("h2", func(t *testing.T) { t.Parallel(); f(t, true) })
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type eventLog struct {
	mu      sync.Mutex
	arrived *sync.Cond
	all     []audit.Event
}

func (l *eventLog) add(e audit.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, e)
	l.arrived.Broadcast()
}

// wait returns the first n events.
func (l *eventLog) wait(t testing.TB, n int) []audit.Event {
	t.Helper()
	timeout := time.AfterFunc(patience, l.arrived.Broadcast)
	defer timeout.Stop()
	end := time.Now().Add(patience)
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.all) < n {
		if time.Now().After(end) {
			t.Fatalf("got %d audit events, want %d: %+v", len(l.all), n, l.all)
		}
		l.arrived.Wait()
	}
	return append([]audit.Event(nil), l.all[:n]...)
}

// within fails the test unless done closes in time.
func within(t testing.TB, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("waited %v for: %s", patience, what)
	}
}

type rulesSet = rules.Set

var (
	errTimeout = os.ErrDeadlineExceeded
	discardLog = log.New(io.Discard, "", 0)
)

// zeros never ends.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// serveTCP runs handle for each connection and returns the port.
func serveTCP(t testing.TB, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveListener(t, l, handle)
}

// serveRaw runs handle for each TLS connection and returns the port.
func serveRaw(t testing.TB, ca *testCA, handle func(net.Conn)) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { return ca.leaf(hello.ServerName) }})
	if err != nil {
		t.Fatal(err)
	}
	return serveListener(t, l, handle)
}

func serveListener(t testing.TB, l net.Listener, handle func(net.Conn)) string {
	t.Helper()
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); handle(conn) }()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// readRequest reads one request without body from conn, and nothing behind it.
func readRequest(conn net.Conn) (*http.Request, error) {
	return http.ReadRequest(bufio.NewReader(conn))
}

// clientPEM is a client certificate of ca and its key.
func clientPEM(t testing.TB, ca *testCA) (cert, key []byte) {
	t.Helper()
	c, err := ca.sign("client.example", time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// save writes the CA for another process of the same test.
func (ca *testCA) save(path string) error {
	key, err := x509.MarshalPKCS8PrivateKey(ca.key)
	if err != nil {
		return err
	}
	data, err := json.Marshal([2][]byte{ca.cert.Raw, key})
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

func loadTestCA(path string) (*testCA, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var both [2][]byte
	if err := json.Unmarshal(data, &both); err != nil {
		return nil, err
	}
	ca := &testCA{pool: x509.NewCertPool()}
	if ca.cert, err = x509.ParseCertificate(both[0]); err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(both[1])
	if err != nil {
		return nil, err
	}
	ca.key = key.(*ecdsa.PrivateKey)
	ca.pool.AddCert(ca.cert)
	return ca, nil
}
