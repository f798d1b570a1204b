package secrets

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/99designs/keyring"
)

func fileStore(t *testing.T, state string) *Store {
	t.Helper()
	s, err := OpenStore(StoreConfig{State: state, Backend: "file"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustSet(t *testing.T, s *Store, name, value string) {
	t.Helper()
	if err := s.Set(t.Context(), name, NewValue(value)); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t *testing.T, s *Store, name string) envelope {
	t.Helper()
	e, err := s.read(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// exercise is what every backend must do alike.
func exercise(t *testing.T, s *Store) {
	t.Helper()
	ctx := t.Context()
	wantNames := func(want ...string) {
		t.Helper()
		items, err := s.List(ctx)
		if err != nil {
			t.Fatal(err)
		}
		got := []string{}
		for _, item := range items {
			got = append(got, item.Name)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("List() = %v, want %v", got, want)
		}
	}
	wantNames()
	_, err := s.read(ctx, "absent")
	if !errors.Is(err, ErrNotFound) {
		t.Errorf("reading an absent secret: %v, want ErrNotFound", err)
	}
	e := wantKind(t, s.Remove(ctx, "absent"), ErrNotFound, "rm keyring:absent")
	if e.Slug() != "secret_missing" {
		t.Errorf("slug %q", e.Slug())
	}
	before := s.generation()
	mustSet(t, s, "github", "first")
	if s.generation() == before {
		t.Error("Set did not change the generation")
	}
	created := mustRead(t, s, "github").Created
	value := `"quoted" <b> pässwört ☃ {"json":true}`
	mustSet(t, s, "github", value)
	mustSet(t, s, "a.b_c-9", "-----BEGIN X-----\nAAAA\n-----END X-----\n")
	got := mustRead(t, s, "github")
	if got.Value != value || !got.Created.Equal(created) || got.Updated.Before(created) {
		t.Errorf("read %+v, want value %q, created %s", got, value, created)
	}
	wantNames("a.b_c-9", "github")

	r := NewResolver(Config{Store: s})
	defer r.Close()
	ref := Ref{Scheme: "keyring", Name: "github"}
	wantValue(t, r, ref, value)
	err = r.Rotate(ctx, ref, func(_ context.Context, current Value) (Value, error) {
		if current.Reveal() != value {
			t.Errorf("renew got %q", current.Reveal())
		}
		if item := mustRead(t, s, "github"); item.Intent == nil || item.Intent.Fingerprint != fingerprint(value) || item.Value != value {
			t.Errorf("during the renewal the keyring holds %+v", item)
		}
		return NewValue("rotated"), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if item := mustRead(t, s, "github"); item.Value != "rotated" || item.Previous != value || item.Intent != nil {
		t.Errorf("after the renewal the keyring holds %+v", item)
	}
	wantValue(t, r, ref, "rotated")

	before = s.generation()
	if err := s.Remove(ctx, "github"); err != nil {
		t.Fatal(err)
	}
	if s.generation() == before {
		t.Error("Remove did not change the generation")
	}
	_, err = r.Resolve(ctx, ref)
	e = wantKind(t, err, ErrNotFound, "resolve keyring:github")
	if e.Hint() != "credproxy secret set github" {
		t.Errorf("hint %q", e.Hint())
	}
	wantNames("a.b_c-9")
	if err := s.Remove(ctx, "a.b_c-9"); err != nil {
		t.Fatal(err)
	}
	wantNames()
}

func TestFileBackend(t *testing.T) {
	t.Parallel()
	state := filepath.Join(t.TempDir(), "state")
	s := fileStore(t, state)
	if err := s.Unlock(t.Context()); err != nil {
		t.Errorf("Unlock of a keyring that does not exist: %v", err)
	}
	exercise(t, s)
	if err := s.Unlock(t.Context()); err != nil {
		t.Error(err)
	}
	mustSet(t, s, "one", "some-secret-value")
	items, err := s.List(t.Context())
	if err != nil || len(items) != 1 || time.Since(items[0].Updated).Abs() > time.Minute {
		t.Errorf("List() = %+v, %v; want one, updated just now", items, err)
	}
	err = filepath.WalkDir(state, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if entry.IsDir() {
			return nil
		}
		if strings.Contains(path, ".stage-") || strings.Contains(path, ".new-") {
			t.Errorf("%s was left behind", path)
		}
		b, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(b), "some-secret") {
			t.Errorf("%s holds the value in plain text", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSetRefuses(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	s := fileStore(t, state)
	for _, test := range []struct {
		name, value string
		kind        error
	}{
		{"GitHub", "x", ErrInvalid},
		{"../x", "x", ErrInvalid},
		{"_canary", "x", ErrInvalid},
		{"github", "", ErrInvalid},
		{"github", "a\nb", ErrInvalid},
		{"github", strings.Repeat("x", maxValue+1), ErrTooLarge},
	} {
		wantKind(t, s.Set(t.Context(), test.name, NewValue(test.value)), test.kind, "set")
	}
	if _, err := os.Stat(filepath.Join(state, "keyring")); err == nil {
		t.Error("a refused secret made a keyring")
	}
	wantKind(t, s.Remove(t.Context(), "../x"), ErrInvalid, "rm")
}

func TestWindowsLimit(t *testing.T) {
	t.Parallel()
	s := fileStore(t, t.TempDir())
	limited := *findAny("wincred")
	limited.name = "file" // the limit of one, the storage of the other
	s.backend = &limited
	wantKind(t, s.Set(t.Context(), "big", NewValue(strings.Repeat("x", 2400))), ErrTooLarge, "no room")
	mustSet(t, s, "small", strings.Repeat("x", 2000))
	// The value before the last is given up for lack of room, not the last.
	r := NewResolver(Config{Store: s})
	defer r.Close()
	err := r.Rotate(t.Context(), Ref{Scheme: "keyring", Name: "small"}, func(context.Context, Value) (Value, error) {
		return NewValue(strings.Repeat("y", 2000)), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if item := mustRead(t, s, "small"); item.Value != strings.Repeat("y", 2000) || item.Previous != "" {
		t.Errorf("the keyring holds %d bytes, and %d of the one before", len(item.Value), len(item.Previous))
	}
}

func findAny(name string) *backend {
	for _, b := range backends {
		if b.name == name {
			return b
		}
	}
	return nil
}

func TestOpenStoreChoosesOnce(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	_, err := OpenStore(StoreConfig{State: state, Backend: "keyctl"})
	e := wantKind(t, err, ErrUnavailable, "unknown backend")
	for _, name := range Backends() {
		if !strings.Contains(e.Error(), name) {
			t.Errorf("error %q does not list %s", e, name)
		}
	}
	for _, b := range backends {
		if !b.runsHere() {
			_, err := OpenStore(StoreConfig{State: state, Backend: b.name})
			wantKind(t, err, ErrUnavailable, "does not exist on "+runtime.GOOS)
		}
	}
	if _, err := os.Stat(filepath.Join(state, "backend")); err == nil {
		t.Error("an explicit backend was written down")
	}
	path := filepath.Join(state, "backend")
	if err := os.WriteFile(path, []byte("pass\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := OpenStore(StoreConfig{State: state}); err != nil || s.Backend() != "pass" {
		t.Errorf("got %v, %v; want what is written down", s, err)
	}
	if s, err := OpenStore(StoreConfig{State: state, Backend: "file"}); err != nil || s.Backend() != "file" {
		t.Errorf("got %v, %v; want what was asked for", s, err)
	}
	if err := os.WriteFile(path, []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = OpenStore(StoreConfig{State: state})
	wantKind(t, err, ErrUnavailable, path)
	_, err = OpenStore(StoreConfig{})
	wantKind(t, err, ErrUnavailable, "state folder")
}

// A hand-made item without an envelope is a raw value, and becomes an envelope when it is rotated.
func TestRawItem(t *testing.T) {
	t.Parallel()
	s := fileStore(t, t.TempDir())
	if _, err := s.call(t.Context(), request{Op: "set", Item: "made", Data: []byte(`{"user":"me"}`)}); err != nil {
		t.Fatal(err)
	}
	r := NewResolver(Config{Store: s})
	defer r.Close()
	wantValue(t, r, Ref{Scheme: "keyring", Name: "made"}, `{"user":"me"}`)
	wantValue(t, r, Ref{Scheme: "keyring", Name: "made", Field: "user"}, "me")
}

func TestEnvelope(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"plain", "a\xffb", `{"v":1}`, `{"v":1,"kind":"raw","value":"inner"}`, "\x00"} {
		data, err := envelope{Value: value, Previous: "p"}.encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := decodeEnvelope(data); err != nil || got.Value != value || got.Previous != "p" {
			t.Errorf("%q came back as %+v, %v", value, got, err)
		}
	}
	for data, want := range map[string]error{
		"": ErrCorrupt, `{"v":2,"kind":"raw","value":"x"}`: ErrCorrupt, `{"v":1,"kind":"base64","value":"%"}`: ErrCorrupt,
	} {
		if _, err := decodeEnvelope([]byte(data)); !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", data, err, want)
		}
	}
	if got, err := decodeEnvelope([]byte(`{"v":1,"kind":"raw"}`)); err != nil || got.Value != `{"v":1,"kind":"raw"}` {
		t.Errorf("JSON without a value: got %+v, %v; want it raw", got, err)
	}
}

// What one process sets, the Resolver of another gives at once, without being told.
func TestSetInAnotherProcess(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	s := fileStore(t, state)
	r := NewResolver(Config{Store: s})
	defer r.Close()
	ref := Ref{Scheme: "keyring", Name: "github"}
	_, err := r.Resolve(t.Context(), ref)
	wantKind(t, err, ErrNotFound, "")
	for _, value := range []string{"one", "two", "three"} {
		runChild(t, state, "set", "SECRETS_TEST_NAME=github", "SECRETS_TEST_VALUE="+value)
		wantValue(t, r, ref, value)
	}
	// The same without a change costs no helper: the keyring is gone, the value is not.
	if err := os.Rename(filepath.Join(state, "keyring"), filepath.Join(state, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	wantValue(t, r, ref, "three")
}

func childCommand(t *testing.T, state, role string, env ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(Environ(), childVariable+"="+role, "SECRETS_TEST_STATE="+state)
	cmd.Env = append(cmd.Env, env...)
	return cmd
}

func runChild(t *testing.T, state, role string, env ...string) {
	t.Helper()
	if out, err := childCommand(t, state, role, env...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", role, err, out)
	}
}

func TestLockConflict(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	s, other := fileStore(t, state), fileStore(t, state)
	unlock, err := s.lock(t.Context(), "github")
	if err != nil {
		t.Fatal(err)
	}
	other.lockWait = 50 * time.Millisecond
	e := wantKind(t, other.Set(t.Context(), "github", NewValue("x")), ErrConflict, "set keyring:github")
	if e.Slug() != "secret_conflict" {
		t.Errorf("slug %q", e.Slug())
	}
	unlock()
	mustSet(t, other, "github", "x")
}

// A forgetful keyring reports success and stores nothing, as a locked Keychain does over SSH.
type forgetful struct{ keyring.Keyring }

func (f forgetful) Set(item keyring.Item) error {
	item.Data = nil
	return f.Keyring.Set(item)
}

func TestSetReadsBack(t *testing.T) {
	t.Parallel()
	q := request{Backend: "keychain", Item: "x", Data: []byte("abc")}
	if err := store(forgetful{keyring.NewArrayKeyring(nil)}, q, "credproxy/x"); !errors.Is(err, errReadBack) {
		t.Errorf("got %v, want %v", err, errReadBack)
	}
	if err := store(keyring.NewArrayKeyring(nil), q, "credproxy/x"); err != nil {
		t.Error(err)
	}
}
