package secrets

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/credproxy/credproxy/internal/testneed"
)

// A reader beside a writer sees the old value or the new one, never half of one or none.
func TestFileBackendTornReads(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	q := request{Backend: "file", State: state, Key: random(keySize), Op: "set", Item: "x", Limit: time.Minute}
	short, long := strings.Repeat("a", 100), strings.Repeat("b", 5000)
	put := func(value string) {
		q := q
		q.Data = []byte(value)
		ring, err := openRing(q)
		if err != nil {
			t.Fatal(err)
		}
		if err := store(ring, q, itemKey("file", q.Item)); err != nil {
			t.Fatal(err)
		}
	}
	put(short)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	reads := make([]int, 2)
	for i := range reads {
		readers.Go(func() {
			get := q
			get.Op = "get"
			for {
				select {
				case <-stop:
					return
				default:
				}
				ring, err := openRing(get)
				if err != nil {
					t.Errorf("opening: %v", err)
					return
				}
				item, err := ring.Get(itemKey("file", "x"))
				if err != nil || string(item.Data) != short && string(item.Data) != long {
					t.Errorf("read %d bytes, %v", len(item.Data), err)
					return
				}
				reads[i]++
			}
		})
	}
	for range 15 {
		put(long)
		put(short)
	}
	close(stop)
	readers.Wait()
	if reads[0] == 0 || reads[1] == 0 {
		t.Errorf("reads: %v", reads)
	}
}

// Two processes that rotate one secret lose no step.
func TestTwoProcessesRotate(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	s := fileStore(t, state)
	mustSet(t, s, "counter", "0")
	var both sync.WaitGroup
	for range 2 {
		cmd := childCommand(t, state, "count")
		both.Go(func() {
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	both.Wait()
	if got := mustRead(t, s, "counter").Value; got != "12" {
		t.Errorf("two processes counted to %s, want 12", got)
	}
}

// Two processes that make a keyring at once make one.
func TestTwoProcessesMakeKeyring(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	var both sync.WaitGroup
	for _, name := range []string{"a", "b", "c"} {
		cmd := childCommand(t, state, "set", "SECRETS_TEST_NAME="+name, "SECRETS_TEST_VALUE=value-"+name)
		both.Go(func() {
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	both.Wait()
	s := fileStore(t, state)
	for _, name := range []string{"a", "b", "c"} {
		if got := mustRead(t, s, name).Value; got != "value-"+name {
			t.Errorf("%s holds %q", name, got)
		}
	}
}

// A disk that is full when a secret is replaced leaves the old one.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	shell := testneed.Program(t, "sh")
	state := t.TempDir()
	s := fileStore(t, state)
	mustSet(t, s, "github", "old")
	child := childCommand(t, state, "set", "SECRETS_TEST_NAME=github", "SECRETS_TEST_VALUE="+strings.Repeat("new", 1000))
	limited := exec.CommandContext(t.Context(), shell, "-c", `ulimit -f 1 && exec "$0"`, child.Path)
	limited.Env = child.Env
	out, err := limited.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "set keyring:github") {
		t.Errorf("setting on a full disk: %v: %s", err, out)
	}
	if got := mustRead(t, s, "github").Value; got != "old" {
		t.Errorf("the keyring holds %q, want the old value", got)
	}
	left, err := filepath.Glob(filepath.Join(state, ".*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestDamagedItem(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	s := fileStore(t, state)
	mustSet(t, s, "github", "old")
	path := filepath.Join(state, "keyring", "credproxy%2Fgithub")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, damaged := range map[string][]byte{"cut": whole[:len(whole)/2], "empty": {}, "text": []byte("hello"), "flipped": flip(whole)} {
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := s.read(t.Context(), "github")
		e := wantKind(t, err, ErrCorrupt, "damaged")
		if e.Slug() != "secret_corrupt" {
			t.Errorf("%s: slug %q", name, e.Slug())
		}
	}
	mustSet(t, s, "github", "repaired")
	if got := mustRead(t, s, "github").Value; got != "repaired" {
		t.Errorf("got %q", got)
	}
	if err := os.WriteFile(path, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), "github"); err != nil {
		t.Errorf("a damaged item cannot be removed: %v", err)
	}
}

func flip(b []byte) []byte {
	c := append([]byte(nil), b...)
	c[len(c)-20] ^= 1
	return c
}
