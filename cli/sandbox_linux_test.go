package cli

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/credproxy/credproxy/internal/testneed"
)

// nobody is a user without any privilege.
const nobody = 65534

// asNobody has cmd run without privilege, in w, which then belongs to nobody.
func (w world) asNobody(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if os.Geteuid() != 0 {
		return // already so
	}
	for dir := w.home; dir != filepath.Dir(os.TempDir()) && len(dir) > len(os.TempDir()); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(filepath.Dir(w.roots), 0o755), os.Chmod(w.roots, 0o644)); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(w.home, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, nobody, nobody)
	})
	if err != nil {
		t.Fatal(err)
	}
	bin := w.programs(t)
	cmd.Path = filepath.Join(bin, "credproxy")
	cmd.Env = append(cmd.Env, "PATH="+bin+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
}

// programs is a folder with our programs that everybody can run.
func (w world) programs(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(filepath.Dir(w.home), "bin")
	if _, err := os.Stat(bin); err == nil {
		return bin
	}
	ours, err := exec.LookPath("credproxy")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(ours)
	if err == nil {
		err = os.Mkdir(bin, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(bin, "credproxy"), data, 0o755)
	}
	if err == nil {
		err = os.Symlink("credproxy", filepath.Join(bin, "fetch"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return bin
}

// A program in the sandbox reaches the API with the credential, and nothing else: no other way out, no keyring, no
// process, no privilege, no hand on the rules.
func TestRunSandbox(t *testing.T) {
	t.Parallel()
	sh := testneed.Program(t, "sh")
	for _, unprivileged := range []bool{false, true} {
		w := newWorld(t)
		key := filepath.Join(w.home, "api-key")
		w.addRule(t, `  - {name: keyed, match: {host: keyed.test}, inject: {type: bearer, token: "file:`+key+`"}}`)
		if err := os.WriteFile(key, []byte("hunter2"), 0o600); err != nil {
			t.Fatal(err)
		}
		sandboxed := func(dir, script string) (string, error) {
			cmd := w.command(t, "run", "--sandbox", "--", sh, "-c", script)
			cmd.Env = append(cmd.Env, "RULES="+w.rulesFile(), "STATE="+w.state(), "KEY="+key, "PORT="+w.port, "TEST_KEEP=yes")
			cmd.Dir = dir
			if unprivileged {
				w.asNobody(t, cmd)
			}
			out, err := cmd.CombinedOutput()
			return strings.TrimSpace(string(out)), err
		}
		for _, tt := range []struct{ name, script, want string }{
			{"the API, with the credential", `fetch https://localhost:$PORT/user | head -n 2 | tail -n 1`, "upstream: authenticated GET /user"},
			{"past the proxy", `unset HTTPS_PROXY https_proxy; fetch https://localhost:$PORT/user >/dev/null 2>&1 || echo none`, "none"},
			{"interfaces", `cat /proc/net/dev | grep -c :`, "1"},
			{"processes", `ls /proc | grep -c '^[0-9]*$' | { read n; test $n -lt 10 && echo few; }`, "few"},
			{"the first process's memory", `cat /proc/1/environ /proc/1/mem >/dev/null 2>&1 || echo closed`, "closed"},
			{"the keyring and the CA's key", `cat $STATE/ca/*key* $STATE/keyring/* 2>/dev/null; ls $STATE/ca`, "ca.pem"},
			{"a secret in a file", `cat $KEY; ls -l $KEY | cut -c 1`, "c"}, // a character device
			{"open files", `ls /proc/self/fd | wc -l`, "4"},                // the three, and the folder
			{"the proxy, without the token", `HTTPS_PROXY=http://$(echo $HTTPS_PROXY | sed 's/.*@//') fetch https://localhost:$PORT/ >/dev/null 2>&1 || echo refused`, "refused"},
			{"the bundle", `test -s "$SSL_CERT_FILE" && echo there`, "there"},
			{"the rules", `cat $RULES >/dev/null && { echo x >> $RULES || echo x > $(dirname $RULES)/new || mv $RULES $RULES.old; } 2>/dev/null; echo $?`, "1"},
			{"the rules, from their own folder", `(echo x >> rules.yaml || echo x > new) 2>/dev/null || echo closed`, "closed"},
			{"the state, from its own folder", `cat audit.log >/dev/null 2>&1 || echo hidden`, "hidden"},
			{"capabilities", `grep -E '^Cap(Prm|Eff|Bnd|Amb)' /proc/self/status | grep -v 0000000000000000; grep NoNewPrivs /proc/self/status`, "NoNewPrivs:\t1"},
			{"taking the cover off", `umount $STATE 2>/dev/null; unshare -Urm umount $STATE 2>/dev/null; ls $STATE/keyring 2>/dev/null; echo $?`, "2"},
			{"the environment that is left out", `echo "[$TOKEN][$TEST_KEEP]"`, "[][yes]"},
		} {
			from := map[string]string{"the rules, from their own folder": filepath.Dir(w.rulesFile()), "the state, from its own folder": w.state()}[tt.name]
			got, err := sandboxed(from, tt.script)
			if err != nil || got != tt.want && !strings.HasSuffix(got, "\n"+tt.want) { // the proxy's log may come before
				t.Errorf("unprivileged %v, %s: %q, %v; want %q", unprivileged, tt.name, got, err, tt.want)
			}
		}
		for script, want := range map[string]int{"exit 7": 7, "kill -TERM $$": 128 + 15, "sleep 100 & exit 3": 3} {
			_, err := sandboxed("", script)
			if e, ok := err.(*exec.ExitError); !ok || e.ExitCode() != want {
				t.Errorf("%s: %v, want %d", script, err, want)
			}
		}
	}
}

// addRule adds a rule at the end of the rules file, as a line of block style.
func (w world) addRule(t *testing.T, line string) {
	t.Helper()
	text := "version: 1\nrules:\n  - {name: service, match: {host: localhost, port: " + w.port + "}, inject: {type: bearer, token: env:TOKEN}}\n" + line + "\n"
	if err := os.WriteFile(w.rulesFile(), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (w world) rulesFile() string { return filepath.Join(w.home, ".config", "credproxy", "rules.yaml") }
func (w world) state() string     { return filepath.Join(w.home, ".local", "state", "credproxy") }

func TestRunSandboxPassesSignalsOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cmd := w.command(t, "run", "--sandbox", "--", "quit", "signal")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := lines(stdout)
	await(t, said, "ready")
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM} {
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		await(t, said, "got "+sig.String())
	}
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("exit status %d, want 2", cmd.ProcessState.ExitCode())
	}
}

// Whoever kills credproxy kills what it has put into the sandbox.
func TestRunSandboxEndsWithItsOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cmd := w.command(t, "run", "--sandbox", "--", "sh", "-c", "echo ready; sleep 1000; echo survived")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := lines(stdout)
	await(t, said, "ready")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for line := range said { // ends when no process has the pipe open any more
		t.Errorf("said %q", line)
	}
	_ = cmd.Wait()
}
