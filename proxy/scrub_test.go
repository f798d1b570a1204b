package proxy

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// A flushWriter compresses, and can send what it has so far.
type flushWriter interface {
	io.WriteCloser
	Flush() error
}

var encoders = map[string]func(io.Writer) flushWriter{
	"gzip":    func(w io.Writer) flushWriter { return gzip.NewWriter(w) },
	"deflate": func(w io.Writer) flushWriter { return zlib.NewWriter(w) },
	"raw deflate": func(w io.Writer) flushWriter {
		f, _ := flate.NewWriter(w, 5) // the level is right
		return f
	},
	"br": func(w io.Writer) flushWriter { return brotli.NewWriter(w) },
	"zstd": func(w io.Writer) flushWriter {
		z, _ := zstd.NewWriter(w) // without options there is no error
		return z
	},
}

// An API that shows what it was sent does not show the credential, whatever it looks like and however it travels.
func TestScrub(t *testing.T) {
	t.Parallel()
	const masked = "*****************"
	pair := base64.StdEncoding.EncodeToString([]byte("user:" + canary))
	echo := `{"bearer":"` + canary + `","basic":"` + pair + `","again":"x` + canary + canary + `"}`
	over := func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
			h := w.Header()
			if r.URL.Path == "/hints" {
				h.Set("Link", "</"+canary+">")
				w.WriteHeader(http.StatusEarlyHints)
				h.Del("Link")
			}
			h.Set("X-Accept", strings.Join(r.Header["Accept-Encoding"], "|"))
			h.Set("Location", "/?key="+canary)
			h.Set("Trailer", "X-Sum")
			var out io.Writer = w
			name := strings.TrimPrefix(r.URL.Path, "/")
			name = strings.ReplaceAll(name, "_", " ")
			if encode := encoders[name]; encode != nil {
				h.Set("Content-Encoding", strings.TrimPrefix(name, "raw "))
				e := encode(w)
				defer e.Close()
				out = e
			}
			for i := range len(echo) { // a piece ends behind each byte
				_, _ = io.WriteString(out, echo[i:i+1])
				if f, ok := out.(flushWriter); ok && i%10 == 0 {
					_ = f.Flush()
				}
				_ = http.NewResponseController(w).Flush()
			}
			h.Set("X-Sum", canary)
		})
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
		c := p.client(t, h2)
		for _, path := range []string{"/plain", "/hints", "/gzip", "/deflate", "/raw_deflate", "/br", "/zstd"} {
			req, err := http.NewRequest("GET", up.url("api.localhost", path), nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Accept-Encoding", "compress, br;q=0.5,gzip , zstd, *")
			early := make(chan string, 1)
			req = req.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
				early <- h.Get("Link")
				return nil
			}}))
			c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := readAll(resp)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			var all strings.Builder
			_ = resp.Header.Write(&all)
			_ = resp.Trailer.Write(&all)
			for _, form := range []string{canary, pair[4:], base64.StdEncoding.EncodeToString([]byte(canary))[:16]} {
				if strings.Contains(body+all.String(), form) {
					t.Errorf("%s: the client can read %q in\n%s%s", path, form, all.String(), body)
				}
			}
			// Where a piece ends inside the secret, its first bytes go out before it can be told.
			if n := len(echo) - strings.Count(body, "*"); len(body) != len(echo) || n > len(echo)-3*len(canary)+3*3-16 || !strings.HasSuffix(body, `"}`) {
				t.Errorf("%s: body %s", path, body)
			}
			if got := resp.Header.Get("Location"); got != "/?key="+masked {
				t.Errorf("%s: Location %q", path, got)
			}
			if got := resp.Trailer.Get("X-Sum"); got != masked {
				t.Errorf("%s: trailer %q", path, got)
			}
			if got := resp.Header.Get("X-Accept"); got != "br;q=0.5, gzip, zstd" {
				t.Errorf("%s: asked for %q", path, got)
			}
			if resp.Header.Get("Content-Encoding") != "" || resp.ContentLength >= 0 {
				t.Errorf("%s: Content-Encoding %q, length %d", path, resp.Header.Get("Content-Encoding"), resp.ContentLength)
			}
			if path == "/hints" {
				if got := <-early; got != "</"+masked+">" {
					t.Errorf("103: Link %q", got)
				}
			}
		}
	}
	overBoth(t, over)
}

func TestScrubFalse(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Echo", r.Header.Get("Authorization")+"|"+r.Header.Get("Accept-Encoding"))
	})
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port)+"    scrub: false\n")
	req, err := http.NewRequest("GET", up.url("api.localhost", "/"), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", "compress")
	resp, err := p.client(t, false).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if got := resp.Header.Get("X-Echo"); got != "Bearer "+canary+"|compress" {
		t.Errorf("got %q", got)
	}
}

// What cannot be searched is refused, what is damaged is broken off.
func TestScrubWhatCannotBeSearched(t *testing.T) {
	t.Parallel()
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = io.WriteString(z, strings.Repeat("all is well ", 1000))
	_ = z.Close()
	good := zipped.Bytes()
	tests := []struct {
		name, coding string
		status       int
		body         []byte
		slug         string // "": broken off
	}{
		{"unknown", "compress", 200, good, upstreamProtocol},
		{"a part", "gzip", 206, good, upstreamProtocol},
		{"too often", "gzip, gzip, gzip, gzip", 200, good, upstreamProtocol},
		{"not gzip", "gzip", 200, []byte("hello, I am not gzip"), ""},
		{"broken off", "gzip", 200, good[:len(good)-9], ""},
		{"damaged", "gzip", 200, append(bytes.Clone(good[:len(good)-8]), "12345678"...), ""},
		{"too much behind", "gzip", 200, append(bytes.Clone(good), bytes.Repeat([]byte("x"), maxRest+1)...), ""},
		{"zstd with a window of 128 MiB", "zstd", 200, []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3, 0x01, 0x00, 0x00}, ""},
		{"not br", "br", 200, bytes.Repeat([]byte{0xff}, 100), ""},
	}
	overBoth(t, func(t *testing.T, h2 bool) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				ca := newTestCA(t, "upstream")
				up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Encoding", tt.coding)
					w.WriteHeader(tt.status)
					_, _ = w.Write(tt.body)
				})
				p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
				resp, err := p.client(t, h2).Get(up.url("api.localhost", "/"))
				if err != nil {
					if tt.slug != "" {
						t.Fatal(err)
					}
					return
				}
				if tt.slug != "" {
					refused(t, resp, 502, tt.slug)
					return
				}
				if body, err := readAll(resp); err == nil {
					t.Errorf("got %d bytes %.40q and no error", len(body), body)
				}
			})
		}
	})
}

func TestTraceIsRefused(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	var asked atomic.Int64
	up := startUpstream(t, ca, false, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port)+fmt.Sprintf("  - name: bare\n    match: {host: bare.localhost, port: %s}\n", up.port))
	for _, method := range []string{"TRACE", "TRACK", "DEBUG"} {
		for _, host := range []string{"api.localhost", "bare.localhost"} {
			req, err := http.NewRequest(method, up.url(host, "/"), nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := p.client(t, true).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if host == "api.localhost" {
				refused(t, resp, 405, traceRefused)
			} else if body, err := readAll(resp); resp.StatusCode != 200 || err != nil {
				t.Errorf("%s without a credential: %s %q, %v", method, resp.Status, body, err)
			}
		}
	}
	if n := asked.Load(); n != 3 {
		t.Errorf("the upstream got %d requests, want 3", n)
	}
}

func TestScrubEmptyCompressedAnswer(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", strings.TrimPrefix(r.URL.Path, "/"))
	})
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
	for _, what := range []string{"GET gzip", "HEAD gzip", "GET zstd", "GET br", "GET deflate", "GET aws-chunked", "GET identity", "HEAD compress"} {
		method, coding, _ := strings.Cut(what, " ")
		req, err := http.NewRequest(method, up.url("api.localhost", "/"+coding), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := p.client(t, false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := readAll(resp); err != nil || body != "" || resp.StatusCode != 200 {
			t.Errorf("%s: %s %q, %v", what, resp.Status, body, err)
		}
	}
}

// Events come one by one, compressed or not, although each is searched.
func TestScrubHoldsNoEventBack(t *testing.T) {
	t.Parallel()
	for _, coding := range []string{"", "gzip", "deflate", "br", "zstd"} {
		t.Run("coding "+coding, func(t *testing.T) {
			t.Parallel()
			ca := newTestCA(t, "upstream")
			next := make(chan struct{}, 1)
			up := startUpstream(t, ca, true, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				var out io.Writer = w
				if encode := encoders[coding]; encode != nil {
					w.Header().Set("Content-Encoding", coding)
					e := encode(w)
					defer e.Close()
					out = e
				}
				for range next {
					fmt.Fprintf(out, "data: %s\n\n", canary)
					if f, ok := out.(flushWriter); ok {
						_ = f.Flush()
					}
					_ = http.NewResponseController(w).Flush()
				}
			})
			p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
			event := make([]byte, len("data: ")+len(canary)+2)
			next <- struct{}{}
			resp, err := p.client(t, true).Get(up.url("api.localhost", "/"))
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			for i := range 5 {
				if i > 0 {
					next <- struct{}{}
				}
				if _, err := io.ReadFull(resp.Body, event); err != nil || string(event) != "data: "+strings.Repeat("*", len(canary))+"\n\n" {
					t.Fatalf("event %d: %q, %v", i, event, err)
				}
			}
			close(next)
		})
	}
}

// A part of a body must come as it is, and so must what goes over a WebSocket.
func TestScrubAsksForWhatItCanRead(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	seen := make(chan http.Header, 2)
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) { seen <- r.Header })
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
	for _, tt := range []struct{ send, name, want string }{
		{"Range: bytes=0-9\r\nAccept-Encoding: gzip\r\n", "Accept-Encoding", "identity"},
		{"Accept-Encoding: compress, *\r\n", "Accept-Encoding", "identity"},
		{"Accept-Encoding: GZIP\r\nAccept-Encoding: x, identity;q=0\r\n", "Accept-Encoding", "GZIP, identity;q=0"},
		{"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\n", "Sec-WebSocket-Extensions", ""},
	} {
		conn := p.connectTLS(t, "api.localhost:"+up.port, "api.localhost", "http/1.1")
		resp := rawRequest(t, conn, "GET / HTTP/1.1\r\nHost: api.localhost\r\n"+tt.send+"\r\n")
		_ = resp.Body.Close()
		if got := strings.Join((<-seen).Values(tt.name), "|"); got != tt.want {
			t.Errorf("%q became %q, want %q", tt.send, got, tt.want)
		}
	}
}

func TestScrubAfterUpgrade(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	port := serveRaw(t, ca, func(conn net.Conn) {
		in := bufio.NewReader(conn)
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		fmt.Fprintf(conn, "\x81\x18%s!", req.Header.Get("Authorization")) // a text message (RFC 6455 section 5.7)
		_, _ = io.Copy(conn, in)
	})
	p := startProxy(t, ca, bearerRule(t, "api.localhost", port))
	conn := p.connectTLS(t, "api.localhost:"+port, "api.localhost", "http/1.1")
	fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: api.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if status, head := readHead(t, conn); !strings.Contains(status, "101") {
		t.Fatalf("got %q", head)
	}
	want := "\x81\x18Bearer " + strings.Repeat("*", len(canary)) + "!"
	for _, send := range []string{"", "C", "CA", "x", strings.ToLower(canary)} {
		_, _ = io.WriteString(conn, send)
		want += send
		got := make([]byte, len(want))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
			t.Fatalf("got %q, %v; want %q", got, err, want)
		}
		want = ""
	}
}
