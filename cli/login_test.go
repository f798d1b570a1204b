package cli

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/credproxy/credproxy/internal/testoidc"
	"github.com/credproxy/credproxy/secrets"
)

// person [record=FILE] URL is a browser with somebody before it, who signs in at URL and goes where the server leads. With
// record it writes down its arguments and its environment, and goes back as from an easyServer.
func person(args []string) int {
	address := args[len(args)-1]
	left := ""
	if file, ok := strings.CutPrefix(args[0], "record="); ok {
		seen := fmt.Sprintln(len(os.Args), address) + strings.Join(os.Environ(), "\n")
		if err := os.WriteFile(file, []byte(seen), 0o600); err != nil {
			return 1
		}
		u, _ := url.Parse(address)
		left = u.Query().Get("redirect_uri") + "?" + url.Values{"code": {"the-code"}, "state": {u.Query().Get("state")}}.Encode()
	} else if to, text, err := (testoidc.Person{Name: "ada", Client: http.DefaultClient}).Visit(address); err != nil || to == "" {
		fmt.Fprintln(os.Stderr, "person: stopped at", text, err)
		return 1
	} else {
		left = to
	}
	resp, err := http.Get(left)
	if err != nil {
		return 1
	}
	return resp.StatusCode - http.StatusOK
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
	return loginWorld{world{port: u.Port(), roots: roots}, s, s.Issuer + "/me"}.home(t, inject)
}

// home is w with another home and other rules.
func (w loginWorld) home(t *testing.T, inject string) loginWorld {
	t.Helper()
	w.world.home = t.TempDir()
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
	if err := installRules(file, w.world.home, w.port); err != nil {
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
	store, err := secrets.OpenStore(secrets.StoreConfig{State: filepath.Join(w.world.home, ".local", "state", "credproxy"), Backend: "file"})
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
	ca, err := os.ReadFile(filepath.Join(w.world.home, ".local", "state", "credproxy", "ca", "ca.pem"))
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

// wantSoon asks until the answer has all of want: a proxy hears of another process within 100 ms, which is much longer on a
// busy machine.
func (w loginWorld) wantSoon(t *testing.T, client *http.Client, want ...string) {
	t.Helper()
	for began := time.Now(); ; {
		got := w.ask(t, client)
		missing := slices.DeleteFunc(slices.Clone(want), func(part string) bool { return strings.Contains(got, part) })
		if len(missing) == 0 {
			return
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Fatalf("after %s got %s, want %s", took, got, missing)
		}
	}
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
	w.wantSoon(t, client, `200 {"sub":"ada"}`)
	t.Logf("in use %s after login", time.Since(began))
	if kept := w.stored(t, "me"); !strings.Contains(kept, `"refresh_token"`) || strings.Contains(kept, "access_token") {
		t.Errorf("the keyring has no sign-in with a refresh token")
	} else if refresh := kept[strings.Index(kept, `":"`)+3:][:20]; strings.Contains(string(said), refresh) {
		t.Errorf("the refresh token is shown")
	}

	out, err := w.command(t, "logout", "me").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "signed out of rule me: removed keyring:me from file keyring, and revoked at 127.0.0.1:") {
		t.Errorf("logout: %v\n%s", err, out)
	}
	w.wantSoon(t, client, "502 ", signInFirstHint)
	if kept := w.stored(t, "me"); kept != "" {
		t.Error("after logout something is left in the keyring")
	}
	out, err = w.command(t, "logout", "me").CombinedOutput()
	if err != nil || string(out) != "nobody is signed in for rule me; nothing is changed\n" {
		t.Errorf("logout a second time: %v\n%s", err, out)
	}
}

// TestLoginByHand: what the person's browser does after the sign-in, at a real server, and what comes of it.
func TestLoginByHand(t *testing.T) {
	t.Parallel()
	get := func(t *testing.T, address string) (int, string) {
		resp, err := http.Get(address)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	tests := []struct {
		name string
		args []string
		back func(t *testing.T, w loginWorld, s *signingIn, address string)
		want string // part of what login says; empty: it succeeds
	}{
		{"comes back", []string{"--no-browser"}, func(t *testing.T, w loginWorld, _ *signingIn, address string) {
			if status, page := get(t, w.sent(t, address)); status != 200 || !strings.Contains(page, "<h1>Signed in</h1>") {
				t.Errorf("the browser shows %d %s", status, page)
			}
		}, ""},
		{"is pasted", []string{"--no-browser"}, func(t *testing.T, w loginWorld, s *signingIn, address string) {
			fmt.Fprintf(s.stdin, "\nhello\nhttp://127.0.0.1:1/callback?code=x\n%s#_\n", w.sent(t, address))
		}, ""},
		{"comes back after the input has ended", []string{"--no-browser"}, func(t *testing.T, w loginWorld, s *signingIn, address string) {
			_ = s.stdin.Close()
			get(t, w.sent(t, address))
		}, ""},
		{"a port of one's own", []string{"--no-browser", "--port", "$PORT"}, func(t *testing.T, w loginWorld, _ *signingIn, address string) {
			get(t, w.sent(t, address))
		}, ""},
		{"wrong state", []string{"--no-browser"}, func(t *testing.T, w loginWorld, _ *signingIn, address string) {
			back := regexp.MustCompile(`state=[^&]+`).ReplaceAllString(w.sent(t, address), "state=AAAAAAAAAAAAAAAAAAAAAAAAAA")
			if status, page := get(t, back); status != 400 || !strings.Contains(page, "Not signed in") {
				t.Errorf("the browser shows %d %s", status, page)
			}
		}, "the redirect has the wrong state: it does not belong to this sign-in"},
		{"wrong state, pasted", []string{"--no-browser"}, func(t *testing.T, w loginWorld, s *signingIn, address string) {
			fmt.Fprintln(s.stdin, regexp.MustCompile(`state=[^&]+`).ReplaceAllString(w.sent(t, address), "state=A"))
		}, "the redirect has the wrong state"},
		{"a code of somebody else", []string{"--no-browser"}, func(t *testing.T, w loginWorld, _ *signingIn, address string) {
			get(t, regexp.MustCompile(`code=[^&]+`).ReplaceAllString(w.sent(t, address), "code=AAAAAAAAAAAAAAAAAAAAAAAAAA"))
		}, "invalid_grant"},
		{"a code that another proof key has", []string{"--no-browser"}, func(t *testing.T, w loginWorld, _ *signingIn, address string) {
			get(t, w.sent(t, regexp.MustCompile(`code_challenge=[^&]+`).ReplaceAllString(address, "code_challenge="+strings.Repeat("A", 43))))
		}, "invalid_grant"},
		{"another server", []string{"--no-browser"}, func(t *testing.T, w loginWorld, _ *signingIn, address string) {
			get(t, regexp.MustCompile(`iss=[^&]+`).ReplaceAllString(w.sent(t, address), "iss=https://evil.example.com"))
		}, "comes from another server than the one that was asked (iss)"},
		{"no server", []string{"--no-browser"}, func(t *testing.T, w loginWorld, _ *signingIn, address string) {
			get(t, regexp.MustCompile(`&?iss=[^&]+`).ReplaceAllString(w.sent(t, address), ""))
		}, "does not say from which server it comes"},
		{"refuses", []string{"--no-browser"}, func(t *testing.T, w loginWorld, _ *signingIn, address string) {
			left, _, err := testoidc.Person{Name: "ada", Client: w.server.Client, Refuses: true}.Visit(address)
			if err != nil {
				t.Fatal(err)
			}
			if status, page := get(t, left); status != 400 || strings.Contains(page, "denied") {
				t.Errorf("the browser shows %d %s", status, page)
			}
		}, "access_denied"},
		{"never comes back", []string{"--no-browser", "--timeout", "1s"}, func(*testing.T, loginWorld, *signingIn, string) {}, "nobody has signed in within 1s"},
	}
	server := newLoginWorld(t, codeRule)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := server.home(t, codeRule)
			args := append([]string{"me"}, tt.args...)
			for i := range args {
				if args[i] == "$PORT" {
					args[i] = freePort(t)
				}
			}
			s := w.login(t, args...)
			tt.back(t, w, s, s.find(t, signInAddress))
			said, status := s.end(t)
			kept := w.stored(t, "me")
			switch {
			case tt.want == "" && (status != 0 || !strings.Contains(kept, "refresh_token")):
				t.Errorf("exit status %d:\n%s", status, said)
			case tt.want != "" && (status != 1 || kept != "" || !strings.Contains(said, "credproxy: error: signing in for rule me: ") || !strings.Contains(said, tt.want) ||
				!strings.Contains(said, "credproxy: hint: credproxy login me")):
				t.Errorf("exit status %d, want 1 and %q, nothing stored:\n%s", status, tt.want, said)
			}
		})
	}
}

// freePort is a port of 127.0.0.1 that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// TestLoginByDevice is the device grant at a real server, with a person at another browser.
func TestLoginByDevice(t *testing.T) {
	t.Parallel()
	server := newLoginWorld(t, codeRule)
	deviceRule := strings.Replace(codeRule, "authorization_code", "device_code", 1)
	for _, tt := range []struct {
		name, rule string
		args       []string
		refuses    bool
	}{
		{"a rule for it", deviceRule, nil, false},
		{"a rule for browsers", codeRule, []string{"--device"}, false},
		{"refuses", deviceRule, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := server.home(t, tt.rule)
			s := w.login(t, append([]string{"me"}, tt.args...)...)
			s.find(t, `^Enter the code  ([A-Z-]+)  at  https://127.0.0.1:[0-9]+/device$`)
			if _, text, err := (testoidc.Person{Name: "ada", Client: w.server.Client, Refuses: tt.refuses}).Visit(s.find(t, `^or open  (https://\S+)$`)); err != nil && !tt.refuses { // who refuses is asked for a code again and again
				t.Fatalf("the person stopped at %q, %v", text, err)
			}
			said, status := s.end(t)
			kept := w.stored(t, "me")
			if !tt.refuses {
				if status != 0 || !strings.Contains(kept, "refresh_token") {
					t.Fatalf("exit status %d:\n%s", status, said)
				}
				if got := w.ask(t, w.serve(t)); got != `200 {"sub":"ada"}` {
					t.Errorf("got %s", got)
				}
			} else if status != 1 || kept != "" || !strings.Contains(said, "access_denied") {
				t.Errorf("exit status %d:\n%s", status, said)
			}
		})
	}
}

// ^C ends it, whatever it waits for. Nothing is stored, and the port is closed.
func TestLoginInterrupted(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no signals to send")
	}
	server := newLoginWorld(t, codeRule)
	for _, args := range [][]string{{"me", "--no-browser"}, {"me", "--device"}} {
		t.Run(args[1], func(t *testing.T) {
			t.Parallel()
			w := server.home(t, codeRule)
			s := w.login(t, args...)
			s.find(t, `^Waiting for you to sign in, for 5 minutes at most \(Ctrl-C to stop\)\.$`)
			if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			if said, status := s.end(t); status != 130 || strings.Contains(said, "credproxy: ") {
				t.Errorf("exit status %d, want 130:\n%s", status, said)
			}
			if kept := w.stored(t, "me"); kept != "" {
				t.Error("something is stored")
			}
		})
	}
}
