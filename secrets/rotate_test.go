package secrets

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func rotateTo(t *testing.T, r *Resolver, ref Ref, wantCurrent, next string) {
	t.Helper()
	called := false
	err := r.Rotate(t.Context(), ref, func(_ context.Context, current Value) (Value, error) {
		called = true
		if current.Reveal() != wantCurrent {
			t.Errorf("renew got %q, want %q", current.Reveal(), wantCurrent)
		}
		return NewValue(next), nil
	})
	if err != nil || !called {
		t.Fatalf("Rotate: %v, renew called: %v", err, called)
	}
}

func TestRotateField(t *testing.T) {
	t.Parallel()
	s := fileStore(t, t.TempDir())
	mustSet(t, s, "google", `{"client_id":"c", "refresh_token": "one"}`)
	r := NewResolver(Config{Store: s})
	defer r.Close()
	ref := Ref{Scheme: "keyring", Name: "google", Field: "refresh_token"}
	wantValue(t, r, ref, "one")
	rotateTo(t, r, ref, "one", "two")
	wantValue(t, r, ref, "two")
	wantValue(t, r, Ref{Scheme: "keyring", Name: "google"}, `{"client_id":"c", "refresh_token": "two"}`)
	rotateTo(t, r, ref, "two", "three")
}

// Of a secret in another process, renew gets what is in the keyring, not what was cached.
func TestRotateReadsInsideTheLock(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	s := fileStore(t, state)
	mustSet(t, s, "github", "one")
	r := NewResolver(Config{Store: s})
	defer r.Close()
	ref := Ref{Scheme: "keyring", Name: "github"}
	wantValue(t, r, ref, "one")
	unlock, err := s.lock(t.Context(), "github")
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	go func() {
		_ = r.Rotate(t.Context(), ref, func(_ context.Context, current Value) (Value, error) {
			got <- current.Reveal()
			return Value{}, nil
		})
	}()
	// The other process rotates while ours waits for the lock.
	if err := s.write(t.Context(), "github", envelope{Value: "two"}); err != nil {
		t.Fatal(err)
	}
	unlock()
	if current := <-got; current != "two" {
		t.Errorf("renew got %q, want two", current)
	}
}

func TestRotateKeepsCurrent(t *testing.T) {
	t.Parallel()
	s := fileStore(t, t.TempDir())
	mustSet(t, s, "github", "one")
	r := NewResolver(Config{Store: s})
	defer r.Close()
	ref := Ref{Scheme: "keyring", Name: "github"}
	refused := errors.New("invalid_grant")
	tests := []struct {
		name   string
		next   Value
		err    error
		want   string
		intent bool
	}{
		{"zero next", Value{}, nil, "one", false},
		{"the same next", NewValue("one"), nil, "one", false},
		{"an error", Value{}, refused, "one", true},
		{"an error with a next", NewValue("two"), refused, "two", false},
	}
	for _, test := range tests {
		before := s.generation()
		err := r.Rotate(t.Context(), ref, func(context.Context, Value) (Value, error) { return test.next, test.err })
		if err != test.err {
			t.Errorf("%s: got %v, want renew's own error %v", test.name, err, test.err)
		}
		item := mustRead(t, s, "github")
		if item.Value != test.want || (item.Intent != nil) != test.intent {
			t.Errorf("%s: the keyring holds %+v", test.name, item)
		}
		if changed := s.generation() != before; changed != (test.want == "two") {
			t.Errorf("%s: the generation changed: %v", test.name, changed)
		}
	}
}

// What cannot be written must not be renewed: the token would be spent and its successor lost.
func TestRotateTestsWritingFirst(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	s := fileStore(t, state)
	mustSet(t, s, "github", "one")
	r := NewResolver(Config{Store: s})
	defer r.Close()
	spoil := func(context.Context, Value) (Value, error) {
		t.Error("renew was called although nothing can be stored")
		return Value{}, nil
	}
	err := r.Rotate(t.Context(), Ref{Scheme: "keyring", Name: "absent"}, spoil)
	wantKind(t, err, ErrNotFound, "rotate keyring:absent")
	limited := *findAny("wincred")
	limited.name, limited.limit = "file", 10
	s.backend = &limited
	err = r.Rotate(t.Context(), Ref{Scheme: "keyring", Name: "github"}, spoil)
	wantKind(t, err, ErrTooLarge, "rotate keyring:github")
	s.backend = findAny("file")
	if got := mustRead(t, s, "github").Value; got != "one" {
		t.Errorf("the keyring holds %q", got)
	}
}

// A logTap shows log lines as they come.
type logTap struct {
	mu    sync.Mutex
	text  bytes.Buffer
	lines chan string
}

func newLogTap() *logTap { return &logTap{lines: make(chan string, 100)} }

func (l *logTap) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	l.lines <- string(p)
	return len(p), nil
}

func (l *logTap) await(t *testing.T, says string) {
	t.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	for {
		select {
		case line := <-l.lines:
			if strings.Contains(line, says) {
				return
			}
		case <-limit.C:
			t.Fatalf("the log does not say %q", says)
		}
	}
}

// breakKeyring makes storing fail until the returned function is called.
func breakKeyring(t *testing.T, state string) (repair func()) {
	t.Helper()
	folder, away := filepath.Join(state, "keyring"), filepath.Join(state, "away")
	if err := os.Rename(folder, away); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(folder, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := os.Remove(folder); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(away, folder); err != nil {
			t.Fatal(err)
		}
	}
}

// A new token that cannot be stored is kept in memory, used by whoever asks next, and stored as soon as possible.
func TestRotateKeepsWhatItCannotStore(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"by itself", "by the next Rotate", "by Close", "not over a newer secret"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			state := t.TempDir()
			s := fileStore(t, state)
			mustSet(t, s, "github", "one")
			tap := newLogTap()
			r := NewResolver(Config{Store: s, Log: slog.New(slog.NewTextHandler(tap, nil))})
			defer r.Close()
			if how != "by itself" {
				r.firstRetry = time.Hour
			} else {
				r.firstRetry = 10 * time.Millisecond
			}
			ref := Ref{Scheme: "keyring", Name: "github"}
			var repair func()
			err := r.Rotate(t.Context(), ref, func(context.Context, Value) (Value, error) {
				repair = breakKeyring(t, state)
				return NewValue("two-xyzzy"), nil
			})
			e := wantKind(t, err, ErrUnavailable, "kept in memory")
			if strings.Contains(e.Error(), "xyzzy") {
				t.Errorf("error %q shows the value", e)
			}
			wantValue(t, r, ref, "two-xyzzy")
			repair()
			want := "two-xyzzy"
			switch how {
			case "by itself":
				tap.await(t, "stored at last")
			case "by the next Rotate":
				rotateTo(t, r, ref, "two-xyzzy", "three")
				want = "three"
			case "by Close":
				r.Close()
			case "not over a newer secret":
				mustSet(t, s, "github", "from the user")
				rotateTo(t, r, ref, "from the user", "four")
				want = "four"
			}
			if got := mustRead(t, s, "github").Value; got != want {
				t.Errorf("the keyring holds %q, want %q", got, want)
			}
			r.Close()
			if tap.text.String() == "" || strings.Contains(tap.text.String(), "xyzzy") {
				t.Errorf("the log is %s", tap.text.String())
			}
		})
	}
}

// What a reference that cannot be written rotates to is kept beside it, across restarts, until it says something new.
func TestRotateBeside(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	path := filepath.Join(t.TempDir(), "token")
	ref := Ref{Scheme: "file", Name: path}
	writeSecret(t, path, "one", 0o600)
	s := fileStore(t, state)
	r := NewResolver(Config{Store: s})
	rotateTo(t, r, ref, "one", "two")
	rotateTo(t, r, ref, "two", "three")
	wantValue(t, r, ref, "one") // the file's own
	r.Close()

	r = NewResolver(Config{Store: fileStore(t, state)})
	defer r.Close()
	rotateTo(t, r, ref, "three", "four")
	writeSecret(t, path, "new login", 0o600)
	rotateTo(t, r, ref, "new login", "five")
	rotateTo(t, r, ref, "five", "six")
	if items, err := s.List(t.Context()); err != nil || len(items) != 0 {
		t.Errorf("List() = %v, %v; want none of credproxy's own", items, err)
	}
	other := ref
	other.Field = "x"
	err := r.Rotate(t.Context(), other, func(context.Context, Value) (Value, error) { return Value{}, nil })
	wantKind(t, err, ErrInvalid, "rotate")
}

func TestRotateWithoutStore(t *testing.T) {
	t.Parallel()
	r := newResolver(t)
	err := r.Rotate(t.Context(), Ref{Scheme: "env", Name: "HOME"}, func(context.Context, Value) (Value, error) {
		t.Error("renew was called")
		return Value{}, nil
	})
	wantKind(t, err, ErrUnavailable, "rotate env:HOME")
}

// A caller who goes away while the token is being renewed does not lose it.
func TestRotateCancelled(t *testing.T) {
	t.Parallel()
	s := fileStore(t, t.TempDir())
	mustSet(t, s, "github", "one")
	r := NewResolver(Config{Store: s})
	defer r.Close()
	ctx, cancel := context.WithCancel(t.Context())
	err := r.Rotate(ctx, Ref{Scheme: "keyring", Name: "github"}, func(context.Context, Value) (Value, error) {
		cancel()
		return NewValue("two"), nil
	})
	if got := mustRead(t, s, "github").Value; err != nil || got != "two" {
		t.Errorf("the keyring holds %q, %v; want two", got, err)
	}
	err = r.Rotate(ctx, Ref{Scheme: "keyring", Name: "github"}, func(context.Context, Value) (Value, error) {
		t.Error("renew was called for a caller who had gone")
		return Value{}, nil
	})
	wantKind(t, err, context.Canceled, "")
}
