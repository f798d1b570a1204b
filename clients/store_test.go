package clients

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestStore(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "clients")
	s, proxy := Open(dir), Open(dir) // the command, and the proxy that runs
	if s.Any() || proxy.Check("ci", "x") {
		t.Error("there is a client before one was added")
	}
	token, err := s.Add("ci", false)
	if err != nil || len(token) != 43 {
		t.Fatalf("token %q, %v, want 256 bits", token, err)
	}
	if !proxy.Check("ci", token) || proxy.Check("ci", token+"x") || !s.Any() {
		t.Error("the token does not count")
	}
	if _, err := s.Add("ci", false); !errors.Is(err, ErrExists) || !proxy.Check("ci", token) {
		t.Errorf("added twice: %v, and the first token counts: %v", err, proxy.Check("ci", token))
	}
	anew, err := s.Add("ci", true)
	if err != nil || anew == token || !proxy.Check("ci", anew) || proxy.Check("ci", token) {
		t.Errorf("replaced: %v, new counts %v, old counts %v", err, proxy.Check("ci", anew), proxy.Check("ci", token))
	}
	if list, err := s.List(); err != nil || len(list) != 1 || list[0].Name != "ci" || time.Since(list[0].Created) > time.Minute {
		t.Errorf("list: %v, %v", list, err)
	}
	if err := s.Remove("ci"); err != nil || proxy.Check("ci", anew) || s.Any() {
		t.Errorf("removed: %v, and counts: %v", err, proxy.Check("ci", anew))
	}
	if err := s.Remove("ci"); !errors.Is(err, ErrUnknown) {
		t.Errorf("removed twice: %v", err)
	}
}

// Nothing that was read before counts after a change, however fast changes follow each other.
func TestStoreFollowsEveryChange(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, proxy := Open(dir), Open(dir)
	for i := range 200 {
		token, err := s.Add("ci", true)
		if err != nil {
			t.Fatal(err)
		}
		if !proxy.Check("ci", token) {
			t.Fatalf("token %d does not count", i)
		}
		if i%3 == 0 {
			if err := s.Remove("ci"); err != nil {
				t.Fatal(err)
			}
			if proxy.Check("ci", token) {
				t.Fatalf("token %d counts after it was removed", i)
			}
		}
	}
}

// A file that has not changed for a while is looked at, not read.
func TestStoreReadsOnce(t *testing.T) {
	t.Parallel()
	s := Open(t.TempDir())
	token, err := s.Add("ci", false)
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(s.path("ci"), old, old); err != nil {
		t.Fatal(err)
	}
	s.Check("ci", token)
	before := s.known["ci"].read
	if !s.Check("ci", token) || !s.known["ci"].read.Equal(before) {
		t.Error("it was read again")
	}
}

func TestStoreFiles(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no modes")
	}
	dir := filepath.Join(t.TempDir(), "clients")
	s := Open(dir)
	token, err := s.Add("ci", false)
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, s.path("ci"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
	data, err := os.ReadFile(s.path("ci"))
	if err != nil || strings.Contains(string(data), token) {
		t.Errorf("the file holds the token: %s, %v", data, err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("the folder holds %v, %v", files, err)
	}
	for _, test := range []struct {
		name string
		do   func() error
	}{
		{"others can write to it", func() error { return os.Chmod(s.path("ci"), 0o622) }},
		{"damaged", func() error { return errors.Join(os.Chmod(s.path("ci"), 0o600), os.Truncate(s.path("ci"), 20)) }},
		{"another client's", func() error {
			return os.WriteFile(s.path("ci"), []byte(strings.Replace(string(data), `"ci"`, `"co"`, 1)), 0o600)
		}},
		{"a short hash", func() error {
			return os.WriteFile(s.path("ci"), []byte(`{"name":"ci","created":"2026-01-01T00:00:00Z","sha256":""}`), 0o600)
		}},
		{"a link", func() error {
			moved := filepath.Join(dir, "moved")
			return errors.Join(os.WriteFile(moved, data, 0o600), os.Remove(s.path("ci")), os.Symlink(moved, s.path("ci")))
		}},
		{"a folder", func() error { return errors.Join(os.Remove(s.path("ci")), os.Mkdir(s.path("ci"), 0o700)) }},
	} {
		if err := test.do(); err != nil {
			t.Fatal(err)
		}
		if s.Check("ci", token) {
			t.Errorf("%s: the token counts", test.name)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	s := Open(filepath.Join(t.TempDir(), "clients"))
	for _, name := range []string{"", ".", "..", "../ci", "a/b", "a b", "a:b", "a@b", "CI", "ü", "a\n", "-a", ".a", "%61", `a\b`, "run", "local", strings.Repeat("a", 65)} {
		if _, err := s.Add(name, true); !errors.Is(err, ErrName) {
			t.Errorf("%q: %v, want ErrName", name, err)
		}
	}
	for _, name := range []string{"a", "0", "a.b-c_d", strings.Repeat("a", 64)} {
		if token, err := s.Add(name, false); err != nil || !s.Check(name, token) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// Writers that come at once lose nothing of each other, and of two that add the same client one does.
func TestStoreTogether(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var wg sync.WaitGroup
	var mu sync.Mutex
	tokens := make(map[string]string)
	for i := range 40 {
		wg.Go(func() {
			name := fmt.Sprint("c", i/2)
			token, err := Open(dir).Add(name, false)
			if err != nil && !errors.Is(err, ErrExists) {
				t.Error(err)
			}
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				if tokens[name] != "" {
					t.Errorf("%s was added twice", name)
				}
				tokens[name] = token
			}
		})
	}
	wg.Wait()
	s := Open(dir)
	for name, token := range tokens {
		if !s.Check(name, token) {
			t.Errorf("the token of %s does not count", name)
		}
	}
	list, err := s.List()
	if err != nil || len(list) != 20 || len(tokens) != 20 || !slices.IsSortedFunc(list, func(a, b Client) int { return strings.Compare(a.Name, b.Name) }) {
		t.Errorf("%d clients, %d tokens, %v", len(list), len(tokens), err)
	}
}

func TestLocalToken(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "token")
	token, err := LocalToken(path)
	if err != nil || len(token) != 43 {
		t.Fatalf("%q, %v", token, err)
	}
	if again, err := LocalToken(path); err != nil || again != token {
		t.Errorf("a second time %q, %v, want the same", again, err)
	}
	if runtime.GOOS == "windows" {
		return
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LocalToken(path); err == nil || strings.Contains(err.Error(), token) {
		t.Errorf("readable for all: %v", err)
	}
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chmod(path, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := LocalToken(path); err == nil {
		t.Error("an empty token is taken")
	}
}
