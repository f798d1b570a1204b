//go:build linux

package proxy

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/internal/testneed"
)

// Apache httpd with mod_auth_gssapi and gss-ntlmssp, which knows the users of a file.
func TestNTLMToApache(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/usr/lib/apache2/modules/mod_auth_gssapi.so", "/etc/gss/mech.d/mech.ntlmssp.conf"} {
		if _, err := os.Stat(path); err != nil {
			testneed.Missing(t, "file", path)
		}
	}
	users := serverFolder(t) + "/users"
	writeFile(t, users, "CORP:ada:"+canary+"\n")
	port, _ := startApache(t, "auth_gssapi headers", "<Location />\nAuthType GSSAPI\nAuthName x\nGssapiAllowedMech ntlmssp\nGssapiConnectionBound On\nRequire valid-user\n"+
		"Header always set X-User \"expr=%{REMOTE_USER}\"\n</Location>\n", "NTLM_USER_FILE="+users, "NETBIOS_DOMAIN_NAME=CORP", "NETBIOS_COMPUTER_NAME=WEB")
	wrong := strings.Replace(ntlmRule(t, "wrong", "ada", port), "CORP", "OTHER", 1)
	p := startProxy(t, newTestCA(t, "upstream"), ntlmRule(t, "api", "ada", port)+ntlmRule(t, "stranger", "eve", port)+wrong)
	askPages(t, p, "http://api.localhost:"+port)
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://api.localhost:"+port+"/index.html", strings.NewReader(strings.Repeat("x", 1<<20)))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := p.client(t, false).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(resp); err != nil || resp.StatusCode == 401 || !strings.Contains(strings.ToLower(resp.Header.Get("X-User")), "ada") {
		t.Errorf("got %s for user %q, %v", resp.Status, resp.Header.Get("X-User"), err)
	}
	for _, host := range []string{"stranger", "wrong"} {
		if resp, _ := mustGet(t, p.client(t, false), "http://"+host+".localhost:"+port+"/"); resp.StatusCode != 401 {
			t.Errorf("%s got %s", host, resp.Status)
		}
	}
}
