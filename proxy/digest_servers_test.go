//go:build linux

package proxy

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/credproxy/credproxy/internal/testneed"
)

// askPages gets the welcome page again and again, at first one after the other and then all at once.
func askPages(t *testing.T, p *testProxy, url string) {
	t.Helper()
	c := p.client(t, false)
	get := func(path string) {
		resp, err := c.Get(url + path)
		if err != nil {
			t.Error(err)
			return
		}
		if body, err := readAll(resp); err != nil || resp.StatusCode != 200 || body != "welcome" {
			t.Errorf("%s: got %s %q, %v", path, resp.Status, body, err)
		}
	}
	for i := range 20 {
		get(fmt.Sprintf("/index.html?%d&a=%%22b", i))
	}
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() { get(fmt.Sprintf("/?%d", i)) })
	}
	all.Wait()
}

// Apache httpd knows MD5.
func TestDigestToApache(t *testing.T) {
	t.Parallel()
	a1 := md5.Sum([]byte("ada:an area:" + canary))
	for _, tt := range []struct{ name, config string }{
		{"by default", ""},
		{"nonces for one second", "AuthDigestNonceLifetime 1"},
		{"nonces that never end", "AuthDigestNonceLifetime -1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			port, dir := startApache(t, "auth_digest", "<Location />\nAuthType Digest\nAuthName \"an area\"\nAuthDigestProvider file\nAuthUserFile $DIR/users\n"+tt.config+"\nRequire valid-user\n</Location>\n")
			writeFile(t, dir+"/users", "ada:an area:"+hex.EncodeToString(a1[:])+"\n")
			ca := newTestCA(t, "upstream")
			wrong := strings.ReplaceAll(digestRule(t, "wrong.localhost", port), "ada", "eve")
			p := startProxy(t, ca, digestRule(t, "api.localhost", port)+wrong)
			askPages(t, p, "http://api.localhost:"+port)
			if resp, _ := mustGet(t, p.client(t, false), "http://wrong.localhost:"+port+"/"); resp.StatusCode != 401 {
				t.Errorf("an unknown user got %s", resp.Status)
			}
		})
	}
}

// lighttpd knows SHA-256.
func TestDigestToLighttpd(t *testing.T) {
	t.Parallel()
	program := testneed.Program(t, "lighttpd")
	a1 := sha256.Sum256([]byte("ada:an area:" + canary))
	dir, port := serverFolder(t), unusedPort(t)
	writeFile(t, dir+"/htdocs/index.html", "welcome")
	writeFile(t, dir+"/users", "ada:an area:"+hex.EncodeToString(a1[:])+"\n")
	writeFile(t, dir+"/lighttpd.conf", fmt.Sprintf(`server.modules = ("mod_auth", "mod_authn_file")
server.bind = "127.0.0.1"
server.port = %s
server.document-root = %q
index-file.names = ("index.html")
auth.backend = "htdigest"
auth.backend.htdigest.userfile = %q
auth.require = ("/" => ("method" => "digest", "algorithm" => "SHA-256", "realm" => "an area", "require" => "valid-user"))
`, port, dir+"/htdocs", dir+"/users"))
	runServer(t, port, exec.Command(program, "-D", "-f", dir+"/lighttpd.conf"))
	p := startProxy(t, newTestCA(t, "upstream"), digestRule(t, "api.localhost", port))
	resp, err := http.Get("http://127.0.0.1:" + port + "/")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(resp); err != nil || !strings.Contains(resp.Header.Get("WWW-Authenticate"), "SHA-256") {
		t.Fatalf("lighttpd asks for %q, %v", resp.Header["Www-Authenticate"], err)
	}
	askPages(t, p, "http://api.localhost:"+port)
}
