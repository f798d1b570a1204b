package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
)

func tlsClient(conn net.Conn, name string, roots *x509.CertPool) *tls.Conn {
	return tls.Client(conn, &tls.Config{ServerName: name, RootCAs: roots})
}

// Every combination of names in CONNECT, SNI, Host and an absolute URL: the credential goes to the CONNECT target or
// nowhere, and a request that names two hosts goes nowhere.
func TestOneDestination(t *testing.T) {
	t.Parallel()
	for _, h2 := range []bool{false, true} {
		ca := newTestCA(t, "upstream")
		var served atomic.Int64
		var lastHost, lastAuth atomic.Value
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
			served.Add(1)
			lastHost.Store(r.Host)
			lastAuth.Store(r.Header.Get("Authorization"))
		})
		p := startProxy(t, ca, bearerRule(t, "good.localhost", up.port)+
			fmt.Sprintf("  - name: evil\n    match: {host: evil.localhost, port: %s}\n", up.port))
		good, evil := "good.localhost", "evil.localhost"
		for _, connect := range []string{good, evil} {
			for _, sni := range []string{"", good, evil} {
				for _, host := range []string{good, evil, "good.localhost.", "GOOD.localhost", "good.localhost#evil", "good@evil.localhost", "good.localhost:1", "evil.localhost:443"} {
					for _, absolute := range []string{"", "https://" + good, "https://" + evil, "http://" + good, "https://x@" + good} {
						if h2 && (absolute != "" || strings.ContainsAny(host, "#@")) {
							continue // :authority and :path leave no room for it
						}
						name := fmt.Sprintf("h2=%v CONNECT %s, SNI %s, Host %s, URL %s", h2, connect, sni, host, absolute)
						before := served.Load()
						resp := confuse(t, p, h2, connect+":"+up.port, sni, host, absolute)
						same := func(s string) bool { return s == "" || canonical(s) == connect }
						wantOK := same(sni) && (absolute != "" || canonical(host) == connect) && !strings.Contains(absolute, "@") &&
							(absolute == "" || strings.HasPrefix(absolute, "https://") && strings.TrimPrefix(absolute, "https://") == connect)
						switch {
						case wantOK && (resp.StatusCode != 200 || served.Load() != before+1 || lastHost.Load() != connect+":"+up.port):
							t.Errorf("%s: got %s", name, resp.Status)
						case wantOK && (lastAuth.Load() == "Bearer "+canary) != (connect == good):
							t.Errorf("%s: the upstream saw Authorization %q", name, lastAuth.Load())
						case !wantOK && (resp.StatusCode != 421 && resp.StatusCode != 400 || served.Load() != before):
							t.Errorf("%s: got %s and %d requests at the upstream", name, resp.Status, served.Load()-before)
						}
					}
				}
			}
		}
	}
}

// canonical is what a strict reading of a Host makes of it: "" if it must be refused.
func canonical(host string) string {
	if strings.ContainsAny(host, "#@:") {
		return ""
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

func confuse(t *testing.T, p *testProxy, h2 bool, target, sni, host, absolute string) *http.Response {
	t.Helper()
	if !h2 {
		conn := p.connectTLS(t, target, sni, "http/1.1")
		defer conn.Close()
		// An absolute URL makes net/http ignore Host, so there the URL is what is checked.
		if absolute != "" {
			host = strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(absolute, "https://"), "http://"), "x@")
		}
		return rawRequest(t, conn, "GET "+absolute+"/ HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
	}
	conn := p.connectTLS(t, target, sni, "h2")
	defer conn.Close()
	tr := &http.Transport{
		DialTLSContext:    func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		ForceAttemptHTTP2: true,
	}
	defer tr.CloseIdleConnections()
	req, _ := http.NewRequest("GET", "https://"+target+"/", nil)
	req.Host = host
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s: %v", host, err)
	}
	resp.Body.Close()
	return resp
}

func TestConnectGrammar(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	p := startProxy(t, ca, bearerRule(t, "good.localhost", "443"))
	for _, target := range []string{
		"good.localhost", "good.localhost:", "good.localhost:0", "good.localhost:00443", "good.localhost:+443", "good.localhost:65536",
		"x:y@good.localhost:443", "good.localhost:x@evil.localhost:443", "/good.localhost:443", "good.localhost:443/", "good.localhost:443?x",
		"[good.localhost]:443", "[::1%25good]:443", "::1:443", "[[::1]]:443", "*.localhost:443", "a_b..c:443", strings.Repeat("a", 64) + ".localhost:443",
	} {
		conn := p.dialRaw(t)
		resp := rawRequest(t, conn, "CONNECT "+target+" HTTP/1.1\r\nHost: good.localhost:443\r\n\r\n")
		if resp.StatusCode != 400 {
			t.Errorf("CONNECT %s: got %s", target, resp.Status)
		}
	}
}

func TestNestedConnectAndOddMethods(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s reached the upstream", r.Method, r.RequestURI)
	})
	p := startProxy(t, ca, bearerRule(t, "good.localhost", up.port))
	conn := p.connectTLS(t, "good.localhost:"+up.port, "good.localhost")
	refused(t, rawRequest(t, conn, "CONNECT good.localhost:"+up.port+" HTTP/1.1\r\nHost: good.localhost\r\n\r\n"), 405, "nested_connect")
	conn = p.connectTLS(t, "good.localhost:"+up.port, "good.localhost")
	if resp := rawRequest(t, conn, "GET urn:x HTTP/1.1\r\nHost: good.localhost\r\n\r\n"); resp.StatusCode != 400 && resp.StatusCode != 421 {
		t.Errorf("GET urn:x: %s", resp.Status)
	}
	conn = p.connectTLS(t, "good.localhost:"+up.port, "good.localhost")
	if resp := rawRequest(t, conn, "PRI * HTTP/2.0\r\n\r\n"); resp.StatusCode < 400 {
		t.Errorf("PRI: %s", resp.Status)
	}
}

// Requests to the proxy's own port that are not for a proxy get one constant answer.
func TestRequestsForTheProxyItself(t *testing.T) {
	t.Parallel()
	p := startProxy(t, newTestCA(t, "upstream"), "  []\n")
	for _, request := range []string{
		"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "GET /secret HTTP/1.1\r\nHost: evil.example\r\nOrigin: https://evil.example\r\n\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n", "GET http://u:p@x.localhost/ HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		resp := rawRequest(t, p.dialRaw(t), request)
		if cors := resp.Header.Get("Access-Control-Allow-Origin"); cors != "" {
			t.Errorf("CORS: %q", cors)
		}
		refused(t, resp, 400, "bad_request")
	}
}

// What must not stand in our code, because it undoes a promise (see docs/ARCHITECTURE.md, "How goproxy is used").
func TestForbiddenIdentifiers(t *testing.T) {
	t.Parallel()
	forbidden := regexp.MustCompile(`GoproxyCa|MitmConnect|AlwaysMitm|TLSConfigFromCA|HTTPMitm|ConnectMitm|AllowHTTP2|PreventCanonicalization|KeepHeader\b|InsecureSkipVerify|ProxyFromEnvironment|EnableHTTP2`)
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if found := forbidden.Find(text); found != nil {
			t.Errorf("%s: %s", file, found)
		}
	}
}
