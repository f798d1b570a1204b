package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"
)

// Each test here is a property that a proxy in front of arbitrary programs must have. Most run over HTTP/1.1 and
// HTTP/2 on both legs.

func TestInjectsIntoEveryMethodAndKeepsTheRequest(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		type seen struct{ method, uri, auth, body, proto, ua, xff, via, host string }
		got := make(chan seen, 1)
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			_, hasUA := r.Header["User-Agent"]
			got <- seen{r.Method, r.RequestURI, strings.Join(r.Header["Authorization"], "|"), string(body), r.Proto,
				fmt.Sprint(hasUA), r.Header.Get("X-Forwarded-For"), r.Header.Get("Via"), r.Host}
			w.WriteHeader(http.StatusTeapot)
			fmt.Fprint(w, "short and stout")
		})
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
		c := p.client(t, h2)
		proto := map[bool]string{false: "HTTP/1.1", true: "HTTP/2.0"}[h2]
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"} {
			body := ""
			if method[0] == 'P' {
				body = "payload of " + method
			}
			const uri = `/a%2Fb/%C3%A9;x=1?q=a+b&q=%20&flag&semi;colon&empty=`
			req, _ := http.NewRequest(method, up.url("api.localhost", uri), strings.NewReader(body))
			req.Header.Set("Authorization", "Bearer the client's own")
			req.Header["User-Agent"] = []string{""}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := readAll(resp)
			if err != nil || resp.StatusCode != http.StatusTeapot || answer != "short and stout" {
				t.Errorf("%s: got %d %q %v", method, resp.StatusCode, answer, err)
			}
			want := seen{method, uri, "Bearer " + canary, body, proto, "false", "", "", "api.localhost:" + up.port}
			if s := <-got; s != want {
				t.Errorf("%s: the upstream got %+v, want %+v", method, s, want)
			}
		}
	})
}

func TestNoRuleMeansNoDecryption(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, true, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("Authorization"))
	})
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
	conn := p.connect(t, "other.localhost:"+up.port)
	tlsConn := tls.Client(conn, &tls.Config{RootCAs: ca.pool, ServerName: "other.localhost"})
	if err := tlsConn.Handshake(); err != nil {
		t.Fatalf("the certificate inside the tunnel is not the upstream's: %v", err)
	}
	resp := rawRequest(t, tlsConn, "GET / HTTP/1.1\r\nHost: other.localhost\r\nConnection: close\r\n\r\n")
	if body, err := readAll(resp); body != "" || err != nil {
		t.Errorf("the upstream saw Authorization %q (%v), want none", body, err)
	}
	tlsConn.Close()
	if e := p.events.wait(t, 1)[0]; e.Decision != "tunnel" || e.Received == 0 || e.Sent == 0 || e.Host != "other.localhost:"+up.port {
		t.Errorf("audit: %+v", e)
	}
}

func TestDefaultDenyRefusesTheTunnel(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	p := startProxy(t, ca, "default: deny\n"+bearerRule(t, "api.localhost", "443"))
	conn := p.dialRaw(t)
	resp := rawRequest(t, conn, "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n")
	if !strings.Contains(resp.Status, "credproxy: no rule names evil.example:443") {
		t.Errorf("the reason phrase is %q", resp.Status)
	}
	refused(t, resp, 403, "no_rule")
	plain, err := p.client(t, false).Get("http://evil.example/")
	if err != nil {
		t.Fatal(err)
	}
	refused(t, plain, 403, "no_rule")
}

// On trial everything passes, and what deny would refuse is on record.
func TestDefaultAuditPassesAndReports(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") })
	plain := plainUpstream(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") })
	p := startProxy(t, ca, "default: audit\n"+bearerRule(t, "api.localhost", up.port))
	c := p.client(t, false)
	c.Transport.(*http.Transport).TLSClientConfig.RootCAs = ca.pool // what is tunnelled shows its own certificate
	for _, url := range []string{up.url("other.localhost", "/"), "http://other.localhost:" + plain + "/"} {
		if resp, body := mustGet(t, c, url); resp.StatusCode != 200 || body != "hello" {
			t.Errorf("%s: %s %q", url, resp.Status, body)
		}
	}
	c.CloseIdleConnections()
	mustGet(t, p.client(t, false), up.url("api.localhost", "/"))
	got := map[string]int{}
	for _, e := range p.events.wait(t, 3) {
		got[e.Decision+" "+e.Trial]++
	}
	if want := map[string]int{"tunnel no_rule": 1, "pass no_rule": 1, "inject ": 1}; !maps.Equal(got, want) {
		t.Errorf("audit: %v, want %v", got, want)
	}
}

// E2: a panic while one request is served harms no other and says nothing.
func TestPanicHarmsNoOtherRequest(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "fine") })
		var bomb sync.Once
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port), func(cfg *Config, _ *limits) {
			calm := cfg.Rules
			var connected bool
			cfg.Rules = func() *rulesSet {
				if connected {
					bomb.Do(func() { panic("boom " + canary) })
				}
				connected = true
				return calm()
			}
		})
		c := p.client(t, h2)
		resp, err := c.Get(up.url("api.localhost", "/"))
		if err != nil {
			t.Fatal(err)
		}
		refused(t, resp, 500, "internal")
		if _, body := mustGet(t, c, up.url("api.localhost", "/")); body != "fine" {
			t.Errorf("after the panic: got %q", body)
		}
		if !strings.Contains(p.logged.String(), "level=ERROR msg=panic") {
			t.Error("the panic is not in the log")
		}
	})
}

// E3: an upstream that cannot be reached or verified is an answer with a reason, and nothing is sent.
func TestUpstreamErrors(t *testing.T) {
	t.Parallel()
	ca, stranger := newTestCA(t, "upstream"), newTestCA(t, "stranger")
	reached := func(w http.ResponseWriter, r *http.Request) { t.Errorf("a request reached %s", r.Host) }
	untrusted := startUpstream(t, stranger, false, reached)
	serve := func(name string, cert func() *tls.Certificate) string {
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert(), nil }})
		if err != nil {
			t.Fatal(err)
		}
		srv := &http.Server{Handler: http.HandlerFunc(reached), ErrorLog: discardLog}
		go srv.Serve(l)
		t.Cleanup(func() { srv.Close() })
		_, port, _ := net.SplitHostPort(l.Addr().String())
		return port
	}
	sign := func(host string, notAfter time.Time) func() *tls.Certificate {
		return func() *tls.Certificate {
			cert, err := ca.sign(host, notAfter)
			if err != nil {
				t.Error(err)
			}
			return cert
		}
	}
	expired := serve("expired", sign("api.localhost", time.Now().Add(-time.Hour)))
	otherName := serve("other name", sign("other.localhost", time.Now().Add(time.Hour)))
	const refusing = "1" // tcpmux, which nobody speaks; a port that was just closed may get a new listener
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { plain.Close() })
	go func() {
		for {
			c, err := plain.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
			c.Close()
		}
	}()
	_, notTLS, _ := net.SplitHostPort(plain.Addr().String())

	for _, tt := range []struct {
		name, host, port string
		status           int
		slug, detail     string
		hint             string
	}{
		{"unknown authority", "api.localhost", untrusted.port, 502, "upstream_tls", "unknown authority", "tls: {ca: FILE}"},
		{"expired", "api.localhost", expired, 502, "upstream_tls", "expired", "clock"},
		{"another name", "api.localhost", otherName, 502, "upstream_tls", "another name", "server_name"},
		{"not TLS", "api.localhost", notTLS, 502, "upstream_tls", "does not speak TLS", "http://"},
		{"connection refused", "api.localhost", refusing, 502, "upstream_unreachable", "refused the connection", "server runs"},
		{"no such name", "no-such-host.invalid", "443", 502, "upstream_unreachable", "", "host name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			overBoth(t, func(t *testing.T, h2 bool) {
				p := startProxy(t, ca, bearerRule(t, tt.host, tt.port))
				c := p.client(t, h2)
				resp, err := c.Post("https://"+tt.host+":"+tt.port+"/?secret=query", "text/plain", strings.NewReader("body"))
				if err != nil {
					t.Fatal(err)
				}
				problem := refused(t, resp, tt.status, tt.slug)
				if !strings.Contains(problem.Detail, tt.detail) || !strings.Contains(problem.Hint, tt.hint) {
					t.Errorf("detail is %q and hint %q, want %q and %q in them", problem.Detail, problem.Hint, tt.detail, tt.hint)
				}
				if e := p.events.wait(t, 1)[0]; e.Error != tt.slug || e.Status != tt.status || e.Decision != "refuse" {
					t.Errorf("audit: %+v", e)
				}
				if strings.Contains(p.logged.String(), "secret=query") {
					t.Error("the query is in the log")
				}
			})
		})
	}
}

// E4, E4b: Expect: 100-continue is answered at once, from the upstream's side, and not with 100 if the upstream cannot
// be reached.
func TestExpectContinue(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.WriteHeader(http.StatusExpectationFailed)
			return
		}
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port)+bearerRule(t, "down.localhost", "1"))
	t.Run("accepted", func(t *testing.T) {
		t.Parallel()
		conn := p.connectTLS(t, "api.localhost:"+up.port, "api.localhost")
		io.WriteString(conn, "POST /ok HTTP/1.1\r\nHost: api.localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
		if status, _ := readHead(t, conn); status != "HTTP/1.1 100 Continue" {
			t.Fatalf("before the body: %s", status)
		}
		resp := rawRequest(t, conn, "12345")
		if body, err := readAll(resp); body != "5" || err != nil {
			t.Errorf("got %q %v", body, err)
		}
	})
	t.Run("refused by the upstream", func(t *testing.T) {
		t.Parallel()
		conn := p.connectTLS(t, "api.localhost:"+up.port, "api.localhost")
		resp := rawRequest(t, conn, "POST /refuse HTTP/1.1\r\nHost: api.localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
		if resp.StatusCode != http.StatusExpectationFailed {
			t.Errorf("got %s before the body was sent, want 417", resp.Status)
		}
	})
	t.Run("upstream down", func(t *testing.T) {
		t.Parallel()
		conn := p.connectTLS(t, "down.localhost:1", "down.localhost")
		resp := rawRequest(t, conn, "POST / HTTP/1.1\r\nHost: down.localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
		refused(t, resp, 502, "upstream_unreachable")
	})
}

// E5: when the client leaves, the upstream's request ends.
func TestClientGoneCancelsTheUpstream(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		started, ended := make(chan struct{}), make(chan struct{})
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
			close(started)
			<-r.Context().Done()
			close(ended)
		})
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "GET", up.url("api.localhost", "/"), nil)
		failed := make(chan error, 1)
		c := p.client(t, h2)
		go func() { _, err := c.Do(req); failed <- err }()
		within(t, started, "the request at the upstream")
		cancel()
		within(t, ended, "the end of the upstream's request")
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("the client got %v", err)
		}
		if e := p.events.wait(t, 1)[0]; e.Error != "client_gone" {
			t.Errorf("audit: %+v", e)
		}
	})
}

// E6: Connection: close and HTTP/1.0 close the connection after the answer.
func TestConnectionClose(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "bye") })
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: api.localhost\r\nConnection: close\r\n\r\n",
		"GET / HTTP/1.0\r\nHost: api.localhost\r\n\r\n",
		"GET / HTTP/1.0\r\n\r\n",
	} {
		conn := p.connectTLS(t, "api.localhost:"+up.port, "api.localhost")
		io.WriteString(conn, request)
		all, err := io.ReadAll(conn)
		if err != nil || !strings.HasSuffix(string(all), "\r\n\r\nbye") {
			t.Errorf("%q: got %q, %v; want an answer and the end of the connection", request, all, err)
		}
	}
	// E28: it is the client's connection that closes, not ours to the upstream.
	// The first answer tells that the upstream speaks HTTP/1.1; the others share a second connection.
	if n := up.conns.Load(); n > 2 {
		t.Errorf("%d upstream connections for 3 requests, want at most 2", n)
	}
}

// E7: an upstream that dies in the middle of a body never looks like a short body.
func TestUpstreamDiesMidBody(t *testing.T) {
	t.Parallel()
	for _, length := range []string{"", "1000000"} {
		name := "unknown length"
		if length != "" {
			name = "known length"
		}
		t.Run(name, func(t *testing.T) {
			overBoth(t, func(t *testing.T, h2 bool) {
				ca := newTestCA(t, "upstream")
				up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
					if length != "" {
						w.Header().Set("Content-Length", length)
					}
					io.WriteString(w, "the beginning")
					w.(http.Flusher).Flush()
					panic(http.ErrAbortHandler)
				})
				p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
				resp, err := p.client(t, h2).Get(up.url("api.localhost", "/"))
				if err != nil {
					t.Fatal(err)
				}
				if body, err := readAll(resp); err == nil {
					t.Errorf("the client got %q and no error", body)
				}
				if e := p.events.wait(t, 1)[0]; e.Error == "" || e.Status != 200 {
					t.Errorf("audit: %+v", e)
				}
			})
		})
	}
}

// E8: what the upstream sends arrives when it is sent, byte for byte, whatever the content type.
func TestStreamsLive(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, contentType, length string }{
		{"SSE", "text/event-stream", ""},
		{"NDJSON", "application/x-ndjson", ""},
		{"no type", "", ""},
		{"known length", "application/json", "30"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			overBoth(t, func(t *testing.T, h2 bool) {
				next := make(chan struct{})
				ca := newTestCA(t, "upstream")
				up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
					if tt.contentType != "" {
						w.Header().Set("Content-Type", tt.contentType)
					}
					if tt.length != "" {
						w.Header().Set("Content-Length", tt.length)
					}
					w.(http.Flusher).Flush()
					for i := range 3 {
						<-next
						fmt.Fprintf(w, "data: %02d\n\n", i)
						w.(http.Flusher).Flush()
					}
				})
				p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
				resp, err := p.client(t, h2).Get(up.url("api.localhost", "/"))
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				for i := range 3 {
					next <- struct{}{} // the next event exists only now
					got := make([]byte, 10)
					if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != fmt.Sprintf("data: %02d\n\n", i) {
						t.Fatalf("event %d: %q, %v", i, got, err)
					}
				}
			})
		})
	}
}

// E9: TLS sessions resume, also in a new tunnel.
func TestSessionsResume(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") })
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
	cache := tls.NewLRUClientSessionCache(4)
	for i := range 3 {
		conn := tls.Client(p.connect(t, "api.localhost:"+up.port), &tls.Config{ServerName: "api.localhost", RootCAs: p.ca.pool, ClientSessionCache: cache})
		resp := rawRequest(t, conn, "GET / HTTP/1.1\r\nHost: api.localhost\r\nConnection: close\r\n\r\n") // a read takes the ticket
		if body, err := readAll(resp); body != "ok" || err != nil {
			t.Fatal(body, err)
		}
		if resumed := conn.ConnectionState().DidResume; resumed != (i > 0) {
			t.Errorf("connection %d: resumed is %v", i, resumed)
		}
	}
}

// E12: heads over 1 MiB are refused without harm to others.
func TestHeaderBomb(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") })
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
	conn := p.connectTLS(t, "api.localhost:"+up.port, "api.localhost")
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: api.localhost\r\nX-Bomb: ")
	chunk := bytes.Repeat([]byte("a"), 1<<16)
	var sent int64
	for sent < 64<<20 {
		n, err := conn.Write(chunk)
		sent += int64(n)
		if err != nil {
			break
		}
	}
	if sent >= 64<<20 {
		t.Errorf("the proxy took %d bytes of one header", sent)
	}
	if _, body := mustGet(t, p.client(t, false), up.url("api.localhost", "/")); body != "ok" {
		t.Errorf("another client got %q", body)
	}
}

// E14: clients that stall after CONNECT, in the handshake or in a request's head are closed in time.
func TestStalledClientsAreClosed(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") })
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port), func(_ *Config, lim *limits) { lim.header = 500 * time.Millisecond })
	target := "api.localhost:" + up.port
	var wg sync.WaitGroup
	stall := func(name string, open func() net.Conn) {
		wg.Go(func() {
			if _, err := io.Copy(io.Discard, open()); errors.Is(err, errTimeout) {
				t.Errorf("%s: still open", name)
			}
		})
	}
	for range 200 {
		stall("nothing after CONNECT", func() net.Conn { return p.connect(t, target) })
	}
	stall("half a ClientHello", func() net.Conn {
		conn := p.connect(t, target)
		conn.Write([]byte{0x16, 3, 1, 2, 0, 1})
		return conn
	})
	stall("half a request head", func() net.Conn {
		conn := p.connectTLS(t, target, "api.localhost")
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: api.loc")
		return conn
	})
	stall("half a CONNECT", func() net.Conn {
		conn := p.dialRaw(t)
		io.WriteString(conn, "CONNECT api.localhost:443 HTTP/1.1\r\n")
		return conn
	})
	if _, body := mustGet(t, p.client(t, false), up.url("api.localhost", "/")); body != "ok" {
		t.Errorf("another client got %q", body)
	}
	wg.Wait()
}

// E15: interim answers reach the client.
func TestEarlyHints(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
			w.Header().Set("X-Final", "1")
			fmt.Fprint(w, "ok")
		})
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
		var hints []string
		trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			hints = append(hints, fmt.Sprint(code, " ", h.Get("Link")))
			return nil
		}}
		req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), "GET", up.url("api.localhost", "/"), nil)
		resp, err := p.client(t, h2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := readAll(resp)
		if len(hints) != 1 || hints[0] != "103 </a.css>; rel=preload" {
			t.Errorf("interim answers: %q", hints)
		}
		if body != "ok" || err != nil || resp.Header.Get("X-Final") != "1" || resp.Header.Get("Link") != "" {
			t.Errorf("final answer: %q %v %v", body, err, resp.Header)
		}
	})
}

// E16: trailers pass in both directions; forbidden ones do not.
func TestTrailers(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		got := make(chan http.Header, 1)
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Trailer", "X-Announced")
			_, _ = io.Copy(io.Discard, r.Body)
			got <- r.Trailer.Clone()
			fmt.Fprint(w, "ok")
			w.Header().Set("X-Announced", "1")
			w.Header().Set(http.TrailerPrefix+"X-Late", "2")
		})
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
		req, _ := http.NewRequest("POST", up.url("api.localhost", "/"), io.MultiReader(strings.NewReader("body")))
		req.Trailer = http.Header{"X-Sum": {"abc"}}
		if !h2 { // net/http's HTTP/2 server refuses it by itself
			req.Trailer.Set("Authorization", "Bearer mine")
		}
		resp, err := p.client(t, h2).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := readAll(resp); body != "ok" || err != nil {
			t.Errorf("got %q %v", body, err)
		}
		if resp.Trailer.Get("X-Announced") != "1" || resp.Trailer.Get("X-Late") != "2" {
			t.Errorf("the client got trailers %v", resp.Trailer)
		}
		if h := <-got; h.Get("X-Sum") != "abc" || h.Get("Authorization") != "" {
			t.Errorf("the upstream got trailers %v", h)
		}
	})
}

// E20: a shutdown lets requests in flight finish and takes no new ones.
func TestShutdownDrains(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		started, finish := make(chan struct{}), make(chan struct{})
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "first ")
			w.(http.Flusher).Flush()
			close(started)
			<-finish
			fmt.Fprint(w, "last")
		})
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
		resp, err := p.client(t, h2).Get(up.url("api.localhost", "/"))
		if err != nil {
			t.Fatal(err)
		}
		within(t, started, "the request at the upstream")
		stopped := make(chan struct{})
		go func() { p.stop(); close(stopped) }()
		for { // until the port is closed, which is what the shutdown does first
			conn, err := net.Dial("tcp", p.addr)
			if err != nil {
				break
			}
			conn.Close()
		}
		close(finish)
		if body, err := readAll(resp); body != "first last" || err != nil {
			t.Errorf("the request in flight got %q, %v", body, err)
		}
		within(t, stopped, "the end of Serve")
	})
}

// E20, the other side: what does not end is cut after the drain time.
func TestShutdownCutsWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port), func(cfg *Config, _ *limits) { cfg.Drain = 200 * time.Millisecond })
	resp, err := p.client(t, false).Get(up.url("api.localhost", "/"))
	if err != nil {
		t.Fatal(err)
	}
	tunnel := p.connect(t, "other.localhost:"+up.port)
	p.stop()
	if _, err := readAll(resp); err == nil {
		t.Error("the endless answer ended well")
	}
	if n, err := tunnel.Read(make([]byte, 1)); err == nil || errors.Is(err, errTimeout) {
		t.Errorf("the tunnel is still open: %d, %v", n, err)
	}
}

// E23: an early answer to a large upload reaches the client, every time.
func TestEarlyAnswerToLargeUpload(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		fmt.Fprint(w, "too large")
	})
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
	c := p.client(t, false)
	const rounds = 40
	got := 0
	for range rounds {
		resp, err := c.Post(up.url("api.localhost", "/"), "application/octet-stream", io.LimitReader(zeros{}, 16<<20))
		if err == nil && resp.StatusCode == http.StatusRequestEntityTooLarge {
			got++
		} else {
			t.Log(err)
		}
		if err == nil {
			resp.Body.Close()
		}
	}
	if got != rounds {
		t.Errorf("%d of %d early answers arrived", got, rounds)
	}
}

// E24: both sides may talk at the same time.
func TestBothDirectionsAtOnce(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex()
			w.(http.Flusher).Flush()
			lines := bufio.NewScanner(r.Body)
			for lines.Scan() {
				fmt.Fprintf(w, "echo %s\n", lines.Text())
				w.(http.Flusher).Flush()
			}
		})
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
		body, lines := io.Pipe()
		resp, err := p.client(t, h2).Post(up.url("api.localhost", "/"), "application/x-ndjson", body)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answers := bufio.NewReader(resp.Body)
		for i := range 5 {
			fmt.Fprintf(lines, "%d\n", i)
			if line, err := answers.ReadString('\n'); err != nil || line != fmt.Sprintf("echo %d\n", i) {
				t.Fatalf("line %d: %q, %v", i, line, err)
			}
		}
		lines.Close()
		if rest, err := io.ReadAll(answers); len(rest) > 0 || err != nil {
			t.Errorf("at the end: %q, %v", rest, err)
		}
	})
}

// E13, E26: hop-by-hop fields stay on their hop, in both directions, and no field of the client can take the
// credential away.
func TestHopByHop(t *testing.T) {
	t.Parallel()
	got := make(chan http.Header, 1)
	ca := newTestCA(t, "upstream")
	l := serveRaw(t, ca, func(conn net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		got <- req.Header
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Private, keep-alive\r\nKeep-Alive: timeout=5\r\nX-Private: 1\r\n"+
			"Upgrade: h2c\r\nProxy-Authenticate: Basic realm=x\r\nProxy-Connection: keep-alive\r\nAlt-Svc: h3=\":443\"\r\nX-Public: 1\r\n\r\nok")
	})
	for name, h2 := range map[string]bool{"h1": false, "h2": true} {
		t.Run(name, func(t *testing.T) {
			p := startProxy(t, ca, bearerRule(t, "api.localhost", l))
			if !h2 {
				conn := p.connectTLS(t, "api.localhost:"+l, "api.localhost")
				resp := rawRequest(t, conn, "GET / HTTP/1.1\r\nHost: api.localhost\r\nConnection: X-Mine, Authorization, keep-alive\r\nX-Mine: 1\r\nKeep-Alive: 5\r\n"+
					"Proxy-Authorization: Basic eDp5\r\nProxy-Connection: keep-alive\r\nTE: trailers, deflate\r\nHTTP2-Settings: AAA\r\nX-Public: 1\r\n\r\n")
				checkClean(t, resp.Header, "X-Private", "Keep-Alive", "Upgrade", "Proxy-Authenticate", "Proxy-Connection", "Alt-Svc", "Connection")
				h := <-got
				checkClean(t, h, "X-Mine", "Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "Http2-Settings", "Connection")
				if h.Get("Authorization") != "Bearer "+canary || h.Get("X-Public") != "1" || h.Get("Te") != "trailers" {
					t.Errorf("the upstream got %v", h)
				}
				return
			}
			resp, body := mustGet(t, p.client(t, true), "https://api.localhost:"+l+"/")
			if resp.ProtoMajor != 2 || body != "ok" || resp.Header.Get("X-Public") != "1" {
				t.Errorf("got %s %q %v", resp.Proto, body, resp.Header)
			}
			checkClean(t, resp.Header, "X-Private", "Keep-Alive", "Upgrade", "Proxy-Authenticate", "Alt-Svc")
			<-got
		})
	}
}

func checkClean(t *testing.T, h http.Header, names ...string) {
	t.Helper()
	for _, name := range names {
		if values, ok := h[name]; ok {
			t.Errorf("%s: %q passed", name, values)
		}
	}
}

// E27: what HTTP keeps apart from the body arrives as it was sent.
func TestHeadAndBodilessAnswers(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
			w.Header()["Content-Type"] = nil
			switch r.URL.Path {
			case "/head":
				w.Header().Set("Content-Length", "12345")
			case "/204":
				w.WriteHeader(http.StatusNoContent)
			case "/304":
				w.Header().Set("Etag", `"x"`)
				w.WriteHeader(http.StatusNotModified)
			case "/gzip":
				w.Header().Set("Content-Encoding", "gzip")
				w.Header().Set("X-Asked", r.Header.Get("Accept-Encoding"))
				w.Write([]byte("\x1f\x8bnot really"))
			}
		})
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port)+"    scrub: false\n")
		c := p.client(t, h2)
		do := func(method, path string) (*http.Response, string) {
			req, _ := http.NewRequest(method, up.url("api.localhost", path), nil)
			req.Header.Set("Accept-Encoding", "br;q=1, gzip")
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := readAll(resp)
			if err != nil {
				t.Fatal(err)
			}
			return resp, body
		}
		if resp, body := do("HEAD", "/head"); resp.ContentLength != 12345 || body != "" {
			t.Errorf("HEAD: length %d, body %q", resp.ContentLength, body)
		}
		for path, status := range map[string]int{"/204": 204, "/304": 304} {
			resp, body := do("GET", path)
			if resp.StatusCode != status || body != "" || resp.Header.Get("Transfer-Encoding") != "" || resp.ContentLength > 0 {
				t.Errorf("%s: %d %q %v", path, resp.StatusCode, body, resp.Header)
			}
		}
		resp, body := do("GET", "/gzip")
		if body != "\x1f\x8bnot really" || resp.Header.Get("Content-Encoding") != "gzip" || resp.Header.Get("X-Asked") != "br;q=1, gzip" || resp.ContentLength != 12 {
			t.Errorf("compressed: %q %v length %d", body, resp.Header, resp.ContentLength)
		}
		if _, guessed := resp.Header["Content-Type"]; guessed {
			t.Errorf("the proxy guessed a content type: %v", resp.Header["Content-Type"])
		}
	})
}

func TestOptionsAsterisk(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, nil)
	up.Config.DisableGeneralOptionsHandler = true
	got := make(chan string, 1)
	up.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got <- r.Method + " " + r.RequestURI })
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
	conn := p.connectTLS(t, "api.localhost:"+up.port, "api.localhost")
	resp := rawRequest(t, conn, "OPTIONS * HTTP/1.1\r\nHost: api.localhost\r\n\r\n")
	if resp.StatusCode != 200 {
		t.Errorf("got %s", resp.Status)
	}
	if request := <-got; request != "OPTIONS *" {
		t.Errorf("the upstream got %q", request)
	}
}

// E28: the client's connection does not decide over ours to the upstream.
func TestUpstreamConnectionsAreReused(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") })
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
	for range 5 {
		c := p.client(t, false)
		mustGet(t, c, up.url("api.localhost", "/"))
		c.CloseIdleConnections()
	}
	if n := up.conns.Load(); n > 2 {
		t.Errorf("%d upstream connections for 5 clients, want at most 2", n)
	}
}

func TestLargeBodiesBothWays(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		const size = 8 << 20
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
			if !h2 {
				_ = http.NewResponseController(w).EnableFullDuplex() // or net/http reads on before it answers
			}
			_, _ = io.Copy(w, r.Body)
		})
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
		sent := make([]byte, size)
		rand.Read(sent)
		body, pipe := io.Pipe()
		go func() { _, err := pipe.Write(sent); pipe.CloseWithError(err) }()
		resp, err := p.client(t, h2).Post(up.url("api.localhost", "/"), "application/octet-stream", body)
		if err != nil {
			t.Fatal(err)
		}
		got, err := readAll(resp)
		if err != nil || got != string(sent) {
			t.Errorf("%d bytes came back of %d, %v", len(got), size, err)
		}
		if e := p.events.wait(t, 1)[0]; e.Sent != size || e.Received != size {
			t.Errorf("audit: sent %d, received %d", e.Sent, e.Received)
		}
	})
}
