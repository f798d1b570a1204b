//go:build unix

package secrets

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/credproxy/credproxy/internal/testneed"
)

func TestPassBackend(t *testing.T) {
	pass, gpg := testneed.Program(t, "pass"), testneed.Program(t, "gpg")
	// gpg-agent's socket lies in this folder, and the name of a socket is short.
	home, err := os.MkdirTemp("", "gpg")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GNUPGHOME", home)
	t.Setenv("PASSWORD_STORE_DIR", filepath.Join(home, "store"))
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		_ = os.RemoveAll(home)
	})
	run := func(program string, args ...string) {
		t.Helper()
		if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v: %s", program, args, err, out)
		}
	}
	s, err := OpenStore(StoreConfig{State: t.TempDir(), Backend: "pass"})
	if err != nil {
		t.Fatal(err)
	}
	s.limit = 20 * time.Second // the machine may be busy
	// A store without a key is no empty store, and asking it for something does not make its folder.
	_, listed := s.List(t.Context())
	_, got := s.read(t.Context(), "github")
	for _, err := range []error{listed, got, s.Set(t.Context(), "github", NewValue("abc")), s.Remove(t.Context(), "github")} {
		if e := wantKind(t, err, ErrUnavailable, "backend pass: the password store has no key yet"); !strings.HasPrefix(e.Hint(), "pass init KEY") {
			t.Errorf("hint %q", e.Hint())
		}
	}
	if _, err := os.Stat(filepath.Join(home, "store")); err == nil {
		t.Error("the folder of the password store was made")
	}

	run(gpg, "--batch", "--passphrase", "", "--quick-generate-key", "test@example.com", "default", "default", "never")
	run(pass, "init", "test@example.com")
	exercise(t, s)

	mustSet(t, s, "github", "abc")
	if _, err := os.Stat(filepath.Join(home, "store", "credproxy", "github.gpg")); err != nil {
		t.Error(err)
	}
	// Without the private key, gpg says so on standard error only.
	if err := os.RemoveAll(filepath.Join(home, "private-keys-v1.d")); err != nil {
		t.Fatal(err)
	}
	run("gpgconf", "--homedir", home, "--kill", "gpg-agent")
	_, err = s.read(t.Context(), "github")
	e := wantKind(t, err, ErrLocked, "backend pass")
	if e.Slug() != "keyring_locked" || !strings.Contains(e.Detail, "gpg:") {
		t.Errorf("slug %q, detail %q", e.Slug(), e.Detail)
	}

	t.Setenv("PATH", home)
	_, err = s.read(t.Context(), "github")
	if e := wantKind(t, err, ErrUnavailable, "the program pass is not on PATH"); !strings.HasPrefix(e.Hint(), "install pass") {
		t.Errorf("hint %q", e.Hint())
	}
}
