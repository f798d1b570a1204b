package oauth_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
)

// A mint makes tokens that live for life, each with its number, and counts.
type mint struct {
	life  time.Duration
	calls atomic.Int64
	fail  atomic.Pointer[error]
	gate  chan struct{} // if set, each renewal waits for it
}

func (m *mint) renew(ctx context.Context) (oauth.Token, error) {
	n := m.calls.Add(1)
	if m.gate != nil {
		select {
		case <-m.gate:
		case <-ctx.Done():
			return oauth.Token{}, ctx.Err()
		}
	}
	if err := m.fail.Load(); err != nil {
		return oauth.Token{}, *err
	}
	t := oauth.Token{Access: secrets.NewValue(fmt.Sprint("token-", n)), Type: "Bearer"}
	if m.life > 0 {
		t.Expiry = time.Now().Add(m.life)
	}
	return t, nil
}

func (m *mint) breaks(err error) {
	if err == nil {
		m.fail.Store(nil)
		return
	}
	m.fail.Store(&err)
}

func take(t *testing.T, c *oauth.Cache, m *mint) string {
	t.Helper()
	tok, err := c.Token(t.Context(), "k", m.renew)
	if err != nil {
		t.Fatalf("Token: %v", err)
	}
	return tok.Access.Reveal()
}

var errDown = &oauth.Error{Host: "login.example.com", Status: 503, Why: "no token was given", Next: "wait for it"}

func TestCacheOneRenewalForManyCallers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, m := oauth.NewCache(), &mint{life: time.Hour, gate: make(chan struct{})}
		defer c.Close()
		got := make(chan string, 500)
		var wg sync.WaitGroup
		for range 500 {
			wg.Go(func() { got <- take(t, c, m) })
		}
		synctest.Wait() // all 500 wait
		close(m.gate)
		wg.Wait()
		close(got)
		for g := range got {
			if g != "token-1" {
				t.Errorf("a caller got %q, want token-1", g)
			}
		}
		if n := m.calls.Load(); n != 1 {
			t.Errorf("%d renewals, want 1", n)
		}
	})
}

func TestCacheCallerThatLeavesDoesNotStopTheRenewal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, m := oauth.NewCache(), &mint{life: time.Hour, gate: make(chan struct{})}
		defer c.Close()
		ctx, leave := context.WithCancel(t.Context())
		first, second := make(chan error, 1), make(chan string, 1)
		go func() { _, err := c.Token(ctx, "k", m.renew); first <- err }()
		synctest.Wait()
		go func() { second <- take(t, c, m) }()
		synctest.Wait()
		leave()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("the caller that left got %v, want context.Canceled", err)
		}
		close(m.gate)
		if got := <-second; got != "token-1" {
			t.Errorf("the caller that stayed got %q, want token-1", got)
		}
		if n := m.calls.Load(); n != 1 {
			t.Errorf("%d renewals, want 1", n)
		}
	})
}

func TestCacheWaitEndsWithTheCallersDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, m := oauth.NewCache(), &mint{gate: make(chan struct{})}
		defer c.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := c.Token(ctx, "k", m.renew)
		if got := slug(t, err); got != "token_timeout" {
			t.Errorf("slug %q, want token_timeout", got)
		}
	})
}

func TestCacheRenewsAheadOfExpiryBesideTheRequests(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		life  time.Duration
		quiet time.Duration // no renewal so far
		due   time.Duration // a renewal from here on
	}{
		{"a tenth of the life", 300 * time.Second, 269 * time.Second, 271 * time.Second},
		{"at least 5 s", 20 * time.Second, 14 * time.Second, 16 * time.Second},
		{"at most a minute", 3600 * time.Second, 3539 * time.Second, 3541 * time.Second},
		{"never more than half the life", 4 * time.Second, 1900 * time.Millisecond, 2100 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c, m := oauth.NewCache(), &mint{life: tt.life}
				defer c.Close()
				take(t, c, m)
				time.Sleep(tt.quiet)
				take(t, c, m)
				synctest.Wait()
				if n := m.calls.Load(); n != 1 {
					t.Fatalf("%d renewals after %s, want 1", n, tt.quiet)
				}
				m.gate = make(chan struct{})
				time.Sleep(tt.due - tt.quiet)
				for range 3 {
					if got := take(t, c, m); got != "token-1" { // nobody waits
						t.Errorf("during the renewal: got %q, want token-1", got)
					}
				}
				close(m.gate)
				synctest.Wait()
				if got := take(t, c, m); got != "token-2" {
					t.Errorf("after the renewal: got %q, want token-2", got)
				}
				if n := m.calls.Load(); n != 2 {
					t.Errorf("%d renewals, want 2", n)
				}
			})
		})
	}
}

func TestCacheServesOnWhileTheServerIsDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, m := oauth.NewCache(), &mint{life: 600 * time.Second}
		defer c.Close()
		var told atomic.Int64
		c.Failed = func(error, time.Duration) { told.Add(1) }
		take(t, c, m)
		m.breaks(errDown)
		for range 599 { // a request each second until just before expiry
			time.Sleep(time.Second)
			if got := take(t, c, m); got != "token-1" {
				t.Fatalf("got %q, want token-1", got)
			}
		}
		time.Sleep(time.Second)
		_, err := c.Token(t.Context(), "k", m.renew)
		if got := slug(t, err); got != "token_refresh_failed" {
			t.Errorf("after expiry: slug %q, want token_refresh_failed", got)
		}
		synctest.Wait()
		if n := m.calls.Load(); n < 3 || n > 12 {
			t.Errorf("%d renewals in the last minute, want a few: they back off", n)
		}
		if told.Load() != m.calls.Load()-1 {
			t.Errorf("Failed was told of %d failures, want %d", told.Load(), m.calls.Load()-1)
		}
		m.breaks(nil)
		time.Sleep(time.Minute)
		if got := take(t, c, m); !strings.HasPrefix(got, "token-") || got == "token-1" {
			t.Errorf("after recovery: got %q, want a new token", got)
		}
	})
}

func TestCacheBacksOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, m := oauth.NewCache(), &mint{}
		defer c.Close()
		m.breaks(errDown)
		var last error
		for range 36_000 { // an hour, ten requests a second
			_, last = c.Token(t.Context(), "k", m.renew)
			if last == nil {
				t.Fatal("Token gave a token, want an error")
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := m.calls.Load(); n < 60 || n > 140 {
			t.Errorf("%d renewals in an hour, want about one each 30 to 60 s", n)
		}
		if !strings.Contains(last.Error(), "next try in ") || !strings.Contains(last.Error(), "login.example.com") {
			t.Errorf("error %q, want it to say who failed and when the next try is", last)
		}
		if !errors.Is(last, errDown) {
			t.Errorf("error %v does not wrap the cause", last)
		}
		// Who shows errors looks for the first with a slug: it must be the one that knows of the wait.
		shown := slugged(t, fmt.Errorf("wrapped: %w", last))
		if !strings.Contains(shown.Error(), "next try in ") || shown.Slug() != "token_refresh_failed" || shown.Hint() != errDown.Next {
			t.Errorf("shown %q, slug %q, hint %q", shown, shown.Slug(), shown.Hint())
		}
		m.breaks(nil)
		c.Retry("k")
		take(t, c, m)
	})
}

func TestCacheDoesNotHoldBackAfterOtherFailures(t *testing.T) {
	t.Parallel()
	c, m := oauth.NewCache(), &mint{}
	defer c.Close()
	m.breaks(errors.New("the keyring is locked"))
	for range 3 {
		if _, err := c.Token(t.Context(), "k", m.renew); err == nil {
			t.Fatal("Token gave a token, want an error")
		}
	}
	m.breaks(nil)
	if got := take(t, c, m); got != "token-4" {
		t.Errorf("got %q, want token-4: each caller tried", got)
	}
}

func TestCacheReject(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, m := oauth.NewCache(), &mint{life: time.Hour}
		defer c.Close()
		reject := func(s string) { c.Reject("k", secrets.NewValue(s)) }
		take(t, c, m)
		reject("another token")
		if got := take(t, c, m); got != "token-1" {
			t.Errorf("after a foreign Reject: got %q, want token-1", got)
		}
		reject("token-1")
		reject("token-1")
		if got := take(t, c, m); got != "token-2" {
			t.Errorf("after Reject: got %q, want token-2", got)
		}
		reject("token-1") // the answer to a request that left before
		reject("token-2")
		time.Sleep(29 * time.Second)
		reject("token-2")
		if got := take(t, c, m); got != "token-2" {
			t.Errorf("a forced token refused within 30 s: got %q, want token-2", got)
		}
		time.Sleep(2 * time.Second)
		reject("token-2")
		if got := take(t, c, m); got != "token-3" {
			t.Errorf("31 s later: got %q, want token-3", got)
		}
	})
}

func TestCacheRejectWhileTheServerFails(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		err  error
		want string // slug, or empty if the old token is served
	}{
		{"down: the old token may still be good", errDown, ""},
		{"grant lost: nothing is left", &oauth.Error{Code: "invalid_grant", Status: 400}, "token_expired"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, m := oauth.NewCache(), &mint{life: time.Hour}
			defer c.Close()
			take(t, c, m)
			m.breaks(tt.err)
			c.Reject("k", secrets.NewValue("token-1"))
			for range 2 { // the second call is within the backoff
				tok, err := c.Token(t.Context(), "k", m.renew)
				if tt.want == "" {
					if err != nil || tok.Access.Reveal() != "token-1" {
						t.Errorf("got %v, want token-1", err)
					}
				} else if got := slug(t, err); got != tt.want {
					t.Errorf("slug %q, want %q", got, tt.want)
				}
			}
			if n := m.calls.Load(); n != 2 {
				t.Errorf("%d renewals, want 2", n)
			}
		})
	}
}

func TestCacheClockSetBack(t *testing.T) {
	t.Parallel()
	var back atomic.Int64
	c := oauth.NewCacheAt(func() time.Time { return time.Now().Add(-time.Duration(back.Load())) })
	m := &mint{life: time.Hour}
	take(t, c, m)
	back.Store(int64(48 * time.Hour))
	take(t, c, m)
	c.Close() // waits for the renewal
	if n := m.calls.Load(); n != 2 {
		t.Errorf("%d renewals, want 2: the token of a lost clock is due", n)
	}
}

func TestCacheForgetsTheLeastUsedKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, m := oauth.NewCache(), &mint{}
		defer c.Close()
		for i := range 4096 + 10 {
			if _, err := c.Token(t.Context(), fmt.Sprint(i), m.renew); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		before := m.calls.Load()
		for _, key := range []string{"4105", "10"} {
			if _, err := c.Token(t.Context(), key, m.renew); err != nil {
				t.Fatal(err)
			}
		}
		if n := m.calls.Load() - before; n != 0 {
			t.Errorf("%d renewals for keys that should be remembered", n)
		}
		if _, err := c.Token(t.Context(), "0", m.renew); err != nil {
			t.Fatal(err)
		}
		if n := m.calls.Load() - before; n != 1 {
			t.Errorf("%d renewals for the oldest key, want 1: it should be forgotten", n)
		}
	})
}

func TestCacheCloseCancelsAndWaits(t *testing.T) {
	t.Parallel()
	c := oauth.NewCache()
	started, ended := make(chan struct{}), make(chan struct{})
	renew := func(ctx context.Context) (oauth.Token, error) {
		close(started)
		<-ctx.Done()
		close(ended)
		return oauth.Token{}, ctx.Err()
	}
	failed := make(chan error, 1)
	go func() { _, err := c.Token(t.Context(), "k", renew); failed <- err }()
	<-started
	c.Close()
	select {
	case <-ended:
	default:
		t.Error("Close returned before the renewal did")
	}
	if err := <-failed; err == nil {
		t.Error("the caller got a token, want an error")
	}
	if _, err := c.Token(t.Context(), "other", renew); err == nil {
		t.Error("Token after Close gave a token, want an error")
	}
}

func TestCachePanicIsAnError(t *testing.T) {
	t.Parallel()
	c := oauth.NewCache()
	defer c.Close()
	_, err := c.Token(t.Context(), "k", func(context.Context) (oauth.Token, error) { panic("S3CR3T") })
	if err == nil || strings.Contains(err.Error(), "S3CR3T") {
		t.Errorf("got %v, want an error without the panic's text", err)
	}
}

func BenchmarkCacheToken(b *testing.B) {
	c, m := oauth.NewCache(), &mint{life: time.Hour}
	defer c.Close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Token(b.Context(), "k", m.renew); err != nil {
			b.Fatal(err)
		}
	}
}

type explained interface {
	error
	Slug() string
	Hint() string
}

func slug(t *testing.T, err error) string {
	t.Helper()
	return slugged(t, err).Slug()
}

func slugged(t *testing.T, err error) explained {
	t.Helper()
	e, ok := errors.AsType[explained](err)
	if !ok {
		t.Fatalf("error %v has no slug", err)
	}
	return e
}
