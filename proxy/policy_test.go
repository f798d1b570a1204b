package proxy

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/credproxy/credproxy/audit"
)

func plainUpstream(t *testing.T, h http.HandlerFunc) (port string) {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Port()
}

// Promise 2: over plain http only to loopback, or where the rule says so.
func TestPlainHTTP(t *testing.T) {
	t.Parallel()
	var auth atomic.Value
	port := plainUpstream(t, func(w http.ResponseWriter, r *http.Request) { auth.Store(r.Header.Get("Authorization")) })
	ca := newTestCA(t, "upstream")
	p := startProxy(t, ca, bearerRule(t, "api.localhost", port)+
		"  - name: far\n    match: {host: 192.0.2.1}\n    inject: {type: bearer, token: \""+secretFile(t, canary)+"\"}\n"+
		"  - name: named\n    match: {host: far.invalid}\n    inject: {type: bearer, token: \""+secretFile(t, canary)+"\"}\n")
	c := p.client(t, false)
	if resp, _ := mustGet(t, c, "http://api.localhost:"+port+"/"); resp.StatusCode != 200 || auth.Load() != "Bearer "+canary {
		t.Errorf("loopback: %s, Authorization %q", resp.Status, auth.Load())
	}
	for _, host := range []string{"192.0.2.1", "far.invalid"} {
		resp, err := c.Get("http://" + host + "/")
		if err != nil {
			t.Fatal(err)
		}
		refused(t, resp, 502, "plain_http")
		// The same inside a tunnel to port 80.
		conn := p.connect(t, host+":80")
		refused(t, rawRequest(t, conn, "GET / HTTP/1.1\r\nHost: "+host+"\r\n\r\n"), 502, "plain_http")
	}
}

// A name that is checked as loopback and then resolves elsewhere is stopped by the dialer.
func TestLoopbackOnlyDialer(t *testing.T) {
	t.Parallel()
	d := &dialer{}
	if _, err := d.dial(t.Context(), "tcp", "192.0.2.1:80", reachLoopback); !errors.Is(err, errNotLoopback) {
		t.Errorf("got %v, want %v", err, errNotLoopback)
	}
	port := plainUpstream(t, func(http.ResponseWriter, *http.Request) {})
	for _, host := range []string{"127.0.0.1", "localhost", "a.b.localhost", "[::ffff:127.0.0.1]"} {
		conn, err := d.dial(t.Context(), "tcp", host+":"+port, reachLoopback)
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		conn.Close()
	}
}

// Trap 9, security row 13: whatever leads back to the proxy's own port ends with 508.
func TestSelfLoop(t *testing.T) {
	ca := newTestCA(t, "upstream")
	p := startProxy(t, ca, "  []\n")
	t.Setenv("HTTPS_PROXY", "http://"+p.addr)
	t.Setenv("HTTP_PROXY", "http://"+p.addr)
	_, port, _ := net.SplitHostPort(p.addr)
	for _, host := range []string{"127.0.0.1", "localhost", "x.localhost", "[::ffff:127.0.0.1]", "0.0.0.0"} {
		target := host + ":" + port
		refused(t, rawRequest(t, p.dialRaw(t), "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n\r\n"), 508, "loop")
		refused(t, rawRequest(t, p.dialRaw(t), "GET http://"+target+"/ HTTP/1.1\r\nHost: "+target+"\r\n\r\n"), 508, "loop")
	}
	// A proxy whose environment names itself still goes straight to its upstreams.
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "straight") })
	q := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
	t.Setenv("HTTPS_PROXY", "http://"+q.addr)
	if _, body := mustGet(t, q.client(t, false), up.url("api.localhost", "/")); body != "straight" {
		t.Errorf("got %q", body)
	}
}

// Trap 20: who does not say who it is gets 407, on CONNECT with the message as reason phrase.
func TestProxyAuthentication(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, backwards(r.Header.Get("Authorization")), r.Header.Get("Proxy-Authorization"))
	})
	rule := strings.Replace(bearerRule(t, "api.localhost", up.port), "match: {", "match: {clients: [run], ", 1)
	p := startProxy(t, ca, rule, func(cfg *Config, _ *limits) {
		cfg.Clients = func(r *http.Request) (string, bool) {
			return "run", r.Header.Get("Proxy-Authorization") == "Basic cnVuOnRva2Vu"
		}
	})
	target := "api.localhost:" + up.port
	for _, wrong := range []string{"", "Proxy-Authorization: Basic cnVuOnRva2Vv\r\n"} {
		resp := rawRequest(t, p.dialRaw(t), "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n"+wrong+"\r\n")
		if resp.Header.Get("Proxy-Authenticate") != `Basic realm="credproxy"` || !strings.Contains(resp.Status, "credproxy run -- CMD") || !resp.Close {
			t.Errorf("got %s %v", resp.Status, resp.Header)
		}
		refused(t, resp, 407, "proxy_auth")
		resp = rawRequest(t, p.dialRaw(t), "GET http://"+target+"/ HTTP/1.1\r\nHost: "+target+"\r\n"+wrong+"\r\n")
		refused(t, resp, 407, "proxy_auth")
	}
	c := p.client(t, false)
	c.Transport.(*http.Transport).Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: p.addr, User: url.UserPassword("run", "token")})
	if _, body := mustGet(t, c, up.url("api.localhost", "/")); body != backwards("Bearer "+canary) {
		t.Errorf("the upstream saw %q", body)
	}
}

func TestRemoveAndOnExisting(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, backwards(fmt.Sprint(r.Header["Authorization"])), "|", r.Header["X-Dummy"])
	})
	for _, tt := range []struct{ mode, own, want string }{
		{"replace", "Bearer own", "[Bearer " + canary + "] []"},
		{"keep", "Bearer own", "[Bearer own] []"},
		{"keep", "", "[Bearer " + canary + "] []"},
		{"fail", "", "[Bearer " + canary + "] []"},
		{"fail", "Bearer own", ""},
	} {
		t.Run(tt.mode+" "+tt.own, func(t *testing.T) {
			t.Parallel()
			p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port)+"    remove: [x-dummy]\n    on_existing: "+tt.mode+"\n")
			req, _ := http.NewRequest("GET", up.url("api.localhost", "/"), nil)
			req.Header.Set("X-Dummy", "1")
			if tt.own != "" {
				req.Header.Set("Authorization", tt.own)
			}
			resp, err := p.client(t, false).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if tt.want == "" {
				refused(t, resp, 403, "credential_exists")
				return
			}
			body, err := readAll(resp)
			if auth, dummy, _ := strings.Cut(body, "|"); backwards(auth)+" "+dummy != tt.want || err != nil {
				t.Errorf("got %q, %v; want %q", body, err, tt.want)
			}
		})
	}
}

func TestDenyRule(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "DELETE" {
				t.Error("the DELETE reached the upstream")
			}
		})
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port)+
			"  - name: no-deletes\n    match: {host: api.localhost, port: "+up.port+", methods: [DELETE], paths: [/repos/**]}\n    deny: needs a person\n")
		c := p.client(t, h2)
		req, _ := http.NewRequest("DELETE", up.url("api.localhost", "/repos/a/b"), nil)
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if problem := refused(t, resp, 403, "denied"); !strings.Contains(problem.Detail, "needs a person") || problem.Rule != "no-deletes" {
			t.Errorf("got %+v", problem)
		}
		for _, path := range []string{"/x/../repos/a/b", "/repos/%2e%2e/a", "/repos/a%5cb", "/repos/a%00"} {
			u, _ := url.Parse(up.url("api.localhost", ""))
			u.Opaque = "//" + u.Host + path
			req := &http.Request{Method: "DELETE", URL: u, Header: http.Header{}}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			refused(t, resp, 400, "bad_path")
		}
		if resp, _ := mustGet(t, c, up.url("api.localhost", "/repos/a")); resp.StatusCode != 200 {
			t.Errorf("GET: %s", resp.Status)
		}
	})
}

// Promise 3: without the credential the request is not sent.
func TestMissingSecretIsNeverSentBare(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) { t.Error("a request reached the upstream") })
		crlf := secretFile(t, canary+"\r\nX-Evil: 1")
		open := secretFile(t, canary)
		if err := os.Chmod(strings.TrimPrefix(open, "file:"), 0o644); err != nil {
			t.Fatal(err)
		}
		rule := func(name, token string) string {
			return fmt.Sprintf("  - name: %s\n    match: {host: %s.localhost, port: %s}\n    inject: {type: bearer, token: %s}\n", name, name, up.port, token)
		}
		p := startProxy(t, ca, rule("absent", "file:"+filepath.Join(t.TempDir(), "none"))+rule("crlf", crlf)+rule("open", open)+
			rule("unset", "env:SURELY_NOT_SET_ANYWHERE")+rule("fails", "{exec: [false]}")+rule("silent", "{exec: [true]}"))
		for name, want := range map[string]struct {
			status int
			slug   string
		}{
			"absent": {502, "secret_missing"}, "unset": {502, "secret_missing"}, "crlf": {502, "secret_invalid"},
			"open": {502, "secret_denied"}, "fails": {502, "secret_unavailable"}, "silent": {502, "secret_unavailable"},
		} {
			resp, err := p.client(t, h2).Get(up.url(name+".localhost", "/"))
			if err != nil {
				t.Fatal(err)
			}
			refused(t, resp, want.status, want.slug)
		}
	})
}

// A 401 renews the credential and sends the request once more, with its body. An unchanged credential is not sent again.
func TestUnauthorizedIsRetriedOnceWithAFreshSecret(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		type seen struct{ auth, body string }
		requests := make(chan seen, 8)
		// A command is a source whose value changes without a trace.
		value := filepath.Join(t.TempDir(), "value")
		write := func(s string) {
			if err := os.WriteFile(value, []byte(s), 0o600); err != nil {
				t.Error(err)
			}
		}
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			requests <- seen{r.Header.Get("Authorization"), string(body)}
			if r.Header.Get("Authorization") == "Bearer fresh" {
				return
			}
			if r.URL.Path == "/rotate" {
				write("fresh") // the value in the proxy is stale from now on
			}
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, "who are you?")
		})
		for _, tt := range []struct {
			path   string
			status int
			want   []seen
		}{
			{"/never", 401, []seen{{"Bearer stale", "the body"}}},
			{"/rotate", 200, []seen{{"Bearer stale", "the body"}, {"Bearer fresh", "the body"}}},
		} {
			write("stale")
			p := startProxy(t, ca, fmt.Sprintf("  - name: api\n    match: {host: api.localhost, port: %s}\n    inject: {type: bearer, token: {exec: [cat, %q], ttl: 1h}}\n", up.port, value))
			resp, err := p.client(t, h2).Post(up.url("api.localhost", tt.path), "text/plain", io.MultiReader(strings.NewReader("the body")))
			if err != nil {
				t.Fatal(err)
			}
			body, err := readAll(resp)
			if resp.StatusCode != tt.status || err != nil || tt.status == 401 && body != "who are you?" {
				t.Errorf("%s: got %s %q %v", tt.path, resp.Status, body, err)
			}
			for _, want := range tt.want {
				if got := <-requests; got != want {
					t.Errorf("%s: the upstream got %+v, want %+v", tt.path, got, want)
				}
			}
			if len(requests) > 0 {
				t.Errorf("%s: one request too many: %+v", tt.path, <-requests)
			}
		}
	})
}

// A rule's tls field: private roots, another name, a client certificate.
func TestUpstreamTLSSettings(t *testing.T) {
	t.Parallel()
	public, private := newTestCA(t, "public"), newTestCA(t, "private")
	up := startUpstream(t, private, true, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.TLS.ServerName, " ", len(r.TLS.PeerCertificates))
	})
	up.TLS.ClientAuth = 1 // tls.RequestClientCert
	dir := t.TempDir()
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: private.cert.Raw}))
	cert, key := clientPEM(t, private)
	write("cert.pem", cert)
	write("key.pem", key)
	rule := func(tls string) string {
		return bearerRule(t, "api.localhost", up.port) + "    tls: " + strings.ReplaceAll(tls, "DIR", dir) + "\n"
	}
	for _, tt := range []struct{ name, tls, want string }{
		{"private root", "{ca: DIR/ca.pem}", "api.localhost 0"},
		{"another name", "{ca: DIR/ca.pem, server_name: internal.example}", "internal.example 0"},
		{"client certificate", "{ca: DIR/ca.pem, cert: DIR/cert.pem, key: 'file:DIR/key.pem'}", "api.localhost 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := startProxy(t, public, rule(tt.tls))
			if _, body := mustGet(t, p.client(t, true), up.url("api.localhost", "/")); body != tt.want {
				t.Errorf("got %q, want %q", body, tt.want)
			}
		})
	}
}

// Requests in flight finish on the rules that they began with; the next request sees the new ones, in the same tunnel.
func TestRulesChangeBetweenRequests(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		entered, finish := make(chan string, 4), make(chan struct{})
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
			entered <- r.Header.Get("Authorization")
			if r.URL.Path == "/slow" {
				<-finish
			}
			fmt.Fprint(w, "done")
		})
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
		c := p.client(t, h2)
		slow := make(chan string, 1)
		go func() {
			resp, err := c.Get(up.url("api.localhost", "/slow"))
			if err != nil {
				slow <- err.Error()
				return
			}
			body, _ := readAll(resp)
			slow <- body
		}()
		if auth := <-entered; auth != "Bearer "+canary {
			t.Errorf("before: %q", auth)
		}
		p.setRules(t, fmt.Sprintf("  - name: api\n    match: {host: api.localhost, port: %s}\n    inject: {type: api_key, name: X-Key, value: %q}\n", up.port, secretFile(t, canary)))
		mustGet(t, c, up.url("api.localhost", "/"))
		if auth := <-entered; auth != "" {
			t.Errorf("after: %q", auth)
		}
		close(finish)
		if body := <-slow; body != "done" {
			t.Errorf("the request in flight got %q", body)
		}
	})
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

// No credential is used that cannot be audited.
func TestBrokenAuditStopsInjection(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "reached") })
	broken := audit.New(brokenWriter{})
	t.Cleanup(func() { _ = broken.Close() })
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port), func(cfg *Config, _ *limits) { cfg.Audit = broken })
	c := p.client(t, false)
	mustGet(t, c, up.url("api.localhost", "/first")) // nothing was known yet
	for broken.Err() == nil {
		mustGet(t, p.client(t, false), "http://127.0.0.1:"+plainUpstream(t, func(http.ResponseWriter, *http.Request) {})+"/")
	}
	resp, err := c.Get(up.url("api.localhost", "/second"))
	if err != nil {
		t.Fatal(err)
	}
	refused(t, resp, 503, "audit_failed")
}

// E29, trap 24: a pooled upstream connection that died is replaced for a GET; a POST is not sent twice.
func TestStaleUpstreamConnection(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	var served atomic.Int64
	closing := make(chan net.Conn, 16)
	port := serveRaw(t, ca, func(conn net.Conn) {
		for {
			req, err := readRequest(conn)
			if err != nil {
				return
			}
			if req.Method == "POST" && served.Load() > 0 {
				served.Add(1)
				return // dies after it has read the request
			}
			served.Add(1)
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			closing <- conn
		}
	})
	p := startProxy(t, ca, bearerRule(t, "api.localhost", port))
	c := p.client(t, false)
	for range 3 {
		if _, body := mustGet(t, c, "https://api.localhost:"+port+"/"); body != "ok" {
			t.Errorf("got %q", body)
		}
		(<-closing).Close()
	}
	before := served.Load()
	resp, err := c.Post("https://api.localhost:"+port+"/", "text/plain", strings.NewReader("once"))
	if err != nil {
		t.Fatal(err)
	}
	refused(t, resp, 502, "upstream_protocol")
	if n := served.Load() - before; n > 1 {
		t.Errorf("the POST was sent %d times", n)
	}
}
