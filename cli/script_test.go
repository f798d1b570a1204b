package cli

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/credproxy/credproxy/certs"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs testdata/script. Each script has a home of its own, the file keyring, and an HTTPS server of its own
// on https://localhost:$PORT that wants "Authorization: Bearer hunter2" and is trusted through SSL_CERT_FILE.
// Beside testscript's own commands there are
//
//	serve ARGS         start credproxy serve and wait until it accepts; $PROXY is its address
//	await PATTERN      wait for a line of its stderr
//	hangup             send it SIGHUP
//	stop               send it SIGTERM and wait for its end, which must be a success
//	mode PATTERN FILE  the file's mode matches
//	occupy             listen on a port, which becomes $TAKEN
//	exits N CMD ARGS   like exec, for one exit status
//	rules FILE         make FILE the rules, with $PORT in it replaced
//
// With UPDATE_SCRIPTS set, what commands print replaces what cmp compares it with.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
		Setup:               setUp,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"serve": startServe, "await": awaitLine, "hangup": hangUp, "stop": stopServe,
			"mode": checkMode, "occupy": occupy, "exits": exits, "rules": newRules,
		},
	})
}

type daemonKey struct{}

// A daemon is the credproxy serve of one script.
type daemon struct {
	cmd    *exec.Cmd
	stderr <-chan string
	said   []string
}

func setUp(env *testscript.Env) error {
	home := filepath.Join(env.WorkDir, "home")
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	authority, err := certs.Open(filepath.Join(env.WorkDir, "upstream"))
	if err != nil {
		return err
	}
	port, stop := newUpstream(authority)
	env.Defer(stop)
	env.Values[daemonKey{}] = new(daemon)
	env.Vars = append(env.Vars,
		"HOME="+home,
		"PORT="+port,
		"STATE="+filepath.Join(home, ".local", "state", "credproxy"),
		"CONFIG="+filepath.Join(home, ".config", "credproxy"),
		"CREDPROXY_BACKEND=file",
		"SSL_CERT_FILE="+authority.Path(),
		"SHELL=/bin/bash",
		quickExit,
	)
	if _, err := os.Stat(filepath.Join(env.WorkDir, "rules.yaml")); err != nil {
		return nil // this script needs none
	}
	return installRules(filepath.Join(env.WorkDir, "rules.yaml"), home, port)
}

// newUpstream starts an HTTPS server on localhost that lets in whoever says "Bearer hunter2".
func newUpstream(authority *certs.Authority) (port string, stop func()) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer hunter2" {
			w.Header().Set("Retry-After", "60") // for token requests: so long is the next try put off
			http.Error(w, fmt.Sprintf("upstream: not authenticated (%d bytes of Authorization)", len(got)), http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, "upstream: authenticated %s %s\n", r.Method, r.URL.Path)
	}))
	server.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return authority.Leaf("localhost") }}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	_, port, _ = net.SplitHostPort(server.Listener.Addr().String())
	return port, server.Close
}

// installRules puts a rules file where credproxy looks for it, in one step as editors do.
func installRules(file, home, port string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	dir := filepath.Join(home, ".config", "credproxy")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, "rules.yaml"), []byte(strings.ReplaceAll(string(data), "$PORT", port)))
}

func newRules(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(installRules(ts.MkAbs(args[0]), ts.Getenv("HOME"), ts.Getenv("PORT")))
}

func daemonOf(ts *testscript.TestScript) *daemon { return ts.Value(daemonKey{}).(*daemon) }

func startServe(ts *testscript.TestScript, neg bool, args []string) {
	d := daemonOf(ts)
	d.cmd = exec.Command("credproxy", append([]string{"serve"}, args...)...)
	for _, name := range []string{"HOME", "PATH", "CREDPROXY_BACKEND", "CREDPROXY_STATE", "CREDPROXY_RULES", "CREDPROXY_LISTEN", "SSL_CERT_FILE", "TMPDIR", "TOKEN", "GORACE"} {
		if value := ts.Getenv(name); value != "" {
			d.cmd.Env = append(d.cmd.Env, name+"="+value)
		}
	}
	d.cmd.Dir = ts.MkAbs(".")
	pipe, err := d.cmd.StderrPipe()
	ts.Check(err)
	ts.Check(d.cmd.Start())
	ts.Defer(func() {
		if d.cmd != nil {
			_ = d.cmd.Process.Kill()
			_ = d.cmd.Wait()
		}
	})
	d.stderr = lines(pipe)
	awaitLine(ts, false, []string{`^credproxy: listening on (127\.0\.0\.1|0\.0\.0\.0|\[::\]):[0-9]+$`})
	ts.Setenv("PROXY", strings.TrimPrefix(d.said[len(d.said)-1], "credproxy: listening on "))
}

func awaitLine(ts *testscript.TestScript, neg bool, args []string) {
	d, pattern := daemonOf(ts), regexp.MustCompile(args[0])
	timeout := time.After(20 * time.Second)
	for {
		select {
		case line, ok := <-d.stderr:
			if !ok {
				ts.Fatalf("serve ended; it said:\n%s", strings.Join(d.said, "\n"))
			}
			d.said = append(d.said, line)
			ts.Logf("[serve] %s", line)
			if pattern.MatchString(line) {
				return
			}
		case <-timeout:
			ts.Fatalf("serve did not say %s; it said:\n%s", args[0], strings.Join(d.said, "\n"))
		}
	}
}

func hangUp(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(daemonOf(ts).cmd.Process.Signal(syscall.SIGHUP))
}

func stopServe(ts *testscript.TestScript, neg bool, args []string) {
	d := daemonOf(ts)
	ts.Check(d.cmd.Process.Signal(syscall.SIGTERM))
	for line := range d.stderr {
		ts.Logf("[serve] %s", line)
	}
	ts.Check(d.cmd.Wait())
	d.cmd = nil
}

func checkMode(ts *testscript.TestScript, neg bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

func occupy(ts *testscript.TestScript, neg bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = l.Close() })
	ts.Setenv("TAKEN", l.Addr().String())
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}
