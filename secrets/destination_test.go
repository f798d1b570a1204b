package secrets

import (
	"context"
	"errors"
	"strings"
	"testing"
)

func TestWithin(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		patterns, host string
		want           bool
	}{
		{"api.github.com", "api.github.com", true},
		{"api.github.com", "github.com", false},
		{"api.github.com", "api.github.com.evil.test", false},
		{"api.github.com", "xapi.github.com", false},
		{"api.github.com", "", false},
		{"*.github.com", "api.github.com", true},
		{"*.github.com", "a.b.github.com", true},
		{"*.github.com", "github.com", false},
		{"*.github.com", ".github.com", false},
		{"*.github.com", "evilgithub.com", false},
		{"*.github.com", "*.github.com", true}, // a rule's pattern
		{"*.github.com", "*.api.github.com", true},
		{"*.api.github.com", "*.github.com", false},
		{"api.github.com", "*.github.com", false},
		{"a.test b.test", "b.test", true},
		{"127.0.0.1", "127.0.0.1", true},
		{"127.0.0.1", "127.0.0.10", false},
	} {
		if got := within(strings.Fields(test.patterns), test.host); got != test.want {
			t.Errorf("%q in %q: got %v", test.host, test.patterns, got)
		}
	}
}

// A value that is bound to hosts is given out for these only, however it is asked for.
func TestBoundSecret(t *testing.T) {
	t.Parallel()
	store := fileStore(t, t.TempDir())
	r := NewResolver(Config{Store: store})
	t.Cleanup(r.Close)
	if _, err := store.Bind(t.Context(), "github", NewValue(`{"token":"s3cret"}`), []string{"api.github.com", "*.githubusercontent.com"}); err != nil {
		t.Fatal(err)
	}
	whole, field := Ref{Scheme: "keyring", Name: "github"}, Ref{Scheme: "keyring", Name: "github", Field: "token"}
	for _, ref := range []Ref{whole, field} {
		for _, test := range []struct {
			name string
			ctx  context.Context
			ok   bool
		}{
			{"its host", For(t.Context(), "api.github.com"), true},
			{"in another spelling", For(t.Context(), "API.github.com."), true},
			{"below its domain", For(t.Context(), "raw.githubusercontent.com"), true},
			{"both", For(t.Context(), "api.github.com", "raw.githubusercontent.com"), true},
			{"a context that knows by itself", context.WithValue(t.Context(), DestinationKey{}, Destination("api.github.com")), true},
			{"looked at only", Unsent(t.Context()), true},
			{"another", For(t.Context(), "evil.test"), false},
			{"another too", For(t.Context(), "api.github.com", "evil.test"), false},
			{"none", For(t.Context()), false},
			{"an empty one", For(t.Context(), ""), false},
			{"nothing said", t.Context(), false},
			{"another after it was looked at", For(Unsent(t.Context()), "evil.test"), false},
		} {
			v, err := r.Resolve(test.ctx, ref)
			if test.ok != (err == nil) || test.ok == v.IsZero() {
				t.Errorf("%v, %s: got %v, %v", ref, test.name, v, err)
			}
			if err != nil {
				if e := wantKind(t, err, ErrMisdirected, "api.github.com, *.githubusercontent.com only"); e.Slug() != "secret_misdirected" || strings.Contains(e.Hint(), "--host") {
					t.Errorf("slug %q, hint %q", e.Slug(), e.Hint())
				}
			}
			if mayErr := r.May(test.ctx, ref); test.ok != (mayErr == nil) {
				t.Errorf("%v, %s: May says %v", ref, test.name, mayErr)
			}
		}
	}
	r.Forget()
	if err := r.May(For(t.Context(), "evil.test"), whole); !errors.Is(err, ErrMisdirected) {
		t.Errorf("after Forget, what was made of it may go anywhere: %v", err)
	}
}

// Who does not speak of hosts does not change them.
func TestBindingStays(t *testing.T) {
	t.Parallel()
	store := fileStore(t, t.TempDir())
	hosts := func() string {
		h, err := store.Hosts(t.Context(), "github")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(h, " ")
	}
	bind := func(value string, to ...string) {
		if _, err := store.Bind(t.Context(), "github", NewValue(value), to); err != nil {
			t.Fatal(err)
		}
	}
	bind("one", "a.test")
	mustSet(t, store, "github", "two")
	if got := hosts(); got != "a.test" {
		t.Errorf("after a new value: %q", got)
	}
	bind("three", "b.test")
	if got := hosts(); got != "b.test" {
		t.Errorf("after new hosts: %q", got)
	}
	r := NewResolver(Config{Store: store})
	t.Cleanup(r.Close)
	ref := Ref{Scheme: "keyring", Name: "github"}
	asked := false
	renew := func(_ context.Context, current Value) (Value, error) {
		asked = true
		return NewValue(current.Reveal() + "+"), nil
	}
	for _, ctx := range []context.Context{t.Context(), For(t.Context(), "evil.test")} {
		if err := r.Rotate(ctx, ref, renew); !errors.Is(err, ErrMisdirected) || asked {
			t.Errorf("rotating elsewhere: %v, asked %v", err, asked)
		}
	}
	if err := r.Rotate(For(t.Context(), "b.test"), ref, renew); err != nil {
		t.Fatal(err)
	}
	if got := hosts(); got != "b.test" || mustRead(t, store, "github").Value != "three+" {
		t.Errorf("after rotation: %q", got)
	}
	if _, err := r.Resolve(For(t.Context(), "evil.test"), ref); !errors.Is(err, ErrMisdirected) {
		t.Errorf("what was rotated goes anywhere: %v", err)
	}
	bind("four")
	if got := hosts(); got != "" {
		t.Errorf("after any host: %q", got)
	}
	if v, err := r.Resolve(t.Context(), ref); err != nil || v.Reveal() != "four" {
		t.Errorf("a secret without hosts: %v", err)
	}
}
