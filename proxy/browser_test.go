package proxy

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/credproxy/credproxy/internal/testneed"
)

// Row 52: a page in a browser that uses the proxy gets none of its credentials, unless the rule says so.
func TestBrowsers(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, true, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Method+" "+backwards(r.Header.Get("Authorization")))
	})
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port)+
		bearerRule(t, "browser.localhost", up.port)+"    browser: true\n"+
		"  - {name: pass, match: {host: pass.localhost, port: "+up.port+"}}\n")
	own := "https://api.localhost:" + up.port
	overBoth(t, func(t *testing.T, h2 bool) {
		c := p.client(t, h2)
		for _, tt := range []struct {
			name   string
			method string
			header []string
			page   bool
		}{
			{"fetch of another site", "GET", []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"}, true},
			{"image", "GET", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"}, true},
			{"form", "POST", []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, true},
			{"link", "GET", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-User", "?1", "Sec-Fetch-Dest", "document"}, true},
			{"subdomain", "GET", []string{"Sec-Fetch-Site", "same-site"}, true},
			{"typed", "GET", []string{"Sec-Fetch-Site", "none"}, true},
			{"the API's own page", "GET", []string{"Sec-Fetch-Site", "same-origin", "Origin", own}, true},
			{"preflight", "OPTIONS", []string{"Origin", "https://evil.example", "Access-Control-Request-Method", "DELETE"}, true},
			{"beacon of an old browser", "POST", []string{"Origin", "https://evil.example"}, true},
			{"sandboxed frame, file", "GET", []string{"Origin", "null"}, true},
			{"extension", "GET", []string{"Origin", "chrome-extension://abcdefgh"}, true},
			{"the same host over http", "GET", []string{"Origin", "http://api.localhost:" + up.port}, true},
			{"the same host on another port", "GET", []string{"Origin", "https://api.localhost"}, true},
			{"a name that begins alike", "GET", []string{"Origin", own + ".evil.example"}, true},
			{"a user name", "GET", []string{"Origin", "https://api.localhost:" + up.port + "@evil.example"}, true},
			{"two origins", "GET", []string{"Origin", own, "Origin", "https://evil.example"}, true},
			{"no value", "GET", []string{"Sec-Fetch-Site", ""}, true},
			{"a program", "GET", nil, false},
			{"Node's fetch", "GET", []string{"Sec-Fetch-Mode", "cors", "Accept-Language", "*"}, false},
			{"a WebSocket client", "GET", []string{"Origin", own}, false},
			{"a program that says Mozilla", "GET", []string{"User-Agent", "Mozilla/5.0", "Accept-Language", "en"}, false},
		} {
			for _, host := range []string{"api.localhost", "browser.localhost", "pass.localhost"} {
				req, _ := http.NewRequest(tt.method, up.url(host, "/"), nil)
				for i := 0; i < len(tt.header); i += 2 {
					req.Header.Add(tt.header[i], tt.header[i+1])
				}
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				if tt.page && host == "api.localhost" {
					for name := range resp.Header {
						if strings.HasPrefix(name, "Access-Control-") {
							t.Errorf("%s: %s in the refusal", tt.name, name)
						}
					}
					refused(t, resp, 403, "browser_request")
					continue
				}
				want := tt.method + " " + backwards("Bearer "+canary)
				if host == "pass.localhost" {
					want = tt.method + " "
				}
				if got, err := readAll(resp); err != nil || got != want {
					t.Errorf("%s, %s: got %q, %v, want %q", tt.name, host, got, err, want)
				}
			}
		}
	})
}

// To plain http on another machine browsers send neither Origin nor Sec-Fetch with an image.
func TestBrowserOverPlainHTTP(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	port := plainUpstream(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "reached") })
	_, resolve := startDNS(t, map[string][]string{"far.test": {"127.0.0.1"}})
	p := startProxy(t, ca, bearerRule(t, "far.test", port)+"    allow_http: true\n"+bearerRule(t, "near.localhost", port), resolve)
	c := p.client(t, false)
	for _, tt := range []struct {
		host, agent, language string
		page                  bool
	}{
		{"far.test", "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0", "en-US", true},
		{"far.test", "Mozilla/5.0 (Windows NT; en-US) WindowsPowerShell/5.1", "", false},
		{"far.test", "curl/8", "en", false},
		{"near.localhost", "Mozilla/5.0", "en", false}, // where browsers send Sec-Fetch-Site
	} {
		req, _ := http.NewRequest("GET", "http://"+tt.host+":"+port+"/", nil)
		req.Header.Set("User-Agent", tt.agent)
		if tt.language != "" {
			req.Header.Set("Accept-Language", tt.language)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if tt.page {
			refused(t, resp, 403, "browser_request")
		} else if got, _ := readAll(resp); got != "reached" {
			t.Errorf("%+v: got %s", tt, got)
		}
	}
}

// What the fetch of Node sends is taken for no page.
func TestBrowserIsNotNode(t *testing.T) {
	t.Parallel()
	testneed.Program(t, "node")
	var mu sync.Mutex
	var seen []http.Header
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.Header.Clone())
	}))
	defer srv.Close()
	script := `const u = process.argv[1]; (async () => {
		for (const init of [{}, {method: 'POST', body: 'x'}, {mode: 'no-cors'}, {mode: 'same-origin'}, {method: 'POST', body: '{}', headers: {'content-type': 'application/json'}}])
			await (await fetch(u, init)).text()
	})()`
	if out, err := exec.CommandContext(t.Context(), "node", "-e", script, srv.URL).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if len(seen) != 5 {
		t.Fatalf("%d requests, want 5", len(seen))
	}
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, backwards(r.Header.Get("Authorization")))
	})
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
	for _, header := range seen {
		req, _ := http.NewRequest("GET", up.url("api.localhost", "/"), nil)
		req.Header = header
		header.Del("Accept-Encoding")
		header.Del("Connection")
		header.Del("Content-Length")
		resp, err := p.client(t, false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := readAll(resp); got != backwards("Bearer "+canary) {
			t.Errorf("with %v: got %s", header, got)
		}
	}
}

// Row 51: whatever a page sends to the proxy's own port, under any name that it made resolve there, it gets one
// constant answer, with a token or without.
func TestPagesAtTheProxysPort(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) { t.Error("a request reached the server") })
	rule := bearerRule(t, "api.localhost", up.port)
	var first string
	for _, option := range []proxyOption{
		func(*Config, *limits) {},
		func(cfg *Config, _ *limits) { cfg.Clients = func(*http.Request) (string, bool) { return "", false } },
	} {
		p := startProxy(t, ca, rule, option)
		_, port, _ := strings.Cut(p.addr, ":")
		for _, request := range []string{
			"GET / HTTP/1.1\r\nHost: evil.example:" + port + "\r\nOrigin: http://evil.example:" + port + "\r\nSec-Fetch-Site: same-origin\r\n\r\n",
			"GET /?x=<script>alert(1)</script> HTTP/1.1\r\nHost: localhost:" + port + "\r\nReferer: http://evil.example/\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: api.localhost:" + up.port + "\r\n\r\n",
			"GET / HTTP/1.0\r\n\r\n",
			"POST / HTTP/1.1\r\nHost: evil.example:" + port + "\r\nOrigin: null\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n",
			"OPTIONS / HTTP/1.1\r\nHost: 127.0.0.1:" + port + "\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: GET\r\nAccess-Control-Request-Private-Network: true\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nOrigin: https://evil.example\r\n\r\n",
			"GET //api.localhost:" + up.port + "/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
			"GET /https://api.localhost:" + up.port + "/ HTTP/1.1\r\nHost: evil.example\r\nProxy-Authorization: Basic eDp5\r\n\r\n",
		} {
			resp := rawRequest(t, p.dialRaw(t), request)
			var names []string
			for name, values := range resp.Header {
				if name != "Date" && name != "Connection" {
					names = append(names, fmt.Sprint(name, values))
				}
			}
			slices.Sort(names)
			body, _ := readAll(resp)
			got := fmt.Sprint(resp.StatusCode, names, body)
			if first == "" {
				first = got
			}
			if got != first || resp.StatusCode != 400 || strings.Contains(got, "Access-Control") || strings.Contains(got, "Set-Cookie") {
				t.Errorf("%.60q: got %s, want %s", request, got, first)
			}
		}
		// A request in the body of another is a body.
		inner := "GET http://api.localhost:" + up.port + "/ HTTP/1.1\r\nHost: api.localhost:" + up.port + "\r\n\r\n"
		conn := p.dialRaw(t)
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(inner), inner)
		all, err := io.ReadAll(conn)
		if n := strings.Count(string(all), "HTTP/1.1 "); n != 1 || err != nil {
			t.Errorf("%d answers, %v: %s", n, err, all)
		}
	}
}
