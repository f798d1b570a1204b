package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// Tests here look at the bytes of HTTP/1: what clients may send, and what the upstream gets of it.

// recordHeads is an upstream that answers each request with "ok" and sends its head, as it came, to the channel.
func recordHeads(t *testing.T, ca *testCA, heads chan<- string) (port string) {
	return serveRaw(t, ca, func(conn net.Conn) {
		in := bufio.NewReader(conn)
		for {
			var head bytes.Buffer
			req, err := http.ReadRequest(bufio.NewReader(io.TeeReader(onlyHead{in}, &head)))
			if err != nil {
				return
			}
			_, _ = io.CopyN(io.Discard, in, req.ContentLength)
			heads <- head.String()
			if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
				return
			}
		}
	})
}

// onlyHead ends a read after a line's end, so that a reader of a head takes nothing of the body.
type onlyHead struct{ r *bufio.Reader }

func (o onlyHead) Read(p []byte) (int, error) {
	line, err := o.r.ReadSlice('\n')
	if len(line) > len(p) {
		return 0, errors.New("the line is longer than the buffer")
	}
	return copy(p, line), err
}

// Trap 3, trap 6, trap 22: one line for the credential, whatever spelling the client used; one length; nothing added,
// nothing that is the client's own lost.
func TestHeadOnTheWire(t *testing.T) {
	t.Parallel()
	heads := make(chan string, 1)
	ca := newTestCA(t, "upstream")
	port := recordHeads(t, ca, heads)
	p := startProxy(t, ca, bearerRule(t, "api.localhost", port))
	conn := p.connectTLS(t, "api.localhost:"+port, "api.localhost", "http/1.1")
	in := bufio.NewReader(conn)
	own := "authorization: Bearer mine\r\nAUTHORIZATION: Bearer two\r\nProxy-Authorization: Basic eDp5\r\nx-forwarded-for: 192.0.2.7\r\n" +
		"Forwarded: for=192.0.2.7\r\nX-Twice: 1\r\nx-twice: 2\r\nX-Empty:\r\nX-Latin: caf\xe9\r\nVia: 1.1 other\r\nCookie: a=1\r\nCookie: b=2\r\n"
	passed := []string{"x-forwarded-for: 192.0.2.7", "forwarded: for=192.0.2.7", "x-twice: 1", "x-twice: 2", "x-empty: ", "x-latin: caf\xe9", "via: 1.1 other", "cookie: a=1", "cookie: b=2"}
	for _, tt := range []struct {
		name, request string
		added         []string
	}{
		{"through net/http", "GET /a?b HTTP/1.1\r\nhost: api.localhost\r\n" + own + "\r\n", nil},
		{"direct", "GET /a?b HTTP/1.1\r\nhost: api.localhost\r\n" + own + "\r\n", nil},
		{"OPTIONS *", "OPTIONS * HTTP/1.1\r\nhost: api.localhost\r\n" + own + "\r\n", nil},
		{"with a body", "POST /a?b HTTP/1.1\r\nhost: api.localhost\r\ncontent-length: 3\r\n" + own + "\r\nabc", []string{"content-length: 3"}},
		{"with no body", "POST /a?b HTTP/1.1\r\nhost: api.localhost\r\nContent-Length: 0\r\n" + own + "\r\n", []string{"content-length: 0"}},
	} {
		io.WriteString(conn, tt.request)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if body, err := readAll(resp); body != "ok" || err != nil {
			t.Fatalf("%s: %q, %v", tt.name, body, err)
		}
		lines := strings.Split(strings.TrimSuffix(<-heads, "\r\n\r\n"), "\r\n")
		first, _, _ := strings.Cut(tt.request, "\r\n")
		if lines[0] != first {
			t.Errorf("%s: request line %q, want %q", tt.name, lines[0], first)
		}
		want := append(slices.Concat(passed, tt.added), "host: api.localhost:"+port, "authorization: Bearer "+canary)
		got := lines[1:]
		for i, line := range got {
			name, value, _ := strings.Cut(line, ":")
			got[i] = strings.ToLower(name) + ":" + value
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: the upstream got\n%q\nwant\n%q", tt.name, got, want)
		}
	}
}

// Requests that a client sends without waiting are answered in order, with and without bodies, and so is what follows a
// refusal.
func TestPipelinedRequests(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprint(w, r.URL.Path, " ", string(body))
	})
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
	conn := p.connectTLS(t, "api.localhost:"+up.port, "api.localhost", "http/1.1")
	var all strings.Builder
	for i := range 10 {
		fmt.Fprintf(&all, "GET /%d HTTP/1.1\r\nHost: api.localhost\r\n\r\n", i)
		fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: api.localhost\r\nContent-Length: 4\r\n\r\nGET ", i)
		fmt.Fprintf(&all, "POST /%d HTTP/1.1\r\nHost: api.localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nGET \r\n0\r\n\r\n", i)
		fmt.Fprintf(&all, "GET /%d HTTP/1.1\r\nHost: other.localhost\r\n\r\n", i)
	}
	go io.WriteString(conn, all.String())
	in := bufio.NewReader(conn)
	for i := range 10 {
		for _, want := range []string{fmt.Sprintf("/%d ", i), fmt.Sprintf("/%d GET ", i), fmt.Sprintf("/%d GET ", i), "421"} {
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatalf("round %d, %q: %v", i, want, err)
			}
			body, err := readAll(resp)
			if want == "421" && resp.StatusCode == 421 {
				continue
			}
			if body != want || err != nil {
				t.Errorf("round %d: got %q, %v; want %q", i, body, err, want)
			}
		}
	}
}

// A client of HTTP/1.0 gets no interim answer and no chunks, whatever the upstream sends, and sees a body that broke off
// as an error although the end of the connection is all that ends it.
func TestHTTP10Client(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, answer, want string
	}{
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "hello"},
		{"interim answers", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello"},
		{"a body that breaks off", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nhe", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ca := newTestCA(t, "upstream")
			for _, scheme := range []string{"https", "http"} {
				upCA := ca
				if scheme == "http" {
					upCA = nil
				}
				up := serveScript(t, upCA, tt.answer, true)
				p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
				var conn net.Conn
				target := "/"
				if scheme == "https" {
					conn = p.connectTLS(t, "api.localhost:"+up.port, "api.localhost", "http/1.1")
				} else {
					conn, target = p.dialRaw(t), "http://api.localhost:"+up.port+"/"
				}
				fmt.Fprintf(conn, "GET %s HTTP/1.0\r\n\r\n", target)
				status, head := readHead(t, conn)
				if status != "HTTP/1.0 200 OK" || strings.Contains(head, "Transfer-Encoding") {
					t.Errorf("%s: the head is %q", scheme, head)
				}
				body, err := io.ReadAll(conn)
				if tt.want == "" && (err == nil || errors.Is(err, errTimeout)) {
					t.Errorf("%s: the body ended with %v after %q, want an error", scheme, err, body)
				}
				if tt.want != "" && (string(body) != tt.want || err != nil) {
					t.Errorf("%s: got %q, %v; want %q", scheme, body, err, tt.want)
				}
			}
		})
	}
}

// Heads just below the limit pass, in both directions; over it they are refused.
func TestLargeHeads(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, h2, nil)
		up.Config.MaxHeaderBytes = 2 << 20
		up.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/large" {
				w.Header().Set("X-Large", strings.Repeat("b", 1<<20+8<<10))
			}
			w.Header().Set("X-Same", r.Header.Get("X-Large"))
		})
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
		c := p.client(t, h2)
		c.Transport.(*http.Transport).MaxResponseHeaderBytes = 2 << 20
		get := func(path string, size int) *http.Response {
			req, _ := http.NewRequest("GET", up.url("api.localhost", path), nil)
			req.Header.Set("X-Large", strings.Repeat("a", size))
			resp, err := c.Do(req)
			if err != nil {
				t.Fatalf("%s with %d bytes: %v", path, size, err)
			}
			return resp
		}
		const near = 1<<20 - 16<<10
		for range 2 { // through net/http, then direct
			resp := get("/", near)
			if _, err := readAll(resp); err != nil || len(resp.Header.Get("X-Same")) != near {
				t.Errorf("got %s with %d bytes, %v", resp.Status, len(resp.Header.Get("X-Same")), err)
			}
			refused(t, get("/large", 1), 502, "upstream_protocol")
		}
		if h2 { // the limit is announced, and the client keeps to it
			req, _ := http.NewRequest("GET", up.url("api.localhost", "/"), nil)
			req.Header.Set("X-Large", strings.Repeat("a", 1<<20+64<<10))
			if _, err := c.Do(req); err == nil || !strings.Contains(err.Error(), "advertised limit") {
				t.Errorf("over the limit: %v", err)
			}
			return
		}
		if resp := get("/", 1<<20+64<<10); resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("over the limit: %s", resp.Status)
		}
	})
}
