package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"os/exec"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/internal/testneed"
)

// A client that does not trust our CA is told apart, in the log and in the audit log, with what to do about it.
func TestClientWithoutOurCA(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	for name, connect := range map[string]func(t *testing.T, p *testProxy){
		"Go": func(t *testing.T, p *testProxy) {
			conn := tls.Client(p.connect(t, "api.localhost:443"), &tls.Config{ServerName: "api.localhost", RootCAs: x509.NewCertPool()})
			if err := conn.Handshake(); err == nil {
				t.Error("the handshake went well")
			}
		},
		"curl": func(t *testing.T, p *testProxy) {
			curl := testneed.Program(t, "curl")
			if out, err := exec.Command(curl, "-sS", "-x", "http://"+p.addr, "https://api.localhost/").CombinedOutput(); err == nil {
				t.Errorf("curl went well: %s", out)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := startProxy(t, ca, bearerRule(t, "api.localhost", "443"))
			connect(t, p)
			if e := p.events.wait(t, 1)[0]; e.Error != "client_tls" || !strings.Contains(e.Reason, "may not trust our certificate") {
				t.Errorf("audit: %+v", e)
			}
			if log := p.logged.String(); !strings.Contains(log, "credproxy run -- CMD") {
				t.Errorf("no advice in the log:\n%s", log)
			}
		})
	}
}
