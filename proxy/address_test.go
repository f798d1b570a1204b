package proxy

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// A testDNS is a real server of names, for a proxy of its own.
type testDNS struct {
	mu      sync.Mutex
	answers map[string][][]string // for each name what to answer to the first question, the second and so on; the last one stays
	asked   map[string]int
}

// startDNS serves names, each with the addresses that it always has.
func startDNS(t *testing.T, names map[string][]string) (*testDNS, proxyOption) {
	t.Helper()
	d := &testDNS{answers: map[string][][]string{}, asked: map[string]int{}}
	for name, addrs := range names {
		d.answers[name] = [][]string{addrs}
	}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := d.answer(buf[:n]); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	})
	t.Cleanup(func() { conn.Close(); done.Wait() })
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	return d, func(cfg *Config, _ *limits) { cfg.resolver = resolver }
}

func (d *testDNS) answer(packet []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(packet) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	d.mu.Lock()
	lists := d.answers[name]
	var addrs []string
	if len(lists) > 0 {
		addrs = lists[min(d.asked[name], len(lists)-1)]
		if q.Type == dnsmessage.TypeA {
			d.asked[name]++
		}
	}
	d.mu.Unlock()
	m.Response, m.Answers, m.Additionals = true, nil, nil
	if len(lists) == 0 {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, text := range addrs {
		head := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: dnsmessage.ClassINET}
		switch addr := netip.MustParseAddr(text); {
		case addr.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: addr.As4()}})
		case addr.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
		}
	}
	packed, err := m.Pack()
	if err != nil {
		return nil
	}
	return packed
}

var metadataTargets = []string{
	"169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254", "fe80::a9fe:a9fe", "fe80::1",
	"::ffff:169.254.169.254", "::169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "64:ff9b:1:a9fe:a9:fe00::", "2002:a9fe:a9fe::1",
	"2001:0:808:808::5601:5601", "0.0.0.0", "::", "255.255.255.255", "224.0.0.1", "ff02::1",
}

// Metadata services and what is no server are never reached: by address or by name, in a tunnel, inside one and in plain
// requests, with a rule and without.
func TestForbiddenAddresses(t *testing.T) {
	t.Parallel()
	names := map[string][]string{"metadata.google.internal": {"127.0.0.1"}, "metadata.inject.test": {"127.0.0.1"}}
	hosts := []string{"metadata.google.internal", "metadata.goog", "metadata", "instance-data.ec2.internal"}
	for i, addr := range metadataTargets {
		for _, domain := range []string{"free", "inject", "pass"} {
			host := fmt.Sprintf("n%d.%s.test", i, domain)
			names[host] = []string{addr}
			hosts = append(hosts, host)
		}
		if strings.Contains(addr, ":") {
			addr = "[" + addr + "]"
		}
		hosts = append(hosts, addr)
	}
	_, resolve := startDNS(t, names)
	ca := newTestCA(t, "upstream")
	p := startProxy(t, ca, bearerRule(t, "*.inject.test", "443")+
		"  - {name: plain, match: {host: [\"*.inject.test\", \"*.internal\"], scheme: http}, allow_http: true, inject: {type: bearer, token: \""+secretFile(t, canary)+"\"}}\n"+
		"  - {name: pass, match: {host: \"*.pass.test\"}, allow_private: true}\n", resolve)
	c := p.client(t, false)
	for _, host := range hosts {
		resp, err := c.Get("http://" + host + "/latest/meta-data/")
		if err != nil {
			t.Fatal(err)
		}
		refused(t, resp, 403, "forbidden_address")
		if strings.HasSuffix(host, ".inject.test") || strings.HasSuffix(host, ".pass.test") {
			if resp, err = c.Get("https://" + host + "/"); err != nil {
				t.Fatal(err)
			}
			refused(t, resp, 403, "forbidden_address")
			continue
		}
		target := host + ":443"
		resp = rawRequest(t, p.dialRaw(t), "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n\r\n")
		if host != "metadata.google.internal" { // which a rule names, so that it is intercepted
			refused(t, resp, 403, "forbidden_address")
		}
	}
	for _, e := range p.events.wait(t, len(hosts)) {
		if e.Decision != "refuse" || e.Error != "forbidden_address" || e.Reason == "" {
			t.Errorf("audited %+v", e)
		}
	}
}

// What has a credential and verified TLS goes anywhere, and so does what no rule names; what a rule lets pass needs
// allow_private for private addresses.
func TestPrivateAddresses(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "reached") })
	plain := plainUpstream(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "reached") })
	here := []string{"127.0.0.1"}
	names := map[string][]string{
		"inject.test": here, "pass.test": here, "a.pass.test": here, "wanted.test": here, "free.test": here, "cert.test": here, "mapped.pass.test": {"::ffff:127.0.0.1"},
	}
	for i, addr := range []string{"10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "::1", "fd12::1", "64:ff9b::a00:1", "2002:7f00:1::"} {
		names[fmt.Sprintf("n%d.pass.test", i)] = []string{addr}
	}
	_, resolve := startDNS(t, names)
	cert, key := clientPEM(t, ca)
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "c.pem"), cert, 0o600), os.WriteFile(filepath.Join(dir, "k.pem"), key, 0o600)); err != nil {
		t.Fatal(err)
	}
	body := bearerRule(t, "inject.test", up.port) +
		"  - {name: wanted, match: {host: wanted.test, port: " + up.port + "}, allow_private: true}\n" +
		"  - {name: cert, match: {host: cert.test, port: " + up.port + "}, tls: {cert: " + dir + "/c.pem, key: \"file:" + dir + "/k.pem\"}}\n" +
		"  - {name: itself, match: {host: [127.0.0.1, a.localhost], scheme: http, port: " + plain + "}}\n" +
		"  - {name: pass, match: {host: [pass.test, \"*.pass.test\"], port: " + up.port + "}}\n" +
		"  - {name: pass-plain, match: {host: pass.test, scheme: http, port: " + plain + "}}\n"
	for _, way := range []string{"default: deny\n", ""} {
		p := startProxy(t, ca, way+body, resolve)
		c := p.client(t, false)
		for _, u := range []string{
			up.url("inject.test", "/"), up.url("wanted.test", "/"), up.url("cert.test", "/"), "http://127.0.0.1:" + plain, "http://a.localhost:" + plain,
		} {
			if resp, got := mustGet(t, c, u); resp.StatusCode != 200 || got != "reached" {
				t.Errorf("%q %s: got %s %s", way, u, resp.Status, got)
			}
		}
		var urls []string
		for name := range names {
			if strings.HasSuffix(name, "pass.test") {
				urls = append(urls, up.url(name, "/"))
			}
		}
		urls = append(urls, "http://pass.test:"+plain+"/")
		slices.Sort(urls)
		for _, u := range urls {
			resp, err := c.Get(u)
			if err != nil {
				t.Fatal(u, err)
			}
			if problem := refused(t, resp, 403, "forbidden_address"); !strings.Contains(problem.Hint, "allow_private") {
				t.Errorf("%s: hint %q", u, problem.Hint)
			}
		}
	}
	// What no rule names goes where it would go without the proxy, if the default lets it.
	p := startProxy(t, ca, body, resolve)
	if _, got := mustGet(t, p.client(t, false), "http://free.test:"+plain+"/"); got != "reached" {
		t.Errorf("got %q", got)
	}
	conn := p.connect(t, "free.test:"+plain)
	if _, got := mustRaw(t, conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); got != "reached" {
		t.Errorf("in the tunnel: got %q", got)
	}
	if n := up.conns.Load(); n > 10 {
		t.Errorf("%d connections reached the upstream", n)
	}
}

func mustRaw(t *testing.T, conn net.Conn, request string) (*http.Response, string) {
	t.Helper()
	resp := rawRequest(t, conn, request)
	body, err := readAll(resp)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

// A name that changes its address between the check and the connection, and one that has a good and a bad address.
func TestRebinding(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "reached") })
	dns, resolve := startDNS(t, map[string][]string{"mixed.test": {"169.254.169.254", "127.0.0.1", "fd00:ec2::254"}})
	dns.mu.Lock()
	dns.answers["turns.test"] = [][]string{{"127.0.0.1"}, {"192.0.2.1"}}
	dns.answers["turns-bad.test"] = [][]string{{"127.0.0.1"}, {"169.254.169.254"}}
	dns.mu.Unlock()
	token := secretFile(t, canary)
	p := startProxy(t, ca, bearerRule(t, "mixed.test", up.port)+
		"  - {name: turns, match: {host: [turns.test, turns-bad.test]}, inject: {type: bearer, token: \""+token+"\"}}\n", resolve)
	c := p.client(t, false)
	// The check for loopback sees the first answer, the connection another one.
	for host, want := range map[string]string{"turns.test": "plain_http", "turns-bad.test": "forbidden_address"} {
		resp, err := c.Get("http://" + host + "/")
		if err != nil {
			t.Fatal(err)
		}
		status := map[string]int{"plain_http": 502, "forbidden_address": 403}[want]
		refused(t, resp, status, want)
		dns.mu.Lock()
		if n := dns.asked[host]; n != 2 {
			t.Errorf("%s was asked for %d times, want 2", host, n)
		}
		dns.mu.Unlock()
	}
	if _, got := mustGet(t, c, up.url("mixed.test", "/")); got != "reached" {
		t.Errorf("got %q", got)
	}
}

// What the dialer connects to is what it has checked: for any address, within each reach.
func TestReach(t *testing.T) {
	t.Parallel()
	d := &dialer{}
	for _, tt := range []struct {
		addr                  string
		public, loopback, all bool
	}{
		{"192.0.2.1", true, false, true},
		{"2001:db8::1", true, false, true},
		{"127.0.0.1", false, true, true},
		{"::1", false, true, true},
		{"10.0.0.1", false, false, true},
		{"fd00::1", false, false, true},
		{"169.254.169.254", false, false, false},
		{"64:ff9b::a9fe:a9fe", false, false, false},
		{"fe80::1", false, false, false},
	} {
		to := netip.AddrPortFrom(netip.MustParseAddr(tt.addr), 80)
		got := [3]bool{d.check(to, reachPublic) == nil, d.check(to, reachLoopback) == nil, d.check(to, reachAll) == nil}
		if want := [3]bool{tt.public, tt.loopback, tt.all}; got != want {
			t.Errorf("%s: got %v, want %v", tt.addr, got, want)
		}
	}
	var r reach
	if r != reachPublic {
		t.Error("the zero reach is not the smallest for passing requests")
	}
	// An address of this machine is no public one, whatever it is.
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		addr, _ := netip.AddrFromSlice(a.(*net.IPNet).IP)
		if d.check(netip.AddrPortFrom(addr.Unmap(), 80), reachPublic) == nil {
			t.Errorf("%s counts as public", addr)
		}
	}
}

// Row 30: no server is believed on our own CA's word, even if a rule says so, and not with a CA below ours either.
func TestOwnCAIsNotBelieved(t *testing.T) {
	t.Parallel()
	own := newTestCA(t, "own")
	up := startUpstream(t, own, false, func(w http.ResponseWriter, r *http.Request) { t.Error("a request reached the server") })
	file := filepath.Join(t.TempDir(), "own.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, rule := range map[string]string{
		"roots": bearerRule(t, "api.localhost", up.port),
		"tls":   bearerRule(t, "api.localhost", up.port) + "    tls: {ca: " + file + "}\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startProxy(t, own, rule, func(cfg *Config, _ *limits) {
				cfg.Own = own.cert.Equal
				if name == "tls" {
					cfg.Roots = newTestCA(t, "other").pool
				}
			})
			for range 2 {
				resp, err := p.client(t, false).Get(up.url("api.localhost", "/"))
				if err != nil {
					t.Fatal(err)
				}
				if got := refused(t, resp, 502, "upstream_tls"); !strings.Contains(got.Detail, "credproxy's own CA") {
					t.Errorf("detail %q", got.Detail)
				}
			}
		})
	}
}
