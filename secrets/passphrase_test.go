package secrets

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func setFile(t *testing.T, variable, content string, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "passphrase")
	writeSecret(t, path, content, mode)
	t.Setenv(variable, path)
}

// One keyring, opened with the passphrase from each place in turn; earlier places win over later ones.
func TestPassphraseOrder(t *testing.T) {
	state := t.TempDir()
	t.Setenv("CREDPROXY_PASSPHRASE", "correct horse")
	mustSet(t, fileStore(t, state), "github", "abc")
	if _, err := os.Stat(filepath.Join(state, "keyring.key")); err == nil {
		t.Error("a keyring with a passphrase got a key file")
	}
	opens := func(t *testing.T) {
		t.Helper()
		s := fileStore(t, state)
		if err := s.Unlock(t.Context()); err != nil {
			t.Error(err)
		}
		if got := mustRead(t, s, "github").Value; got != "abc" {
			t.Errorf("got %q", got)
		}
	}
	stays := func(t *testing.T, says string) {
		t.Helper()
		_, err := fileStore(t, state).read(t.Context(), "github")
		if e := wantKind(t, err, ErrLocked, says); e.Slug() != "keyring_locked" || strings.Contains(e.Error(), "horse") {
			t.Errorf("slug %q, error %q", e.Slug(), e)
		}
		wantKind(t, fileStore(t, state).Unlock(t.Context()), ErrLocked, "unlock")
		// A write with the wrong passphrase would mix two in one keyring.
		wantKind(t, fileStore(t, state).Set(t.Context(), "other", NewValue("x")), ErrLocked, "set keyring:other")
	}
	t.Run("variable", opens)
	t.Run("wrong", func(t *testing.T) {
		t.Setenv("CREDPROXY_PASSPHRASE", "wrong horse")
		stays(t, "not the one")
		t.Run("file wins over variable", func(t *testing.T) {
			setFile(t, "CREDPROXY_PASSPHRASE_FILE", "correct horse\n", 0o600)
			opens(t)
		})
		t.Run("credential wins over file", func(t *testing.T) {
			setFile(t, "CREDPROXY_PASSPHRASE_FILE", "wrong horse", 0o600)
			folder := t.TempDir()
			writeSecret(t, filepath.Join(folder, "credproxy-passphrase"), "correct horse\n", 0o440)
			t.Setenv("CREDENTIALS_DIRECTORY", folder)
			opens(t)
		})
		t.Run("descriptor wins over all", func(t *testing.T) {
			if runtime.GOOS == "windows" {
				t.Skip("descriptors are those of Unix")
			}
			setFile(t, "CREDPROXY_PASSPHRASE_FILE", "wrong horse", 0o600)
			pass, write, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := write.WriteString("correct horse\n"); err != nil {
				t.Fatal(err)
			}
			if err := write.Close(); err != nil {
				t.Fatal(err)
			}
			cmd := childCommand(t, state, "set", "SECRETS_TEST_NAME=fd", "SECRETS_TEST_VALUE=x", "CREDPROXY_PASSPHRASE_FD=3")
			cmd.ExtraFiles = []*os.File{pass}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
			_ = pass.Close()
		})
		t.Run("file that others can read", func(t *testing.T) {
			if runtime.GOOS == "windows" {
				t.Skip("Windows has no mode to go by")
			}
			setFile(t, "CREDPROXY_PASSPHRASE_FILE", "correct horse", 0o644)
			stays(t, "other users can read")
		})
		t.Run("file that is missing", func(t *testing.T) {
			t.Setenv("CREDPROXY_PASSPHRASE_FILE", filepath.Join(t.TempDir(), "absent"))
			stays(t, "not found")
		})
		t.Run("descriptor that is none", func(t *testing.T) {
			t.Setenv("CREDPROXY_PASSPHRASE_FD", "nonsense")
			stays(t, "CREDPROXY_PASSPHRASE_FD")
		})
	})
	t.Run("none", func(t *testing.T) {
		t.Setenv("CREDPROXY_PASSPHRASE", "")
		stays(t, "needs its passphrase")
		if _, err := os.Stat(filepath.Join(state, "keyring.key")); err == nil {
			t.Error("a keyring with a passphrase got a key file")
		}
		// Names are not encrypted.
		if items, err := fileStore(t, state).List(t.Context()); err != nil || len(items) == 0 {
			t.Errorf("List() = %v, %v", items, err)
		}
	})
}

func TestKeyFile(t *testing.T) {
	state := t.TempDir()
	t.Setenv("CREDPROXY_PASSPHRASE", "")
	mustSet(t, fileStore(t, state), "github", "abc")
	key := filepath.Join(state, "keyring.key")
	if got := mustRead(t, fileStore(t, state), "github").Value; got != "abc" {
		t.Errorf("got %q", got)
	}
	t.Run("passphrase besides", func(t *testing.T) {
		t.Setenv("CREDPROXY_PASSPHRASE", "correct horse")
		_, err := fileStore(t, state).read(t.Context(), "github")
		wantKind(t, err, ErrLocked, "made without a passphrase")
	})
	if runtime.GOOS != "windows" {
		if err := os.Chmod(key, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := fileStore(t, state).read(t.Context(), "github")
		if e := wantKind(t, err, ErrLocked, "other users can read"); e.Hint() != "chmod 600 "+key {
			t.Errorf("hint %q", e.Hint())
		}
	}
	writeSecret(t, key, "damaged", 0o600)
	_, err := fileStore(t, state).read(t.Context(), "github")
	wantKind(t, err, ErrCorrupt, "key file")
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	_, err = fileStore(t, state).read(t.Context(), "github")
	wantKind(t, err, ErrLocked, "missing")
	if err := fileStore(t, state).Set(t.Context(), "other", NewValue("x")); err == nil {
		t.Error("a keyring that lost its key file took a secret")
	}
	if _, err := os.Stat(key); err == nil {
		t.Error("a lost key file was replaced by another, which opens nothing")
	}
}

// A Resolver tells everybody for a while that the keyring is locked, and again at once after a change of it.
func TestLockedIsRemembered(t *testing.T) {
	state := t.TempDir()
	t.Setenv("CREDPROXY_PASSPHRASE", "correct horse")
	mustSet(t, fileStore(t, state), "github", "abc")
	t.Setenv("CREDPROXY_PASSPHRASE", "")
	s := fileStore(t, state)
	clock := newClock()
	r := NewResolver(Config{Store: s})
	defer r.Close()
	r.now = clock.now
	ref := Ref{Scheme: "keyring", Name: "github"}
	locked := func() {
		t.Helper()
		_, err := r.Resolve(t.Context(), ref)
		wantKind(t, err, ErrLocked, "keyring:github")
	}
	locked()
	t.Setenv("CREDPROXY_PASSPHRASE", "correct horse")
	clock.advance(29 * time.Second)
	locked()
	clock.advance(time.Second)
	wantValue(t, r, ref, "abc")

	t.Setenv("CREDPROXY_PASSPHRASE", "")
	r2 := NewResolver(Config{Store: fileStore(t, state)})
	defer r2.Close()
	_, err := r2.Resolve(t.Context(), ref)
	wantKind(t, err, ErrLocked, "")
	t.Setenv("CREDPROXY_PASSPHRASE", "correct horse")
	mustSet(t, fileStore(t, state), "other", "x")
	wantValue(t, r2, ref, "abc")
}
