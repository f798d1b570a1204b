//go:build linux

package secrets

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus"

	"github.com/credproxy/credproxy/internal/testneed"
	"github.com/credproxy/credproxy/secrets/dbusguard"
)

// A desktop is a session bus and a gnome-keyring-daemon of the test's own.
type desktop struct {
	address string
	env     []string
	conn    *dbus.Conn
}

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:dir=FOLDER</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>`

func newDesktop(t *testing.T) *desktop {
	t.Helper()
	daemon := testneed.Program(t, "dbus-daemon")
	testneed.Program(t, "gnome-keyring-daemon")
	home := t.TempDir()
	config := filepath.Join(home, "bus.conf")
	writeSecret(t, config, strings.ReplaceAll(busConfig, "FOLDER", home), 0o600)
	cmd := exec.Command(daemon, "--config-file="+config, "--nofork", "--nopidfile", "--print-address=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	start(t, cmd)
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the bus did not start: %v", err)
	}
	d := &desktop{address: strings.TrimSpace(address)}
	d.env = append(without(os.Environ(), func(name string) bool {
		return strings.HasPrefix(name, "XDG_") || name == "HOME" || name == "DISPLAY" || name == "WAYLAND_DISPLAY"
	}), "HOME="+home, "XDG_RUNTIME_DIR="+home, dbusguard.AddressVariable+"="+d.address)
	if d.conn, err = dbus.Dial(d.address); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.conn.Close() })
	if err := errors.Join(d.conn.Auth(nil), d.conn.Hello()); err != nil {
		t.Fatal(err)
	}
	return d
}

// start starts cmd and ends it with the test.
func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// keyring starts the daemon, with the login keyring unlocked or as it was left, and waits until it is there.
func (d *desktop) keyring(t *testing.T, unlocked bool) *exec.Cmd {
	t.Helper()
	signals := make(chan *dbus.Signal, 100)
	d.conn.Signal(signals)
	defer d.conn.RemoveSignal(signals)
	match := "type='signal',member='NameOwnerChanged',arg0='" + secretService + "'"
	if err := d.conn.BusObject().Call("org.freedesktop.DBus.AddMatch", 0, match).Err; err != nil {
		t.Fatal(err)
	}
	args := []string{"--foreground", "--components=secrets"}
	if unlocked {
		args = append(args, "--unlock")
	}
	cmd := exec.Command("gnome-keyring-daemon", args...)
	cmd.Env = d.env
	cmd.Stdin = strings.NewReader("pw")
	start(t, cmd)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		select {
		case s := <-signals:
			if len(s.Body) == 3 && s.Body[0] == secretService && s.Body[2] != "" {
				return cmd
			}
		case <-ctx.Done():
			t.Fatal("gnome-keyring-daemon does not come up")
		}
	}
}

func (d *desktop) store(t *testing.T, state string) *Store {
	t.Helper()
	s, err := OpenStore(StoreConfig{State: state, Backend: "secret-service"})
	if err != nil {
		t.Fatal(err)
	}
	s.bus = busAddress{given: d.address}
	s.limit = 20 * time.Second // the machine may be busy
	return s
}

func TestSecretService(t *testing.T) {
	t.Parallel()
	d := newDesktop(t)
	daemon := d.keyring(t, true)
	state := t.TempDir()
	s := d.store(t, state)

	// Another program's item in the same collection.
	foreign := exec.Command(testneed.Program(t, "secret-tool"), "store", "--label=foreign", "profile", "foreign")
	foreign.Env, foreign.Stdin = d.env, strings.NewReader("theirs")
	if out, err := foreign.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	exercise(t, s)

	mustSet(t, s, "kept", "abc")
	lookup := exec.Command("secret-tool", "lookup", "profile", "credproxy/kept")
	lookup.Env = d.env
	if out, err := lookup.Output(); err != nil || !strings.Contains(string(out), "credproxy/kept") {
		t.Errorf("secret-tool does not find the item: %v: %s", err, out)
	}

	t.Run("silent", func(t *testing.T) { silentDaemon(t, d, daemon, state) })
	t.Run("locked", func(t *testing.T) { lockedKeyring(t, d, daemon, state) })
}

// A daemon that hangs costs one deadline, then nobody waits; when it answers again, credproxy goes on by itself.
func silentDaemon(t *testing.T, d *desktop, daemon *exec.Cmd, state string) {
	if err := daemon.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s := d.store(t, state)
	s.limit, s.pause = time.Second, time.Hour
	_, err := s.read(t.Context(), "kept")
	wantKind(t, err, ErrTimeout, "did not answer")
	s.limit = 20 * time.Second
	_, err = s.read(t.Context(), "kept")
	wantKind(t, err, ErrTimeout, "lately")
	if err := daemon.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	// Another process has had an answer, so there is no need to wait for the hour to end.
	mustSet(t, d.store(t, state), "kept", "def")
	if got := mustRead(t, s, "kept").Value; got != "def" {
		t.Errorf("got %q", got)
	}
	s.pause = time.Nanosecond
	s.leave(true)
	if got := mustRead(t, s, "kept").Value; got != "def" {
		t.Errorf("after the pause: got %q", got)
	}
}

// A locked keyring is an error at once in the background, and an error after the failed dialog for a person.
func lockedKeyring(t *testing.T, d *desktop, daemon *exec.Cmd, state string) {
	if err := daemon.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = daemon.Wait()
	s := d.store(t, state)
	_, err := s.read(t.Context(), "kept")
	wantKind(t, err, ErrUnavailable, "ServiceUnknown")

	d.keyring(t, false)
	// Without a person, credproxy does not even try to have a dialog shown.
	for interactive, says := range map[bool]string{false: "the default keyring is locked", true: "the keyring was not unlocked"} {
		s.interactive = interactive
		_, err := s.read(t.Context(), "kept")
		e := wantKind(t, err, ErrLocked, "backend secret-service: "+says)
		if e.Slug() != "keyring_locked" || !strings.Contains(e.Hint(), "unlock your login keyring") {
			t.Errorf("interactive %v: slug %q, hint %q", interactive, e.Slug(), e.Hint())
		}
		wantKind(t, s.Set(t.Context(), "kept", NewValue("x")), ErrLocked, "set keyring:kept")
	}
}

// The platform's default is the secret service if somebody provides it, else the file, and is written down.
func TestPlatformBackend(t *testing.T) {
	t.Parallel()
	d := newDesktop(t)
	state := t.TempDir()
	s := d.store(t, state)
	if got := s.platformBackend(); got != "file" {
		t.Errorf("with a bus and nobody on it: %s, want file", got)
	}
	d.keyring(t, true)
	if got := s.platformBackend(); got != "secret-service" {
		t.Errorf("with gnome-keyring: %s, want secret-service", got)
	}
	s.bus = busAddress{}
	b, err := s.chooseBackend("")
	if err != nil || b.name != "file" {
		t.Errorf("without a bus: %v, %v; want file", b, err)
	}
	s.bus.given = d.address
	if b, err = s.chooseBackend(""); err != nil || b.name != "file" {
		t.Errorf("later with a bus: %v, %v; want what is written down", b, err)
	}
}

func TestUnescapePath(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"login": "login", "Default_5fkeyring": "Default_keyring", "a_2db": "a-b", "end_": "end_", "_zz": "_zz", "_5f": "_"} {
		if got := unescapePath(in); got != want {
			t.Errorf("unescapePath(%q) = %q, want %q", in, got, want)
		}
	}
}
