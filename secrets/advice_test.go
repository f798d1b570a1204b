package secrets

import (
	"slices"
	"strings"
	"testing"
)

var kinds = []error{ErrNotFound, ErrLocked, ErrDenied, ErrTimeout, ErrUnavailable, ErrFailed, ErrCorrupt, ErrInvalid, ErrTooLarge, ErrConflict}

// Whatever fails, there is a next step, and it is one for the backend that failed.
func TestEveryFailureHasAHint(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds {
		if (&Error{Op: "resolve", Kind: kind}).Hint() == "" {
			t.Errorf("%v has no hint", kind)
		}
	}
	for _, b := range backends {
		s := &Store{state: "/state", backend: b}
		for _, kind := range kinds {
			hint := s.explain(&Error{Kind: kind}).Hint()
			if hint == "" {
				t.Errorf("backend %s: %v has no hint", b.name, kind)
			}
			if b.name == "file" && strings.Contains(hint, "BACKEND=file") {
				t.Errorf("backend file: %v: hint %q leads to where we are", kind, hint)
			}
		}
		if got := s.explain(&Error{Kind: ErrDenied}).Hint(); b.name == "file" && got != "ls -ld /state /state/keyring" {
			t.Errorf("backend file: hint %q, want the folders", got)
		}
		if got := s.explain(&Error{Kind: ErrLocked, Next: "n"}).Hint(); got != "n" {
			t.Errorf("backend %s: hint %q, want the one that the failure brought", b.name, got)
		}
	}
}

func TestAdviceNamesKindsAndBackends(t *testing.T) {
	t.Parallel()
	for _, a := range advice {
		if !slices.Contains(kinds, a.kind) || findAny(a.backend) == nil {
			t.Errorf("advice for %q, %v", a.backend, a.kind)
		}
	}
}

func TestCheckStorableSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"":         "--from-file",
		"a\nb":     "one line",
		"a\x00b":   "base64",
		"a\xff":    "base64",
		"{\n":      "one line",
		longSecret: "not a document",
	} {
		e := wantKind(t, CheckStorable(NewValue(value)), kindOfStorable(value), "")
		if !strings.Contains(e.Hint(), want) {
			t.Errorf("%.10q: hint %q, want it to say %q", value, e.Hint(), want)
		}
	}
}

var longSecret = strings.Repeat("a", maxValue+1)

func kindOfStorable(value string) error {
	if value == longSecret {
		return ErrTooLarge
	}
	return ErrInvalid
}

// What our own words say already is not repeated in the keyring's.
func TestNoDetailWithoutNews(t *testing.T) {
	t.Setenv("CREDPROXY_PASSPHRASE", "correct horse")
	state := t.TempDir()
	mustSet(t, fileStore(t, state), "github", "abc")
	e := wantKind(t, fileStore(t, state).Remove(t.Context(), "absent"), ErrNotFound, "rm keyring:absent")
	if e.Detail != "" {
		t.Errorf("absent: detail %q", e.Detail)
	}
	t.Setenv("CREDPROXY_PASSPHRASE", "wrong horse")
	e = wantKind(t, fileStore(t, state).Unlock(t.Context()), ErrLocked, "not the one")
	if e.Detail != "" || !strings.Contains(e.Hint(), "CREDPROXY_PASSPHRASE") {
		t.Errorf("wrong passphrase: detail %q, hint %q", e.Detail, e.Hint())
	}
}
