package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A script is an upstream that answers every request with the same bytes.
type script struct {
	port  string
	conns atomic.Int64 // accepted so far
}

// serveScript runs a script behind TLS with leaves of ca, or without TLS if ca is nil. With once it closes each
// connection after its first answer.
func serveScript(t *testing.T, ca *testCA, answer string, once bool) *script {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := &script{}
	_, s.port, _ = net.SplitHostPort(l.Addr().String())
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.conns.Add(1)
			if ca != nil {
				conn = tls.Server(conn, &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { return ca.leaf(hello.ServerName) }})
			}
			go func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				for {
					if _, err := http.ReadRequest(in); err != nil {
						return
					}
					if _, err := io.WriteString(conn, answer); err != nil || once {
						return
					}
				}
			}()
		}
	}()
	return s
}

// Our own HTTP/1.1 path, for requests without body: every form that an answer can have, over plain connections and TLS,
// to clients of both protocols. Over TLS the first request tells that the upstream speaks HTTP/1.1 and goes through
// net/http; the others are ours.
func TestDirectAnswers(t *testing.T) {
	t.Parallel()
	const huge = 1<<20 + 8<<10
	tests := []struct {
		name, method, answer string
		once                 bool   // the upstream closes after the answer
		status               int    // 0: refused with upstream_protocol
		body, trailer        string // trailer: the value of X-Sum
		interim              string
		reused               bool // the connection takes another request
		broken               bool // the body must end with an error
	}{
		{name: "length", answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", status: 200, body: "hello", reused: true},
		{name: "empty", answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", status: 200, reused: true},
		{name: "chunks", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;ext=1\r\nlo\r\n0\r\n\r\n", status: 200, body: "hello", reused: true},
		{name: "trailers", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: abc\r\n\r\n", status: 200, body: "hello", trailer: "abc", reused: true},
		{name: "trailers unannounced", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: abc\r\n\r\n", status: 200, body: "hello", trailer: "abc", reused: true},
		{name: "HEAD", method: "HEAD", answer: "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n", status: 200, reused: true},
		{name: "OPTIONS", method: "OPTIONS", answer: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nAllow: GET\r\n\r\n", status: 200, reused: true},
		{name: "204", answer: "HTTP/1.1 204 No Content\r\n\r\n", status: 204, reused: true},
		{name: "304", answer: "HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\n\r\n", status: 304, reused: true},
		{name: "odd reason", answer: "HTTP/1.1 299 \xe2\x82\xac uro\r\nContent-Length: 2\r\n\r\nok", status: 299, body: "ok", reused: true},
		{name: "no reason", answer: "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", status: 200, body: "ok", reused: true},
		{name: "100", answer: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", status: 200, body: "ok", reused: true},
		{name: "103", answer: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", status: 200, body: "ok", interim: "103 </a>\n", reused: true},
		{name: "20 times 102", answer: strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 20) + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", status: 200, body: "ok", interim: strings.Repeat("102 \n", 20), reused: true},
		{name: "close", answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello", status: 200, body: "hello"},
		{name: "close is the end", answer: "HTTP/1.1 200 OK\r\n\r\nhello", once: true, status: 200, body: "hello"},
		{name: "HTTP/1.0", answer: "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", status: 200, body: "hello"},
		{name: "HTTP/1.0 keep-alive", answer: "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\nhello", status: 200, body: "hello", reused: true},
		{name: "HTTP/1.0 close is the end", answer: "HTTP/1.0 200 OK\r\n\r\nhello", once: true, status: 200, body: "hello"},
		{name: "one answer too many", answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", status: 200, body: "hello"},
		{name: "short body", answer: "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", once: true, status: 200, broken: true},
		{name: "short chunk", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello", once: true, status: 200, broken: true},
		{name: "no last chunk", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", once: true, status: 200, broken: true},
		{name: "bad chunk", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", status: 200, broken: true},
		{name: "no answer", answer: "", once: true},
		{name: "half a head", answer: "HTTP/1.1 200 OK\r\nContent-Le", once: true},
		{name: "not HTTP", answer: "220 mail.example ESMTP\r\n\r\n", once: true},
		{name: "two lengths", answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"},
		{name: "negative length", answer: "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello"},
		{name: "unknown coding", answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello"},
		{name: "one huge field", answer: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", huge) + "\r\n\r\n"},
		{name: "many fields", answer: "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Field: 0123456789\r\n", huge/21) + "\r\n"},
		{name: "100 without end", answer: strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", huge/25)},
	}
	for _, via := range []struct {
		name    string
		tls, h2 bool
	}{{"plain", false, false}, {"tls", true, false}, {"tls from h2", true, true}} {
		t.Run(via.name, func(t *testing.T) {
			t.Parallel()
			for _, tt := range tests {
				t.Run(tt.name, func(t *testing.T) {
					t.Parallel()
					ca := newTestCA(t, "upstream")
					scheme, upCA, method := "http", (*testCA)(nil), "GET"
					if via.tls {
						scheme, upCA = "https", ca
					}
					if tt.method != "" {
						method = tt.method
					}
					up := serveScript(t, upCA, tt.answer, tt.once)
					p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
					c := p.client(t, via.h2)
					const rounds = 4
					for i := range rounds {
						var interim strings.Builder
						trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
							fmt.Fprintln(&interim, code, h.Get("Link"))
							return nil
						}}
						req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), method, scheme+"://api.localhost:"+up.port+"/", nil)
						resp, err := c.Do(req)
						if err != nil {
							t.Fatalf("request %d: %v", i, err)
						}
						if tt.status == 0 {
							refused(t, resp, 502, "upstream_protocol")
							continue
						}
						body, err := readAll(resp)
						if resp.StatusCode != tt.status || (err != nil) != tt.broken || !tt.broken && body != tt.body {
							t.Errorf("request %d: got %d %q %v, want %d %q, broken %v", i, resp.StatusCode, body, err, tt.status, tt.body, tt.broken)
						}
						if got := resp.Trailer.Get("X-Sum"); got != tt.trailer {
							t.Errorf("request %d: trailer %q, want %q", i, got, tt.trailer)
						}
						if interim.String() != tt.interim {
							t.Errorf("request %d: interim answers %q, want %q", i, interim.String(), tt.interim)
						}
					}
					want := int64(rounds)
					if tt.reused {
						want = 1
						if via.tls {
							want = 2 // one of net/http, one of ours
						}
					}
					if got := up.conns.Load(); got != want {
						t.Errorf("%d upstream connections for %d requests, want %d", got, rounds, want)
					}
				})
			}
		})
	}
}

// A client that leaves in the middle of a body costs the upstream's connection, and no later request gets its rest.
func TestDirectClientGoneMidBody(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		ended := make(chan struct{})
		var conns atomic.Int64
		port := serveRaw(t, ca, func(conn net.Conn) {
			conns.Add(1)
			in := bufio.NewReader(conn)
			for {
				req, err := http.ReadRequest(in)
				if err != nil {
					return
				}
				if req.URL.Path == "/whole" {
					io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole")
					continue
				}
				io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nbegin")
				_, _ = io.Copy(io.Discard, in)
				close(ended)
				return
			}
		})
		p := startProxy(t, ca, bearerRule(t, "api.localhost", port))
		c := p.client(t, h2)
		url := "https://api.localhost:" + port
		for range 2 { // the second is ours, and leaves its connection
			mustGet(t, c, url+"/whole")
		}
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "GET", url+"/part", nil)
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(resp.Body, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		cancel()
		within(t, ended, "the end of the upstream's connection")
		if _, body := mustGet(t, c, url+"/whole"); body != "whole" {
			t.Errorf("the next request got %q", body)
		}
		if n := conns.Load(); n != 3 {
			t.Errorf("%d upstream connections, want 3", n)
		}
		for _, e := range p.events.wait(t, 4) {
			if want := map[string]string{"/part": "client_gone"}[e.Path]; e.Error != want {
				t.Errorf("audit: %+v, want the error %q", e, want)
			}
		}
	})
}

// idleConn is a connection that tells when it is closed.
type idleConn struct {
	net.Conn
	closed atomic.Bool
}

func (c *idleConn) Close() error { c.closed.Store(true); return nil }

func newDirectPool(t *testing.T) *directPool {
	t.Helper()
	return &newTransports(&Config{}, &dialer{}).base.direct
}

// Idle connections are closed after their time, and a connection that is used in between starts anew.
func TestDirectIdleExpiry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newDirectPool(t)
		old, used := &idleConn{}, &idleConn{}
		a, b := &directConn{Conn: old, to: origin{"https", "k"}}, &directConn{Conn: used, to: origin{"https", "k"}}
		if !p.put(a) || !p.put(b) {
			t.Fatal("the pool takes no connection")
		}
		time.Sleep(maxIdleTime / 2)
		if got := p.take(origin{"https", "k"}); got != b {
			t.Fatalf("took %p, want the most recently used one %p", got, b)
		}
		p.put(b)
		time.Sleep(maxIdleTime/2 + time.Second)
		synctest.Wait()
		if !old.closed.Load() || used.closed.Load() {
			t.Errorf("closed: the unused one %v, the used one %v; want true, false", old.closed.Load(), used.closed.Load())
		}
		time.Sleep(maxIdleTime)
		synctest.Wait()
		if !used.closed.Load() || p.count != 0 || len(p.idle) != 0 || p.take(origin{"https", "k"}) != nil {
			t.Errorf("at the end: closed %v, count %d, %d hosts", used.closed.Load(), p.count, len(p.idle))
		}
	})
}

// The pool is bounded per host and altogether, and a closed one keeps nothing.
func TestDirectPoolBounds(t *testing.T) {
	t.Parallel()
	p := newDirectPool(t)
	kept := map[origin]int{}
	var all []*idleConn
	for host := range 10 {
		for range maxIdlePerHost + 1 {
			c := &idleConn{}
			all = append(all, c)
			if to := (origin{"https", fmt.Sprint(host)}); p.put(&directConn{Conn: c, to: to}) {
				kept[to]++
			}
		}
	}
	total := 0
	for to, n := range kept {
		total += n
		if n > maxIdlePerHost {
			t.Errorf("%v: %d kept, want at most %d", to, n, maxIdlePerHost)
		}
	}
	if total != maxIdle {
		t.Errorf("%d kept, want %d", total, maxIdle)
	}
	p.closeIdle()
	closed := 0
	for _, c := range all {
		if c.closed.Load() {
			closed++
		}
	}
	if closed != total || p.take(origin{"https", "0"}) != nil || p.put(&directConn{Conn: &idleConn{}, to: origin{"https", "0"}}) {
		t.Errorf("after closing: %d of %d closed, or the pool still takes or gives", closed, total)
	}
}

// An error of a body stays: nobody who reads on takes what came for the whole.
func TestDirectBodyKeepsItsError(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	b := &directBody{ReadCloser: io.NopCloser(io.MultiReader(strings.NewReader("x"), errorReader{broken})), release: func(bool) {}}
	if got, err := io.ReadAll(b); string(got) != "x" || err != broken {
		t.Errorf("got %q, %v", got, err)
	}
	if n, err := b.Read(make([]byte, 1)); n != 0 || err != broken {
		t.Errorf("reading on: %d, %v; want the same error", n, err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if n, err := b.Read(make([]byte, 1)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("after Close: %d, %v", n, err)
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }
