package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// serveUpgrade is an upstream that switches to protocol, says hello in the same write, and echoes bytes in upper case
// until the client ends.
func serveUpgrade(t *testing.T, ca *testCA, protocol string, got chan<- http.Header) string {
	return serveRaw(t, ca, func(conn net.Conn) {
		in := bufio.NewReader(conn)
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		got <- req.Header
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-Extra: 1\r\n\r\nhello", protocol)
		buf := make([]byte, 4096)
		for {
			n, err := in.Read(buf)
			io.WriteString(conn, strings.ToUpper(string(buf[:n])))
			if err != nil || string(buf[:n]) == "die" {
				return
			}
		}
	})
}

// E17, E17b: WebSocket and every other protocol that HTTP/1.1 can switch to.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"websocket", "tcp", "SPDY/3.1"} {
		t.Run(strings.ReplaceAll(protocol, "/", "-"), func(t *testing.T) {
			t.Parallel()
			ca := newTestCA(t, "upstream")
			got := make(chan http.Header, 1)
			port := serveUpgrade(t, ca, protocol, got)
			p := startProxy(t, ca, bearerRule(t, "api.localhost", port))
			conn := p.connectTLS(t, "api.localhost:"+port, "api.localhost", "http/1.1")
			fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: api.localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: %s\r\nSec-WebSocket-Key: abc\r\n\r\nfirst", protocol)
			status, head := readHead(t, conn)
			if status != "HTTP/1.1 101 Switching Protocols" || !strings.Contains(head, "Upgrade: "+protocol) || !strings.Contains(head, "X-Extra: 1") {
				t.Fatalf("got %q", head)
			}
			h := <-got
			if h.Get("Authorization") != "Bearer "+canary || h.Get("Upgrade") != protocol || h.Get("Connection") != "Upgrade" || h.Get("Sec-Websocket-Key") != "abc" {
				t.Errorf("the upstream got %v", h)
			}
			expect := func(want string) {
				t.Helper()
				b := make([]byte, len(want))
				if _, err := io.ReadFull(conn, b); err != nil || string(b) != want {
					t.Fatalf("got %q, %v; want %q", b, err, want)
				}
			}
			expect("helloFIRST")
			for range 3 {
				io.WriteString(conn, "again")
				expect("AGAIN")
			}
			// The upstream's end ends the client's connection at once.
			io.WriteString(conn, "die")
			expect("DIE")
			if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, errTimeout) {
				t.Errorf("after the upstream's end: %d, %v", n, err)
			}
			if e := p.events.wait(t, 1)[0]; e.Status != 101 || e.Decision != "inject" || e.Sent != 23 || e.Received != 28 {
				t.Errorf("audit: %+v", e)
			}
		})
	}
}

func TestUpgradeClientGoneEndsTheUpstream(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	ended := make(chan struct{})
	port := serveRaw(t, ca, func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(io.Discard, conn)
		close(ended)
	})
	p := startProxy(t, ca, bearerRule(t, "api.localhost", port))
	conn := p.connectTLS(t, "api.localhost:"+port, "api.localhost", "http/1.1")
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: api.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	readHead(t, conn)
	conn.NetConn().Close()
	within(t, ended, "the end of the upstream's connection")
}

// A switch that nobody asked for, or to another protocol, is an upstream's mistake and no tunnel.
func TestUnaskedUpgradeIsRefused(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	port := serveUpgrade(t, ca, "websocket", make(chan http.Header, 2))
	p := startProxy(t, ca, bearerRule(t, "api.localhost", port))
	for _, extra := range []string{"", "Connection: Upgrade\r\nUpgrade: other\r\n"} {
		conn := p.connectTLS(t, "api.localhost:"+port, "api.localhost", "http/1.1")
		resp := rawRequest(t, conn, "GET / HTTP/1.1\r\nHost: api.localhost\r\n"+extra+"\r\n")
		refused(t, resp, 502, "upstream_protocol")
	}
}

// E18: a client may send its ClientHello right behind the CONNECT, without waiting.
func TestOptimisticClientHello(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, backwards(r.Header.Get("Authorization"))) })
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
	for _, tt := range []struct{ host, want string }{{"api.localhost", backwards("Bearer " + canary)}, {"other.localhost", ""}} {
		target := tt.host + ":" + up.port
		raw := p.dialRaw(t)
		together := &firstWriteBehind{Conn: raw, head: "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n"}
		roots := p.ca.pool
		if tt.want == "" {
			roots = ca.pool
		}
		conn := tlsClient(together, tt.host, roots)
		resp := rawRequest(t, conn, "GET / HTTP/1.1\r\nHost: "+tt.host+"\r\nConnection: close\r\n\r\n")
		if body, err := readAll(resp); body != tt.want || err != nil {
			t.Errorf("%s: got %q, %v", tt.host, body, err)
		}
	}
}

// firstWriteBehind sends head and the first write in one piece, and skips the answer to head before the first read.
type firstWriteBehind struct {
	net.Conn
	head    string
	skipped bool
}

func (c *firstWriteBehind) Write(p []byte) (int, error) {
	if c.head == "" {
		return c.Conn.Write(p)
	}
	all := append([]byte(c.head), p...)
	c.head = ""
	_, err := c.Conn.Write(all)
	return len(p), err
}

func (c *firstWriteBehind) Read(p []byte) (int, error) {
	if !c.skipped {
		c.skipped = true
		end, one := "", make([]byte, 1)
		for !strings.HasSuffix(end, "\r\n\r\n") {
			if _, err := io.ReadFull(c.Conn, one); err != nil {
				return 0, err
			}
			end += string(one)
		}
		if !strings.HasPrefix(end, "HTTP/1.1 200 ") {
			return 0, errors.New(end)
		}
	}
	return c.Conn.Read(p)
}

// Plain HTTP inside a CONNECT tunnel, as Node's fetch sends it, is HTTP and not TLS.
func TestPlainHTTPInsideTunnel(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, backwards(r.Header.Get("Authorization")), " ", r.Host)
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	p := startProxy(t, ca, bearerRule(t, "api.localhost", port))
	conn := p.connect(t, "api.localhost:"+port)
	resp := rawRequest(t, conn, "GET / HTTP/1.1\r\nHost: api.localhost:"+port+"\r\n\r\n")
	want := backwards("Bearer "+canary) + " api.localhost:" + port // loopback, so plain http may carry it
	if body, err := readAll(resp); body != want || err != nil {
		t.Errorf("got %q, %v; want %q", body, err, want)
	}
}

// A tunnel that is not decrypted passes half-closes on, and ends when one side stays silent after the other's end.
func TestTunnelHalfClose(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				all, _ := io.ReadAll(conn)
				if string(all) != "hang" {
					fmt.Fprintf(conn, "got %s", all)
					return
				}
				<-t.Context().Done() // says nothing and does not end
			}()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	p := startProxy(t, ca, "  []\n", func(_ *Config, lim *limits) { lim.halfOpen = 300 * time.Millisecond })
	for sent, want := range map[string]string{"all of it": "got all of it", "hang": ""} {
		conn := p.connect(t, "127.0.0.1:"+port).(*net.TCPConn)
		io.WriteString(conn, sent)
		conn.CloseWrite()
		if body, err := io.ReadAll(conn); string(body) != want || errors.Is(err, errTimeout) {
			t.Errorf("%s: got %q, %v", sent, body, err)
		}
	}
}

// E32: in a tunnel that is not decrypted the server may speak first, as SSH and mail servers do.
func TestTunnelServerSpeaksFirst(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "220 ready\r\n")
		_, _ = io.Copy(conn, conn)
	}()
	p := startProxy(t, newTestCA(t, "upstream"), "  []\n")
	conn := p.connect(t, l.Addr().String())
	in := bufio.NewReader(conn)
	if line, err := in.ReadString('\n'); line != "220 ready\r\n" || err != nil {
		t.Fatalf("got %q, %v", line, err)
	}
	io.WriteString(conn, "EHLO\r\n")
	if line, err := in.ReadString('\n'); line != "EHLO\r\n" || err != nil {
		t.Errorf("got %q, %v", line, err)
	}
}
