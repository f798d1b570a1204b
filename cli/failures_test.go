package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/credproxy/credproxy/audit"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
)

func newTestFailureLog(level slog.Level) (f *failureLog, said func() []string, clock *time.Time) {
	var b bytes.Buffer
	f = newFailureLog(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: level})))
	clock = new(time.Time)
	*clock = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.now = func() time.Time { return *clock }
	return f, func() []string {
		defer b.Reset()
		return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	}, clock
}

// A client that tries again and again does not fill the log.
func TestFailureLogIsPaced(t *testing.T) {
	t.Parallel()
	f, said, clock := newTestFailureLog(slog.LevelWarn)
	missing := audit.Event{Decision: "refuse", Rule: "a", Host: "h.test", Error: "secret_missing", Status: 502, Reason: "why"}
	other := missing
	other.Rule = "b"
	for range 1000 {
		f.request(missing)
	}
	f.request(other)
	if got := said(); len(got) != 2 || !strings.Contains(got[0], "rule=a") || !strings.Contains(got[1], "rule=b") {
		t.Errorf("got %q, want one line for each rule", got)
	}
	*clock = clock.Add(logEvery)
	f.request(missing)
	if got := said(); len(got) != 1 || !strings.HasSuffix(got[0], "not_logged=999") {
		t.Errorf("got %q, want one line that counts the others", got)
	}
	*clock = clock.Add(-time.Hour) // a clock that was set back
	f.request(missing)
	if got := said(); !strings.Contains(got[0], "rule=a") {
		t.Errorf("got %q, want a line", got)
	}
}

func TestFailureLogLevels(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		event audit.Event
		want  string
	}{
		{audit.Event{Decision: "refuse", Error: "denied"}, "INFO"},
		{audit.Event{Decision: "refuse", Error: "no_rule"}, "INFO"},
		{audit.Event{Decision: "refuse", Error: "bad_request"}, "INFO"},
		{audit.Event{Decision: "refuse", Error: "keyring_locked"}, "WARN"},
		{audit.Event{Decision: "inject", Status: 401, Rule: "a"}, "WARN"},
		{audit.Event{Decision: "inject", Status: 200, Rule: "a"}, ""},
		{audit.Event{Decision: "pass", Status: 401, Rule: "a"}, ""}, // not our credential
		{audit.Event{Decision: "tunnel"}, ""},
	} {
		f, said, _ := newTestFailureLog(slog.LevelDebug)
		f.request(test.event)
		got := said()[0]
		if test.want == "" && got != "" || !strings.Contains(got, test.want) {
			t.Errorf("%+v: got %q, want level %q", test.event, got, test.want)
		}
	}
}

func TestFailureLogOfTokens(t *testing.T) {
	t.Parallel()
	refused := &oauth.Error{Host: "login.test", Status: 400, Code: "invalid_grant", Next: "sign in"}
	locked := &secrets.Error{Op: "resolve", Ref: "keyring:x", Kind: secrets.ErrLocked}
	for _, test := range []struct {
		name string
		err  error
		want int // of three
	}{
		{"refused", refused, 3}, // the cache paces them
		{"locked", fmt.Errorf("renewing: %w", locked), 1},
		{"our own end", &secrets.Error{Op: "resolve", Kind: context.Canceled}, 0},
		{"not fit to be shown", errors.New("hunter2"), 0},
	} {
		f, said, _ := newTestFailureLog(slog.LevelWarn)
		for range 3 {
			f.token(test.err, 4*time.Second)
		}
		all := strings.Join(said(), "\n")
		if got := strings.Count(all, "no new access token"); got != test.want {
			t.Errorf("%s: %d lines, want %d: %s", test.name, got, test.want, all)
		}
		if strings.Contains(all, "hunter2") {
			t.Errorf("%s: %s", test.name, all)
		}
	}
}
