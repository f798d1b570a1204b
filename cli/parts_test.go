package cli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/audit"
	"github.com/credproxy/credproxy/internal/testneed"
	"github.com/credproxy/credproxy/rules"
)

// openTunnel opens a tunnel through the proxy at address to a server that echoes, and returns when it carries bytes. It
// stays open.
func openTunnel(t *testing.T, address string) {
	t.Helper()
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = echo.Close() })
	go func() {
		if conn, err := echo.Accept(); err == nil {
			_, _ = io.Copy(conn, conn)
			_ = conn.Close()
		}
	}()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", echo.Addr())
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("CONNECT: %v, %v", resp, err)
	}
	fmt.Fprintln(conn, "hello")
	if line, err := r.ReadString('\n'); err != nil || line != "hello\n" {
		t.Fatalf("got %q, %v through the tunnel", line, err)
	}
}

func TestCovers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		entry, pattern string
		want           bool
	}{
		{"localhost", "localhost", true},
		{"localhost", "api.localhost", true}, // most clients take entries for suffixes
		{"localhost", "mylocalhost", false},
		{"example.com", "example.com", true},
		{".example.com", "example.com", true},
		{"*.example.com", "api.example.com", true},
		{"EXAMPLE.com", "api.example.com", true},
		{"example.com:443", "api.example.com", true},
		{"ample.com", "example.com", false},
		{"api.example.com", "example.com", false},
		{"api.example.com", "*.example.com", true},
		{"example.com", "*.example.com", true},
		{"other.com", "*.example.com", false},
		{"com", "example.com", true},
		{"*", "example.com", true},
		{"127.0.0.1", "127.0.0.1", true},
		{"127.0.0.1", "127.0.0.10", false},
		{"::1", "::1", true},
		{"[::1]", "::1", true},
		{"10.0.0.0/8", "10.1.2.3", true},
		{"10.0.0.0/8", "11.1.2.3", false},
		{"10.0.0.0/8", "example.com", false},
		{".", "example.com", false},
	} {
		if got := covers(test.entry, test.pattern); got != test.want {
			t.Errorf("covers(%q, %q) = %v, want %v", test.entry, test.pattern, got, test.want)
		}
	}
}

func TestNoProxy(t *testing.T) {
	t.Parallel()
	rule := []rules.Rule{{Name: "api", Hosts: []string{"api.example.com", "127.0.0.1"}}}
	for _, test := range []struct {
		name, inherited string
		rules           []rules.Rule
		want            string
		dropped         []shadow
	}{
		{"nothing", "", nil, "localhost,127.0.0.1,::1", nil},
		{"own entries, each once", "corp.example, .lan corp.example,localhost", nil, "localhost,127.0.0.1,::1,corp.example,.lan", nil},
		{"a rule for loopback", "127.0.0.1", rule, "localhost,::1", nil},
		{"a shadow", ".example.com,corp", rule, "localhost,::1,corp", []shadow{{".example.com", "api", "api.example.com"}}},
		{"everything", "*", rule, "localhost,::1", []shadow{{"*", "api", "api.example.com"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			got, dropped := noProxy(test.inherited, test.rules)
			if got != test.want || !slices.Equal(dropped, test.dropped) {
				t.Errorf("got %q without %v, want %q without %v", got, dropped, test.want, test.dropped)
			}
		})
	}
}

func TestMerge(t *testing.T) {
	t.Parallel()
	env := []string{"A=1", "B=2", "A=3", "C=", "novalue", "D=x=y"}
	got := merge(env, []variable{{name: "B"}, {name: "E", value: "5", set: true}, {name: "C", value: "", set: true}, {name: "Z"}})
	if want := []string{"A=3", "C=", "D=x=y", "E=5"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestClientVariablesAreListedOnce(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, v := range (clientEnv{}).variables() {
		if seen[v.name] {
			t.Errorf("%s stands in the table twice", v.name)
		}
		seen[v.name] = true
	}
}

func TestRandomToken(t *testing.T) {
	t.Parallel()
	if a, b := randomToken(), randomToken(); a == b || len(a) != 43 {
		t.Errorf("tokens %q and %q, want two of 256 bits", a, b)
	}
}

// TestShellsQuote lets the shells themselves judge.
func TestShellsQuote(t *testing.T) {
	t.Parallel()
	values := []string{"plain", "two words", `it's`, `"double"`, `$HOME and \n and ` + "`id`", "~", "a;b&c|d", "%PATH%", "ünï", "tab\there"}
	for _, test := range []struct{ shell, program, run string }{
		{"sh", "sh", "-c"},
		{"bash", "bash", "-c"},
		{"zsh", "zsh", "-c"},
		{"fish", "fish", "-c"},
	} {
		t.Run(test.shell, func(t *testing.T) {
			t.Parallel()
			path := testneed.Program(t, test.program)
			for _, value := range values {
				var script bytes.Buffer
				if err := writeVariables(&script, test.shell, []variable{{"CREDPROXY_TEST", value, true}, {name: "CREDPROXY_GONE"}}); err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command(path, test.run, script.String()+"\nprintenv CREDPROXY_TEST CREDPROXY_GONE")
				// A home of its own: fish writes there.
				cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "CREDPROXY_GONE=still here", quickExit}
				out, _ := cmd.Output() // printenv complains of what is gone
				if got := strings.TrimSuffix(string(out), "\n"); got != "CREDPROXY_TEST="+value && got != value {
					t.Errorf("got %q, want %q, by %s", got, value, script.String())
				}
			}
		})
	}
}

// For shells that do not run everywhere, their manuals judge.
func TestShellsQuoteByTheBook(t *testing.T) {
	t.Parallel()
	for shell, want := range map[string]string{
		"pwsh":   "$Env:N = 'it''s $HOME \\ \"q\" 5%'\nRemove-Item Env:GONE -ErrorAction SilentlyContinue\n",
		"cmd":    "set \"N=it's $HOME \\ \"q\" 5%%\"\nset \"GONE=\"\n",
		"dotenv": "N=\"it's \\$HOME \\\\ \\\"q\\\" 5%\"\n",
		"json":   "{\n  \"GONE\": null,\n  \"N\": \"it's $HOME \\\\ \\\"q\\\" 5%\"\n}\n",
	} {
		var got strings.Builder
		if err := writeVariables(&got, shell, []variable{{"N", `it's $HOME \ "q" 5%`, true}, {name: "GONE"}}); err != nil {
			t.Fatal(err)
		}
		if got.String() != want {
			t.Errorf("%s: got %q, want %q", shell, got.String(), want)
		}
	}
}

func TestSummary(t *testing.T) {
	t.Parallel()
	var s summary
	for _, e := range []audit.Event{
		{Decision: "inject", Rule: "github", Status: 200},
		{Decision: "inject", Rule: "github", Status: 401},
		{Decision: "pass", Status: 200},
		{Decision: "refuse", Rule: "no-deletes", Error: "denied", Status: 403},
		{Decision: "tunnel"},
	} {
		s.add(e)
	}
	var out strings.Builder
	s.write(&out)
	want := "credproxy: 4 requests, 2 injected (github) · 1 passed · 1 refused (denied) · 1 tunnel\n" +
		"credproxy: hint: the server answered 401 to the credential of rule github; is it still valid?\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestDeadRunsAreSweptAway(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	dead := exec.Command(os.Args[0], "-test.run=^$")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(state, "run", fmt.Sprintf("%d-0123abcd", dead.Process.Pid))
	ours := filepath.Join(state, "run", fmt.Sprintf("%d-0123abcd", os.Getpid()))
	for _, dir := range []string{left, ours} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := makeRunDir(state, "89abcdef"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of a dead run is still there (%v)", err)
	}
	if _, err := os.Stat(ours); err != nil {
		t.Errorf("the folder of a live run is gone: %v", err)
	}
}

// Every status that design.md promises has a slug, and no slug of the rules or secrets is forgotten.
func TestExitCode(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("anything"), 1},
		{&failure{slug: slugPortInUse}, 1},
		{&failure{slug: slugUsage}, 2},
		{&rules.FileError{}, 3},
		{fmt.Errorf("wrapped: %w", &failure{slug: slugRulesMissing}), 3},
		{&failure{slug: "secret_missing"}, 4},
		{&failure{slug: "keyring_locked"}, 4},
		{&failure{slug: slugNoProxy}, 5},
		{&failure{slug: slugNotRunnable, code: 127}, 127},
		{exitStatus(42), 42},
	} {
		if got := exitCode(test.err); got != test.want {
			t.Errorf("exitCode(%v) = %d, want %d", test.err, got, test.want)
		}
	}
}

// TestDocsListEveryVariable keeps docs/clients.md complete.
func TestDocsListEveryVariable(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "docs", "clients.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range (clientEnv{}).variables() {
		if !bytes.Contains(page, []byte("`"+v.name+"`")) {
			t.Errorf("docs/clients.md does not name %s", v.name)
		}
	}
	for _, name := range append(slices.Clone(rootVariables), "CREDPROXY_RUN") {
		if !bytes.Contains(page, []byte("`"+name+"`")) {
			t.Errorf("docs/clients.md does not name %s", name)
		}
	}
}
