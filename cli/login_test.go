package cli

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/credproxy/credproxy/internal/testoidc"
	"github.com/credproxy/credproxy/secrets"
)

// person [refuse|twice] URL is a browser with somebody before it: it signs in at URL, goes where the server sends it, and
// prints what it finds there.
func person(args []string) int {
	mode, address := "", args[len(args)-1]
	if len(args) == 2 {
		mode = args[0]
	}
	p := testoidc.Person{Name: "ada", Client: http.DefaultClient, Refuses: mode == "refuse"}
	left, text, err := p.Visit(address)
	if err != nil || left == "" {
		fmt.Fprintln(os.Stderr, "person: stopped at", text, err)
		return 1
	}
	resp, err := http.Get(left)
	if err != nil {
		return 1
	}
	return map[int]int{http.StatusOK: 0}[resp.StatusCode]
}

// A loginWorld is a home with a rule for which a person signs in at a real authorization server. What the rule is for is
// that server's userinfo endpoint, which says whose token it got.
type loginWorld struct {
	world
	server *testoidc.Server
	me     string // address of the userinfo endpoint
}

const codeRule = `{type: oauth2_authorization_code, issuer: $ISSUER, client_id: app, refresh_token: keyring:me, scopes: [openid, offline_access], auth_extra: {prompt: consent}}`

func newLoginWorld(t *testing.T, inject string) loginWorld {
	t.Helper()
	s := testoidc.Provider(t, testoidc.Config{TLS: true, Clients: []map[string]any{{
		"client_id": "app", "token_endpoint_auth_method": "none", "application_type": "native",
		"redirect_uris": []string{"http://127.0.0.1/callback", "http://localhost/", "https://app.example.com/back"},
		"grant_types":   []string{"authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"},
	}}})
	u, err := url.Parse(s.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// The certificate that testoidc takes from httptest.
	same := httptest.NewTLSServer(http.NotFoundHandler())
	same.Close()
	roots := filepath.Join(dir, "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: same.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	w := loginWorld{world{home: filepath.Join(dir, "home"), port: u.Port(), roots: roots}, s, s.Issuer + "/me"}
	w.rules(t, inject)
	return w
}

func (w loginWorld) rules(t *testing.T, inject string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "rules.yaml")
	text := "version: 1\nrules:\n  - name: me\n    match: {host: 127.0.0.1, port: $PORT}\n    inject: " + strings.ReplaceAll(inject, "$ISSUER", `"`+w.server.Issuer+`"`) +
		"\n  - name: other\n    match: {host: api.example.com}\n    inject: {type: bearer, token: keyring:other}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := installRules(file, w.home, w.port); err != nil {
		t.Fatal(err)
	}
}

// A signingIn is a credproxy login that runs.
type signingIn struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines <-chan string
	said  []string
}

func (w loginWorld) login(t *testing.T, args ...string) *signingIn {
	t.Helper()
	s := &signingIn{cmd: w.command(t, append([]string{"login"}, args...)...)}
	var err error
	if s.stdin, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.lines = lines(stderr)
	return s
}

// find reads what login says until a line matches, and returns its first group.
func (s *signingIn) find(t *testing.T, pattern string) string {
	t.Helper()
	re, timeout := regexp.MustCompile(pattern), time.After(30*time.Second)
	for {
		select {
		case line, ok := <-s.lines:
			if !ok {
				t.Fatalf("login ended before it said %s:\n%s", pattern, strings.Join(s.said, "\n"))
			}
			s.said = append(s.said, line)
			if m := re.FindStringSubmatch(line); m != nil {
				return m[len(m)-1]
			}
		case <-timeout:
			t.Fatalf("login did not say %s:\n%s", pattern, strings.Join(s.said, "\n"))
		}
	}
}

// end waits for the end, and returns all that login said and its exit status.
func (s *signingIn) end(t *testing.T) (said string, status int) {
	t.Helper()
	for line := range s.lines {
		s.said = append(s.said, line)
	}
	_ = s.cmd.Wait()
	return strings.Join(s.said, "\n"), s.cmd.ProcessState.ExitCode()
}

const signInAddress = `^  (https?://\S+)$`

// sent is where the server sends the browser of who has signed in at address.
func (w loginWorld) sent(t *testing.T, address string) string {
	t.Helper()
	left, text, err := testoidc.Person{Name: "ada", Client: w.server.Client}.Visit(address)
	if err != nil || left == "" {
		t.Fatalf("the person stopped at %q, %v", text, err)
	}
	return left
}

// stored is what the keyring has under name, or nothing.
func (w loginWorld) stored(t *testing.T, name string) string {
	t.Helper()
	store, err := secrets.OpenStore(secrets.StoreConfig{State: filepath.Join(w.home, ".local", "state", "credproxy"), Backend: "file"})
	if err != nil {
		t.Fatal(err)
	}
	r := secrets.NewResolver(secrets.Config{Store: store})
	defer r.Close()
	v, _ := r.Resolve(t.Context(), secrets.Ref{Scheme: "keyring", Name: name})
	return v.Reveal()
}

// serve starts a proxy, and returns a client of it.
func (w loginWorld) serve(t *testing.T) *http.Client {
	t.Helper()
	cmd := w.command(t, "serve", "--listen", "127.0.0.1:0")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	address, ok := strings.CutPrefix(<-lines(stderr), "credproxy: listening on ")
	if !ok {
		t.Fatal("serve did not start")
	}
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(filepath.Join(w.home, ".local", "state", "credproxy", "ca", "ca.pem"))
	if err != nil || !pool.AppendCertsFromPEM(ca) {
		t.Fatalf("the proxy's CA: %v", err)
	}
	via := &url.URL{Scheme: "http", Host: address}
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool}, Proxy: func(*http.Request) (*url.URL, error) { return via, nil },
	}}
}

func (w loginWorld) ask(t *testing.T, client *http.Client) string {
	t.Helper()
	resp, err := client.Get(w.me)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(resp.StatusCode, " ", string(body))
}

const signInFirstHint = `"hint":"credproxy login me"`

// TestLogin is the whole life of a sign-in, with a proxy that runs all the time.
func TestLogin(t *testing.T) {
	t.Parallel()
	w := newLoginWorld(t, codeRule)
	client := w.serve(t)
	if got := w.ask(t, client); !strings.HasPrefix(got, "502 ") || !strings.Contains(got, "urn:credproxy:secret_missing") || !strings.Contains(got, signInFirstHint) {
		t.Fatalf("before login got %s", got)
	}
	cmd := w.command(t, "login", "me")
	cmd.Env = append(cmd.Env, "BROWSER=person")
	said, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(said), "signed in for rule me; stored as keyring:me in file keyring") {
		t.Fatalf("login: %v\n%s", err, said)
	}
	began := time.Now()
	got := w.ask(t, client)
	took := time.Since(began)
	if got != `200 {"sub":"ada"}` {
		t.Errorf("after login got %s", got)
	}
	if took > time.Second {
		t.Errorf("the first request after login took %s", took)
	}
	t.Logf("the first request after login took %s", took)
	if kept := w.stored(t, "me"); !strings.Contains(kept, `"refresh_token"`) || strings.Contains(kept, "access_token") {
		t.Errorf("the keyring has no sign-in with a refresh token")
	} else if refresh := kept[strings.Index(kept, `":"`)+3:][:20]; strings.Contains(string(said), refresh) || strings.Contains(got, refresh) {
		t.Errorf("the refresh token is shown")
	}

	out, err := w.command(t, "logout", "me").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "signed out of rule me: removed keyring:me from file keyring, and revoked at 127.0.0.1:") {
		t.Errorf("logout: %v\n%s", err, out)
	}
	if got := w.ask(t, client); !strings.HasPrefix(got, "502 ") || !strings.Contains(got, signInFirstHint) {
		t.Errorf("after logout got %s", got)
	}
	if kept := w.stored(t, "me"); kept != "" {
		t.Error("after logout something is left in the keyring")
	}
	out, err = w.command(t, "logout", "me").CombinedOutput()
	if err != nil || string(out) != "nobody is signed in for rule me; nothing is changed\n" {
		t.Errorf("logout a second time: %v\n%s", err, out)
	}
}
