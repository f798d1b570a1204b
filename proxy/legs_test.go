package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
)

// overLegs runs f with every pair of protocols: the client's and the upstream's.
func overLegs(t *testing.T, f func(t *testing.T, client, upstream bool)) {
	t.Helper()
	names := map[bool]string{false: "h1", true: "h2"}
	for _, client := range []bool{false, true} {
		for _, upstream := range []bool{false, true} {
			t.Run(names[client]+" to "+names[upstream], func(t *testing.T) { t.Parallel(); f(t, client, upstream) })
		}
	}
}

func protocol(h2 bool) string {
	if h2 {
		return "HTTP/2.0"
	}
	return "HTTP/1.1"
}

// The legs' protocols do not depend on each other, and nothing that a message consists of gets lost between them.
func TestLegsKeepTheMessage(t *testing.T) {
	t.Parallel()
	overLegs(t, func(t *testing.T, client, upstream bool) {
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, upstream, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			w.Header().Set("Trailer", "X-After")
			w.Header().Set("X-Seen", fmt.Sprintf("%s %s %s %s %d %v", r.Proto, r.Method, r.RequestURI, backwards(r.Header.Get("Authorization")), r.ContentLength, err))
			w.Header().Add("Set-Cookie", "a=1")
			w.Header().Add("Set-Cookie", "b=2")
			w.WriteHeader(http.StatusAccepted)
			_, _ = w.Write(bytes.ToUpper(body))
			w.Header().Set("X-After", r.Trailer.Get("X-Sum"))
		})
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
		c := p.client(t, client)
		for _, tt := range []struct {
			name, method string
			body         io.Reader
			trailer      bool
			length       int64
			want         string
		}{
			{"no body", "GET", nil, false, 0, ""},
			{"no body again", "GET", nil, false, 0, ""},
			{"known length", "PUT", strings.NewReader("hello"), false, 5, "HELLO"},
			{"unknown length", "POST", io.MultiReader(strings.NewReader("hel"), strings.NewReader("lo")), false, -1, "HELLO"},
			{"trailers", "POST", io.MultiReader(strings.NewReader("hello")), true, -1, "HELLO"},
			{"GET with a body", "GET", strings.NewReader("query"), false, 5, "QUERY"},
			{"DELETE with a body", "DELETE", strings.NewReader("query"), false, 5, "QUERY"},
			{"no body, length 0", "POST", http.NoBody, false, 0, ""},
		} {
			const uri = "/a%2Fb//c/./d;e?x=%20&y=+&&z"
			req, _ := http.NewRequest(tt.method, up.url("api.localhost", uri), tt.body)
			sum := ""
			if tt.trailer {
				sum = "abc"
				req.Trailer = http.Header{"X-Sum": {sum}}
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			body, err := readAll(resp)
			if resp.StatusCode != http.StatusAccepted || body != tt.want || err != nil || resp.Proto != protocol(client) {
				t.Errorf("%s: got %s %s %q, %v", tt.name, resp.Proto, resp.Status, body, err)
			}
			want := fmt.Sprintf("%s %s %s %s %d <nil>", protocol(upstream), tt.method, uri, backwards("Bearer "+canary), tt.length)
			if got := resp.Header.Get("X-Seen"); got != want {
				t.Errorf("%s: the upstream saw %q, want %q", tt.name, got, want)
			}
			if got := resp.Trailer.Get("X-After"); got != sum {
				t.Errorf("%s: trailer %q, want %q", tt.name, got, sum)
			}
			if got := resp.Header["Set-Cookie"]; len(got) != 2 {
				t.Errorf("%s: cookies %q", tt.name, got)
			}
		}
	})
}

// Interim answers, a body as it is sent, and the cancellation of the rest, on every pair of legs.
func TestLegsStream(t *testing.T) {
	t.Parallel()
	overLegs(t, func(t *testing.T, client, upstream bool) {
		ca := newTestCA(t, "upstream")
		next, ended := make(chan struct{}), make(chan struct{})
		up := startUpstream(t, ca, upstream, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</a>")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
			w.(http.Flusher).Flush()
			for range 3 {
				<-next
				_, _ = io.WriteString(w, "data: 1\n\n")
				w.(http.Flusher).Flush()
			}
			<-r.Context().Done()
			close(ended)
		})
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
		ctx, cancel := context.WithCancel(t.Context())
		var hint string
		req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error { hint = fmt.Sprint(code, h); return nil },
		}), "GET", up.url("api.localhost", "/"), nil)
		resp, err := p.client(t, client).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if hint != "103 map[Link:[</a>]]" {
			t.Errorf("interim answer: %q", hint)
		}
		for i := range 3 {
			next <- struct{}{}
			got := make([]byte, 9)
			if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != "data: 1\n\n" {
				t.Fatalf("event %d: %q, %v", i, got, err)
			}
		}
		cancel()
		within(t, ended, "the end of the upstream's request")
		if e := p.events.wait(t, 1)[0]; e.Error != "client_gone" || e.Received != 27 {
			t.Errorf("audit: %+v", e)
		}
	})
}

// E7 on every pair of legs.
func TestLegsUpstreamDies(t *testing.T) {
	t.Parallel()
	overLegs(t, func(t *testing.T, client, upstream bool) {
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, upstream, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/middle" {
				_, _ = io.WriteString(w, "begin")
				w.(http.Flusher).Flush()
			}
			panic(http.ErrAbortHandler)
		})
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
		c := p.client(t, client)
		for range 2 { // through net/http, then direct where that is possible
			resp, err := c.Get(up.url("api.localhost", "/middle"))
			if err != nil {
				t.Fatal(err)
			}
			if body, err := readAll(resp); err == nil || body != "begin" {
				t.Errorf("in the middle: %q and no error", body)
			}
			if resp, err = c.Get(up.url("api.localhost", "/before")); err != nil {
				t.Fatal(err)
			}
			refused(t, resp, 502, "upstream_protocol")
			if resp, err = c.Post(up.url("api.localhost", "/before"), "text/plain", strings.NewReader("body")); err != nil {
				t.Fatal(err)
			}
			refused(t, resp, 502, "upstream_protocol")
		}
	})
}

// E24 on every pair of legs, with both forms of a request's length: an upstream that answers while it reads gets all
// there is to read.
func TestLegsBothDirectionsAtOnce(t *testing.T) {
	t.Parallel()
	for _, size := range []int{100 << 10, 3 << 20} {
		for _, known := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d bytes, known length %v", size, known), func(t *testing.T) {
				t.Parallel()
				overLegs(t, func(t *testing.T, client, upstream bool) {
					ca := newTestCA(t, "upstream")
					up := startUpstream(t, ca, upstream, func(w http.ResponseWriter, r *http.Request) {
						_ = http.NewResponseController(w).EnableFullDuplex()
						w.WriteHeader(http.StatusOK)
						w.(http.Flusher).Flush()
						_, _ = io.Copy(flushing{w}, r.Body)
					})
					p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
					sent := make([]byte, size)
					rand.Read(sent)
					body, pipe := io.Pipe()
					req, _ := http.NewRequest("POST", up.url("api.localhost", "/"), body)
					if known {
						req.ContentLength = int64(size)
					}
					answered := make(chan struct{})
					go func() {
						_, _ = pipe.Write(sent[:10])
						<-answered // the rest is sent after the head of the answer has come
						_, err := pipe.Write(sent[10:])
						pipe.CloseWithError(err)
					}()
					resp, err := p.client(t, client).Do(req)
					close(answered)
					if err != nil {
						t.Fatal(err)
					}
					if got, err := readAll(resp); err != nil || got != string(sent) {
						t.Errorf("%d of %d bytes came back, %v", len(got), size, err)
					}
				})
			})
		}
	}
}

type flushing struct{ http.ResponseWriter }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	f.ResponseWriter.(http.Flusher).Flush()
	return n, err
}

// E23 on every pair of legs: an answer that does not wait for the upload arrives, every time, whatever its status, and
// so does the next one.
func TestLegsEarlyAnswer(t *testing.T) {
	t.Parallel()
	overLegs(t, func(t *testing.T, client, upstream bool) {
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, upstream, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/413" {
				w.WriteHeader(http.StatusRequestEntityTooLarge)
			}
			fmt.Fprint(w, "enough")
		})
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
		c := p.client(t, client)
		for _, path := range []string{"/413", "/200"} {
			for _, size := range []int64{100 << 10, 4 << 20} {
				for round := range 8 {
					req, _ := http.NewRequest("POST", up.url("api.localhost", path), io.LimitReader(zeros{}, size))
					if round%2 == 0 {
						req.ContentLength = size
					}
					resp, err := c.Do(req)
					if err != nil {
						t.Errorf("%s with %d of %d bytes: %v", path, req.ContentLength, size, err)
						continue
					}
					if body, err := readAll(resp); "/"+resp.Status[:3] != path || body != "enough" || err != nil {
						t.Errorf("%s with %d of %d bytes: got %s %q, %v", path, req.ContentLength, size, resp.Status, body, err)
					}
				}
			}
		}
	})
}

// An upload that the client breaks off never looks whole to the upstream, and it is the client who is named.
func TestLegsUploadBrokenOff(t *testing.T) {
	t.Parallel()
	overLegs(t, func(t *testing.T, client, upstream bool) {
		for _, length := range []int64{-1, 1000} {
			ca := newTestCA(t, "upstream")
			ended := make(chan error, 1)
			began := make(chan struct{})
			up := startUpstream(t, ca, upstream, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.ReadFull(r.Body, make([]byte, 5))
				close(began)
				_, err := io.Copy(io.Discard, r.Body)
				ended <- err
			})
			p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
			body, pipe := io.Pipe()
			req, _ := http.NewRequest("POST", up.url("api.localhost", "/"), body)
			req.ContentLength = length
			go func() {
				_, _ = io.WriteString(pipe, "begin")
				<-began
				pipe.CloseWithError(errors.New("the user pressed Ctrl-C"))
			}()
			if resp, err := p.client(t, client).Do(req); err == nil {
				t.Errorf("length %d: got %s", length, resp.Status)
			}
			if err := <-ended; err == nil {
				t.Errorf("length %d: the upstream took 5 bytes for all of the body", length)
			}
			if e := p.events.wait(t, 1)[0]; e.Error != "client_gone" {
				t.Errorf("length %d: audit: %+v", length, e)
			}
		}
	})
}

// A body whose chunks are not well formed is the client's mistake, and the upstream does not take it for whole.
func TestMalformedChunks(t *testing.T) {
	t.Parallel()
	for _, upstream := range []bool{false, true} {
		ca := newTestCA(t, "upstream")
		ended := make(chan error, 1)
		up := startUpstream(t, ca, upstream, func(w http.ResponseWriter, r *http.Request) {
			_, err := io.Copy(io.Discard, r.Body)
			ended <- err
		})
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
		conn := p.connectTLS(t, "api.localhost:"+up.port, "api.localhost", "http/1.1")
		resp := rawRequest(t, conn, "POST / HTTP/1.1\r\nHost: api.localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n")
		refused(t, resp, 400, "bad_request")
		if err := <-ended; err == nil {
			t.Error("the upstream took the body for whole")
		}
	}
}

// One stream's end, by the client or by the upstream, is not the end of the others on the same connection.
func TestManyStreams(t *testing.T) {
	t.Parallel()
	for _, upstream := range []bool{false, true} {
		ca := newTestCA(t, "upstream")
		const streams = 100
		began, ended, finish := make(chan struct{}, streams), make(chan struct{}, streams), make(chan struct{})
		up := startUpstream(t, ca, upstream, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/dies" {
				panic(http.ErrAbortHandler)
			}
			w.(http.Flusher).Flush()
			began <- struct{}{}
			select {
			case <-finish:
				fmt.Fprint(w, r.URL.Path)
			case <-r.Context().Done():
				ended <- struct{}{}
			}
		})
		var tunnels int
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port), func(cfg *Config, _ *limits) {
			cfg.Clients = func(r *http.Request) (string, bool) { tunnels++; return "", true }
		})
		c := p.client(t, true)
		mustGet(t, c, up.url("api.localhost", "/dies")) // and opens the connection
		ctx, cancel := context.WithCancel(t.Context())
		results := make(chan string, streams)
		for i := range streams {
			go func() {
				want := fmt.Sprintf("/%d", i)
				streamCtx := t.Context()
				if i%2 == 0 {
					streamCtx = ctx
				}
				req, _ := http.NewRequestWithContext(streamCtx, "GET", up.url("api.localhost", want), nil)
				resp, err := c.Do(req)
				var body string
				if err == nil {
					body, err = readAll(resp)
				}
				switch {
				case errors.Is(err, context.Canceled) && i%2 == 0:
					results <- "canceled"
				case err == nil && body == want && i%2 == 1:
					results <- "whole"
				default:
					results <- fmt.Sprintf("stream %d: %q, %v", i, body, err)
				}
			}()
		}
		for range streams {
			<-began
		}
		cancel()
		for range streams / 2 {
			within(t, signal(ended), "the end of a cancelled stream's request")
		}
		close(finish)
		got := map[string]int{}
		for range streams {
			got[<-results]++
		}
		if got["canceled"] != streams/2 || got["whole"] != streams/2 {
			t.Errorf("got %v", got)
		}
		if tunnels != 1 {
			t.Errorf("%d tunnels, want all streams in one", tunnels)
		}
	}
}

// signal is a channel that closes after the next value of c.
func signal(c <-chan struct{}) <-chan struct{} {
	done := make(chan struct{})
	go func() { <-c; close(done) }()
	return done
}

// A WebSocket, or another upgrade, to a host that speaks HTTP/2 goes over HTTP/1.1, and only the upgrade does.
func TestUpgradeOfAnUpstreamWithHTTP2(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"websocket", "SPDY/3.1", "tcp"} {
		t.Run(strings.ReplaceAll(protocol, "/", "-"), func(t *testing.T) {
			t.Parallel()
			ca := newTestCA(t, "upstream")
			up := startUpstream(t, ca, true, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Upgrade") == "" {
					fmt.Fprint(w, r.Proto)
					return
				}
				if r.Header.Get("Authorization") != "Bearer "+canary {
					t.Errorf("Authorization %q", r.Header.Get("Authorization"))
				}
				conn, rw, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
				_, _ = io.Copy(conn, rw)
			})
			p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
			for range 2 {
				conn := p.connectTLS(t, "api.localhost:"+up.port, "api.localhost", "http/1.1")
				fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: api.localhost\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
				if status, head := readHead(t, conn); status != "HTTP/1.1 101 Switching Protocols" {
					t.Fatalf("got %s", head)
				}
				io.WriteString(conn, "ping")
				pong := make([]byte, 4)
				if _, err := io.ReadFull(conn, pong); string(pong) != "ping" || err != nil {
					t.Errorf("got %q, %v", pong, err)
				}
				conn.Close()
				if _, body := mustGet(t, p.client(t, false), up.url("api.localhost", "/")); body != "HTTP/2.0" {
					t.Errorf("after the upgrade the upstream saw %s, want HTTP/2.0", body)
				}
			}
		})
	}
}

// Trap 14: an answer that is not 101 is an ordinary answer, even if it carries the fields of an upgrade.
func TestRefusedUpgradeIsAnAnswer(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 400, 426} {
		ca := newTestCA(t, "upstream")
		up := serveScript(t, ca, fmt.Sprintf("HTTP/1.1 %d X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nno", status), false)
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
		conn := p.connectTLS(t, "api.localhost:"+up.port, "api.localhost", "http/1.1")
		in := bufio.NewReader(conn)
		for range 2 { // the connection goes on
			io.WriteString(conn, "GET / HTTP/1.1\r\nHost: api.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := readAll(resp); resp.StatusCode != status || body != "no" || err != nil {
				t.Errorf("got %s %q, %v", resp.Status, body, err)
			}
		}
	}
}
