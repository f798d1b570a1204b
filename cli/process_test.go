package cli

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/credproxy/credproxy/certs"
	"github.com/credproxy/credproxy/internal/testneed"
)

// A world is a home with rules and a server that they name, for tests that are no scripts.
type world struct{ home, port, roots string }

func newWorld(t *testing.T) world {
	t.Helper()
	dir := t.TempDir()
	return newWorldSignedBy(t, dir, filepath.Join(dir, "upstream"))
}

// newWorldSignedBy is newWorld in dir with a server whose certificate the CA in another folder has signed.
func newWorldSignedBy(t *testing.T, dir, signer string) world {
	t.Helper()
	authority, err := certs.Open(signer)
	if err != nil {
		t.Fatal(err)
	}
	port, stop := newUpstream(authority)
	t.Cleanup(stop)
	w := world{home: filepath.Join(dir, "home"), port: port, roots: authority.Path()}
	file := filepath.Join(dir, "rules.yaml")
	text := `{version: 1, rules: [{name: service, match: {host: localhost, port: $PORT}, inject: {type: bearer, token: env:TOKEN}}]}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := installRules(file, w.home, port); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w world) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "credproxy", args...)
	cmd.Env = []string{"HOME=" + w.home, "PATH=" + os.Getenv("PATH"), "CREDPROXY_BACKEND=file", "SSL_CERT_FILE=" + w.roots, "TOKEN=hunter2", quickExit}
	return cmd
}

// await reads lines until want comes.
func await(t *testing.T, lines <-chan string, want string) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("the program ended before it said %q", want)
			}
			if line == want {
				return
			}
			t.Logf("said %q", line)
		case <-timeout:
			t.Fatalf("the program did not say %q", want)
		}
	}
}

func TestRunPassesSignalsOn(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no signals to send")
	}
	w := newWorld(t)
	cmd := w.command(t, "run", "--", "quit", "signal")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := lines(stdout)
	await(t, said, "ready")
	for _, test := range []struct {
		sig  syscall.Signal
		want string
	}{
		{syscall.SIGINT, "got interrupt"},
		{syscall.SIGHUP, "got hangup"},
		{syscall.SIGQUIT, "got quit"},
		{syscall.SIGINT, "got interrupt"},
		{syscall.SIGTERM, "got terminated"},
	} {
		if err := cmd.Process.Signal(test.sig); err != nil {
			t.Fatal(err)
		}
		await(t, said, test.want)
	}
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("exit status %d, want 2, the number of interrupts", cmd.ProcessState.ExitCode())
	}
}

// A signal that was ignored when credproxy started, as under nohup, stays ignored in the command.
func TestRunLeavesIgnoredSignalsIgnored(t *testing.T) {
	t.Parallel()
	sh := testneed.Program(t, "sh")
	w := newWorld(t)
	cmd := w.command(t)
	cmd.Path, cmd.Err = sh, nil
	cmd.Args = []string{"sh", "-c", `trap '' HUP; exec credproxy run -- sh -c 'kill -HUP $$; echo survived'`}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "survived" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestServeStopsAtOnceWhenToldTwice(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no signals to send")
	}
	w := newWorld(t)
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
	address, ok := strings.CutPrefix(first, "credproxy: listening on ")
	if !ok {
		t.Fatalf("got %q", first)
	}
	// A tunnel that never ends keeps the drain waiting.
	openTunnel(t, address)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await(t, said, "credproxy: waiting for requests in flight; once more to stop at once")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("exit status %d, want 1", cmd.ProcessState.ExitCode())
	}
	if _, err := os.Stat(filepath.Join(w.home, ".local", "state", "credproxy", "proxy.json")); err == nil {
		t.Error("proxy.json is still there")
	}
}

// In the environment of another credproxy, SSL_CERT_FILE holds our own CA. That is for clients: whoever has got hold of
// its key must not pass for an upstream.
func TestRunDoesNotBelieveItsOwnCA(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := newWorldSignedBy(t, dir, filepath.Join(dir, "home", ".local", "state", "credproxy", "ca"))
	out, err := w.command(t, "run", "--", "fetch", "https://localhost:"+w.port+"/").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "urn:credproxy:upstream_tls") {
		t.Errorf("got %q, %v, want upstream_tls", out, err)
	}
}

// An upstream that sends more than it was asked for makes net/http print it, and here that is an echo of the secret.
func TestServePrintsNothingThatUpstreamsSend(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no signals to send")
	}
	dir := t.TempDir()
	w := newWorldSignedBy(t, dir, filepath.Join(dir, "upstream"))
	authority, err := certs.Open(filepath.Join(dir, "upstream"))
	if err != nil {
		t.Fatal(err)
	}
	echoed := make(chan string, 1)
	port := talkativeUpstream(t, authority, echoed)
	if err := installRules(filepath.Join(dir, "rules.yaml"), w.home, port); err != nil {
		t.Fatal(err)
	}
	cmd := w.command(t, "serve", "--listen", "127.0.0.1:0", "--log-level", "debug")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := lines(stderr)
	address, ok := strings.CutPrefix(<-said, "credproxy: listening on ")
	if !ok {
		t.Fatal("serve did not start")
	}
	fetch := exec.CommandContext(t.Context(), "fetch", "https://localhost:"+port+"/")
	fetch.Env = []string{"HTTPS_PROXY=http://" + address, "SSL_CERT_FILE=" + filepath.Join(w.home, ".local", "state", "credproxy", "ca", "ca.pem"), quickExit}
	if out, err := fetch.CombinedOutput(); err != nil || !strings.Contains(string(out), "ok") {
		t.Errorf("fetch: %s, %v", out, err)
	}
	select {
	case got := <-echoed:
		if got != "Bearer hunter2" {
			t.Errorf("the upstream got %q", got)
		}
	case <-time.After(20 * time.Second):
		t.Error("the upstream's connection stays open")
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for line := range said {
		if strings.Contains(line, "hunter2") {
			t.Errorf("serve said %q", line)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// talkativeUpstream answers one request, and once more with the credential that it got. When the connection has been
// closed for that, it tells echoed.
func talkativeUpstream(t *testing.T, authority *certs.Authority, echoed chan<- string) (port string) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return authority.Leaf("localhost") },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		in := bufio.NewReader(conn)
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		secret := req.Header.Get("Authorization")
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nX-Echo: %s\r\n\r\n", secret)
		_, _ = in.ReadByte() // until the proxy closes
		echoed <- secret
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

// TestClients runs real programs, unchanged and without a secret, as clients.md says that people have them.
func TestClients(t *testing.T) {
	t.Parallel()
	const url = "https://localhost:$PORT/user"
	urllib := "import sys,urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
	requests := "import sys,requests; print(requests.get(sys.argv[1]).text)"
	aiohttp := `
import sys, asyncio, aiohttp
async def main():
    async with aiohttp.ClientSession(trust_env=True) as session:
        async with session.get(sys.argv[1]) as response:
            print(await response.text())
asyncio.run(main())`
	for _, test := range []struct {
		name    string
		program func(*testing.T) string
		args    []string
	}{
		{"curl", program("curl"), []string{"-sS", url}},
		{"wget", program("wget"), []string{"-q", "-O", "-", url}},
		{"urllib", program("python3"), []string{"-c", urllib, url}},
		{"requests", python("requests"), []string{"-c", requests, url}},
		{"aiohttp", python("aiohttp"), []string{"-c", aiohttp, url}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			path := test.program(t)
			w := newWorld(t)
			args := []string{"run", "--", path}
			for _, arg := range test.args {
				args = append(args, strings.ReplaceAll(arg, "$PORT", w.port))
			}
			out, err := w.command(t, args...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "upstream: authenticated GET /user") {
				t.Errorf("got %q, %v", out, err)
			}
			if strings.Contains(string(out), "hunter2") {
				t.Errorf("the secret is in the output: %q", out)
			}
		})
	}
}

func program(name string) func(*testing.T) string {
	return func(t *testing.T) string { return testneed.Program(t, name) }
}

func python(module string) func(*testing.T) string {
	return func(t *testing.T) string { return testneed.PythonModule(t, module) }
}
