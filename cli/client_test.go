package cli

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
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
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/credproxy/credproxy/certs"
	"github.com/credproxy/credproxy/internal/testneed"
)

// A served world has a proxy of credproxy serve, and an API that says what it got.
type served struct {
	world
	address string        // the proxy's
	said    <-chan string // what serve says
	stop    func()        // as SIGTERM does; waits

	mu    sync.Mutex
	conns int      // that the API got
	asked []string // method and credential of each request
}

// startServed serves rules, with $PORT for the API's port.
func startServed(t *testing.T, rules string, args ...string) *served {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no signals to send")
	}
	s := new(served)
	dir := t.TempDir()
	authority, err := certs.Open(filepath.Join(dir, "upstream"))
	if err != nil {
		t.Fatal(err)
	}
	api := httptest.NewUnstartedServer(s)
	api.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return authority.Leaf("localhost") }}
	api.Config.ErrorLog = log.New(io.Discard, "", 0)
	api.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.conns++
		}
	}
	api.StartTLS()
	t.Cleanup(api.Close)
	_, port, _ := net.SplitHostPort(api.Listener.Addr().String())
	s.world = world{home: filepath.Join(dir, "home"), port: port, roots: authority.Path()}
	file := filepath.Join(dir, "rules.yaml")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := installRules(file, s.home, port); err != nil {
		t.Fatal(err)
	}
	s.start(t, args...)
	return s
}

func (s *served) start(t *testing.T, args ...string) {
	t.Helper()
	if !slices.Contains(args, "--listen") {
		args = append(args, "--listen", "127.0.0.1:0")
	}
	cmd := s.command(t, append([]string{"serve"}, args...)...)
	cmd.Env = append(cmd.Env, "GODEBUG=netdns=go+2", "TOKEN_W=hunter3")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := lines(stderr)
	s.said = said
	s.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
	t.Cleanup(s.stop)
	for line := range said {
		var ok bool
		if s.address, ok = strings.CutPrefix(line, "credproxy: listening on "); ok {
			return
		}
		t.Log(line)
	}
	t.Fatal("serve did not start")
}

// ServeHTTP is the API. A git repository without commits is below /repo.
func (s *served) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, r.Method+" "+r.Header.Get("Authorization")+r.Header.Get("Proxy-Authorization"))
	switch {
	case !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer hunter"):
		w.WriteHeader(http.StatusUnauthorized)
	case r.URL.Path == "/repo/info/refs":
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprintf(w, "%040d\trefs/heads/main\n", 7)
	case r.URL.Path == "/repo/HEAD":
		fmt.Fprint(w, "ref: refs/heads/main\n")
	default:
		fmt.Fprintf(w, "api: %s %s\n", r.Method, r.URL.Path)
	}
}

// got returns what the API got since the last call, and over how many new connections.
func (s *served) got() (asked []string, conns int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked, conns = s.asked, s.conns
	s.asked, s.conns = nil, 0
	return asked, conns
}

// call sends a request to the API directly.
func (s *served) call(t *testing.T) {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: tr}).Get("https://127.0.0.1:" + s.port + "/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

// add makes a client and returns the proxy's URL for it.
func (s *served) add(t *testing.T, name string) *url.URL {
	t.Helper()
	out, err := s.command(t, "client", "add", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(strings.TrimSpace(string(out)))
	if err != nil || u.Host != s.address || u.User.Username() != name {
		t.Fatalf("client add printed %q, %v", out, err)
	}
	return u
}

// fetch sends a request through the proxy at via, in a process of its own, and returns what it said.
func (s *served) fetch(t *testing.T, via, method string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "fetch", "-X", method, "https://localhost:"+s.port+"/x")
	cmd.Env = []string{"HTTPS_PROXY=" + via, "SSL_CERT_FILE=" + s.bundle(t), quickExit}
	out, _ := cmd.CombinedOutput() // a refused CONNECT is an error
	return string(out)
}

// bundle has our CA and the API's, for tunnels that are not opened.
func (s *served) bundle(t *testing.T) string {
	t.Helper()
	var all []byte
	for _, file := range []string{s.roots, filepath.Join(s.state(), "ca", "ca.pem")} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, data...)
	}
	path := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(path, all, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func (s *served) state() string { return filepath.Join(s.home, ".local", "state", "credproxy") }

const readerAndWriter = `
version: 1
default: deny
rules:
  - name: read
    match: {host: localhost, port: $PORT, methods: [GET], clients: [reader, writer]}
    inject: {type: bearer, token: env:TOKEN}
  - name: write
    match: {host: localhost, port: $PORT, methods: [POST], clients: [writer]}
    inject: {type: bearer, token: env:TOKEN_W}
`

// One program may read and another one write the same API. Names are worth nothing without their tokens, and a token that
// was removed is worth nothing either.
func TestClientsHaveRulesOfTheirOwn(t *testing.T) {
	t.Parallel()
	s := startServed(t, readerAndWriter)
	bare := "http://" + s.address
	reader, writer := s.add(t, "reader"), s.add(t, "writer")
	password, _ := reader.User.Password()
	as := func(name, token string) string {
		u := *reader
		u.User = url.UserPassword(name, token)
		return u.String()
	}
	for _, test := range []struct{ name, via, method, want, sent string }{
		{"the reader reads", reader.String(), "GET", "200 OK", "GET Bearer hunter2"},
		{"the reader writes", reader.String(), "POST", "403 Forbidden", ""},
		{"the writer reads", writer.String(), "GET", "200 OK", "GET Bearer hunter2"},
		{"the writer writes", writer.String(), "POST", "200 OK", "POST Bearer hunter3"},
		{"nobody reads", bare, "GET", "no rule names localhost", ""},
		{"the reader by name only", as("reader", ""), "GET", "Proxy Authentication Required|wrong", ""},
		{"the reader's token under the writer's name", as("writer", password), "POST", "wrong", ""},
		{"a guess", as("writer", strings.Repeat("A", 43)), "POST", "wrong", ""},
		{"a name that has a slash", as("../reader", password), "GET", "wrong", ""},
	} {
		out := s.fetch(t, test.via, test.method)
		if !slices.ContainsFunc(strings.Split(test.want, "|"), func(want string) bool { return strings.Contains(out, want) }) {
			t.Errorf("%s: got %q, want %s", test.name, out, test.want)
		}
		asked, _ := s.got()
		if got := strings.Join(asked, ", "); got != test.sent {
			t.Errorf("%s: the API got %q, want %q", test.name, got, test.sent)
		}
	}

	// A tunnel that is open when the token goes ends with it, too.
	send := openAuthenticated(t, s, reader)
	if status := send(); status != http.StatusOK {
		t.Fatalf("in the tunnel: got %d", status)
	}
	if asked, _ := s.got(); !slices.Equal(asked, []string{"GET Bearer hunter2"}) {
		t.Errorf("the API got %q", asked)
	}
	if out, err := s.command(t, "client", "rm", "reader").CombinedOutput(); err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	for end := time.Now().Add(10 * time.Second); send() != http.StatusForbidden; { // on a connection that is open: soon
		if time.Now().After(end) {
			t.Fatal("in the tunnel the token counts on after it was removed")
		}
	}
	s.got()
	if status := send(); status != http.StatusForbidden {
		t.Errorf("in the tunnel, once more: got %d", status)
	}
	if out := s.fetch(t, reader.String(), "GET"); !strings.Contains(out, "wrong") {
		t.Errorf("after the token was removed: got %q", out)
	}
	if asked, _ := s.got(); len(asked) > 0 {
		t.Errorf("after the token was removed the API got %q", asked)
	}
	s.stop()
	checkAudit(t, s, reader, writer)
}

// openAuthenticated opens a tunnel to the API; send sends a request in it.
func openAuthenticated(t *testing.T, s *served, via *url.URL) (send func() (status int)) {
	t.Helper()
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	password, _ := via.User.Password()
	r := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: "localhost:" + s.port}, Host: "localhost:" + s.port, Header: http.Header{}}
	r.SetBasicAuth(via.User.Username(), password)
	r.Header["Proxy-Authorization"] = r.Header["Authorization"]
	delete(r.Header, "Authorization")
	if err := r.Write(conn); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	if resp, err := http.ReadResponse(in, r); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("CONNECT: %v, %v", resp, err)
	}
	data, err := os.ReadFile(s.bundle(t))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(data)
	secure := tls.Client(conn, &tls.Config{ServerName: "localhost", RootCAs: roots})
	in = bufio.NewReader(secure)
	return func() int {
		// A token inside the tunnel is the server's business, and says nothing about who is asking.
		fmt.Fprintf(secure, "GET /x HTTP/1.1\r\nHost: localhost:%s\r\nProxy-Authorization: Basic d3JpdGVyOng=\r\n\r\n", s.port)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
}

// checkAudit looks for who asked, and for tokens.
func checkAudit(t *testing.T, s *served, urls ...*url.URL) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.state(), "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"client":"reader"`, `"client":"writer"`, `"error":"proxy_auth"`, `"error":"client_unknown"`, "a wrong token, from user"} {
		if !strings.Contains(string(data), want) && (runtime.GOOS == "linux" || !strings.Contains(want, "user")) {
			t.Errorf("the audit log lacks %s:\n%s", want, data)
		}
	}
	for _, u := range urls {
		if token, _ := u.User.Password(); strings.Contains(string(data), token) {
			t.Error("a token is in the audit log")
		}
	}
}

// Nothing is looked up and nobody is called before it is known who is asking.
func TestNothingBeforeAuthentication(t *testing.T) {
	t.Parallel()
	s := startServed(t, "{version: 1, rules: []}", "--require-token")
	client := s.add(t, "ci")
	known := basicOf(client)
	for _, test := range []struct {
		name, request string
		credentials   string
		found         bool // whether the name is looked up and the API called
	}{
		{"CONNECT", "CONNECT HOST HTTP/1.1\r\nHost: HOST\r\n", "", false},
		{"CONNECT with a wrong token", "CONNECT HOST HTTP/1.1\r\nHost: HOST\r\n", "Proxy-Authorization: Basic Y2k6eA==\r\n", false},
		{"a request", "GET http://HOST/ HTTP/1.1\r\nHost: HOST\r\n", "", false},
		{"a request with a wrong token", "GET http://HOST/ HTTP/1.1\r\nHost: HOST\r\n", "Proxy-Authorization: Basic Y2k6eA==\r\n", false},
		{"two tokens", "GET http://HOST/ HTTP/1.1\r\nHost: HOST\r\n", known + known, false},
		{"a token that Connection names", "GET http://HOST/ HTTP/1.1\r\nHost: HOST\r\nConnection: Proxy-Authorization\r\n", "", false},
		{"connect with the token", "CONNECT HOST HTTP/1.1\r\nHost: HOST\r\n", known, true},
		{"a request with the token", "GET http://HOST/ HTTP/1.1\r\nHost: HOST\r\n", known, true},
	} {
		for _, host := range []string{"name-" + strings.ReplaceAll(test.name, " ", "-") + ".invalid:443", "127.0.0.1:" + s.port} {
			conn, err := net.Dial("tcp", s.address)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(conn, strings.ReplaceAll(test.request, "HOST", host)+test.credentials+"\r\n")
			_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatalf("%s: %v", test.name, err)
			}
			if (resp.StatusCode == http.StatusProxyAuthRequired) == test.found {
				t.Errorf("%s to %s: got %s", test.name, host, resp.Status)
			}
			conn.Close()
		}
		s.call(t) // accepted after all that were there before
		if _, conns := s.got(); conns > 1 != test.found {
			t.Errorf("%s: %d connections to the API", test.name, conns)
		}
	}
	s.stop()
	var looked []string
	for line := range s.said {
		if _, name, ok := strings.Cut(line, "hostLookupOrder("); ok {
			looked = append(looked, name[:strings.Index(name, ")")])
		}
	}
	slices.Sort(looked)
	if want := []string{"name-a-request-with-the-token.invalid", "name-connect-with-the-token.invalid"}; !slices.Equal(slices.Compact(looked), want) {
		t.Errorf("looked up %q, want %q", looked, want)
	}
}

// basicOf is the header line that a client sends for u.
func basicOf(u *url.URL) string {
	r := http.Request{Header: http.Header{}}
	password, _ := u.User.Password()
	r.SetBasicAuth(u.User.Username(), password)
	return "Proxy-Authorization: " + r.Header.Get("Authorization") + "\r\n"
}

// On an address that other machines can reach, everybody needs a token, also who calls from this machine.
func TestServeForOtherMachines(t *testing.T) {
	t.Parallel()
	s := startServed(t, readerAndWriter)
	token := s.add(t, "reader").User
	s.stop()
	s.start(t, "--listen", "0.0.0.0:0")
	_, port, _ := net.SplitHostPort(s.address)
	for _, test := range []struct {
		name, want string
		user       *url.Userinfo
	}{
		{"no token", "wants a token", nil},
		{"a wrong token", "wrong", url.UserPassword("reader", "x")},
		{"its token", "200 OK", token},
	} {
		via := &url.URL{Scheme: "http", Host: "127.0.0.1:" + port, User: test.user}
		if out := s.fetch(t, via.String(), "GET"); !strings.Contains(out, test.want) {
			t.Errorf("%s: got %q, want %s", test.name, out, test.want)
		}
	}
	// This user's programs find theirs in the environment.
	out, err := s.command(t, "env", "--shell", "json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var env map[string]*string
	if err := json.Unmarshal(out, &env); err != nil {
		t.Fatal(err)
	}
	if out := s.fetch(t, *env["HTTPS_PROXY"], "POST"); !strings.Contains(out, "no rule names localhost") {
		t.Errorf("with the local token: got %q, want the rules' answer", out)
	}
	if out, err := s.command(t, "client", "rm", "reader").CombinedOutput(); err != nil {
		t.Fatalf("%s, %v", out, err)
	}
	if out := s.fetch(t, (&url.URL{Scheme: "http", Host: "127.0.0.1:" + port, User: token}).String(), "GET"); !strings.Contains(out, "wrong") {
		t.Errorf("after the last client was removed: got %q", out)
	}
}

// A run under a name gets what the rules say for it.
func TestRunAs(t *testing.T) {
	t.Parallel()
	s := startServed(t, readerAndWriter)
	for _, test := range []struct{ as, method, want string }{
		{"reader", "GET", "200 OK"}, {"reader", "POST", "403 Forbidden"}, {"writer", "POST", "200 OK"}, {"run", "GET", "no rule names localhost"},
	} {
		cmd := s.command(t, "run", "--as", test.as, "--", "fetch", "-X", test.method, "https://localhost:"+s.port+"/x")
		cmd.Env = append(cmd.Env, "TOKEN_W=hunter3")
		if out, _ := cmd.CombinedOutput(); !strings.Contains(string(out), test.want) { // a refused CONNECT is an error
			t.Errorf("%s %s: got %q, want %s", test.as, test.method, out, test.want)
		}
	}
}

// TestClientsWithTokens runs real programs with the environment that client add prints, over CONNECT and plain HTTP.
func TestClientsWithTokens(t *testing.T) {
	t.Parallel()
	s := startServed(t, `{version: 1, default: deny, rules: [{name: api, match: {host: localhost, port: $PORT, clients: [ci]}, inject: {type: bearer, token: env:TOKEN}}]}`, "--require-token")
	out, err := s.command(t, "client", "add", "ci", "--shell", "json").Output()
	if err != nil {
		t.Fatal(err)
	}
	var env map[string]*string
	if err := json.Unmarshal(out, &env); err != nil {
		t.Fatal(err)
	}
	urllib := "import sys,urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
	requests := "import sys,requests; print(requests.get(sys.argv[1]).text)"
	aiohttp := `
import sys, asyncio, aiohttp
async def main():
    async with aiohttp.ClientSession(trust_env=True) as session:
        async with session.get(sys.argv[1]) as response:
            print(await response.text())
asyncio.run(main())`
	const api = "https://localhost:$PORT/user"
	for _, test := range []struct {
		name    string
		program func(*testing.T) string
		args    []string
		want    string
	}{
		{"curl", program("curl"), []string{"-sS", api}, "api: GET /user"},
		{"curl that asks first", program("curl"), []string{"-sS", "--proxy-anyauth", api}, "api: GET /user"},
		{"wget", program("wget"), []string{"-q", "-O", "-", api}, "api: GET /user"},
		{"urllib", program("python3"), []string{"-c", urllib, api}, "api: GET /user"},
		{"requests", python("requests"), []string{"-c", requests, api}, "api: GET /user"},
		{"aiohttp", python("aiohttp"), []string{"-c", aiohttp, api}, "api: GET /user"},
		{"git", program("git"), []string{"ls-remote", "https://localhost:$PORT/repo"}, "refs/heads/main"},
		{"git that asks first", program("git"), []string{"-c", "http.proxyAuthMethod=anyauth", "ls-remote", "https://localhost:$PORT/repo"}, "refs/heads/main"},
		{"Go", program("fetch"), []string{api}, "api: GET /user"},
		{"Node with a proxy of its own", program("node"), []string{"testdata/connect.mjs", "localhost:$PORT"}, "api: GET /user"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), test.program(t))
			for _, arg := range test.args {
				cmd.Args = append(cmd.Args, strings.ReplaceAll(arg, "$PORT", s.port))
			}
			cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "GIT_TERMINAL_PROMPT=0", quickExit}
			for name, value := range env {
				if value != nil && (test.name != "git that asks first" || name != "GIT_HTTP_PROXY_AUTHMETHOD") {
					cmd.Env = append(cmd.Env, name+"="+*value)
				}
			}
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), test.want) {
				t.Errorf("got %q, %v, want %s", out, err, test.want)
			}
		})
	}
}

// What a client with a wrong token shows has the way out in it.
func TestClientsWithWrongTokens(t *testing.T) {
	t.Parallel()
	s := startServed(t, "{version: 1, rules: []}", "--require-token")
	curl := testneed.Program(t, "curl")
	for _, url := range []string{"https://localhost:" + s.port + "/", "http://localhost:" + s.port + "/"} {
		for _, flag := range []string{"--proxy-basic", "--proxy-anyauth"} {
			cmd := exec.CommandContext(t.Context(), curl, "-sS", "-v", "--max-time", "10", flag, "--proxy-user", "ci:x", "-x", "http://"+s.address, url)
			out, _ := cmd.CombinedOutput() // a refused CONNECT is an error
			if !strings.Contains(string(out), "407 ") || !strings.Contains(string(out), `Proxy-Authenticate: Basic realm="credproxy"`) {
				t.Errorf("%s %s: got %s", flag, url, out)
			}
		}
	}
}
