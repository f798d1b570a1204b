package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// resources counts what a leak would use up.
func resources(t *testing.T) (goroutines, files int) {
	t.Helper()
	runtime.GC() // what net keeps for splice(2) goes with it
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return runtime.NumGoroutine(), len(entries)
}

// Clients that break off, each in its own way, leave nothing behind.
func TestBrokenOffClientsLeaveNothing(t *testing.T) {
	const each = 125 // of 8 ways
	up := newTestCA(t, "upstream")
	u := startUpstream(t, up, false, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/upload":
			_, _ = io.Copy(io.Discard, r.Body)
		case "/switch":
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			_, _ = io.Copy(conn, conn)
		default:
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	})
	tunnelled := serveRaw(t, up, func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
	p := startProxy(t, up, bearerRule(t, "leak.localhost", u.port))
	target := "leak.localhost:" + u.port
	say := func(conn net.Conn, format string, args ...any) {
		if _, err := fmt.Fprintf(conn, format, args...); err != nil {
			t.Error(err)
		}
	}
	ways := map[string]func() net.Conn{
		"half a CONNECT": func() net.Conn {
			conn := p.dialRaw(t)
			say(conn, "CONNECT leak")
			return conn
		},
		"a CONNECT alone": func() net.Conn { return p.connect(t, target) },
		"half a ClientHello": func() net.Conn {
			conn := p.connect(t, target)
			say(conn, "\x16\x03\x01\x02")
			return conn
		},
		"half a request": func() net.Conn {
			conn := p.connectTLS(t, target, "leak.localhost", "http/1.1")
			say(conn, "GET / HTTP/1.1\r\nHos")
			return conn
		},
		"half an upload": func() net.Conn {
			conn := p.connectTLS(t, target, "leak.localhost", "http/1.1")
			say(conn, "POST /upload HTTP/1.1\r\nHost: leak.localhost\r\nContent-Length: 100000\r\n\r\n%s", strings.Repeat("x", 50000))
			return conn
		},
		"half a download": func() net.Conn {
			conn := p.connectTLS(t, target, "leak.localhost", "http/1.1")
			say(conn, "GET / HTTP/1.1\r\nHost: leak.localhost\r\n\r\n")
			readHead(t, conn)
			return conn
		},
		"a switched protocol": func() net.Conn {
			conn := p.connectTLS(t, target, "leak.localhost", "http/1.1")
			say(conn, "GET /switch HTTP/1.1\r\nHost: leak.localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello")
			readHead(t, conn)
			return conn
		},
		"a tunnel": func() net.Conn {
			conn := p.connect(t, "other.localhost:"+tunnelled)
			return tls.Client(conn, &tls.Config{ServerName: "other.localhost", InsecureSkipVerify: true})
		},
	}
	breakOff := func(times int) {
		for name, open := range ways {
			var wg sync.WaitGroup
			slots := make(chan struct{}, 8)
			for range times {
				slots <- struct{}{}
				wg.Go(func() {
					defer func() { <-slots }()
					reset(underTLS(open()))
				})
			}
			wg.Wait()
			if t.Failed() {
				t.Fatal(name)
			}
		}
	}
	breakOff(4) // what is made once, such as pools
	goroutines, files := resources(t)
	breakOff(each)
	// Ends are noticed by others than those who made them, so they take a moment.
	const slack = 16
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		g, f := resources(t)
		if g <= goroutines+slack && f <= files+slack {
			return
		}
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines and %d files have become %d and %d:\n%s", goroutines, files, g, f, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

func underTLS(conn net.Conn) net.Conn {
	if c, ok := conn.(*tls.Conn); ok {
		return c.NetConn()
	}
	return conn
}

// A client that opens a tunnel and takes nothing of what comes through it is cut off. One that takes it slowly is not.
func TestStalledTunnel(t *testing.T) {
	t.Parallel()
	const stall = 3 * time.Second
	ca := newTestCA(t, "upstream")
	gone := make(chan struct{}, 1)
	endless := serveTCP(t, func(conn net.Conn) {
		_, _ = io.Copy(conn, zeros{})
		gone <- struct{}{}
	})
	slow := serveTCP(t, func(conn net.Conn) { _, _ = io.CopyN(conn, zeros{}, 32<<20) })
	p := startProxy(t, ca, "  []\n", func(_ *Config, lim *limits) { lim.stall = stall })
	conn := p.connect(t, "127.0.0.1:"+slow)
	p.connect(t, "127.0.0.1:"+endless)
	var n int64
	tick := time.NewTicker(stall / 12)
	defer tick.Stop()
	for range 16 {
		<-tick.C
		got, err := io.CopyN(io.Discard, conn, 2<<20)
		if n += got; err != nil {
			t.Fatalf("the slow tunnel ended after %d bytes: %v", n, err)
		}
	}
	within(t, signal(gone), "the end of the tunnel that nobody reads")
	conn.Close()
	eventually(t, "every slot to be free", func() bool { taken, _ := p.slots.counts(); return taken == 0 })
}

// 2,000 clients that connect and say nothing, or hold a tunnel open: those that find a slot wait, the others are told, whoever
// is there already is served, and in the end nothing is left.
func TestTwoThousandIdleConnections(t *testing.T) {
	const clients = 2000
	up := newTestCA(t, "upstream")
	u := startUpstream(t, up, false, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "ok") })
	p := startProxy(t, up, bearerRule(t, "leak.localhost", u.port), func(_ *Config, lim *limits) { lim.header = time.Minute })
	c := p.client(t, false)
	mustGet(t, c, u.url("leak.localhost", "/")) // and keeps its connection
	goroutines, files := resources(t)
	conns := make([]net.Conn, clients)
	for i := range conns {
		conns[i] = p.dialRaw(t)
	}
	// The first ones sit in their slots, so that the last ones are over.
	eventually(t, "the slots to be taken", func() bool { taken, _ := p.slots.counts(); return taken == defaultLimits.conns })
	first, last := conns[0], conns[clients-1]
	if _, body := mustGet(t, c, u.url("leak.localhost", "/")); body != "ok" {
		t.Errorf("a client that was there before got %q", body)
	}
	target := "leak.localhost:" + u.port
	fmt.Fprintf(first, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
	if status, _ := readHead(t, first); !strings.Contains(status, " 200 ") {
		t.Errorf("the first one got %s", status)
	}
	// It is told, or closed at once because too many others are being told.
	if head, err := io.ReadAll(last); errors.Is(err, errTimeout) || len(head) > 0 && !strings.HasPrefix(string(head), "HTTP/1.1 503 ") {
		t.Errorf("the last one got %q, %v", head, err)
	}
	for _, conn := range conns {
		conn.Close()
	}
	const slack = 16
	eventually(t, "everything to be as before", func() bool {
		g, f := resources(t)
		taken, _ := p.slots.counts()
		return g <= goroutines+slack && f <= files+slack && taken == 1
	})
}
