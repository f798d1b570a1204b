package cli

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/credproxy/credproxy/certs"
)

// An easyServer is an authorization server that believes everything, for what a real one does not do. Its token answer
// waits for gate, if there is one.
type easyServer struct {
	*httptest.Server
	asked chan url.Values // token and revocation requests
	gate  chan struct{}

	mu     sync.Mutex
	token  string // the token endpoint's answer, or its status
	revoke int    // the revocation endpoint's status
}

func newEasyServer(t *testing.T, token string) *easyServer {
	t.Helper()
	s := &easyServer{asked: make(chan url.Values, 16), token: token, revoke: http.StatusOK}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *easyServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	s.asked <- r.PostForm
	if s.gate != nil {
		<-s.gate
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.URL.Path == "/revoke" {
		w.WriteHeader(s.revoke)
		return
	}
	if status, err := strconv.Atoi(s.token); err == nil {
		w.WriteHeader(status)
	}
	_, _ = io.WriteString(w, s.token)
}

func (s *easyServer) answers(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.token = token
}

func (s *easyServer) rule(more string) string {
	return fmt.Sprintf("{type: oauth2_authorization_code, auth_url: %[1]s/authorize, token_url: %[1]s/token, client_id: app, refresh_token: keyring:me%[2]s}", s.URL, more)
}

// newEasyWorld is a home with a rule for an upstream that wants "Bearer hunter2", for which people sign in at s.
func newEasyWorld(t *testing.T, inject string) loginWorld {
	t.Helper()
	dir := t.TempDir()
	authority, err := certs.Open(filepath.Join(dir, "upstream"))
	if err != nil {
		t.Fatal(err)
	}
	port, stop := newUpstream(authority)
	t.Cleanup(stop)
	w := loginWorld{world: world{home: filepath.Join(dir, "home"), port: port, roots: authority.Path()}, me: "https://localhost:" + port + "/"}
	file := filepath.Join(dir, "rules.yaml")
	if err := os.WriteFile(file, []byte("version: 1\nrules:\n  - name: me\n    match: {host: localhost, port: $PORT}\n    inject: "+inject+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := installRules(file, w.world.home, port); err != nil {
		t.Fatal(err)
	}
	return w
}

// backFrom is where a server sends the browser that has come to address, with a code.
func backFrom(t *testing.T, address string) *url.URL {
	t.Helper()
	asked, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	back, err := url.Parse(asked.Query().Get("redirect_uri"))
	if err != nil {
		t.Fatal(err)
	}
	back.RawQuery = url.Values{"code": {"the-code"}, "state": {asked.Query().Get("state")}}.Encode()
	return back
}

const tokenAnswer = `{"access_token":"hunter2","refresh_token":"a-refresh-token"}`

// TestStrangersAtTheLoginPort: other programs and pages of the browser knock at the port, and are no obstacle.
func TestStrangersAtTheLoginPort(t *testing.T) {
	t.Parallel()
	s := newEasyServer(t, tokenAnswer)
	w := newEasyWorld(t, s.rule(""))
	login := w.login(t, "me", "--no-browser")
	back := backFrom(t, login.find(t, signInAddress))
	knock := func(method, path, query, host string, header ...string) int {
		t.Helper()
		req, err := http.NewRequest(method, "http://"+back.Host, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.URL.Opaque = path + "?" + query
		if req.Host = host; host == "" {
			req.Host = back.Host
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		defer resp.Body.Close()
		page, err := io.ReadAll(resp.Body)
		if err != nil && resp.StatusCode != 431 || strings.Contains(string(page), "the-code") || resp.StatusCode < 431 && (resp.Header.Get("Cache-Control") != "no-store" ||
			resp.Header.Get("Referrer-Policy") != "no-referrer" || resp.Header.Get("Content-Security-Policy") == "") {
			t.Errorf("%s %s: the page is %q, %v, %v", method, path, page, resp.Header, err)
		}
		return resp.StatusCode
	}
	good := back.RawQuery
	for _, tt := range []struct {
		name string
		got  int
		want int
	}{
		{"a name that leads here", knock("GET", "/callback", good, "evil.example.com"), 421},
		{"the name of this machine", knock("GET", "/callback", good, "localhost:"+back.Port()), 421},
		{"another path", knock("GET", "/", good, ""), 404},
		{"a longer path", knock("GET", "/callback/", good, ""), 404},
		{"a path in disguise", knock("GET", "/%63allback", good, ""), 404},
		{"a form", knock("POST", "/callback", good, ""), 405},
		{"a question whether it may ask", knock("OPTIONS", "/callback", good, ""), 405},
		{"a picture", knock("GET", "/callback", good, "", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"), 403},
		{"a frame", knock("GET", "/callback", good, "", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"), 403},
		{"nothing", knock("GET", "/callback", "", ""), 400},
		{"a query that is none", knock("GET", "/callback", "a=%zz;", ""), 400},
		{"a huge query", knock("GET", "/callback", strings.Repeat("x", 100<<10), ""), 431},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: got %d, want %d", tt.name, tt.got, tt.want)
		}
	}
	// A crowd that says nothing.
	crowd := make([]net.Conn, 500)
	for i := range crowd {
		conn, err := net.Dial("tcp", back.Host)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		crowd[i] = conn
	}
	knock("GET", "/", "", "") // those before it have been seen
	open := 0
	for _, conn := range crowd {
		_ = conn.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			open++
		}
	}
	if open > maxReturns {
		t.Errorf("%d connections of the crowd are open, want at most %d", open, maxReturns)
	}
	resp, err := http.Get(back.String())
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the browser itself: %v, %v", resp, err)
	}
	_ = resp.Body.Close()
	if said, status := login.end(t); status != 0 || !strings.Contains(w.stored(t, "me"), "a-refresh-token") {
		t.Errorf("exit status %d:\n%s", status, said)
	}
	if _, err := net.Dial("tcp", back.Host); err == nil {
		t.Error("the port is still open")
	}
}

// TestBrowserComesBackTwice: while the code is on its way to the server somebody comes with it again.
func TestBrowserComesBackTwice(t *testing.T) {
	t.Parallel()
	s := newEasyServer(t, tokenAnswer)
	s.gate = make(chan struct{})
	w := newEasyWorld(t, s.rule(""))
	login := w.login(t, "me", "--no-browser")
	back := backFrom(t, login.find(t, signInAddress))
	first := make(chan int, 1)
	go func() {
		resp, err := http.Get(back.String())
		if err != nil {
			first <- 0
			return
		}
		_ = resp.Body.Close()
		first <- resp.StatusCode
	}()
	<-s.asked
	resp, err := http.Get(back.String())
	if err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("the second time: %v, %v", resp, err)
	} else {
		_ = resp.Body.Close()
	}
	close(s.gate)
	if status := <-first; status != http.StatusBadRequest {
		t.Errorf("the browser got %d, want 400", status)
	}
	said, status := login.end(t)
	if status != 1 || w.stored(t, "me") != "" || !strings.Contains(said, "the browser came back twice") || strings.Contains(said, "a-refresh-token") {
		t.Errorf("exit status %d:\n%s", status, said)
	}
	if len(s.asked) != 0 {
		t.Error("the code was sent twice")
	}
}

// TestLoginWithoutRefreshToken: the access token serves until it is refused. Then only a new sign-in helps, and it helps
// at once.
func TestLoginWithoutRefreshToken(t *testing.T) {
	t.Parallel()
	s := newEasyServer(t, `{"access_token":"stale-token","token_type":"bearer","scope":"a"}`)
	w := newEasyWorld(t, s.rule(", revocation_url: "+s.URL+"/revoke"))
	client := w.serve(t)
	signIn := func(answer, want string) {
		t.Helper()
		s.answers(answer)
		login := w.login(t, "me", "--no-browser")
		if resp, err := http.Get(backFrom(t, login.find(t, signInAddress)).String()); err == nil {
			_ = resp.Body.Close()
		}
		if said, status := login.end(t); status != 0 || !strings.Contains(said, want) || strings.Contains(said, "-token") {
			t.Errorf("exit status %d:\n%s", status, said)
		}
	}
	wantAnswer := func(want ...string) { t.Helper(); w.wantSoon(t, client, want...) }
	signIn(`{"access_token":"stale-token"}`, "sign in again once its access token is refused")
	wantAnswer("401 ", "upstream: not authenticated")
	wantAnswer("502 ", "urn:credproxy:token_expired", signInFirstHint)
	signIn(`{"access_token":"hunter2","expires_in":5184000}`, "signed in for rule me; replaced keyring:me in file keyring\nthe server gave no refresh token: sign in again after ")
	wantAnswer("200 ", "upstream: authenticated")

	// The server does not take it back.
	s.mu.Lock()
	s.revoke = http.StatusInternalServerError
	s.mu.Unlock()
	out, err := w.command(t, "logout", "me").CombinedOutput()
	if code := exitOf(err); code != 1 || !strings.Contains(string(out), "signed out of rule me: removed keyring:me") ||
		!strings.Contains(string(out), "credproxy: error: the server was not told: revocation endpoint 127.0.0.1:") {
		t.Errorf("logout: exit status %d\n%s", code, out)
	}
	wantAnswer("502 ", "urn:credproxy:secret_missing", signInFirstHint)
	var last url.Values
	for len(s.asked) > 0 {
		last = <-s.asked
	}
	if last.Encode() != "client_id=app&token=hunter2&token_type_hint=access_token" {
		t.Errorf("the revocation request was %s", last.Encode())
	}
}

func exitOf(err error) int {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	return 0
}

func TestLogoutWithoutRevocation(t *testing.T) {
	t.Parallel()
	s := newEasyServer(t, tokenAnswer)
	w := newEasyWorld(t, s.rule(""))
	set := w.command(t, "secret", "set", "me") // a refresh token from elsewhere
	set.Stdin = strings.NewReader("a-refresh-token")
	if out, err := set.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := w.command(t, "logout", "me").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "the server cannot revoke it, so it is good there until it ends") || w.stored(t, "me") != "" || len(s.asked) != 0 {
		t.Errorf("%v: %s", err, out)
	}
}

// A refusal that is no matter of the person's says what to look at.
func TestLoginRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ answer, said, hint string }{
		{`{"error":"invalid_client","error_description":"\u001b[31mno the-code"}`, "invalid_client", "credproxy secret set app-secret"},
		{`{"error":"invalid_scope"}`, "invalid_scope", "check client_id, client_auth, scopes and audience in the rules file"},
		{`{"error":"invalid_grant"}`, "invalid_grant", "credproxy login me"},
		{`{"access_token":"a\nb","refresh_token":"a-refresh-token"}`, "access_token has characters that a header cannot carry", "check token_url"},
		{`{"access_token":"a","refresh_token":"a-refresh-token","token_type":"mac"}`, "token_type is not Bearer", "check token_url"},
		{"503", "HTTP status 503", "credproxy login me"},
		{"<p>", "the answer is not a JSON object", "check token_url"},
	} {
		s := newEasyServer(t, tt.answer)
		w := newEasyWorld(t, s.rule(", client_secret: env:TOKEN"))
		if strings.Contains(tt.hint, "app-secret") {
			w = newEasyWorld(t, s.rule(", client_secret: keyring:app-secret"))
			set := w.command(t, "secret", "set", "app-secret")
			set.Stdin = strings.NewReader("a-secret")
			if out, err := set.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		login := w.login(t, "me", "--no-browser")
		if resp, err := http.Get(backFrom(t, login.find(t, signInAddress)).String()); err == nil {
			_ = resp.Body.Close()
		}
		said, status := login.end(t)
		if status != 1 || w.stored(t, "me") != "" || !strings.Contains(said, tt.said) || !strings.Contains(said, "credproxy: hint: "+tt.hint) ||
			strings.Contains(said, "the-code") || strings.Contains(said, "\x1b") || strings.Contains(said, "a-refresh-token") {
			t.Errorf("%s: exit status %d:\n%s", tt.answer, status, said)
		}
	}
}

// Where the server wants the name localhost, browsers may go to ::1, and whoever listens there would get the code.
func TestLoginPortTaken(t *testing.T) {
	t.Parallel()
	s := newEasyServer(t, tokenAnswer)
	w := newEasyWorld(t, s.rule(", redirect_uri: http://localhost"))
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue // a machine without IPv6
		}
		defer l.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		out, err := w.command(t, "login", "me", "--no-browser", "--port", port).CombinedOutput()
		if exitOf(err) != 1 || !strings.Contains(string(out), "opening port "+port+" for the browser") || !strings.Contains(string(out), "--port N") || strings.Contains(string(out), "state=") {
			t.Errorf("%s: %v, %s", address, err, out)
		}
	}
	login := w.login(t, "me", "--no-browser")
	back := backFrom(t, login.find(t, signInAddress))
	if back.Hostname() != "localhost" || back.Path != "" {
		t.Errorf("the browser comes back to %s", back)
	}
	resp, err := http.Get(back.String())
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if said, status := login.end(t); status != 0 {
		t.Errorf("exit status %d:\n%s", status, said)
	}
}

// A redirect_uri of another computer comes back by paste only.
func TestLoginByPasteOnly(t *testing.T) {
	t.Parallel()
	s := newEasyServer(t, tokenAnswer)
	w := newEasyWorld(t, s.rule(", redirect_uri: 'https://app.example.com/back'"))
	login := w.login(t, "me", "--no-browser")
	back := backFrom(t, login.find(t, signInAddress))
	fmt.Fprintln(login.stdin, back)
	if said, status := login.end(t); status != 0 || !strings.Contains(w.stored(t, "me"), "a-refresh-token") {
		t.Errorf("exit status %d:\n%s", status, said)
	}
	if form := <-s.asked; form.Get("redirect_uri") != "https://app.example.com/back" || back.Host != "app.example.com" {
		t.Errorf("redirect_uri %s", form.Get("redirect_uri"))
	}
	login = w.login(t, "me", "--no-browser")
	login.find(t, signInAddress)
	_ = login.stdin.Close()
	if said, status := login.end(t); status != 1 || !strings.Contains(said, "the input ended before the address came") {
		t.Errorf("exit status %d:\n%s", status, said)
	}
}

// The browser is a program that gets the address as one argument, and nothing of ours.
func TestBrowserIsStarted(t *testing.T) {
	t.Parallel()
	s := newEasyServer(t, tokenAnswer)
	w := newEasyWorld(t, s.rule(", auth_extra: {note: \"$(touch /tmp/x); 'a' & b\"}"))
	file := filepath.Join(t.TempDir(), "seen")
	cmd := w.command(t, "login", "me")
	cmd.Env = append(cmd.Env, "BROWSER=person record="+file+" %s:other", "CREDPROXY_PASSPHRASE=open-sesame")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	seen, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(seen), "open-sesame") || !strings.Contains(string(seen), "HOME=") {
		t.Errorf("the browser's environment is\n%s", seen)
	}
	if first, _, _ := strings.Cut(string(seen), "\n"); !strings.HasPrefix(first, "3 "+s.URL+"/authorize?") || !strings.Contains(first, "%24%28touch") {
		t.Errorf("the browser's arguments are %s", first)
	}
}

func TestBrowserCommand(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		goos string
		env  map[string]string
		want string
	}{
		{"linux", nil, ""},
		{"linux", map[string]string{"DISPLAY": ":0"}, "xdg-open|%s"},
		{"linux", map[string]string{"WAYLAND_DISPLAY": "wayland-0"}, "xdg-open|%s"},
		{"linux", map[string]string{"BROWSER": "firefox"}, "firefox|%s"},
		{"linux", map[string]string{"BROWSER": "firefox -P work --url=%s:w3m", "DISPLAY": ":0"}, "firefox|-P|work|--url=%s"},
		{"darwin", nil, "open|%s"},
		{"windows", nil, "rundll32|url.dll,FileProtocolHandler|%s"},
	} {
		if got := strings.Join(browserCommand(tt.goos, func(name string) string { return tt.env[name] }), "|"); got != tt.want {
			t.Errorf("%s, %v: got %s, want %s", tt.goos, tt.env, got, tt.want)
		}
	}
	for _, address := range []string{"file:///etc/passwd", "javascript:alert(1)", "-P", ""} {
		if err := openBrowser("true", nil, address); err == nil {
			t.Errorf("%q is opened", address)
		}
	}
}
