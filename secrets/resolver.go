package secrets

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	missingFor  = 5 * time.Second  // how long a secret stays missing, or otherwise wrong
	lockedFor   = 30 * time.Second // how long a keyring stays locked or silent
	rejectEvery = 30 * time.Second
	unsettled   = time.Second // how long a file that was written just now is believed
	maxEntries  = 10_000
)

// A Resolver resolves references. Callers of one reference share one fetch; values are kept for a short while.
// It is safe for concurrent use.
type Resolver struct {
	store *Store
	log   *slog.Logger
	now   func() time.Time

	recheck    time.Duration
	firstRetry time.Duration // of storing a rotated secret

	flight singleflight.Group
	slots  map[string]chan struct{} // by scheme, so that slow commands do not hold up the keyring

	// base ends with Close. Fetches run on it, because they serve more callers than the one who started them.
	base   context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu       sync.RWMutex
	closed   bool
	epoch    int // counts Forget
	entries  map[Ref]entry
	rejected map[Ref]time.Time
	bound    map[Ref][]string   // where values may go that were resolved so far, if not anywhere
	unsaved  map[string]unsaved // by name in the store
}

// An entry is one outcome. It does not change.
type entry struct {
	value Value
	err   error // an *Error
	stamp stamp
	at    time.Time
	until time.Time // zero: as long as the stamp is the same

	looked *atomic.Int64 // when the stamp was last seen to be the same, in nanoseconds since 1970
}

// settled reports whether the stamp was looked at less than every ago, so that a good value needs no new look.
func (e entry) settled(every time.Duration, now time.Time) bool {
	since := now.UnixNano() - e.looked.Load()
	return e.err == nil && since >= 0 && since < int64(every) && (e.until.IsZero() || now.Before(e.until))
}

func (e entry) fresh(mark stamp, now time.Time) bool {
	// A clock that was set back makes an entry stale too.
	return e.stamp == mark && !now.Before(e.at) && (e.until.IsZero() || now.Before(e.until))
}

// Config is what a Resolver needs.
type Config struct {
	Store *Store // nil: keyring references are unavailable
	// Recheck is how long a good value is used without a look at whether its source has changed. 0: a look at each
	// use, which costs a system call.
	Recheck time.Duration
	Log     *slog.Logger // told of rotated secrets that could not be stored; nil: nobody is
}

// NewResolver returns a Resolver. It does no I/O. Close it.
func NewResolver(cfg Config) *Resolver {
	r := &Resolver{
		store: cfg.Store,
		log:   cfg.Log,
		now:   wall,

		recheck: cfg.Recheck,

		firstRetry: firstRetry,

		slots:    map[string]chan struct{}{},
		entries:  map[Ref]entry{},
		rejected: map[Ref]time.Time{},
		bound:    map[Ref][]string{},
		unsaved:  map[string]unsaved{},
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	for _, s := range sources {
		r.slots[s.scheme] = make(chan struct{}, s.width)
	}
	r.base, r.cancel = context.WithCancel(context.Background())
	return r
}

// Resolve returns the value of ref, if that may go where ctx says (For). It waits no longer than ctx; the fetch itself goes
// on for others. The error, if any, is an *Error.
func (r *Resolver) Resolve(ctx context.Context, ref Ref) (Value, error) {
	v, err := r.resolve(ctx, ref)
	if err != nil {
		return Value{}, err
	}
	if err := checkDestination(ctx, v.hosts); err != nil {
		return Value{}, withNext(asError("resolve", ref, err), ref)
	}
	return v, nil
}

func (r *Resolver) resolve(ctx context.Context, ref Ref) (Value, error) {
	src := sourceOf(ref.Scheme)
	if src == nil {
		return Value{}, &Error{Op: "resolve", Kind: ErrInvalid, Why: "the reference names nothing"}
	}
	now := r.now()
	r.mu.RLock()
	e, ok := r.entries[ref]
	epoch := r.epoch
	r.mu.RUnlock()
	if ok && e.settled(r.recheck, now) {
		return e.value, nil
	}
	mark := src.stamp(r.store, ref)
	if ok && e.fresh(mark, now) {
		e.looked.Store(now.UnixNano())
		return e.value, e.err
	}
	return r.await(ctx, src, ref, mark, epoch)
}

// await joins the fetch that is under way for the same reference in the same state, or starts it.
func (r *Resolver) await(ctx context.Context, src *source, ref Ref, mark stamp, epoch int) (Value, error) {
	key := fmt.Sprintf("%s %q %q %d %d %d %v", ref.Scheme, ref.Name, ref.Field, ref.TTL, ref.Timeout, epoch, mark)
	done := r.flight.DoChan(key, func() (any, error) { return r.load(src, ref, mark, epoch), nil })
	select {
	case res := <-done:
		e, _ := res.Val.(entry)
		return e.value, e.err
	case <-ctx.Done():
		err := asError("resolve", ref, ctx.Err())
		err.Why = "the caller did not wait for it"
		return Value{}, err
	}
}

// begin counts work that Close waits for, and reports false after Close.
func (r *Resolver) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.work.Add(1)
	}
	return !r.closed
}

// load fetches ref and keeps the outcome.
func (r *Resolver) load(src *source, ref Ref, mark stamp, epoch int) entry {
	if !r.begin() {
		return entry{err: asError("resolve", ref, context.Canceled)}
	}
	defer r.work.Done()
	r.mu.RLock()
	known, ok := r.entries[ref]
	current := epoch == r.epoch
	r.mu.RUnlock()
	if ok && current && known.fresh(mark, r.now()) {
		return known // the fetch before this one ended just after our caller had looked
	}
	v, err := r.fetch(src, ref)
	e := entry{value: v, stamp: mark, at: r.now(), looked: new(atomic.Int64)}
	var keep time.Duration
	if err != nil {
		e.value, e.err = Value{}, withNext(asError("resolve", ref, err), ref)
		keep = keepFailure(err)
	} else {
		keep = src.keep
		if ref.TTL > 0 {
			keep = ref.TTL
		}
		if !mark.settled(e.at) {
			keep = unsettled
		}
	}
	if keep > 0 {
		e.until = e.at.Add(keep)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if epoch == r.epoch && !r.closed {
		if len(r.entries) >= maxEntries {
			clear(r.entries)
		}
		r.entries[ref] = e
		if e.err == nil {
			r.note(ref, e.value.hosts)
		}
	}
	return e
}

func keepFailure(err error) time.Duration {
	if errors.Is(err, ErrLocked) || errors.Is(err, ErrTimeout) {
		return lockedFor
	}
	return missingFor
}

func withNext(e *Error, ref Ref) *Error {
	if e.Next == "" {
		e.Next = nextFor(e.Kind, ref)
	}
	return e
}

// fetch reads the source within its deadline, as one of few at a time.
func (r *Resolver) fetch(src *source, ref Ref) (Value, error) {
	limit := src.limit
	if ref.Timeout > 0 {
		limit = ref.Timeout
	}
	slot := r.slots[src.scheme]
	queue := time.NewTimer(limit)
	defer queue.Stop()
	select {
	case slot <- struct{}{}:
		defer func() { <-slot }()
	case <-queue.C:
		return Value{}, &Error{Kind: ErrTimeout, Why: "too many secrets are being read at once"}
	case <-r.base.Done():
		return Value{}, context.Canceled
	}
	ctx, cancel := context.WithTimeout(r.base, limit)
	defer cancel()
	whole, err := src.fetch(ctx, r.store, ref)
	if src.scheme == "keyring" {
		whole, err = r.withUnsaved(ref.Name, whole, err)
	}
	if err != nil {
		return Value{}, err
	}
	return pick(ref, whole)
}

// Reject says that an upstream refused v, which Resolve returned for ref: the next Resolve fetches anew,
// at most once per 30 s and reference. It does nothing if ref has another value by now.
func (r *Resolver) Reject(ref Ref, v Value) {
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.entries[ref]
	if !ok || e.err != nil || !e.value.Equal(v) {
		return
	}
	if last, ok := r.rejected[ref]; ok && !now.Before(last) && now.Sub(last) < rejectEvery {
		return
	}
	if len(r.rejected) >= maxEntries {
		clear(r.rejected)
	}
	r.rejected[ref] = now
	delete(r.entries, ref)
}

// Forget drops all cached values. Fetches that are under way do not bring one back.
func (r *Resolver) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epoch++
	clear(r.entries)
}

// Close ends all fetches and waits for them. A rotated secret that could not be stored so far is tried a last time.
// After Close nothing resolves any more.
func (r *Resolver) Close() {
	r.mu.Lock()
	r.closed = true
	clear(r.entries)
	r.mu.Unlock()
	r.cancel()
	r.work.Wait()
}
