package certs

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A keychain is a keyring that people can lock, and that notes who asked.
type keychain struct {
	mu    sync.Mutex
	items map[string][]byte
	fails map[string]error // by operation
	asked []string
}

var errLocked = errors.New("locked")

func (k *keychain) Name() string { return "test" }

func (k *keychain) do(op string, f func() error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked = append(k.asked, op)
	if err := k.fails[op]; err != nil {
		return err
	}
	if k.items == nil {
		k.items = make(map[string][]byte)
	}
	return f()
}

func (k *keychain) Read(_ context.Context, item string) (data []byte, err error) {
	return data, k.do("read", func() error {
		var ok bool
		if data, ok = k.items[item]; !ok {
			return fs.ErrNotExist
		}
		return nil
	})
}

func (k *keychain) Write(_ context.Context, item string, data []byte) error {
	return k.do("write", func() error { k.items[item] = bytes.Clone(data); return nil })
}

func (k *keychain) Remove(_ context.Context, item string) error {
	return k.do("remove", func() error {
		if _, ok := k.items[item]; !ok {
			return fs.ErrNotExist
		}
		delete(k.items, item)
		return nil
	})
}

func (k *keychain) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fails = map[string]error{"read": err, "write": err, "remove": err}
}

func (k *keychain) calls() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	asked := k.asked
	k.asked = nil
	return asked
}

// openIn opens a CA that is for the hosts below example.com.
func openIn(t *testing.T, dir string, vault Vault) (*Authority, *strings.Builder) {
	t.Helper()
	log := new(strings.Builder)
	a, err := Config{Dir: dir, Vault: vault, Domain: exampleOnly, Log: slog.New(slog.NewTextHandler(log, nil))}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return a, log
}

func exampleOnly(host string) (string, bool) {
	return host, strings.HasSuffix(host, ".example.com")
}

func mustLeaf(t *testing.T, a *Authority, host string) {
	t.Helper()
	leaf, err := a.Leaf(host)
	if err != nil {
		t.Fatal(err)
	}
	verify(t, leaf, a.Certificate())
}

func keyFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.key"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestRootKeyIsInTheKeyring(t *testing.T) {
	t.Parallel()
	dir, k := t.TempDir()+"/ca", new(keychain)
	a, _ := openIn(t, dir, k)
	if files := keyFiles(t, dir); len(files) != 0 || len(k.items) != 1 {
		t.Fatalf("key files %q, keyring %q: want the key in the keyring alone", files, slices.Collect(maps.Keys(k.items)))
	}
	if err := a.Prepare(t.Context(), []string{"api.example.com"}); err != nil {
		t.Fatal(err)
	}
	k.calls()
	// The next start, and all that follows, needs no keyring.
	k.fail(errLocked)
	b, _ := openIn(t, dir, k)
	if err := b.Prepare(t.Context(), []string{"api.example.com"}); err != nil {
		t.Fatal(err)
	}
	mustLeaf(t, a, "api.example.com")
	mustLeaf(t, b, "api.example.com")
	if asked := k.calls(); len(asked) != 0 {
		t.Errorf("the keyring was asked: %q", asked)
	}
	// A further host does.
	if err := b.Prepare(t.Context(), []string{"api.example.com", "new.example.com"}); !errors.Is(err, errLocked) || !strings.Contains(err.Error(), "for new.example.com: ") {
		t.Errorf("got %v, want the keyring's error", err)
	}
	if _, err := b.Leaf("new.example.com"); !errors.Is(err, errLocked) {
		t.Errorf("got %v, want the keyring's error", err)
	}
	mustLeaf(t, b, "api.example.com")
	k.calls()
	for range 10 {
		_, _ = b.Leaf("new.example.com")
	}
	if asked := k.calls(); len(asked) != 0 {
		t.Errorf("each handshake asks a keyring that is locked: %q", asked)
	}
	k.fail(nil)
	if err := b.Prepare(t.Context(), []string{"new.example.com"}); err != nil {
		t.Fatal(err)
	}
	mustLeaf(t, b, "new.example.com")
}

func TestRootKeyIsGone(t *testing.T) {
	t.Parallel()
	dir, k := t.TempDir()+"/ca", new(keychain)
	a, _ := openIn(t, dir, k)
	clear(k.items)
	_, err := a.Leaf("api.example.com")
	wantError(t, err, "and not in the test keyring", "credproxy ca rotate")
	b, _ := openIn(t, dir, nil)
	_, err = b.Leaf("api.example.com")
	wantError(t, err, "key is gone", "credproxy ca rotate")
	for item := range k.items {
		k.items[item] = []byte("nonsense")
	}
	if err := (Config{Dir: dir, Vault: k}).Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, _ := openIn(t, dir, k)
	mustLeaf(t, c, "api.example.com")
}

// TestRootKeyMoves: a key in a file goes to the keyring once there is one that takes it.
func TestRootKeyMoves(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		fails map[string]error
		moved bool
	}{
		{"good", nil, true},
		{"locked", map[string]error{"write": errLocked}, false},
		{"not read back", map[string]error{"read": errLocked}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir, k := t.TempDir()+"/ca", &keychain{fails: test.fails}
			first, _ := openIn(t, dir, nil)
			a, log := openIn(t, dir, k)
			mustLeaf(t, a, "api.example.com")
			if moved := len(keyFiles(t, dir)) == 0; moved != test.moved {
				t.Errorf("moved: %v, want %v", moved, test.moved)
			}
			if warned := strings.Contains(log.String(), "stays in a file"); warned == test.moved {
				t.Errorf("the log says %q", log)
			}
			k.fail(nil)
			mustLeaf(t, a, "next.example.com")
			if files := keyFiles(t, dir); len(files) != 0 {
				t.Errorf("%q are left", files)
			}
			if !first.Certificate().Equal(a.Certificate()) {
				t.Error("the root has changed")
			}
		})
	}
}

func TestRootKeyWaitsInAFile(t *testing.T) {
	t.Parallel()
	dir, k := t.TempDir()+"/ca", &keychain{fails: map[string]error{"write": errLocked}}
	a, log := openIn(t, dir, k)
	if len(keyFiles(t, dir)) != 1 || !strings.Contains(log.String(), "until the keyring takes it") {
		t.Errorf("key files %q, log %q", keyFiles(t, dir), log)
	}
	wantMode(t, keyFile(t, dir), 0o600)
	k.fail(nil)
	mustLeaf(t, a, "api.example.com")
	if len(keyFiles(t, dir)) != 0 || len(k.items) != 1 {
		t.Error("the key did not move")
	}
}

// Before there were intermediates the root had path length 0, and its key was ca.key.
func TestRootWithoutIntermediatesIsReplaced(t *testing.T) {
	t.Parallel()
	dir, k := t.TempDir()+"/ca", new(keychain)
	before := open(t, dir+"2").Certificate() // any key
	key := newKey(t)
	template := *before
	template.MaxPathLen, template.MaxPathLenZero = 0, true
	template.PublicKey, template.SubjectKeyId, template.AuthorityKeyId = &key.PublicKey, nil, nil
	der := signed(t, &template, &template, key, key)
	encoded, err := encodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	old := Path(dir)
	if err := os.WriteFile(old, encodeDER(der), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.key"), encoded, 0o600); err != nil {
		t.Fatal(err)
	}
	a, _ := openIn(t, dir, k)
	mustLeaf(t, a, "api.example.com")
	if files := keyFiles(t, dir); len(files) != 0 {
		t.Errorf("%q are left", files)
	}
	if bytes.Equal(a.Certificate().Raw, der) || len(a.current().retired) != 1 {
		t.Error("the old root was not replaced, or not noted")
	}
}

func TestRotate(t *testing.T) {
	t.Parallel()
	dir, k := t.TempDir()+"/ca", new(keychain)
	synctest.Test(t, func(t *testing.T) {
		replaced := 0
		a, err := Config{Dir: dir, Vault: k, Domain: exampleOnly, Replaced: func() { replaced++ }}.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		old := a.Certificate()
		before, err := a.Leaf("api.example.com")
		if err != nil {
			t.Fatal(err)
		}
		if err := (Config{Dir: dir, Vault: k}).Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * lookEvery)
		after, err := a.Leaf("api.example.com")
		if err != nil {
			t.Fatal(err)
		}
		if verifyAt(after, old, time.Now()) == nil || verifyAt(before, a.Certificate(), time.Now()) == nil {
			t.Error("old and new do not differ")
		}
		verify(t, after, a.Certificate())
		if replaced != 1 {
			t.Errorf("Replaced was called %d times, want once", replaced)
		}
		if len(k.items) != 1 {
			t.Errorf("%d keys in the keyring, want the new one", len(k.items))
		}
		if dirs, _ := filepath.Glob(filepath.Join(dir, "hosts-*")); len(dirs) != 1 {
			t.Errorf("%q: want the new root's alone", dirs)
		}
		// The old one is trusted no more, wherever it turns up.
		bundle, company := dir+"/bundle.pem", dir+"/old.pem"
		if err := os.WriteFile(company, append(encode(old), encodeDER(before.Certificate[1])...), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := WriteBundle(bundle, a, []string{company}); err != nil {
			t.Fatal(err)
		}
		if got := certificates(t, bundle); count(got, old) != 0 || count(got, a.Certificate()) != 1 {
			t.Errorf("the bundle has the old root %d times, the new one %d times", count(got, old), count(got, a.Certificate()))
		}
		if roots, err := a.UpstreamRoots(company); err != nil || roots == nil || verifyIn(before, roots) == nil {
			t.Errorf("the old root is believed for upstreams (%v)", err)
		}
	})
}

// A host that is new in the same moment does not meet the old root, whose key is gone.
func TestRotateBeforeAnybodyLooked(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]func(a *Authority) error{
		"connection": func(a *Authority) error { _, err := a.Leaf("api.example.com"); return err },
		"reload":     func(a *Authority) error { return a.Prepare(context.Background(), []string{"api.example.com"}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir() + "/ca"
			synctest.Test(t, func(t *testing.T) { // no time passes
				a, _ := openIn(t, dir, nil)
				if err := (Config{Dir: dir}).Rotate(context.Background()); err != nil {
					t.Fatal(err)
				}
				if err := first(a); err != nil {
					t.Fatal(err)
				}
				mustLeaf(t, a, "api.example.com")
			})
		})
	}
}

// TestRotateMendsWhatIsBroken: it is the way out of every error.
func TestRotateMendsWhatIsBroken(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(dir string, k *keychain) error{
		"no CA":              func(dir string, _ *keychain) error { return os.RemoveAll(dir) },
		"certificate is cut": func(dir string, _ *keychain) error { return os.Truncate(Path(dir), 40) },
		"key is gone":        func(_ string, k *keychain) error { clear(k.items); return nil },
		"keyring is locked":  func(_ string, k *keychain) error { k.fail(errLocked); return nil },
		"list is nonsense": func(dir string, _ *keychain) error {
			return os.WriteFile(filepath.Join(dir, retiredFile), []byte("x"), 0o600)
		},
		"certificate is huge": func(dir string, _ *keychain) error { return os.Truncate(Path(dir), 1<<20) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, k := t.TempDir()+"/ca", new(keychain)
			openIn(t, dir, k)
			if err := damage(dir, k); err != nil {
				t.Fatal(err)
			}
			if err := (Config{Dir: dir, Vault: k}).Rotate(t.Context()); err != nil {
				t.Fatal(err)
			}
			a, _ := openIn(t, dir, k)
			mustLeaf(t, a, "api.example.com")
		})
	}
}
