package cli

import (
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/credproxy/credproxy/internal/testneed"
)

// Another user of this machine can connect to the proxy, and gets nothing without a token of its own.
func TestAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	curl := testneed.Program(t, "curl")
	s := startServed(t, `{version: 1, rules: [{name: api, match: {host: localhost, port: $PORT}, inject: {type: bearer, token: env:TOKEN}}]}`)
	token := s.add(t, "other").User
	for _, test := range []struct {
		name string
		uid  uint32
		user *url.Userinfo
		want string
	}{
		{"ours", 0, nil, "api: GET /x 200 200"},
		{"another's", 54321, nil, " 407 000"},
		{"another's with a wrong token", 54321, url.UserPassword("other", "x"), " 407 000"},
		{"another's with a token", 54321, token, "api: GET /x 200 200"},
		{"ours with a wrong token", 0, url.UserPassword("other", "x"), " 407 000"},
		{"nobody's", 65534, nil, " 407 000"},
	} {
		proxy := &url.URL{Scheme: "http", Host: s.address, User: test.user}
		cmd := exec.CommandContext(t.Context(), curl, "-sk", "-w", " %{http_connect} %{http_code}", "-x", proxy.String(), "https://localhost:"+s.port+"/x")
		cmd.Env, cmd.Dir = []string{"HOME=/"}, "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: test.uid, Gid: test.uid}}
		out, _ := cmd.Output() // a refused CONNECT is an error
		if got := strings.ReplaceAll(string(out), "\n", ""); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
		if asked, _ := s.got(); len(asked) > 0 != strings.Contains(test.want, "api") {
			t.Errorf("%s: the API got %q", test.name, asked)
		}
	}
}
