package secrets

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// counted is a reference to a command that notes each run in a file.
type counted struct {
	ref    Ref
	folder string
}

func newCounted(t *testing.T) counted {
	t.Helper()
	needShell(t)
	folder := t.TempDir()
	script := `echo run >> "$0/runs"; cat "$0/go" > /dev/null; cat "$0/value"`
	c := counted{ref: execRef("sh", "-c", script, folder), folder: folder}
	c.set(t, "one")
	return c
}

func (c counted) set(t *testing.T, value string) {
	t.Helper()
	writeSecret(t, filepath.Join(c.folder, "value"), value, 0o600)
}

func (c counted) release(t *testing.T) {
	t.Helper()
	writeSecret(t, filepath.Join(c.folder, "go"), "", 0o600)
}

func (c counted) runs(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(c.folder, "runs"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Count(string(b), "run")
}

func wantValue(t *testing.T, r *Resolver, ref Ref, want string) {
	t.Helper()
	if v, err := r.Resolve(t.Context(), ref); err != nil || v.Reveal() != want {
		t.Fatalf("%v: got %q, %v; want %q", ref, v.Reveal(), err, want)
	}
}

func TestResolveCachesUntilTTL(t *testing.T) {
	t.Parallel()
	c := newCounted(t)
	c.release(t)
	clock := newClock()
	r := newResolver(t)
	r.now = clock.now
	ref := c.ref
	ref.TTL = 10 * time.Minute
	for _, step := range []struct {
		after time.Duration
		value string
		want  string
		runs  int
	}{
		{0, "one", "one", 1},
		{9 * time.Minute, "two", "one", 1},
		{time.Minute, "two", "two", 2},
		{-time.Hour, "three", "three", 3}, // a clock that was set back
		{10 * time.Minute, "four", "four", 4},
	} {
		c.set(t, step.value)
		clock.advance(step.after)
		wantValue(t, r, ref, step.want)
		if got := c.runs(t); got != step.runs {
			t.Fatalf("after %s: %d runs, want %d", step.after, got, step.runs)
		}
	}
}

// Many callers share one fetch. One that goes away neither ends nor poisons it.
func TestResolveSharesOneFetch(t *testing.T) {
	t.Parallel()
	needShell(t)
	folder := t.TempDir()
	fifo := filepath.Join(folder, "go")
	mkfifo(t, fifo)
	ref := execRef("sh", "-c", `echo run >> "$0/runs"; cat "$0/go"`, folder)
	r := newResolver(t)

	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := r.Resolve(ctx, ref)
		first <- err
	}()
	// Opening the pipe for writing waits until the command reads it: the fetch is under way then.
	gate, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	e := wantKind(t, <-first, context.Canceled, "")
	if e.Slug() == "internal" {
		t.Errorf("slug %q", e.Slug())
	}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if v, err := r.Resolve(t.Context(), ref); err != nil || v.Reveal() != "shared" {
				t.Errorf("got %q, %v; want shared", v.Reveal(), err)
			}
		})
	}
	if _, err := gate.WriteString("shared\n"); err != nil {
		t.Fatal(err)
	}
	if err := gate.Close(); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	b, err := os.ReadFile(filepath.Join(folder, "runs"))
	if err != nil || string(b) != "run\n" {
		t.Errorf("the command ran %q (%v), want one run", b, err)
	}
}

func TestResolveRemembersFailures(t *testing.T) {
	t.Parallel()
	needShell(t)
	c := newCounted(t)
	c.ref = execRef("sh", "-c", `echo run >> "$0/runs"; cat "$0/value"`, c.folder)
	c.set(t, "")
	clock := newClock()
	r := newResolver(t)
	r.now = clock.now
	for range 3 {
		_, err := r.Resolve(t.Context(), c.ref)
		wantKind(t, err, ErrFailed, "printed nothing")
	}
	if got := c.runs(t); got != 1 {
		t.Errorf("%d runs within 5 s, want 1", got)
	}
	c.set(t, "better")
	clock.advance(missingFor)
	wantValue(t, r, c.ref, "better")
}

func TestReject(t *testing.T) {
	t.Parallel()
	c := newCounted(t)
	c.release(t)
	clock := newClock()
	r := newResolver(t)
	r.now = clock.now
	steps := []struct {
		name   string
		reject string
		after  time.Duration
		want   int
	}{
		{"first", "", 0, 1},
		{"another value was rejected", "other", 0, 1},
		{"this value was rejected", "one", 0, 2},
		{"again too soon", "one", 29 * time.Second, 2},
		{"again later", "one", time.Second, 3},
	}
	for _, step := range steps {
		clock.advance(step.after)
		if step.reject != "" {
			r.Reject(c.ref, NewValue(step.reject))
		}
		wantValue(t, r, c.ref, "one")
		if got := c.runs(t); got != step.want {
			t.Fatalf("%s: %d runs, want %d", step.name, got, step.want)
		}
	}
}

func TestForget(t *testing.T) {
	t.Parallel()
	c := newCounted(t)
	c.release(t)
	r := newResolver(t)
	wantValue(t, r, c.ref, "one")
	c.set(t, "two")
	wantValue(t, r, c.ref, "one")
	r.Forget()
	wantValue(t, r, c.ref, "two")
}

// A fetch that began before Forget serves its callers, but its value is not kept, and later callers do not join it.
func TestForgetDuringFetch(t *testing.T) {
	t.Parallel()
	needShell(t)
	folder := t.TempDir()
	fifo := filepath.Join(folder, "go")
	mkfifo(t, fifo)
	ref := execRef("sh", "-c", `if mkdir "$0/first" 2>/dev/null; then cat "$0/go"; else echo new; fi`, folder)
	r := newResolver(t)
	old := make(chan string, 1)
	go func() {
		v, _ := r.Resolve(t.Context(), ref)
		old <- v.Reveal()
	}()
	gate, err := os.OpenFile(fifo, os.O_WRONLY, 0) // waits for the first command
	if err != nil {
		t.Fatal(err)
	}
	r.Forget()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	v, err := r.Resolve(ctx, ref)
	if err != nil || v.Reveal() != "new" {
		t.Errorf("a caller from after got %q, %v; want new", v.Reveal(), err)
	}
	_, err = gate.WriteString("old")
	if err := errors.Join(err, gate.Close()); err != nil {
		t.Fatal(err)
	}
	if got := <-old; got != "old" {
		t.Errorf("the caller from before got %q, want old", got)
	}
	wantValue(t, r, ref, "new")
}

// Close ends what is under way, and waits for it.
func TestClose(t *testing.T) {
	t.Parallel()
	needShell(t)
	folder := t.TempDir()
	fifo := filepath.Join(folder, "go")
	mkfifo(t, fifo)
	r := NewResolver(Config{})
	done := make(chan error, 1)
	go func() {
		_, err := r.Resolve(t.Context(), execRef("sh", "-c", `echo $$ > "$0/pid"; exec cat "$0/go"`, folder))
		done <- err
	}()
	gate, err := os.OpenFile(fifo, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = gate.Close() }()
	r.Close()
	if err := <-done; err == nil {
		t.Error("the fetch gave a value after Close")
	}
	pid, err := os.ReadFile(filepath.Join(folder, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	awaitGone(t, strings.TrimSpace(string(pid)))
	_, err = r.Resolve(t.Context(), Ref{Scheme: "env", Name: "HOME"})
	wantKind(t, err, context.Canceled, "")
	r.Close() // twice is harmless
}

// Slow commands have places of their own: they do not hold up other sources.
func TestSlowCommandsDoNotBlockFiles(t *testing.T) {
	t.Parallel()
	needShell(t)
	folder := t.TempDir()
	r := newResolver(t)
	width := sourceOf("exec").width
	for i := range width + 2 {
		fifo := filepath.Join(folder, string(rune('a'+i)))
		mkfifo(t, fifo)
		ctx, cancel := context.WithCancel(t.Context())
		t.Cleanup(cancel)
		go func() { _, _ = r.Resolve(ctx, execRef("cat", fifo)) }()
		if i < width {
			gate, err := os.OpenFile(fifo, os.O_WRONLY, 0) // waits for cat
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = gate.Close() })
		}
	}
	path := filepath.Join(folder, "token")
	writeSecret(t, path, "abc", 0o600)
	wantValue(t, r, Ref{Scheme: "file", Name: path}, "abc")
}

func BenchmarkResolveWarm(b *testing.B) {
	state := b.TempDir()
	store, err := OpenStore(StoreConfig{State: state, Backend: "file"})
	if err != nil {
		b.Fatal(err)
	}
	if err := store.Set(b.Context(), "github", NewValue("abc")); err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(state, "token")
	if err := os.WriteFile(path, []byte("abc"), 0o600); err != nil {
		b.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		b.Fatal(err)
	}
	b.Setenv("SECRETS_TEST_TOKEN", "abc")
	r := NewResolver(Config{Store: store})
	defer r.Close()
	for _, ref := range []Ref{{Scheme: "keyring", Name: "github"}, {Scheme: "env", Name: "SECRETS_TEST_TOKEN"}, {Scheme: "file", Name: path}} {
		b.Run(ref.Scheme, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := r.Resolve(b.Context(), ref); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// With Recheck a good value is used without a look at its source for that long, and not longer. A bad one is looked
// at each time.
func TestResolveRechecks(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "secret")
	clock := newClock()
	r := NewResolver(Config{Recheck: 100 * time.Millisecond})
	t.Cleanup(r.Close)
	r.now = clock.now
	ref := Ref{Scheme: "file", Name: path}
	write := func(value string) {
		if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		// Long ago and never the same, so that the file counts as settled and as changed.
		at := clock.now().Add(-time.Hour)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Resolve(t.Context(), ref); !errors.Is(err, ErrNotFound) {
		t.Fatalf("got %v", err)
	}
	write("one")
	wantValue(t, r, ref, "one")
	wantValue(t, r, ref, "one") // looks
	clock.advance(99 * time.Millisecond)
	write("second")
	wantValue(t, r, ref, "one")
	clock.advance(time.Millisecond)
	wantValue(t, r, ref, "second")
	wantValue(t, r, ref, "second")
	clock.advance(-time.Hour) // a clock that was set back
	write("the third")
	wantValue(t, r, ref, "the third")
}
