package proxy

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func ntlmRule(t testing.TB, name, user, port string) string {
	return fmt.Sprintf("  - name: %s\n    match: {host: %[1]s.localhost, port: %s}\n    inject: {type: ntlm, domain: CORP, username: %s, password: %q}\n",
		name, port, user, secretFile(t, canary))
}

func (s *ntlmServer) url(host, path string) string { return "https://" + host + ":" + s.port + path }

// A connection is proved once, by a HEAD without anything of the client. Then each request goes out once, whatever its size.
func TestNTLM(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		s := startNTLM(t, ca, nil)
		p := startProxy(t, ca, ntlmRule(t, "api", "ada", s.port))
		c := p.client(t, h2)
		for i := range 3 {
			req, err := http.NewRequestWithContext(t.Context(), "PUT", s.url("api.localhost", "/a"), io.LimitReader(zeros{}, 2<<20))
			if err != nil {
				t.Fatal(err)
			}
			req.Header = http.Header{"Cookie": {"a=b"}, "Authorization": {"NTLM bWluZQ=="}}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := readAll(resp); err != nil || resp.StatusCode != 200 || body != `PUT 2097152 CORP\ada` {
				t.Errorf("request %d: got %s, %q, %v", i, resp.Status, body, err)
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.conns) != 1 {
			t.Fatalf("%d connections", len(s.conns))
		}
		for _, c := range s.conns {
			want := []string{"HEAD api.localhost 0", "PUT api.localhost 2097152 a=b", "PUT api.localhost 2097152 a=b", "PUT api.localhost 2097152 a=b"}
			if c.proofs != 1 || !slices.Equal(c.requests, want) {
				t.Errorf("%d proofs, requests %q", c.proofs, c.requests)
			}
		}
		for _, e := range p.events.wait(t, 3) {
			if e.Decision != "inject" || len(e.Inject) != 1 || e.Inject[0] != "ntlm" || e.Status != 200 {
				t.Errorf("audit: %+v", e)
			}
		}
	})
}

// Many requests at once have a connection each, which is proved once. When the proxy ends, all of them are closed.
func TestNTLMManyAtOnce(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		s := startNTLM(t, ca, nil)
		p := startProxy(t, ca, ntlmRule(t, "api", "ada", s.port))
		c := p.client(t, h2)
		for range 3 {
			var all sync.WaitGroup
			for i := range 50 {
				all.Go(func() {
					resp, err := c.Post(s.url("api.localhost", fmt.Sprintf("/%d", i)), "text/plain", strings.NewReader("hello"))
					if err != nil {
						t.Error(err)
						return
					}
					if body, err := readAll(resp); err != nil || body != `POST 5 CORP\ada` {
						t.Errorf("got %s %q, %v", resp.Status, body, err)
					}
				})
			}
			all.Wait()
		}
		c.CloseIdleConnections()
		p.stop()
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.conns) > 100 {
			t.Errorf("%d connections for 150 requests, 50 at once", len(s.conns))
		}
		for _, c := range s.conns {
			if c.proofs != 1 {
				t.Errorf("%d proofs on one connection: %q", c.proofs, c.requests)
			}
		}
		s.counting.Lock()
		defer s.counting.Unlock()
		for s.open > 0 { // or the test times out
			s.empty.Wait()
		}
	})
}

// A connection that was proved carries requests of that rule and that client only.
func TestNTLMConnectionsAreNotShared(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	s := startNTLM(t, ca, nil)
	body := ntlmRule(t, "a", "ada", s.port) + ntlmRule(t, "b", "bob", s.port) +
		// The same host as a's, and the same credential in its words.
		strings.Replace(strings.Replace(ntlmRule(t, "a", "ada", s.port), "name: a", "name: other", 1), "match: {", "match: {methods: [PUT], ", 1) +
		fmt.Sprintf("  - name: plain\n    match: {host: plain.localhost, port: %s}\n", s.port) +
		fmt.Sprintf("  - name: keep\n    match: {host: keep.localhost, port: %s}\n    on_existing: keep\n    inject: {type: ntlm, username: kim, password: %q}\n", s.port, secretFile(t, canary))
	rules := strings.SplitAfter(body, "\n")
	body = strings.Join(append(slices.Clone(rules[6:9]), append(slices.Clone(rules[:6]), rules[9:]...)...), "") // the narrower one first
	p := startProxy(t, ca, body, func(cfg *Config, _ *limits) {
		cfg.Clients = func(r *http.Request) (string, bool) { return r.Header.Get("X-Who"), true }
	})
	var all sync.WaitGroup
	for i := range 120 {
		all.Go(func() {
			who := []string{"ci", "me"}[i%2]
			c := p.client(t, false)
			c.Transport.(*http.Transport).ProxyConnectHeader = http.Header{"X-Who": {who}}
			want := []struct{ method, host, answer string }{
				{"GET", "a", `GET 0 CORP\ada`}, {"GET", "b", `GET 0 CORP\bob`}, {"PUT", "a", `PUT 0 CORP\ada`}, {"GET", "plain", ""}, {"GET", "keep", ""}, {"POST", "keep", "POST 0 kim"},
			}[i%6]
			req, err := http.NewRequestWithContext(t.Context(), want.method, s.url(want.host+".localhost", "/"), nil)
			if err != nil {
				t.Error(err)
				return
			}
			if req.Header.Set("Cookie", who+"-"+want.method+"-"+want.host); want.method == "GET" && want.host == "keep" {
				req.Header.Set("Authorization", "Bearer mine")
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := readAll(resp); err != nil || got != want.answer {
				t.Errorf("%+v: got %s %q, %v", want, resp.Status, got, err)
			}
		})
	}
	all.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		var owner string
		for _, r := range c.requests {
			if words := strings.Fields(r); len(words) == 4 && c.user != "" {
				if owner == "" {
					owner = words[3]
				} else if owner != words[3] {
					t.Errorf("%s and %s on one connection of %s: %q", owner, words[3], c.user, c.requests)
				}
			}
		}
	}
}

// A wrong password is tried once, and the server's own answer reaches the client. If another one is stored by then, that is
// tried too.
func TestNTLMWrongPassword(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	stored := strings.TrimPrefix(secretFile(t, "not yet"), "file:")
	s := startNTLM(t, ca, func(_ http.ResponseWriter, r *http.Request) {
		if m, ok := ntlmMessage(r); ok && m[8] == 3 && r.URL.Path == "/set" {
			if err := os.WriteFile(stored, []byte(canary), 0o600); err != nil {
				t.Error(err)
			}
		}
	})
	rule := "  - name: %s\n    match: {host: %[1]s.localhost, port: %s}\n    inject: {type: ntlm, username: ada, password: %s}\n"
	p := startProxy(t, ca, fmt.Sprintf(rule, "wrong", s.port, secretFile(t, "wrong"))+fmt.Sprintf(rule, "stored", s.port, fmt.Sprintf("{exec: [cat, %q], ttl: 1h}", stored)))
	for _, tt := range []struct {
		host, path   string
		want, proofs int // so far
	}{
		{"wrong.localhost", "/", 401, 1},
		{"wrong.localhost", "/", 401, 2},
		{"stored.localhost", "/set", 200, 4},
		{"stored.localhost", "/", 200, 4},
	} {
		resp, _ := mustGet(t, p.client(t, false), s.url(tt.host, tt.path))
		proofs := 0
		s.mu.Lock()
		for _, c := range s.conns {
			proofs += c.proofs
		}
		s.mu.Unlock()
		if resp.StatusCode != tt.want || proofs != tt.proofs {
			t.Errorf("%s: got %s after %d proofs, want %d after %d", tt.host, resp.Status, proofs, tt.want, tt.proofs)
		}
	}
}

// Servers that close connections, forget them, or want a proof for each request.
func TestNTLMOverConnectionsThatDoNotLast(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		handle  func(n int64, w http.ResponseWriter, r *http.Request, s *ntlmServer)
		want    int // status
		closing bool
	}{
		{"proved for one request, and says so", func(_ int64, w http.ResponseWriter, r *http.Request, s *ntlmServer) {
			w.Header().Set("Persistent-Auth", "false")
			if r.Header["Authorization"] == nil {
				t.Error("a second request on a connection that was proved for one")
			}
		}, 200, false},
		{"proved for one request, and does not say so", func(_ int64, _ http.ResponseWriter, r *http.Request, s *ntlmServer) {
			if r.Header["Authorization"] == nil {
				s.conns[r.RemoteAddr].user = ""
			}
		}, 200, false},
		{"closed after each answer but the challenge", func(_ int64, w http.ResponseWriter, r *http.Request, s *ntlmServer) {
			if m, _ := ntlmMessage(r); len(m) > 8 && m[8] == 3 {
				w.Header().Set("Connection", "close")
			}
		}, 200, false},
		{"closed while idle", func(_ int64, _ http.ResponseWriter, _ *http.Request, _ *ntlmServer) {}, 200, true},
		{"closed after the first challenge", func(n int64, w http.ResponseWriter, _ *http.Request, _ *ntlmServer) {
			if n == 1 {
				w.Header().Set("Connection", "close")
			}
		}, 200, false},
		{"closed after each challenge", func(_ int64, w http.ResponseWriter, r *http.Request, _ *ntlmServer) {
			w.Header().Set("Connection", "close")
		}, 502, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ca := newTestCA(t, "upstream")
			var s *ntlmServer
			var n atomic.Int64
			s = startNTLM(t, ca, func(w http.ResponseWriter, r *http.Request) { tt.handle(n.Add(1), w, r, s) })
			p := startProxy(t, ca, ntlmRule(t, "api", "ada", s.port))
			c := p.client(t, false)
			for range 4 {
				method, sent := "POST", "hello"
				if tt.closing { // which a POST may run into
					method, sent = "GET", ""
				}
				req, err := http.NewRequestWithContext(t.Context(), method, s.url("api.localhost", "/"), strings.NewReader(sent))
				if err != nil {
					t.Fatal(err)
				}
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				if tt.want == 502 {
					refused(t, resp, 502, "upstream_protocol")
				} else if body, err := readAll(resp); err != nil || body != fmt.Sprintf(`%s %d CORP\ada`, method, len(sent)) {
					t.Errorf("got %s %q, %v", resp.Status, body, err)
				}
				if tt.closing {
					s.CloseClientConnections()
				}
			}
		})
	}
}

// What a server can ask for that gets an error, or the request as it is.
func TestNTLMHostileServers(t *testing.T) {
	t.Parallel()
	good := ntlmChallenge([]byte("12345678"))
	changed := func(at int, b ...byte) string {
		m := slices.Clone(good)
		copy(m[at:], b)
		return "NTLM " + base64.StdEncoding.EncodeToString(m)
	}
	for _, tt := range []struct {
		name   string
		status int
		asks   []string
		slug   string // empty: the request is passed on as it is
	}{
		{"Basic", 401, []string{`Basic realm="x"`, "Negotiate"}, "challenge_unsupported"},
		{"nothing", 401, nil, "challenge_unsupported"},
		{"no challenge", 401, []string{"NTLM"}, "challenge_unsupported"},
		{"no base64", 401, []string{"NTLM ~~~~"}, "challenge_unsupported"},
		{"half a challenge", 401, []string{"NTLM " + base64.StdEncoding.EncodeToString(good[:30])}, "challenge_unsupported"},
		{"a target that is not there", 401, []string{changed(12, 1, 0, 1, 0, 0xff, 0xff, 0xff, 0xff)}, "challenge_unsupported"},
		{"attributes that are not there", 401, []string{changed(44, 0xff, 0xff, 0xff, 0xff)}, "challenge_unsupported"},
		{"attributes without an end", 401, []string{changed(50, 0xff, 0xff)}, "challenge_unsupported"},
		{"NTLMv1", 401, []string{changed(20, 0x81)}, "challenge_unsupported"},
		{"no UTF-16", 401, []string{changed(20, 0x02)}, "challenge_unsupported"},
		{"the first message", 401, []string{changed(8, 1)}, "challenge_unsupported"},
		{"huge", 401, []string{"NTLM " + base64.StdEncoding.EncodeToString(make([]byte, 300_000))}, "challenge_unsupported"},
		{"down", 503, nil, "upstream_protocol"},
		{"for a proxy", 407, []string{changed(0)}, ""},
		{"a public resource", 200, nil, ""},
		{"moved", 302, nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ca := newTestCA(t, "upstream")
			got := make(chan string, 8)
			s := startNTLM(t, ca, func(w http.ResponseWriter, r *http.Request) {
				m, _ := ntlmMessage(r)
				got <- fmt.Sprintf("%s %d %s", r.Method, len(m), r.Header.Get("Cookie"))
				w.Header()["Www-Authenticate"] = tt.asks
				w.WriteHeader(tt.status)
			})
			p := startProxy(t, ca, ntlmRule(t, "api", "ada", s.port))
			req, err := http.NewRequestWithContext(t.Context(), "POST", s.url("api.localhost", "/"), strings.NewReader("hello"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header = http.Header{"Cookie": {"a=b"}, "Authorization": {"NTLM bWluZQ=="}}
			resp, err := p.client(t, false).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]bool{"HEAD 40 ": true}
			if tt.slug == "" {
				want["POST 0 a=b"] = true
				if _, err := readAll(resp); err != nil || resp.StatusCode != tt.status {
					t.Errorf("got %s, %v", resp.Status, err)
				}
				if e := p.events.wait(t, 1)[0]; e.Decision != "pass" {
					t.Errorf("audit: %+v", e)
				}
			} else {
				refused(t, resp, 502, tt.slug)
			}
			for close(got); len(got) > 0; {
				if r := <-got; !want[r] {
					t.Errorf("the server got %q", r)
				}
			}
		})
	}
}

// A request that switches protocols goes over a connection that is proved, and keeps it.
func TestNTLMUpgrade(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	var s *ntlmServer
	s = startNTLM(t, ca, func(w http.ResponseWriter, r *http.Request) {
		m, _ := ntlmMessage(r)
		if len(m) < 12 || m[8] != 3 || r.Header.Get("Upgrade") != "echo" {
			return
		}
		c := s.conns[r.RemoteAddr]
		if s.verify(m, c.challenge, r.TLS.ServerName) == "" {
			t.Error("the connection is not proved")
		}
		conn, _, err := http.NewResponseController(w.(*answeredWriter).ResponseWriter).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		w.(*answeredWriter).done = true
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		go func() { _, _ = io.Copy(conn, conn); _ = conn.Close() }()
	})
	p := startProxy(t, ca, ntlmRule(t, "api", "ada", s.port))
	for range 2 {
		conn := p.connectTLS(t, "api.localhost:"+s.port, "api.localhost", "http/1.1")
		if _, err := fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: api.localhost:%s\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", s.port); err != nil {
			t.Fatal(err)
		}
		if status, _ := readHead(t, conn); !strings.HasPrefix(status, "HTTP/1.1 101 ") {
			t.Fatalf("got %s", status)
		}
		got := make([]byte, 5)
		if _, err := io.WriteString(conn, "hello"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
			t.Errorf("got %q, %v", got, err)
		}
		_ = conn.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) != 2 {
		t.Errorf("%d connections for two switches", len(s.conns))
	}
}

// A server without HEAD is asked by GET. Its 401 is read to its end, but not forever.
func TestNTLMWithoutHead(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		size int64
		want int
	}{{"with a page", 40_000, 200}, {"without end", 1 << 40, 502}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ca := newTestCA(t, "upstream")
			s := startNTLM(t, ca, func(w http.ResponseWriter, r *http.Request) {
				m, _ := ntlmMessage(r)
				switch {
				case r.Method == http.MethodHead:
					w.WriteHeader(http.StatusMethodNotAllowed)
				case len(m) > 8 && m[8] == 1 && tt.want != 200:
					w.Header().Set("WWW-Authenticate", "NTLM "+base64.StdEncoding.EncodeToString(ntlmChallenge([]byte("12345678"))))
					w.WriteHeader(http.StatusUnauthorized)
					_, _ = io.CopyN(w, zeros{}, tt.size)
				}
			})
			p := startProxy(t, ca, ntlmRule(t, "api", "ada", s.port))
			resp, err := p.client(t, false).Post(s.url("api.localhost", "/"), "text/plain", strings.NewReader("hello"))
			if err != nil {
				t.Fatal(err)
			}
			if tt.want == 502 {
				refused(t, resp, 502, "upstream_protocol")
			} else if body, err := readAll(resp); err != nil || body != `POST 5 CORP\ada` {
				t.Errorf("got %s %q, %v", resp.Status, body, err)
			}
		})
	}
}
