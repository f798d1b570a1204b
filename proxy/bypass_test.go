package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// After a switch to HTTP/2 a client could send any request over the upstream's connection, past all rules.
func TestUpgradeToHTTPIsNotPassedOn(t *testing.T) {
	t.Parallel()
	for _, upgrade := range []string{
		"Upgrade: h2c", "Upgrade: H2C", "Upgrade: websocket, h2c", "Upgrade: h2c, websocket", "Upgrade: HTTP/2.0", "Upgrade: TLS/1.0",
		"Upgrade: websocket\r\nUpgrade: h2c",
	} {
		t.Run(upgrade, func(t *testing.T) {
			t.Parallel()
			up := newTestCA(t, "upstream")
			got := make(chan http.Header, 1)
			port := serveRaw(t, up, func(conn net.Conn) {
				if req, err := readRequest(conn); err == nil {
					got <- req.Header
					_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
			})
			p := startProxy(t, up, bearerRule(t, "switch.localhost", port))
			conn := p.connectTLS(t, "switch.localhost:"+port, "switch.localhost", "http/1.1")
			resp := rawRequest(t, conn, "GET / HTTP/1.1\r\nHost: switch.localhost\r\nConnection: Upgrade, HTTP2-Settings\r\n"+
				upgrade+"\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n")
			if body, err := readAll(resp); err != nil || body != "ok" {
				t.Errorf("got %d %q, %v", resp.StatusCode, body, err)
			}
			if h := <-got; h["Upgrade"] != nil || h["Connection"] != nil || h["Http2-Settings"] != nil {
				t.Errorf("the upstream got %v", h)
			}
		})
	}
}

// Some servers take X_Mode for X-Mode, and trailers for headers. Neither carries what a rule removes or sets.
func TestLookalikesAreRemoved(t *testing.T) {
	t.Parallel()
	up := newTestCA(t, "upstream")
	got := make(chan *http.Request, 1)
	u := startUpstream(t, up, false, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		got <- r
	})
	p := startProxy(t, up, fmt.Sprintf(`  - name: api
    match: {host: api.localhost, port: %s, methods: [GET, POST]}
    inject: {type: api_key, in: header, name: X-Api-Key, value: %q}
    remove: [x-mode]
`, u.port, secretFile(t, canary)))
	tests := map[string]struct {
		request string
		keep    string // a field that must arrive
	}{
		"headers": {"GET / HTTP/1.1\r\nHost: api.localhost\r\nX_Mode: 1\r\nX-MODE: 1\r\nx_api_key: mine\r\n" +
			"X_HTTP_Method_Override: DELETE\r\nX-HTTP-Method_Override: DELETE\r\nX_Other: 1\r\n\r\n", "X_other"},
		"trailers": {"POST / HTTP/1.1\r\nHost: api.localhost\r\nTransfer-Encoding: chunked\r\nTrailer: Good, X-Api-Key, X_Mode\r\n\r\n2\r\nok\r\n0\r\n" +
			"Good: 1\r\nX-Api-Key: mine\r\nX_Api_Key: mine\r\nX_Mode: 1\r\nX-Http-Method-Override: DELETE\r\nProxy_Authorization: mine\r\nAuthorization: mine\r\n\r\n", "Good"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			conn := p.connectTLS(t, "api.localhost:"+u.port, "api.localhost", "http/1.1")
			if resp := rawRequest(t, conn, test.request); resp.StatusCode != http.StatusOK {
				t.Fatalf("got %s", resp.Status)
			}
			r := <-got
			if keys := r.Header["X-Api-Key"]; len(keys) != 1 || keys[0] != canary {
				t.Error("the upstream got another key")
			}
			fields := r.Header.Clone()
			delete(fields, "X-Api-Key")
			for name, values := range r.Trailer {
				fields[name] = values
			}
			if fields.Get(test.keep) == "" && len(fields[test.keep]) == 0 {
				t.Errorf("%s is lost: %v", test.keep, fields)
			}
			for name := range fields {
				switch strings.ReplaceAll(strings.ToLower(name), "_", "-") {
				case "x-api-key", "x-mode", "x-http-method-override", "authorization", "proxy-authorization":
					t.Errorf("%s arrived", name)
				}
			}
		})
	}
}

// A # or a space in the target is read in more than one way: the server may not see a credential that stands behind it.
func TestTargetIsOneWord(t *testing.T) {
	t.Parallel()
	up := newTestCA(t, "upstream")
	u := startUpstream(t, up, false, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("the upstream got %s", r.RequestURI) })
	p := startProxy(t, up, fmt.Sprintf("  - name: api\n    match: {host: api.localhost, port: %s}\n    inject: {type: api_key, in: query, name: key, value: %q}\n",
		u.port, secretFile(t, canary)))
	for _, target := range []string{"/x?a=1#b", "/x#b", "/#", "https://api.localhost:" + u.port + "/x?a#b"} {
		conn := p.connectTLS(t, "api.localhost:"+u.port, "api.localhost", "http/1.1")
		refused(t, rawRequest(t, conn, "GET "+target+" HTTP/1.1\r\nHost: api.localhost\r\n\r\n"), 400, badRequest)
	}
	for _, target := range []string{"/x?a b", "/x?a HTTP/1.1", "/x?a#b"} {
		if status := h2Status(t, p, "api.localhost:"+u.port, target); status != "400" {
			t.Errorf("%q over h2: got %s, want 400", target, status)
		}
	}
}

// h2Status sends GET path over HTTP/2 as it is, which net/http's client would not, and returns the answer's status.
func h2Status(t *testing.T, p *testProxy, authority, path string) string {
	t.Helper()
	host, _, _ := net.SplitHostPort(authority)
	conn := p.connectTLS(t, authority, host, "h2")
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, field := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", authority}, {":path", path}} {
		if err := enc.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := http2.NewFramer(conn, bufio.NewReader(conn))
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("reading the answer: %v", err)
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return frame.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return frame.ErrCode.String()
		}
	}
}

// A status that net/http cannot send on must not be a panic.
func TestStatusThatDoesNotExist(t *testing.T) {
	t.Parallel()
	for _, status := range []string{"000", "042", "099"} {
		t.Run(status, func(t *testing.T) {
			t.Parallel()
			up := newTestCA(t, "upstream")
			port := serveRaw(t, up, func(conn net.Conn) {
				if _, err := readRequest(conn); err == nil {
					_, _ = io.WriteString(conn, "HTTP/1.1 "+status+" Odd\r\nContent-Length: 2\r\n\r\nok")
				}
			})
			p := startProxy(t, up, bearerRule(t, "odd.localhost", port))
			resp, err := p.client(t, false).Get("https://odd.localhost:" + port + "/")
			if err != nil {
				t.Fatal(err)
			}
			refused(t, resp, http.StatusBadGateway, upstreamProtocol)
			if strings.Contains(p.logged.String(), "panic") {
				t.Errorf("logged %s", p.logged)
			}
		})
	}
}

// The upstream may refuse a request before net/http has seen that its body has ended. -race finds what goes wrong.
func TestUnauthorizedAtTheLastByte(t *testing.T) {
	t.Parallel()
	up := newTestCA(t, "upstream")
	port := serveRaw(t, up, func(conn net.Conn) {
		for in := bufio.NewReader(conn); ; {
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			if _, err := io.WriteString(conn, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno"); err != nil {
				return
			}
		}
	})
	p := startProxy(t, up, bearerRule(t, "quick.localhost", port))
	c := p.client(t, true)
	for range 300 {
		resp, err := c.Post("https://quick.localhost:"+port+"/", "text/plain", strings.NewReader("hello"))
		if err != nil {
			t.Fatal(err)
		}
		if body, err := readAll(resp); err != nil || resp.StatusCode != http.StatusUnauthorized || body != "no" {
			t.Fatalf("got %d %q, %v", resp.StatusCode, body, err)
		}
	}
}

// net/http fills in trailers while the first copy of a request is on its way. A second copy at that time would share them,
// and two goroutines in one map end the process.
func TestRequestWithTrailersIsNotSentAgain(t *testing.T) {
	t.Parallel()
	for _, trailer := range []string{"", "X-Sum"} {
		t.Run("trailer "+trailer, func(t *testing.T) {
			t.Parallel()
			value := filepath.Join(t.TempDir(), "value")
			if err := os.WriteFile(value, []byte("stale"), 0o600); err != nil {
				t.Fatal(err)
			}
			var sent atomic.Int64
			up := newTestCA(t, "upstream")
			u := startUpstream(t, up, false, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if err := os.WriteFile(value, []byte("fresh"), 0o600); err != nil {
					t.Error(err)
				}
				if sent.Add(1); r.Header.Get("Authorization") != "Bearer fresh" {
					w.WriteHeader(http.StatusUnauthorized)
				}
			})
			p := startProxy(t, up, fmt.Sprintf("  - name: api\n    match: {host: api.localhost, port: %s}\n    inject: {type: bearer, token: {exec: [cat, %q], ttl: 1h}}\n", u.port, value))
			req, err := http.NewRequest(http.MethodPost, u.url("api.localhost", "/"), io.MultiReader(strings.NewReader("body")))
			if err != nil {
				t.Fatal(err)
			}
			wantSent, wantStatus := int64(2), http.StatusOK
			if trailer != "" {
				req.Trailer = http.Header{trailer: {"1"}}
				wantSent, wantStatus = 1, http.StatusUnauthorized
			}
			resp, err := p.client(t, false).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != wantStatus || sent.Load() != wantSent {
				t.Errorf("got %s after %d requests, want %d after %d", resp.Status, sent.Load(), wantStatus, wantSent)
			}
		})
	}
}
