package proxy

import (
	"crypto/tls"
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
