package proxy

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// eventually waits until is holds. What it waits for happens in goroutines that tell nobody.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !is(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited %v for: %s", patience, what)
		}
	}
}

func (s *slots) counts() (taken, names int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken, len(s.by)
}

func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	const all, each = 12, 4
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") })
	plain := plainUpstream(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") })
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port), func(cfg *Config, lim *limits) {
		lim.conns, lim.each = all, each
		cfg.Clients = func(r *http.Request) (string, bool) {
			name, _, ok := (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
			return name, ok
		}
	})
	target := "api.localhost:" + up.port
	as := func(name string) string {
		return "Proxy-Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(name+":x")) + "\r\n"
	}
	connect := func(name string) (net.Conn, *http.Response) {
		conn := p.dialRaw(t)
		return conn, rawRequest(t, conn, "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n"+as(name)+"\r\n")
	}
	// One client cannot take more than its share, in whatever way, and another one still has its own.
	var open []net.Conn
	for range each {
		conn, resp := connect("greedy")
		if resp.StatusCode != 200 {
			t.Fatalf("got %s", resp.Status)
		}
		open = append(open, conn)
	}
	_, resp := connect("greedy")
	if !resp.Close || !strings.Contains(resp.Status, "too many connections") {
		t.Errorf("got %s, close %v", resp.Status, resp.Close)
	}
	refused(t, resp, 503, "too_many_connections")
	resp = rawRequest(t, p.dialRaw(t), "GET http://x.localhost:"+plain+"/ HTTP/1.1\r\nHost: x\r\n"+as("greedy")+"\r\n")
	if !resp.Close {
		t.Error("the refused connection stays open")
	}
	refused(t, resp, 503, "too_many_connections")
	conn, resp := connect("modest")
	if resp.StatusCode != 200 {
		t.Errorf("another client got %s", resp.Status)
	}
	open = append(open, conn)
	eventually(t, "the refused connections' end", func() bool { n, _ := p.slots.counts(); return n == len(open) })
	// All together: the next one is told at once, before it has said anything.
	for len(open) < all {
		open = append(open, p.dialRaw(t))
	}
	eventually(t, "all connections to be accepted", func() bool { n, _ := p.slots.counts(); return n == all })
	for range 3 {
		over := p.dialRaw(t)
		resp = rawRequest(t, over, "GET http://x.localhost/ HTTP/1.1\r\nHost: x\r\n\r\n")
		refused(t, resp, 503, "too_many_connections")
		if _, err := io.ReadAll(over); err != nil {
			t.Errorf("the refused connection ended with %v", err)
		}
	}
	if n := strings.Count(p.logged.String(), "too many connections open; new ones"); n != 1 {
		t.Errorf("said %d times in the log, want once", n)
	}
	for _, conn := range open {
		conn.Close()
	}
	eventually(t, "every slot to be free", func() bool { taken, names := p.slots.counts(); return taken == 0 && names == 0 })
	if _, resp := connect("greedy"); resp.StatusCode != 200 {
		t.Errorf("afterwards: got %s", resp.Status)
	}
}

// Row 57: whoever sends a head one byte at a time does not get longer for it.
func TestSlowloris(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") })
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port), func(_ *Config, lim *limits) { lim.header = 300 * time.Millisecond })
	target := "api.localhost:" + up.port
	for name, open := range map[string]func() net.Conn{
		"at the port": func() net.Conn { return p.dialRaw(t) },
		"in a tunnel": func() net.Conn { return p.connectTLS(t, target, "api.localhost", "http/1.1") },
	} {
		t.Run(name, func(t *testing.T) {
			conn := open()
			ended := make(chan struct{})
			go func() { _, _ = io.Copy(io.Discard, conn); close(ended) }()
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: api.localhost\r\nX: ")
			for start := time.Now(); time.Since(start) < patience; <-tick.C {
				select {
				case <-ended:
					return
				default:
					_, _ = io.WriteString(conn, "a")
				}
			}
			t.Error("still open")
		})
	}
}

// A client that takes nothing of its answer is cut off, and the upstream with it. One that is slow, or waits for a
// stream that has nothing to say, is not.
func TestStalledReader(t *testing.T) {
	t.Parallel()
	const stall = 1500 * time.Millisecond
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		gone := make(chan struct{}, 8)
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/endless":
				_, _ = io.Copy(w, zeros{})
				gone <- struct{}{}
			case "/silent":
				for range 3 {
					fmt.Fprint(w, "data: x\n\n")
					w.(http.Flusher).Flush()
					<-time.After(stall * 5 / 4)
				}
			default:
				_, _ = io.CopyN(w, zeros{}, 24<<20)
			}
		})
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port), func(_ *Config, lim *limits) { lim.stall = stall })
		c := p.client(t, h2)
		c.Timeout = 0 // it would end the requests itself
		resp, err := c.Get(up.url("api.localhost", "/endless"))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		within(t, signal(gone), "the end of the upstream's answer")
		if e := p.events.wait(t, 1)[0]; e.Error != "client_gone" {
			t.Errorf("audited %+v", e)
		}
		if resp, body := mustGet(t, c, up.url("api.localhost", "/silent")); resp.StatusCode != 200 || strings.Count(body, "data") != 3 {
			t.Errorf("the silent stream: %s, %q", resp.Status, body)
		}
		if resp, err = c.Get(up.url("api.localhost", "/slow")); err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var n int64
		tick := time.NewTicker(stall / 4)
		defer tick.Stop()
		for range 12 { // three times as long as a stall may last
			<-tick.C
			got, err := io.CopyN(io.Discard, resp.Body, 2<<20)
			if n += got; err != nil {
				t.Fatalf("the slow download after %d bytes: %v", n, err)
			}
		}
		if n != 24<<20 {
			t.Errorf("got %d bytes", n)
		}
	})
}

// Nor does a client hold anything that sends requests and does not read the refusals.
func TestStalledReaderOfRefusals(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	p := startProxy(t, ca, bearerRule(t, "api.localhost", "443"), func(_ *Config, lim *limits) { lim.stall = 300 * time.Millisecond })
	conn := p.connectTLS(t, "api.localhost:443", "api.localhost", "http/1.1")
	wrong := bytes.Repeat([]byte("GET / HTTP/1.1\r\nHost: evil.localhost\r\n\r\n"), 1000)
	for {
		if _, err := conn.Write(wrong); err != nil {
			break // at the latest with the connection's deadline
		}
	}
	eventually(t, "the connection's end", func() bool { n, _ := p.slots.counts(); return n == 0 })
}

// A frameConn is a client's HTTP/2 connection that is made by hand.
type frameConn struct {
	net.Conn
	*http2.Framer
	head bytes.Buffer
	enc  *hpack.Encoder
	host string
}

func (p *testProxy) frames(t *testing.T, target string, settings ...http2.Setting) *frameConn {
	t.Helper()
	host, _, _ := net.SplitHostPort(target)
	conn := p.connectTLS(t, target, host, "h2")
	f := &frameConn{Conn: conn, Framer: http2.NewFramer(conn, conn), host: target}
	f.enc = hpack.NewEncoder(&f.head)
	_, _ = io.WriteString(conn, http2.ClientPreface)
	if err := f.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	return f
}

// request encodes the head of a GET.
func (f *frameConn) request(path string) []byte {
	f.head.Reset()
	for _, field := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", f.host}, {":path", path}} {
		_ = f.enc.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	return f.head.Bytes()
}

// Row 58: floods of frames end their own connection at most. Never do more requests run at once than allowed.
func TestHTTP2Floods(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	var running, most atomic.Int64
	up := startUpstream(t, ca, true, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ok" {
			fmt.Fprint(w, "ok")
			return
		}
		if n := running.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer running.Add(-1)
		<-r.Context().Done()
	})
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port), func(_ *Config, lim *limits) { lim.streams, lim.stall = 20, time.Second })
	target := "api.localhost:" + up.port
	drain := func(f *frameConn) { go func() { _, _ = io.Copy(io.Discard, f.Conn) }() }
	for name, flood := range map[string]func(t *testing.T, f *frameConn) error{
		"rapid reset": func(t *testing.T, f *frameConn) error {
			drain(f)
			for id := uint32(1); id < 60000; id += 2 {
				if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.request("/wait"), EndStream: true, EndHeaders: true}); err != nil {
					return err
				}
				if err := f.WriteRSTStream(id, http2.ErrCodeCancel); err != nil {
					return err
				}
			}
			return nil
		},
		"pings and settings, unread": func(t *testing.T, f *frameConn) error {
			for range 200000 {
				if err := f.WritePing(false, [8]byte{}); err != nil {
					return err
				}
				if err := f.WriteSettings(); err != nil {
					return err
				}
			}
			return nil
		},
		"continuations": func(t *testing.T, f *frameConn) error {
			drain(f)
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.request("/wait")}); err != nil {
				return err
			}
			for range 64 << 10 {
				if err := f.WriteContinuation(1, false, bytes.Repeat([]byte{0x40, 1, 'a', 1, 'b'}, 200)); err != nil {
					return err
				}
			}
			return nil
		},
		"empty data": func(t *testing.T, f *frameConn) error {
			drain(f)
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: f.request("/wait"), EndHeaders: true}); err != nil {
				return err
			}
			for range 20000 {
				if err := f.WriteData(1, false, nil); err != nil {
					return err
				}
			}
			return nil
		},
		"more streams than allowed": func(t *testing.T, f *frameConn) error {
			drain(f)
			for id := uint32(1); id < 2000; id += 2 {
				if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.request("/wait"), EndStream: true, EndHeaders: true}); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := p.frames(t, target)
			if name == "more streams than allowed" {
				frame, err := f.ReadFrame()
				settings, ok := frame.(*http2.SettingsFrame)
				if !ok {
					t.Fatalf("got %v, %v", frame, err)
				}
				if n, ok := settings.Value(http2.SettingMaxConcurrentStreams); !ok || n != 20 {
					t.Errorf("the proxy allows %d streams, want 20", n)
				}
			}
			err := flood(t, f)
			if name == "continuations" && err == nil {
				t.Error("the head had no end")
			}
			if _, body := mustGet(t, p.client(t, true), up.url("api.localhost", "/ok")); body != "ok" {
				t.Errorf("another client got %q", body)
			}
			f.Close()
			eventually(t, "the requests' end", func() bool { return running.Load() == 0 && p.running() == 0 })
		})
	}
	if n := most.Load(); n > 20 || n == 0 {
		t.Errorf("%d requests at once, want at most 20", n)
	}
}

// Small answers, which net/http sends after the handler has ended, are not kept for a client that never makes room for them.
func TestHTTP2AnswersThatFindNoWindow(t *testing.T) {
	t.Parallel()
	const streams = 20
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, true, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") })
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port), func(_ *Config, lim *limits) { lim.stall = 300 * time.Millisecond })
	f := p.frames(t, "api.localhost:"+up.port, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	for i := range uint32(streams) {
		path := []string{"/", "/refused#"}[i%2] // an answer of the upstream, one of our own
		if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: f.request(path), EndStream: true, EndHeaders: true}); err != nil {
			t.Fatal(err)
		}
	}
	ended := map[uint32]bool{}
	for len(ended) < streams {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("%d of %d streams ended, then: %v", len(ended), streams, err)
		}
		if reset, ok := frame.(*http2.RSTStreamFrame); ok {
			ended[reset.StreamID] = true
		}
	}
}

// running counts the handlers that have not ended.
func (s *Server) running() int {
	s.handlers.mu.Lock()
	defer s.handlers.mu.Unlock()
	return s.handlers.inside
}
