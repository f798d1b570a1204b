//go:build unix

package proxy

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/credproxy/credproxy/audit"
	"github.com/elazarl/goproxy"
)

// The benchmarks compare with a stock goproxy that decrypts with ConnectMitm and does the same injection, in the same
// process layout: upstream, proxy and client in one process. Both are measured in turns, in slices of the same run, and
// the figure to look at is the ratio "x-stock".

// startStock runs goproxy as its README shows it, with a certificate store, which is to its advantage.
func startStock(b *testing.B, up *testCA, mitm *testCA) string {
	b.Helper()
	g := goproxy.NewProxyHttpServer()
	g.Logger = log.New(io.Discard, "", 0)
	g.Tr = &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: up.pool}, MaxIdleConnsPerHost: 64,
		DialContext: (&dialer{}).within(reachAll), // for the *.localhost names
	}
	g.ConnectDial = nil
	g.CertStore = &stockStore{}
	ca := &tls.Certificate{Certificate: [][]byte{mitm.cert.Raw}, PrivateKey: mitm.key, Leaf: mitm.cert}
	action := &goproxy.ConnectAction{Action: goproxy.ConnectMitm, TLSConfig: goproxy.TLSConfigFromCA(ca)}
	g.OnRequest().HandleConnectFunc(func(host string, _ *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) { return action, host })
	g.OnRequest().DoFunc(func(r *http.Request, _ *goproxy.ProxyCtx) (*http.Request, *http.Response) {
		r.Header.Set("Authorization", "Bearer "+canary)
		return r, nil
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: g}
	go srv.Serve(l)
	b.Cleanup(func() { srv.Close() })
	return l.Addr().String()
}

type stockStore struct{ certs sync.Map }

func (s *stockStore) Fetch(host string, make func() (*tls.Certificate, error)) (*tls.Certificate, error) {
	if found, ok := s.certs.Load(host); ok {
		return found.(*tls.Certificate), nil
	}
	cert, err := make()
	if err == nil {
		s.certs.Store(host, cert)
	}
	return cert, err
}

// A contender is one of the proxies that are compared.
type contender struct {
	name         string
	do           func(n int) // n requests
	took         time.Duration
	each         []float64 // seconds of each turn
	done         int
	objects, cpu float64
}

// spent returns the heap objects and CPU seconds of this process so far.
func spent() (objects, cpu float64) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(m.Mallocs), time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// compare runs the contenders in turns and reports each one's rate, and its ratio to the first.
func compare(b *testing.B, all ...*contender) {
	b.Helper()
	for _, c := range all {
		c.do(32) // connections, caches
	}
	slice := max(1, min(200, b.N/4))
	b.ResetTimer()
	for done := 0; done < b.N; done += slice {
		for _, c := range all {
			objects, cpu := spent()
			start := time.Now()
			c.do(slice)
			took := time.Since(start)
			c.took += took
			c.each = append(c.each, took.Seconds())
			objectsAfter, cpuAfter := spent()
			c.objects += objectsAfter - objects
			c.cpu += cpuAfter - cpu
			c.done += slice
		}
	}
	b.StopTimer()
	rate := func(c *contender) float64 { return float64(c.done) / c.took.Seconds() }
	for _, c := range all {
		b.ReportMetric(rate(c), c.name+"/s")
		b.ReportMetric(c.objects/float64(c.done), c.name+"-allocs")
		b.ReportMetric(c.cpu/float64(c.done)*1e6, c.name+"-cpu-µs")
	}
	for _, c := range all[1:] {
		// Of the turns' ratios the middle one: whatever else the machine does for a while hits a few turns only.
		ratios := make([]float64, len(c.each))
		for i := range ratios {
			ratios[i] = all[0].each[i] / c.each[i]
		}
		slices.Sort(ratios)
		b.ReportMetric(ratios[len(ratios)/2], c.name+"-x-"+all[0].name)
	}
}

// keepAlive returns a contender whose clients keep their connections.
func keepAlive(b *testing.B, name, proxy string, roots *testCA, url string, clients int) *contender {
	c := benchClient(b, proxy, roots, clients)
	return &contender{name: name, do: func(n int) {
		var wg sync.WaitGroup
		for i := range clients {
			wg.Go(func() {
				for range (n + clients - 1 - i) / clients {
					fetch(b, c, url)
				}
			})
		}
		wg.Wait()
	}}
}

func benchClient(b *testing.B, proxy string, roots *testCA, conns int) *http.Client {
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots.pool, NextProtos: []string{"http/1.1"}}, MaxIdleConnsPerHost: conns}
	if proxy != "" {
		tr.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: proxy})
	} else {
		tr.DialContext = (&dialer{}).within(reachAll)
	}
	b.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func fetch(b *testing.B, c *http.Client, url string) {
	resp, err := c.Get(url)
	if err != nil {
		b.Error(err)
		return
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
		b.Error(resp.Status, err)
	}
	resp.Body.Close()
}

// fileAudit writes the audit log to a file, as serve does, and keeps no events in memory.
func fileAudit(b *testing.B) proxyOption {
	f, err := os.Create(filepath.Join(b.TempDir(), "audit.log"))
	if err != nil {
		b.Fatal(err)
	}
	l := audit.New(f)
	b.Cleanup(func() { _ = l.Close(); _ = f.Close() })
	return func(cfg *Config, _ *limits) { cfg.Audit = l }
}

// kilobyte answers with 1 KiB to requests that carry the credential.
func kilobyte(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+canary && r.URL.Path != "/direct" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", "1024")
	_, _ = w.Write(payload)
}

var payload = []byte(strings.Repeat("x", 1024))

func BenchmarkKeepAlive(b *testing.B) {
	for _, clients := range []int{1, 16} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			ca := newTestCA(b, "upstream")
			up := startUpstream(b, ca, false, kilobyte)
			p := startProxy(b, ca, bearerRule(b, "api.localhost", up.port), fileAudit(b))
			stockCA := newTestCA(b, "stock")
			url := up.url("api.localhost", "/")
			compare(b,
				keepAlive(b, "stock", startStock(b, ca, stockCA), stockCA, url, clients),
				keepAlive(b, "credproxy", p.addr, p.ca, url, clients),
				keepAlive(b, "direct", "", ca, up.url("api.localhost", "/direct"), clients))
		})
	}
}

// BenchmarkNewConnection opens a tunnel, shakes hands and sends one request, again and again.
func BenchmarkNewConnection(b *testing.B) {
	ca := newTestCA(b, "upstream")
	up := startUpstream(b, ca, false, kilobyte)
	p := startProxy(b, ca, bearerRule(b, "api.localhost", up.port), fileAudit(b))
	stockCA := newTestCA(b, "stock")
	target := "api.localhost:" + up.port
	once := func(name, proxy string, roots *testCA) *contender {
		cache := tls.NewLRUClientSessionCache(16)
		return &contender{name: name, do: func(n int) {
			for range n {
				conn, err := net.Dial("tcp", proxy)
				if err != nil {
					b.Error(err)
					return
				}
				fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
				r := bufio.NewReader(conn)
				for line := ""; line != "\r\n"; {
					if line, err = r.ReadString('\n'); err != nil {
						b.Error(err)
						return
					}
				}
				c := tls.Client(conn, &tls.Config{ServerName: "api.localhost", RootCAs: roots.pool, ClientSessionCache: cache})
				fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", target)
				resp, err := http.ReadResponse(bufio.NewReader(c), nil)
				if err != nil {
					b.Error(err)
					return
				}
				if n, err := io.Copy(io.Discard, resp.Body); n != 1024 || err != nil {
					b.Error(n, err)
				}
				conn.Close()
			}
		}}
	}
	compare(b, once("stock", startStock(b, ca, stockCA), stockCA), once("credproxy", p.addr, p.ca))
}

// BenchmarkEventLatency is the time from an SSE event's departure at the upstream to its arrival at the client.
func BenchmarkEventLatency(b *testing.B) {
	sent := make(chan time.Time, 1)
	next := make(chan struct{})
	ca := newTestCA(b, "upstream")
	up := startUpstream(b, ca, false, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		for range next {
			sent <- time.Now()
			_, _ = io.WriteString(w, "data: x\n\n")
			w.(http.Flusher).Flush()
		}
	})
	p := startProxy(b, ca, bearerRule(b, "api.localhost", up.port), fileAudit(b))
	resp, err := benchClient(b, p.addr, p.ca, 1).Get(up.url("api.localhost", "/"))
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	event := make([]byte, len("data: x\n\n"))
	var worst, total time.Duration
	for b.Loop() {
		next <- struct{}{}
		if _, err := io.ReadFull(resp.Body, event); err != nil {
			b.Fatal(err)
		}
		took := time.Since(<-sent)
		total += took
		worst = max(worst, took)
	}
	close(next)
	b.ReportMetric(float64(total.Microseconds())/float64(b.N), "µs/event")
	b.ReportMetric(float64(worst.Microseconds()), "µs-worst")
}

// BenchmarkMemory measures the proxy in a process of its own: what 1 GiB down and up and 1,000 idle connections add to
// its resident memory.
func BenchmarkMemory(b *testing.B) {
	if runtime.GOOS != "linux" {
		b.Skip("reads /proc")
	}
	ca := newTestCA(b, "upstream")
	up := startUpstream(b, ca, false, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("X-Got", strconv.FormatInt(n, 10))
		size, _ := strconv.ParseInt(r.URL.Query().Get("size"), 10, 64)
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		_, _ = io.CopyN(w, zeros{}, size)
	})
	proxyCA := newTestCA(b, "proxy")
	addr, pid := startProxyProcess(b, ca, proxyCA, bearerRule(b, "api.localhost", up.port))
	c := benchClient(b, addr, proxyCA, 4)
	fetch(b, c, up.url("api.localhost", "/?size=1024"))
	for b.Loop() {
		const gib = 1 << 30
		before := residentKiB(b, pid)
		fetch(b, c, up.url("api.localhost", fmt.Sprintf("/?size=%d", gib)))
		grown := func(unit string, limit float64) {
			mib := float64(residentKiB(b, pid)-before) / 1024
			b.ReportMetric(mib, unit)
			if mib > limit {
				b.Errorf("%.1f %s, want at most %.0f", mib, unit, limit)
			}
		}
		grown("MiB-1GiB-down", 16)
		before = residentKiB(b, pid)
		resp, err := c.Post(up.url("api.localhost", "/"), "application/octet-stream", io.LimitReader(zeros{}, gib))
		if err != nil || resp.Header.Get("X-Got") != strconv.Itoa(gib) {
			b.Fatal(resp, err)
		}
		resp.Body.Close()
		grown("MiB-1GiB-up", 16)

		const idle = 1000
		before = residentKiB(b, pid)
		target := "api.localhost:" + up.port
		conns := make([]net.Conn, idle)
		for i := range conns {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				b.Fatal(err)
			}
			conns[i] = conn
			fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
			r := bufio.NewReader(conn)
			for line := ""; line != "\r\n"; {
				if line, err = r.ReadString('\n'); err != nil {
					b.Fatal(err)
				}
			}
			t := tls.Client(conn, &tls.Config{ServerName: "api.localhost", RootCAs: proxyCA.pool})
			fmt.Fprintf(t, "GET /?size=10 HTTP/1.1\r\nHost: %s\r\n\r\n", target)
			resp, err := http.ReadResponse(bufio.NewReader(t), nil)
			if err != nil {
				b.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
		}
		b.ReportMetric(float64(residentKiB(b, pid)-before)/idle, "KiB-idle-conn")
		for _, conn := range conns {
			conn.Close()
		}
	}
}

func residentKiB(b *testing.B, pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil {
				b.Fatal(err)
			}
			return kib
		}
	}
	b.Fatal("no VmRSS")
	return 0
}

// startProxyProcess runs TestProxyProcess of this test binary as a proxy.
func startProxyProcess(b *testing.B, up, own *testCA, rules string) (addr string, pid int) {
	b.Helper()
	dir := b.TempDir()
	for name, ca := range map[string]*testCA{"up": up, "own": own} {
		if err := ca.save(filepath.Join(dir, name)); err != nil {
			b.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "rules"), []byte(rules), 0o600); err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestProxyProcess$", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), "CREDPROXY_BENCH_DIR="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return strings.TrimSpace(line), cmd.Process.Pid
}

// TestProxyProcess is the proxy of BenchmarkMemory. By itself it tests nothing.
func TestProxyProcess(t *testing.T) {
	dir := os.Getenv("CREDPROXY_BENCH_DIR")
	if dir == "" {
		return
	}
	up, err := loadTestCA(filepath.Join(dir, "up"))
	if err != nil {
		t.Fatal(err)
	}
	own, err := loadTestCA(filepath.Join(dir, "own"))
	if err != nil {
		t.Fatal(err)
	}
	rules, err := os.ReadFile(filepath.Join(dir, "rules"))
	if err != nil {
		t.Fatal(err)
	}
	p := startProxy(t, up, string(rules), func(cfg *Config, _ *limits) { cfg.Leaf = own.leaf; cfg.Log = nil })
	fmt.Println(p.addr)
	_, _ = io.Copy(io.Discard, os.Stdin) // until the benchmark ends
}
