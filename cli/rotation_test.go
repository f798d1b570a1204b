package cli

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/credproxy/credproxy/certs"
	"github.com/fsnotify/fsnotify"
)

// A rotating is a token endpoint that takes each refresh token once, and none any more when one comes twice.
type rotating struct {
	mu      sync.Mutex
	issued  int
	valid   string
	dead    bool
	arrived func() bool // a token request is there; true: it is lost on its way
	gone    func()      // the answer is on its way
}

func (a *rotating) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.arrived() {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	if a.dead || r.PostForm.Get("refresh_token") != a.valid {
		a.dead = true
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"invalid_grant"}`)
		return
	}
	a.issued++
	a.valid = fmt.Sprintf("refresh-%d", a.issued)
	body := fmt.Sprintf(`{"access_token":"access-%d","expires_in":3600,"refresh_token":%q}`, a.issued, a.valid)
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	a.gone()
	_, _ = io.WriteString(w, body)
}

// TestKilledWhileRenewing kills a proxy with SIGKILL at each step of a request that needs a new token, one that comes
// with a new refresh token. The next proxy works, and asks for a token once.
func TestKilledWhileRenewing(t *testing.T) {
	t.Parallel()
	steps := []struct {
		name   string
		issued int // tokens for both proxies
	}{
		{"the token request is on its way", 1},
		{"the new refresh token is being written", 2},
		{"the new refresh token is in its place", 2},
		{"the upstream has the request", 2},
		{"the client has half of the answer", 2},
	}
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			authority, err := certs.Open(filepath.Join(dir, "upstream"))
			if err != nil {
				t.Fatal(err)
			}
			kill := make(chan string, 8) // how far it got
			reached := func(name string) {
				select {
				case kill <- name:
				default: // the second proxy gets further than anyone listens
				}
			}
			a := &rotating{valid: "refresh-0", gone: func() {}}
			login := httptest.NewServer(a)
			t.Cleanup(login.Close)
			port, upstream := slowUpstream(t, authority, func() { reached("the upstream has the request") })
			w := world{home: filepath.Join(dir, "home"), port: port, roots: authority.Path()}
			rules := filepath.Join(dir, "rules.yaml")
			text := `{version: 1, rules: [{name: service, match: {host: localhost, port: $PORT}, inject: {type: oauth2_refresh_token, token_url: "` + login.URL + `", client_id: app, refresh_token: keyring:rt}}]}`
			if err := os.WriteFile(rules, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := installRules(rules, w.home, port); err != nil {
				t.Fatal(err)
			}
			set := w.command(t, "secret", "set", "rt")
			set.Stdin = strings.NewReader("refresh-0")
			if out, err := set.CombinedOutput(); err != nil {
				t.Fatalf("secret set: %v\n%s", err, out)
			}

			first, proxy := w.serve(t)
			if strings.Contains(step.name, "refresh token") {
				a.gone = sync.OnceFunc(func() { watchKeyring(t, w, reached) })
			}
			var killed atomic.Bool
			a.arrived = func() (lost bool) {
				reached("the token request is on its way")
				return step.name == "the token request is on its way" && !killed.Load()
			}
			answer := make(chan struct{})
			go func() {
				defer close(answer)
				if resp, err := w.client(t, proxy).Get("https://localhost:" + port + "/"); err == nil {
					reached("the client has half of the answer")
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
				}
			}()
			for got := range kill {
				if got == step.name {
					break
				}
			}
			if err := first.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = first.Wait()
			killed.Store(true)
			<-answer
			upstream.finish()

			second, proxy := w.serve(t)
			resp, err := w.client(t, proxy).Get("https://localhost:" + port + "/")
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("after the kill: %s, %s, %v", resp.Status, body, err)
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.issued != step.issued || a.dead {
				t.Errorf("%d tokens, and the server saw an old one: %v; want %d and no", a.issued, a.dead, step.issued)
			}
			_ = second.Process.Kill()
			_ = second.Wait()
		})
	}
}

// serve starts a proxy, and returns its address.
func (w world) serve(t *testing.T) (*exec.Cmd, string) {
	t.Helper()
	cmd := w.command(t, "serve", "--listen", "127.0.0.1:0")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := lines(stderr)
	first := <-said
	go func() {
		for range said { // or it would wait for us
		}
	}()
	address, ok := strings.CutPrefix(first, "credproxy: listening on ")
	if !ok {
		t.Fatalf("got %q", first)
	}
	return cmd, address
}

// client goes through the proxy at address.
func (w world) client(t *testing.T, address string) *http.Client {
	t.Helper()
	authority, err := certs.Open(filepath.Join(w.home, ".local", "state", "credproxy", "ca"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(authority.Path())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	tr := &http.Transport{
		Proxy:           http.ProxyURL(&url.URL{Scheme: "http", Host: address}),
		TLSClientConfig: &tls.Config{RootCAs: roots},
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// A slow upstream sends half of its answer, and the rest only after finish.
type slow struct {
	release chan struct{}
	once    sync.Once
}

func (s *slow) finish() { s.once.Do(func() { close(s.release) }) }

func slowUpstream(t *testing.T, authority *certs.Authority, got func()) (port string, s *slow) {
	t.Helper()
	s = &slow{release: make(chan struct{})}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer access-") {
			http.Error(w, "not authenticated", http.StatusUnauthorized)
			return
		}
		got()
		w.Header().Set("Content-Length", "8")
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		<-s.release
		_, _ = io.WriteString(w, "half")
	}))
	server.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return authority.Leaf("localhost") }}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(func() {
		s.finish()
		server.Close()
	})
	_, port, _ = net.SplitHostPort(server.Listener.Addr().String())
	return port, s
}

// watchKeyring tells of what happens in the file keyring from now on.
func watchKeyring(t *testing.T, w world, reached func(string)) {
	state := filepath.Join(w.home, ".local", "state", "credproxy")
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		t.Error(err)
		return
	}
	t.Cleanup(func() { _ = watcher.Close() })
	keyring := filepath.Join(state, "keyring")
	for _, dir := range []string{state, keyring} {
		if err := watcher.Add(dir); err != nil {
			t.Error(err)
		}
	}
	go func() {
		for e := range watcher.Events {
			switch {
			case filepath.Dir(e.Name) == state && e.Op == fsnotify.Create && strings.Contains(filepath.Base(e.Name), "stage"):
				reached("the new refresh token is being written")
			case filepath.Dir(e.Name) == keyring && e.Op == fsnotify.Create:
				reached("the new refresh token is in its place")
			}
		}
	}()
}
