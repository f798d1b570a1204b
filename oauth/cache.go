package oauth

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/credproxy/credproxy/secrets"
)

const (
	maxKeys = 4096

	// A renewal is a token request (15 s), and before it keyring operations for which a person may have to unlock
	// the keyring (2 min). Each has a bound of its own; this one is for what has none.
	renewalTimeout = 3 * time.Minute

	firstBackoff   = time.Second
	maxBackoff     = time.Minute
	maxRetryAfter  = 5 * time.Minute
	lockoutBackoff = time.Hour
	forcedInterval = 30 * time.Second
)

// A Cache keeps access tokens until shortly before they expire. Callers name a token by a key and say how to renew
// it. One renewal runs at a time for each key; it belongs to the Cache, not to the caller that caused it. A Cache
// outlives rule reloads. It is safe for concurrent use; get one from NewCache.
type Cache struct {
	// Failed, if set before the first use, is told of each failed renewal and how long none will be tried. It must
	// not wait.
	Failed func(err error, wait time.Duration)

	now  func() time.Time
	base context.Context // ends at Close
	stop context.CancelFunc
	work sync.WaitGroup

	mu      sync.Mutex // guards what follows and every entry; never held over a renewal
	closed  bool
	entries map[string]*entry
}

// An entry is what is known of one key.
type entry struct {
	token   Token     // zero Access: none
	got     time.Time // when token came
	renewAt time.Time // when to renew it; zero: never
	suspect bool      // an upstream refused token: renew before use
	forced  time.Time // when token replaced a suspect one
	flight  *flight   // the renewal under way
	used    time.Time

	failures int
	err      error // of the last renewal
	retryAt  time.Time
}

// A flight is one renewal. token and err are set when done is closed.
type flight struct {
	done  chan struct{}
	token Token
	err   error
}

// NewCache returns an empty Cache.
func NewCache() *Cache { return NewCacheAt(time.Now) }

// NewCacheAt returns an empty Cache with a clock of the caller's.
func NewCacheAt(now func() time.Time) *Cache {
	base, stop := context.WithCancel(context.Background())
	return &Cache{now: now, base: base, stop: stop, entries: make(map[string]*entry)}
}

// Token returns the token that key names. It calls renew if there is none, or none for much longer: while the old
// one is valid callers get it at once and renew runs beside them. Otherwise they wait, for the renewal or for ctx.
//
// renew gets a context of its own, with ctx's values and a deadline. After it fails with an *Error it is not called
// again for a while, growing to a minute (an hour for a refused password, unless Retry is called); until then callers without a valid token get the same error.
func (c *Cache) Token(ctx context.Context, key string, renew func(context.Context) (Token, error)) (Token, error) {
	f, t, err := c.look(ctx, key, renew)
	if f == nil {
		return t, err
	}
	select {
	case <-f.done:
		return f.token, f.err
	case <-ctx.Done():
		cause := ctx.Err()
		return Token{}, &Error{Why: "waiting for an access token: " + cause.Error(), timeout: timedOut(cause), cause: cause}
	}
}

// look returns a token, an error, or the flight to wait for.
func (c *Cache) look(ctx context.Context, key string, renew func(context.Context) (Token, error)) (*flight, Token, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now().Round(0)
	e := c.entry(key, now)
	live := e.live(now)
	ready := live && !e.suspect
	wait := e.wait(now)
	switch {
	case ready && !e.due(now):
		return nil, e.token, nil
	case e.flight != nil && ready:
		return nil, e.token, nil
	case e.flight != nil:
		return e.flight, Token{}, nil
	case live && (c.closed || wait > 0):
		return nil, e.token, nil
	case c.closed:
		return nil, Token{}, errClosed
	case wait > 0 && refusal(e.err):
		return nil, Token{}, &laterError{e.err, wait}
	}
	f := c.launch(ctx, e, renew)
	if ready {
		return nil, e.token, nil
	}
	return f, Token{}, nil
}

var errClosed = &Error{Why: "credproxy is stopping"}

// launch starts a renewal. c.mu is held.
func (c *Cache) launch(ctx context.Context, e *entry, renew func(context.Context) (Token, error)) *flight {
	f := &flight{done: make(chan struct{})}
	e.flight = f
	ctx = context.WithoutCancel(ctx)
	c.work.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, renewalTimeout)
		defer cancel()
		defer context.AfterFunc(c.base, cancel)()
		t, err := survive(ctx, renew)
		c.land(e, f, t, err)
	})
	return f
}

// survive is renew, with a panic as an error: those who wait must not wait for ever, and the proxy must not die.
func survive(ctx context.Context, renew func(context.Context) (Token, error)) (t Token, err error) {
	defer func() {
		if p := recover(); p != nil {
			t, err = Token{}, &Error{Why: fmt.Sprintf("renewal broke down (%T)", p)}
		}
	}()
	t, err = renew(ctx)
	if err == nil && t.Access.IsZero() {
		err = &Error{Why: "renewal gave an empty token"}
	}
	return t, err
}

// land ends a flight.
func (c *Cache) land(e *entry, f *flight, t Token, err error) {
	c.mu.Lock()
	now := c.now().Round(0)
	e.flight = nil
	var wait time.Duration
	if err == nil {
		e.arrived(t, now)
		f.token = t
	} else {
		wait = e.failed(err, now)
		if e.live(now) {
			f.token = e.token
		} else {
			f.err = err
		}
	}
	c.mu.Unlock()
	close(f.done)
	if err != nil && c.Failed != nil {
		c.Failed(err, wait)
	}
}

func (e *entry) arrived(t Token, now time.Time) {
	if e.suspect {
		e.forced = now
	}
	e.token, e.got, e.renewAt, e.suspect = t, now, time.Time{}, false
	e.failures, e.err, e.retryAt = 0, nil, time.Time{}
	if t.Expiry.IsZero() {
		return
	}
	life := t.Expiry.Sub(now)
	ahead := min(max(life/10, 5*time.Second), time.Minute)
	e.renewAt = t.Expiry.Add(-min(ahead, life/2))
}

func (e *entry) failed(err error, now time.Time) time.Duration {
	if e.suspect && signedOut(err) { // refused by both servers: it is dead
		e.token = Token{}
	}
	wait := min(firstBackoff<<min(e.failures, 10), maxBackoff)
	wait = wait/2 + rand.N(wait/2+1)
	if r, ok := errors.AsType[*Error](err); ok {
		wait = max(wait, min(r.after, maxRetryAfter))
		if r.lockout {
			wait = lockoutBackoff
		}
	}
	e.failures, e.err, e.retryAt = e.failures+1, err, now.Add(wait)
	return wait
}

// live reports whether the token has not expired.
func (e *entry) live(now time.Time) bool {
	return !e.token.Access.IsZero() && (e.token.Expiry.IsZero() || now.Before(e.token.Expiry))
}

// due reports whether the token should be renewed. A clock that was set back makes any token due.
func (e *entry) due(now time.Time) bool {
	return !e.renewAt.IsZero() && (!now.Before(e.renewAt) || now.Before(e.got.Add(-time.Minute)))
}

// wait is how long no renewal should be tried. A clock that was set back does not make it longer.
func (e *entry) wait(now time.Time) time.Duration {
	if w := e.retryAt.Sub(now); w <= lockoutBackoff {
		return w
	}
	return 0
}

// refusal reports whether err is about the token endpoint. Other failures, of a keyring for one, know best
// themselves when to try again.
func refusal(err error) bool {
	_, ok := errors.AsType[*Error](err)
	return ok
}

// entry returns key's entry and marks it used. c.mu is held.
func (c *Cache) entry(key string, now time.Time) *entry {
	e := c.entries[key]
	if e == nil {
		c.makeRoom()
		e = new(entry)
		c.entries[key] = e
	}
	e.used = now
	return e
}

// makeRoom drops the key that was not used for the longest time if there are too many. A renewal of it that is
// under way still serves those who wait for it.
func (c *Cache) makeRoom() {
	if len(c.entries) < maxKeys {
		return
	}
	var oldest string
	var when time.Time
	for key, e := range c.entries {
		if when.IsZero() || e.used.Before(when) {
			oldest, when = key, e.used
		}
	}
	delete(c.entries, oldest)
}

// Reject says that an upstream answered 401 to access: if it is still key's token, the next Token renews it first.
// A token that came from such a renewal is not renewed again for 30 s: a new one would fare no better. If the
// renewal fails for another reason than a lost grant, the token goes on being served until it expires: upstreams
// answer 401 for many reasons.
func (c *Cache) Reject(key string, access secrets.Value) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[key]
	if e == nil || e.token.Access.IsZero() || !e.token.Access.Equal(access) {
		return
	}
	if since := c.now().Round(0).Sub(e.forced); since >= 0 && since < forcedInterval {
		return
	}
	e.suspect = true
}

// Replace puts t in place of key's token if that is still old: its server has changed it by itself, or its life.
func (c *Cache) Replace(key string, old secrets.Value, t Token) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[key]
	if e == nil || e.token.Access.IsZero() || t.Access.IsZero() || !e.token.Access.Equal(old) || e.suspect {
		return
	}
	e.arrived(t, c.now().Round(0))
}

// Retry forgets that renewals of key failed, so that the next Token tries at once: what they failed on has changed.
func (c *Cache) Retry(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.entries[key]; e != nil {
		e.failures, e.retryAt = 0, time.Time{}
	}
}

// Drop forgets key's token. A renewal that is under way still serves those who wait for it.
func (c *Cache) Drop(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries, key)
}

// Close cancels the renewals under way and waits for them. Tokens that are still valid are served on.
func (c *Cache) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	c.work.Wait()
}
