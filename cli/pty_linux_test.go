package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newTerminal returns both ends of a pseudo-terminal.
func newTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("needs a pseudo-terminal: %v", err)
	}
	t.Cleanup(func() { _ = master.Close() })
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	return master, slave
}

// attach makes slave the controlling terminal of cmd, which is in its foreground.
func attach(cmd *exec.Cmd, slave *os.File) {
	cmd.Stdin = slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
}

// A terminal that closes says so with the signal that also means: read everything anew.
func TestServeEndsWithItsTerminal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	master, slave := newTerminal(t)
	cmd := w.command(t, "serve", "--listen", "127.0.0.1:0")
	attach(cmd, slave)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer ended.Stop()
	said := lines(stderr)
	if line := <-said; !strings.HasPrefix(line, "credproxy: listening on ") {
		t.Fatalf("got %q", line)
	}
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	await(t, said, "credproxy: rules.yaml reloaded: 1 rule")
	if err := errors.Join(slave.Close(), master.Close()); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after its terminal has closed, serve ended with %v", err)
	}
	if _, err := os.Stat(filepath.Join(w.home, ".local", "state", "credproxy", "proxy.json")); err == nil {
		t.Error("proxy.json is still there")
	}
}

// The terminal itself sends ^C to the command: run must not send it again.
func TestRunInterruptedFromTheTerminal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	master, slave := newTerminal(t)
	cmd := w.command(t, "run", "--", "quit", "signal")
	attach(cmd, slave)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := lines(stdout)
	await(t, said, "ready")
	if _, err := master.Write([]byte{3}); err != nil { // ^C
		t.Fatal(err)
	}
	await(t, said, "got interrupt")
	// Signals are handed on in order: a second interrupt would come before this.
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await(t, said, "got terminated")
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("the command got %d interrupts, want 1", cmd.ProcessState.ExitCode())
	}
}

func TestSecretPromptDoesNotEcho(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	master, slave := newTerminal(t)
	cmd := w.command(t, "secret", "set", "github")
	attach(cmd, slave)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	awaitEcho(t, slave, false)
	if _, err := master.WriteString("swordfish\n"); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	if got, want := stderr.String(), "Value of github (not shown): \nstored github in file keyring (rules name it keyring:github)\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	awaitEcho(t, slave, true)
	if err := slave.Close(); err != nil {
		t.Fatal(err)
	}
	shown := make([]byte, 4096)
	n, _ := master.Read(shown)
	if strings.Contains(string(shown[:n]), "swordfish") {
		t.Errorf("the terminal shows %q", shown[:n])
	}
}

// ^C at the prompt leaves a terminal that still shows what is typed.
func TestSecretPromptInterrupted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	master, slave := newTerminal(t)
	cmd := w.command(t, "secret", "set", "github")
	attach(cmd, slave)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	awaitEcho(t, slave, false)
	if _, err := master.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("exit status %d, want 130", cmd.ProcessState.ExitCode())
	}
	awaitEcho(t, slave, true)
}

// ^D at the prompt ends it, as it ends all input of a terminal. Nothing is stored, also not half a value.
func TestSecretPromptEnded(t *testing.T) {
	t.Parallel()
	for _, typed := range []string{"\x04", "half\x04\x04"} {
		w := newWorld(t)
		master, slave := newTerminal(t)
		cmd := w.command(t, "secret", "set", "new")
		attach(cmd, slave)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		awaitEcho(t, slave, false)
		if _, err := master.WriteString(typed); err != nil {
			t.Fatal(err)
		}
		if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), "credproxy: hint: ") {
			t.Errorf("%q: exit status %d, %q", typed, cmd.ProcessState.ExitCode(), stderr.String())
		}
		ended.Stop()
		awaitEcho(t, slave, true)
		list := w.command(t, "secret", "list")
		if out, err := list.Output(); err != nil || strings.Contains(string(out), "new") {
			t.Errorf("%q: stored %q, %v", typed, out, err)
		}
	}
}

// ^C at the prompt for a passphrase does so too, and ends what needs it: the other secrets are not asked for.
func TestPassphrasePromptInterrupted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rules := filepath.Join(t.TempDir(), "rules.yaml")
	text := `{version: 1, rules: [{name: a, match: {host: localhost, port: $PORT}, inject: {type: basic, username: "keyring:u", password: "keyring:p"}}]}`
	if err := os.WriteFile(rules, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := installRules(rules, w.home, w.port); err != nil {
		t.Fatal(err)
	}
	set := w.command(t, "secret", "set", "u")
	set.Env = append(set.Env, "CREDPROXY_PASSPHRASE=open-sesame")
	set.Stdin = strings.NewReader("me")
	if out, err := set.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, args := range [][]string{{"check"}, {"serve", "--listen", "127.0.0.1:0"}, {"run", "--", "quit", "0"}, {"secret", "rm", "u"}} {
		master, slave := newTerminal(t)
		cmd := w.command(t, args...)
		attach(cmd, slave)
		cmd.Stderr = slave // a person is there only if both are a terminal
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		awaitEcho(t, slave, false)
		if _, err := master.Write([]byte{3}); err != nil {
			t.Fatal(err)
		}
		if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
			t.Errorf("%v: exit status %d, want 130", args, cmd.ProcessState.ExitCode())
		}
		awaitEcho(t, slave, true)
	}
}

// awaitEcho waits until the terminal shows, or does not show, what is typed.
func awaitEcho(t *testing.T, slave *os.File, want bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; runtime.Gosched() {
		state, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		if (state.Lflag&unix.ECHO != 0) == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("echo is %v, want %v", !want, want)
		}
	}
}

func TestHarden(t *testing.T) {
	if err := harden(); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); n != 0 || err != nil {
		t.Errorf("PR_GET_DUMPABLE is %d, %v, want 0", n, err)
	}
}
