//go:build linux

package proxy

import (
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/credproxy/credproxy/internal/testneed"
)

// A kdc is MIT's, with the users ada and bob and the service HTTP/web.localhost.
type kdc struct {
	dir, port string
	env       []string
}

const krbRealm = "TEST.EXAMPLE"

func startKDC(t testing.TB) *kdc {
	t.Helper()
	k := &kdc{dir: serverFolder(t), port: unusedPort(t)}
	writeFile(t, k.dir+"/krb5.conf", fmt.Sprintf("[libdefaults]\ndefault_realm = %s\ndns_lookup_kdc = false\ndns_lookup_realm = false\nrdns = false\ndns_canonicalize_hostname = false\n"+
		"[realms]\n%[1]s = {\n  kdc = 127.0.0.1:%s\n}\n[domain_realm]\n.localhost = %[1]s\n", krbRealm, k.port))
	writeFile(t, k.dir+"/kdc.conf", fmt.Sprintf("[kdcdefaults]\nkdc_listen = 127.0.0.1:%s\nkdc_tcp_listen = 127.0.0.1:%[1]s\n"+
		"[realms]\n%s = {\n  database_name = %s/principal\n  key_stash_file = %[3]s/stash\n  max_life = 10h\n}\n", k.port, krbRealm, k.dir))
	k.env = append(os.Environ(), "KRB5_CONFIG="+k.dir+"/krb5.conf", "KRB5_KDC_PROFILE="+k.dir+"/kdc.conf", "KRB5RCACHENAME=none:")
	k.run(t, "", "kdb5_util", "create", "-s", "-r", krbRealm, "-P", "master")
	for _, q := range []string{"addprinc -pw " + canary + " ada", "addprinc -pw " + canary + " +requires_preauth bob", "addprinc -randkey HTTP/web.localhost",
		"ktadd -k " + k.dir + "/http.keytab HTTP/web.localhost", "ktadd -norandkey -k " + k.dir + "/bob.keytab bob"} {
		k.run(t, "", "kadmin.local", "-r", krbRealm, "-q", q)
	}
	if err := os.Chmod(k.dir+"/http.keytab", 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(testneed.Program(t, "krb5kdc"), "-n", "-r", krbRealm)
	cmd.Env = k.env
	runServer(t, k.port, cmd)
	return k
}

func (k *kdc) run(t testing.TB, stdin, program string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), testneed.Program(t, program), args...)
	cmd.Env, cmd.Stdin = k.env, strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, out)
	}
}

// kinit returns a cache with a new ticket of ada.
func (k *kdc) kinit(t testing.TB, path string, args ...string) string {
	t.Helper()
	k.run(t, canary+"\n", "kinit", append(args, "-c", "FILE:"+path, "ada")...)
	return path
}

// apache is a server that wants a ticket for HTTP/web.localhost.
func (k *kdc) apache(t testing.TB) (port string) {
	t.Helper()
	if _, err := os.Stat("/usr/lib/apache2/modules/mod_auth_gssapi.so"); err != nil {
		testneed.Missing(t, "file", "mod_auth_gssapi.so")
	}
	replays := serverFolder(t) + "/replays"
	if err := os.Mkdir(replays, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(replays, 0o777); err != nil {
		t.Fatal(err)
	}
	port, _ = startApache(t, "auth_gssapi headers", "<Location />\nAuthType GSSAPI\nAuthName x\nGssapiAllowedMech krb5\nGssapiCredStore keytab:"+k.dir+"/http.keytab\nRequire valid-user\n"+
		"Header always set X-User \"expr=%{REMOTE_USER}\"\n</Location>\n", "KRB5_CONFIG="+k.dir+"/krb5.conf", "KRB5RCACHENAME=file2:"+replays+"/all")
	return port
}

func (k *kdc) rule(host, port, fields string) string {
	return fmt.Sprintf("  - name: %s\n    match: {host: %[1]s.localhost, port: %s}\n    inject: {type: negotiate, krb5_conf: %q, %s}\n", host, port, k.dir+"/krb5.conf", fields)
}

// A ticket of the user's cache, or by a keytab, is what Apache takes. It keeps a replay cache: no authenticator may come twice.
func TestNegotiateToApache(t *testing.T) {
	t.Parallel()
	k := startKDC(t)
	port := k.apache(t)
	b, err := os.ReadFile(k.dir + "/bob.keytab")
	if err != nil {
		t.Fatal(err)
	}
	service := "service: HTTP/web.localhost"
	p := startProxy(t, newTestCA(t, "upstream"), k.rule("web", port, fmt.Sprintf("ccache: %q", k.kinit(t, k.dir+"/cc")))+
		k.rule("bob", port, fmt.Sprintf("principal: bob, keytab: %q, %s", secretFile(t, base64.StdEncoding.EncodeToString(b)), service)))
	for host, want := range map[string]string{"web": "ada@" + krbRealm, "bob": "bob@" + krbRealm} {
		askPages(t, p, "http://"+host+".localhost:"+port)
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+host+".localhost:"+port+"/index.html", strings.NewReader(strings.Repeat("x", 1<<20)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Negotiate bWluZQ==")
		resp, err := p.client(t, false).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := readAll(resp); err != nil || resp.Header.Get("X-User") != want || resp.Header["Www-Authenticate"] != nil {
			t.Errorf("got %s for user %q, want %q; %v, %v", resp.Status, resp.Header.Get("X-User"), want, resp.Header, err)
		}
	}
	for _, e := range p.events.wait(t, 1) {
		if e.Decision != "inject" || e.Inject[0] != "negotiate" {
			t.Errorf("audit: %+v", e)
		}
	}
}

// Without a ticket there is an error with the next command, and the server gets nothing.
func TestNegotiateWithoutATicket(t *testing.T) {
	t.Parallel()
	k := startKDC(t)
	up := plainUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "short.localhost:"+strings.Split(r.Host, ":")[1] {
			t.Errorf("the server got a request for %s", r.Host)
		}
	})
	cc := k.kinit(t, k.dir+"/cc")
	cut, err := os.ReadFile(cc)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, k.dir+"/cut", string(cut[:len(cut)/2]))
	stranger, deaf := secretFile(t, base64.StdEncoding.EncodeToString(cut)), serveSilence(t)
	writeFile(t, k.dir+"/deaf.conf", "[libdefaults]\ndefault_realm = "+krbRealm+"\ndns_lookup_kdc = false\n[realms]\n"+krbRealm+" = {\n kdc = 127.0.0.1:"+deaf+"\n}\n")
	b, err := os.ReadFile(k.dir + "/bob.keytab")
	if err != nil {
		t.Fatal(err)
	}
	bob := secretFile(t, base64.StdEncoding.EncodeToString(b))
	other := strings.Replace(k.rule("deaf", up, fmt.Sprintf("ccache: %q", cc)), "krb5.conf", "deaf.conf", 1)
	p := startProxy(t, newTestCA(t, "upstream"), k.rule("none", up, fmt.Sprintf("ccache: %q", k.dir+"/nothing"))+
		k.rule("cut", up, fmt.Sprintf("ccache: %q", k.dir+"/cut"))+
		k.rule("else", up, fmt.Sprintf("ccache: %q, principal: eve", cc))+
		k.rule("unknown", up, fmt.Sprintf("ccache: %q", cc))+
		k.rule("notkeytab", up, fmt.Sprintf("principal: bob, keytab: %q", stranger))+
		k.rule("notbob", up, fmt.Sprintf("principal: ada, keytab: %q", bob))+
		k.rule("short", up, fmt.Sprintf("ccache: %q, service: HTTP/web.localhost", k.kinit(t, k.dir+"/short", "-l", "2s")))+other)
	c := p.client(t, false)
	for _, tt := range []struct {
		host, slug, hint string
		status           int
	}{
		{"none", "ticket_missing", "kinit", 502}, {"cut", "ticket_missing", "kinit", 502}, {"else", "ticket_missing", "kinit eve", 502},
		{"unknown", "kdc_failed", "service", 502}, {"notkeytab", "secret_invalid", "keytab", 502}, {"notbob", "kdc_failed", "klist", 502},
		{"deaf", "kdc_timeout", "krb5.conf", 504},
	} {
		resp, err := c.Get("http://" + tt.host + ".localhost:" + up + "/")
		if err != nil {
			t.Fatal(err)
		}
		if problem := refused(t, resp, tt.status, tt.slug); !strings.Contains(problem.Hint, tt.hint) {
			t.Errorf("%s: hint %q, want one with %q", tt.host, problem.Hint, tt.hint)
		}
	}
	// Nothing tells when a ticket expires but asking.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		resp, err := c.Get("http://short.localhost:" + up + "/")
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 200 {
			if problem := refused(t, resp, 502, "ticket_expired"); problem.Hint != "kinit" {
				t.Errorf("hint %q", problem.Hint)
			}
			break
		}
		_ = resp.Body.Close()
		if time.Now().After(end) {
			t.Fatal("a ticket for two seconds does not expire")
		}
	}
}

// serveSilence accepts connections and says nothing.
func serveSilence(t testing.TB) (port string) {
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	return serveTCP(t, func(net.Conn) { <-done })
}

// Many requests at once ask the KDC for one ticket, and each has a token of its own. A ticket that is refused is replaced once.
func TestNegotiateAsksTheKDCOnce(t *testing.T) {
	t.Parallel()
	k := startKDC(t)
	var asked, refusals atomic.Int64
	relay := serveTCP(t, func(conn net.Conn) {
		asked.Add(1)
		to, err := net.Dial("tcp", "127.0.0.1:"+k.port)
		if err != nil {
			t.Error(err)
			return
		}
		defer to.Close()
		go func() { _, _ = io.Copy(to, conn) }()
		_, _ = io.Copy(conn, to)
	})
	cc := k.kinit(t, k.dir+"/cc")
	writeFile(t, k.dir+"/relay.conf", "[libdefaults]\ndefault_realm = "+krbRealm+"\ndns_lookup_kdc = false\n[realms]\n"+krbRealm+" = {\n kdc = 127.0.0.1:"+relay+"\n}\n")
	var tokens sync.Map
	up := plainUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Negotiate YI")
		if _, twice := tokens.LoadOrStore(token, true); twice || !ok {
			t.Errorf("token %q", token)
		}
		if r.URL.Path == "/refused" {
			refusals.Add(1)
			w.Header().Set("WWW-Authenticate", "Negotiate")
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	p := startProxy(t, newTestCA(t, "upstream"), strings.Replace(k.rule("web", up, fmt.Sprintf("ccache: %q", cc)), "krb5.conf", "relay.conf", 1))
	c := p.client(t, true)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			resp, err := c.Get("http://web.localhost:" + up + "/")
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := readAll(resp); err != nil || resp.StatusCode != 200 {
				t.Errorf("got %s, %v", resp.Status, err)
			}
		})
	}
	all.Wait()
	if asked.Load() != 1 {
		t.Errorf("the KDC was asked %d times", asked.Load())
	}
	if resp, _ := mustGet(t, c, "http://web.localhost:"+up+"/refused"); resp.StatusCode != 401 || refusals.Load() != 2 || asked.Load() != 2 {
		t.Errorf("got %s after %d refusals and %d questions to the KDC, want 2 and 2", resp.Status, refusals.Load(), asked.Load())
	}
}
