package secrets

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/credproxy/credproxy/secrets/dbusguard"
)

// The guard works only if its init runs before those of the D-Bus and keyring libraries.
func TestInitOrder(t *testing.T) {
	t.Parallel()
	cmd := childCommand(t, "", "nothing", "GODEBUG=inittrace=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	at := func(name string) int { return strings.Index(string(out), "init "+name+" @") }
	guard := at("github.com/credproxy/credproxy/secrets/dbusguard")
	if guard < 0 {
		t.Fatalf("the guard does not run: %s", out)
	}
	for _, later := range []string{"github.com/99designs/keyring", "github.com/godbus/dbus"} {
		if at(later) < 0 && runtime.GOOS == "linux" {
			t.Errorf("%s has no init any more; is the guard still needed?", later)
		}
		if at(later) >= 0 && at(later) < guard {
			t.Errorf("%s is initialised before the guard", later)
		}
	}
}

// deadBus accepts connections and never answers.
func deadBus(t *testing.T) (address string, accepted <-chan struct{}) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan struct{}, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer func() { _ = c.Close() }()
			seen <- struct{}{}
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return "unix:path=" + path, seen
}

// A bus that does not answer keeps neither the program from starting nor a caller for longer than the deadline.
func TestDeadBus(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only on Linux does the library use D-Bus")
	}
	address, accepted := deadBus(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	model := childCommand(t, "", "nothing")
	cmd := exec.CommandContext(ctx, model.Path)
	cmd.Env = append(model.Env, dbusguard.AddressVariable+"="+address)
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "reached main\n" {
		t.Errorf("starting with a dead bus: %v: %q", err, out)
	}
	select {
	case <-accepted:
		t.Error("the program connected to the bus")
	default:
	}

	s := fileStore(t, t.TempDir())
	s.backend = findAny("secret-service")
	s.bus = busAddress{given: address}
	s.limit = 500 * time.Millisecond
	started := time.Now()
	_, err := s.read(t.Context(), "github")
	e := wantKind(t, err, ErrTimeout, "backend secret-service")
	if e.Slug() != "secret_timeout" || time.Since(started) > 5*time.Second {
		t.Errorf("slug %q after %s", e.Slug(), time.Since(started))
	}
	select {
	case <-accepted:
	default:
		t.Error("the helper did not connect to the bus, so this test shows nothing")
	}
	// Now it is known to be silent, and nobody waits.
	s.limit = time.Hour
	_, err = s.read(t.Context(), "github")
	wantKind(t, err, ErrTimeout, "lately")
}

// Without a bus nobody may start one: a daemon that the D-Bus library launches is never ended.
func TestNoBusStartsNoDaemon(t *testing.T) {
	needShell(t)
	folder := t.TempDir()
	called := filepath.Join(folder, "called")
	if err := os.WriteFile(filepath.Join(folder, "dbus-launch"), []byte("#!/bin/sh\necho $0 >> "+called+"\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", folder+string(os.PathListSeparator)+os.Getenv("PATH"))
	state := t.TempDir()
	child := childCommand(t, state, "set", "SECRETS_TEST_NAME=x", "SECRETS_TEST_VALUE=y")
	child.Env = without(child.Env, func(name string) bool { return name == dbusguard.AddressVariable || name == "XDG_RUNTIME_DIR" })
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	child = childCommand(t, state, "set", "SECRETS_TEST_NAME=x", "SECRETS_TEST_VALUE=y", dbusguard.AddressVariable+"=")
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if runtime.GOOS == "linux" {
		s := fileStore(t, state)
		s.backend = findAny("secret-service")
		s.bus = busAddress{sockets: []string{filepath.Join(folder, "no-bus")}}
		_, err := s.read(t.Context(), "x")
		e := wantKind(t, err, ErrUnavailable, "DBUS_SESSION_BUS_ADDRESS")
		if e.Slug() != "keyring_unavailable" {
			t.Errorf("slug %q", e.Slug())
		}
		s.bus = busAddress{given: "unix:path=" + filepath.Join(folder, "no-bus")}
		_, err = s.read(t.Context(), "x")
		wantKind(t, err, ErrUnavailable, "no such file or directory")
	}
	if b, err := os.ReadFile(called); err == nil {
		t.Errorf("a bus was launched: %s", b)
	}
}

// Children get the address that credproxy was started with.
func TestEnvironRestoresBus(t *testing.T) {
	t.Parallel()
	needShell(t)
	want, ok := dbusguard.Original()
	got := ""
	for _, line := range Environ() {
		if value, found := strings.CutPrefix(line, dbusguard.AddressVariable+"="); found {
			got += value
		}
	}
	if got != want || strings.Contains(strings.Join(Environ(), "\n"), dbusguard.Nowhere) {
		t.Errorf("children get the bus %q, want %q (set: %v)", got, want, ok)
	}
	if os.Getenv(dbusguard.AddressVariable) != dbusguard.Nowhere {
		t.Error("this process itself can reach the bus")
	}
}
