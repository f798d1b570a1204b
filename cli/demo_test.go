package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/internal/testneed"
	"github.com/credproxy/credproxy/secrets"
)

// Not parallel: it counts goroutines.
func TestDemoLeavesNothingBehind(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	quickHelpers(t)
	before := runtime.NumGoroutine()
	var out bytes.Buffer
	d := &demo{table: newDemoTable(&out, func() {}), cases: demoCases}
	if err := d.run(t.Context()); err != nil {
		t.Fatalf("got %v, want a demo without a failed line:\n%s", err, &out)
	}
	wantEmpty(t, temp)
	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before && time.Now().Before(deadline) {
		runtime.Gosched() // those that have nothing left to do are about to end
	}
	if n := runtime.NumGoroutine(); n > before {
		var stacks bytes.Buffer
		_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
		t.Errorf("got %d goroutines, want at most %d as before:\n%s", n, before, &stacks)
	}
}

// A newcomer's machine is not tidy.
func TestDemoAsAProgram(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		path   func(t *testing.T) string
		client string
	}{
		{"with curl", func(t *testing.T) string { return filepath.Dir(testneed.Program(t, "curl")) }, "curl, with an empty environment"},
		{"without curl", func(t *testing.T) string { return t.TempDir() }, "Go's net/http (curl is not on PATH)"},
		{"with a curl that does not work", brokenCurl, "/curl does not work here: curl: cannot read /tmp)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			home, temp, bus := t.TempDir(), t.TempDir(), listenBus(t)
			cmd := demoCommand(t, temp,
				"PATH="+test.path(t), "HOME="+home, "DBUS_SESSION_BUS_ADDRESS=unix:path="+bus.path, "XDG_RUNTIME_DIR="+home,
				"HTTP_PROXY=http://127.0.0.1:1", "HTTPS_PROXY=http://127.0.0.1:1", "https_proxy=http://127.0.0.1:1", "ALL_PROXY=socks5://127.0.0.1:1",
				"NO_PROXY=*", "CURL_CA_BUNDLE=/nonexistent", "CREDPROXY_RULES=/nonexistent", "CREDPROXY_STATE=/nonexistent",
				"CREDPROXY_BACKEND=secret-service", "CREDPROXY_PASSPHRASE_FILE=/nonexistent", "CREDPROXY_PASSPHRASE=mine")
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := cmd.Run(); err != nil || stderr.Len() > 0 {
				t.Fatalf("got %v, want exit status 0 and nothing on stderr\n%s%s", err, &stdout, &stderr)
			}
			out := stdout.String()
			for _, want := range []string{test.client, " lines as claimed, in ", "rules.yaml:", `(did you mean "prefix"?)`} {
				if !strings.Contains(out, want) {
					t.Errorf("stdout lacks %q:\n%s", want, out)
				}
			}
			if strings.Contains(out, "FAIL") || strings.Contains(out, "\x1b") {
				t.Errorf("got failed lines or colours, want neither:\n%s", out)
			}
			wantEmpty(t, temp)
			wantEmpty(t, home)
			wantNoProcess(t, temp)
			if n := bus.close(); n != 0 {
				t.Errorf("got %d connections to the session bus, want none", n)
			}
		})
	}
}

func TestDemoEndsEarly(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		end  func(t *testing.T, cmd *exec.Cmd, stdout *os.File)
	}{
		{"interrupted", func(t *testing.T, cmd *exec.Cmd, _ *os.File) {
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Error(err)
			}
		}},
		{"nobody reads on", func(t *testing.T, _ *exec.Cmd, stdout *os.File) {
			if err := stdout.Close(); err != nil {
				t.Error(err)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			temp := t.TempDir()
			cmd := demoCommand(t, temp, "PATH="+os.Getenv("PATH"))
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			var stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = w, &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			w.Close()
			in := bufio.NewScanner(r)
			for in.Scan() && !strings.Contains(in.Text(), " ok") { // until the first line of the table
			}
			test.end(t, cmd, r)
			go func() {
				for in.Scan() { // so that only the test's end is the end
				}
			}()
			err = cmd.Wait()
			if got := cmd.ProcessState.ExitCode(); got != int(statusInterrupted) {
				t.Errorf("got exit status %d (%v), want %d; stderr: %s", got, err, statusInterrupted, &stderr)
			}
			if want := "credproxy: interrupted; nothing is left behind\n"; stderr.String() != want {
				t.Errorf("stderr: got %q, want %q", &stderr, want)
			}
			wantEmpty(t, temp)
			wantNoProcess(t, temp)
		})
	}
}

// Each is a world in which one claim does not hold.
func TestDemoTellsWhatFails(t *testing.T) {
	quickHelpers(t)
	for _, test := range []struct {
		name   string
		change func(cases []demoCase)
		want   []string
	}{
		{"an API that lets everybody in", func(cases []demoCase) {
			for i := range cases {
				cases[i].accepts = func(*http.Request) bool { return true }
			}
		}, []string{
			"FAIL: direct: got 200, want 401",
			"FAIL: through the proxy: got 200, want 401",
			"FAIL: the access token does not expire",
		}},
		{"an API that wants something else", func(cases []demoCase) {
			for i := range cases {
				cases[i].accepts = never
			}
		}, []string{
			"FAIL: through the proxy: got 401, want 200",
			"FAIL: the API answered 401 1 times and 200 0 times, want once each",
		}},
		{"a proxy that denies nothing", func(cases []demoCase) {
			for i := range cases {
				cases[i].deny = ""
			}
		}, []string{
			"FAIL: through the proxy: got 200, want 403",
			"FAIL: the request reached the API",
			"FAIL: the answer does not say: deleting needs a person",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			d := &demo{table: newDemoTable(&out, func() {}), patience: time.Second, cases: func(s *sample) []demoCase {
				cases := demoCases(s)
				test.change(cases)
				return cases
			}}
			if err := d.run(t.Context()); exitCode(err) != 1 || d.table.failed == 0 {
				t.Errorf("got exit status %d (%v) with %d failed lines, want 1", exitCode(err), err, d.table.failed)
			}
			for _, want := range append(test.want, " did not come out as claimed") {
				if !strings.Contains(out.String(), want) {
					t.Errorf("the output lacks %q", want)
				}
			}
			if t.Failed() {
				t.Log(out.String())
			}
		})
	}
}

func TestDemoShowsEveryType(t *testing.T) {
	t.Parallel()
	elsewhere := []string{
		"negotiate", // needs a KDC, which TestNegotiateToApache has
	}
	s := &sample{}
	s.login = newLogin(&sampleServer{}, s.note)
	cases := demoCases(s)
	for _, typ := range inject.Types() {
		if slices.Contains(elsewhere, typ) {
			continue
		}
		if !slices.ContainsFunc(cases, func(c demoCase) bool { return strings.Contains(c.inject, "type: "+typ+",") }) {
			t.Errorf("no case of the demo has the credential type %s", typ)
		}
	}
}

func TestDemoFindsLeaks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	log := write("log", "token=open-sesame")
	write("deep/down/file", "x hunter2 x")
	values := []string{"hunter2", "open-sesame"}
	for _, test := range []struct {
		name, path string
		skip       map[string]bool
		want       string
	}{
		{"one file", log, nil, "1"},
		{"a folder", dir, nil, "2"},
		{"what is skipped", dir, map[string]bool{log: true}, "1"},
		{"elsewhere", write("clean", "nothing"), nil, "0"},
	} {
		content, err := readAll(test.path, test.skip)
		if err != nil {
			t.Fatal(err)
		}
		line := leakLine(test.name, content, values)
		if line.b != test.want || (len(line.wrong) > 0) != (test.want != "0") {
			t.Errorf("%s: found %s (%q), want %s", test.name, line.b, line.wrong, test.want)
		}
	}
}

// The arguments of real processes are seen, where the system shows them.
func TestDemoSeesArguments(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/task"); err != nil {
		testneed.Missing(t, "file system", "/proc")
	}
	var p demoProcesses
	stop := p.watch()
	child := exec.Command(testneed.Program(t, "cat"), "-", "/nonexistent/an-argument")
	hold, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	seen := false
	for !seen && time.Now().Before(deadline) {
		text, _ := p.arguments()
		seen = strings.Contains(text, "/nonexistent/an-argument")
		runtime.Gosched()
	}
	hold.Close()
	_ = child.Wait() // it complains about its argument
	if err := stop(); err != nil || !seen {
		t.Errorf("got %v, %v, want the arguments of a running child", seen, err)
	}
}

func TestDemoChecksAreExact(t *testing.T) {
	t.Parallel()
	secret := secrets.NewValue("s3cret")
	request := func(target string, headers ...string) *http.Request {
		r := httptest.NewRequest(http.MethodGet, target, nil)
		for i := 0; i < len(headers); i += 2 {
			r.Header.Add(headers[i], headers[i+1])
		}
		return r
	}
	for _, test := range []struct {
		name    string
		accepts func(*http.Request) bool
		r       *http.Request
		want    bool
	}{
		{"header", header("X-Key", secret), request("/", "X-Key", "s3cret"), true},
		{"header, absent", header("X-Key", secret), request("/"), false},
		{"header, longer", header("X-Key", secret), request("/", "X-Key", "s3cret2"), false},
		{"header, twice", header("X-Key", secret), request("/", "X-Key", "s3cret", "X-Key", "other"), false},
		{"query", query("a=%20&", "key", secret), request("/?a=%20&key=s3cret"), true},
		{"query, rest in another form", query("a=%20&", "key", secret), request("/?a=+&key=s3cret"), false},
		{"query, the value alone", query("a=%20&", "key", secret), request("/?s3cret"), false},
		{"query, twice", query("a=%20&", "key", secret), request("/?a=%20&key=s3cret&key=placeholder"), false},
		{"cookie", cookies("t=1; k=", secret), request("/", "Cookie", "t=1; k=s3cret"), true},
		{"cookie, the other one lost", cookies("t=1; k=", secret), request("/", "Cookie", "k=s3cret"), false},
		{"both", both(header("A", secret), header("B", secret)), request("/", "A", "s3cret", "B", "s3cret"), true},
		{"both, one absent", both(header("A", secret), header("B", secret)), request("/", "A", "s3cret"), false},
	} {
		if got := test.accepts(test.r); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}

func TestDemoLogin(t *testing.T) {
	t.Parallel()
	s, err := startSample(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s.clientCredentials("basic", "basic", "read")
	s.clientCredentials("post", "post", "read")
	s.refreshToken("person", time.Minute)
	s.serve(nil)
	defer s.close()
	roots := x509.NewCertPool()
	roots.AddCert(s.login.server.authority.Certificate())
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	defer client.CloseIdleConnections()
	value := func(name string) string {
		i := slices.IndexFunc(s.stored, func(x storedSecret) bool { return x.name == name })
		return s.stored[i].value.Reveal()
	}
	ask := func(basic bool, form ...string) (int, map[string]any) {
		t.Helper()
		values := url.Values{}
		for i := 0; i < len(form); i += 2 {
			values.Set(form[i], form[i+1])
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.login.tokenURL(), strings.NewReader(values.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if basic {
			req.SetBasicAuth("basic", value("basic"))
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var answer map[string]any
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, answer
	}
	for _, test := range []struct {
		name  string
		basic bool
		form  []string
		want  string // error code
	}{
		{"basic", true, []string{"grant_type", "client_credentials", "scope", "read"}, ""},
		{"basic, wrong scope", true, []string{"grant_type", "client_credentials", "scope", "write"}, "invalid_scope"},
		{"basic client by post", false, []string{"grant_type", "client_credentials", "scope", "read", "client_id", "basic", "client_secret", value("basic")}, "invalid_client"},
		{"both ways at once", true, []string{"grant_type", "client_credentials", "scope", "read", "client_id", "basic", "client_secret", value("basic")}, "invalid_client"},
		{"post", false, []string{"grant_type", "client_credentials", "scope", "read", "client_id", "post", "client_secret", value("post")}, ""},
		{"post, wrong secret", false, []string{"grant_type", "client_credentials", "scope", "read", "client_id", "post", "client_secret", "x"}, "invalid_client"},
		{"no secret", false, []string{"grant_type", "client_credentials", "scope", "read", "client_id", "post"}, "invalid_client"},
		{"another grant", false, []string{"grant_type", "password", "client_id", "person"}, "unsupported_grant_type"},
	} {
		status, answer := ask(test.basic, test.form...)
		code, _ := answer["error"].(string)
		if code != test.want || (status == http.StatusOK) != (test.want == "") {
			t.Errorf("%s: got %d %v, want %q", test.name, status, answer["error"], test.want)
		}
	}

	refresh := func(token string) (int, map[string]any) {
		return ask(false, "grant_type", "refresh_token", "client_id", "person", "refresh_token", token)
	}
	_, first := refresh(value("person"))
	second, _ := first["refresh_token"].(string)
	access, _ := first["access_token"].(string)
	if second == "" || second == value("person") || !s.login.accepts("person", access) || s.login.accepts("basic", access) {
		t.Fatal("the first refresh gave no new refresh token, or no access token for this client alone")
	}
	if status, _ := refresh(value("person")); status != http.StatusBadRequest {
		t.Errorf("a spent refresh token: got %d, want 400", status)
	}
	if status, _ := refresh(second); status != http.StatusBadRequest || s.login.accepts("person", access) {
		t.Errorf("after the reuse of a spent refresh token: got %d for the good one, want 400 and no valid access token", status)
	}
	if !slices.Contains(s.mustNotLeak(), second) || !slices.Contains(s.mustNotLeak(), access) {
		t.Error("issued tokens are not among what must not leak")
	}
}

// brokenCurl is a folder with a curl such as sandboxes have.
func brokenCurl(t *testing.T) string {
	t.Helper()
	testneed.Program(t, "sh")
	dir := t.TempDir()
	script := "#!/bin/sh\necho 'curl: cannot read /tmp' >&2\nexit 77\n"
	if err := os.WriteFile(filepath.Join(dir, "curl"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// demoCommand is this test's binary as the program credproxy, with nothing but env in its environment.
func demoCommand(t *testing.T, temp string, env ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, self, "demo")
	cmd.Args[0] = "credproxy"
	cmd.Env = append(env, "TMPDIR="+temp, quickExit)
	return cmd
}

// quickHelpers is quickExit for what this process starts.
func quickHelpers(t *testing.T) {
	t.Helper()
	name, value, _ := strings.Cut(quickExit, "=")
	t.Setenv(name, value)
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("got %v, %v in %s, want nothing", entries, err, dir)
	}
}

// wantNoProcess looks for processes that have the folder temp in their arguments or environment, where the system
// shows them.
func wantNoProcess(t *testing.T, temp string) {
	t.Helper()
	for _, name := range []string{"cmdline", "environ"} {
		paths, err := filepath.Glob("/proc/[0-9]*/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			if text, err := os.ReadFile(path); err == nil && bytes.Contains(text, []byte(temp)) {
				t.Errorf("a process is left: %s: %q", path, text)
			}
		}
	}
}

// A testBus is where a session keyring would be.
type testBus struct {
	path     string
	listener net.Listener
	calls    chan int
}

func listenBus(t *testing.T) *testBus {
	t.Helper()
	dir, err := os.MkdirTemp("", "bus") // t.TempDir is too long a path for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b := &testBus{path: filepath.Join(dir, "bus"), calls: make(chan int, 1)}
	if b.listener, err = net.Listen("unix", b.path); err != nil {
		t.Fatal(err)
	}
	go func() {
		n := 0
		for {
			conn, err := b.listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				b.calls <- n
				return
			}
			if err == nil {
				n++
				conn.Close()
			}
		}
	}()
	return b
}

// close returns how many connections there were.
func (b *testBus) close() int {
	b.listener.Close()
	return <-b.calls
}
