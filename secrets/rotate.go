package secrets

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

const (
	firstRetry = time.Second
	lastRetry  = time.Minute
	saveLimit  = 30 * time.Second
)

// An unsaved is a rotated secret that could not be stored: the only copy of a token whose predecessor is spent.
type unsaved struct {
	ref      Ref
	replaces string // fingerprint of the stored value; if that changes, somebody has set a new secret
	item     envelope
}

// Rotate replaces a refresh token: it reads the current value under a cross-process lock, calls renew with it
// and stores what renew returns, durably and read back, before it returns. A zero next keeps the current value.
// A reference that cannot be written (env, file, exec) has its rotated value kept in the store beside it, until the
// reference itself gives another value; Resolve goes on giving the reference's own.
//
// Before renew is called a mark is written, so that a keyring that cannot be written fails before the token is spent.
// An error of renew is returned as it is; a next that came with it is stored all the same. Any other error is an
// *Error; then, if next could not be stored, it is kept in memory, storing is tried again until it succeeds, and the
// next Rotate starts with it.
func (r *Resolver) Rotate(ctx context.Context, ref Ref, renew func(ctx context.Context, current Value) (next Value, err error)) error {
	if !r.begin() {
		return asError("rotate", ref, context.Canceled)
	}
	defer r.work.Done()
	var refused error
	err := r.rotate(ctx, ref, func(ctx context.Context, current Value) (Value, error) {
		next, err := renew(ctx, current)
		refused = err
		return next, err
	})
	if err != nil && refused == nil {
		return withNext(asError("rotate", ref, err), ref)
	}
	return err
}

func (r *Resolver) rotate(ctx context.Context, ref Ref, renew func(context.Context, Value) (Value, error)) error {
	if r.store == nil {
		return errNoStore
	}
	p, err := r.placeOf(ctx, ref)
	if err != nil {
		return err
	}
	unlock, err := r.store.lock(ctx, p.name)
	if err != nil {
		return err
	}
	defer unlock()
	item, err := r.current(ctx, p)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.note(ref, item.Hosts)
	r.mu.Unlock()
	current, err := p.get(item)
	if err == nil {
		err = checkDestination(ctx, item.Hosts)
	}
	if err != nil {
		return err
	}
	item.Intent = &intent{Fingerprint: fingerprint(current.Reveal()), At: wall(), PID: os.Getpid()}
	if err := r.store.write(ctx, p.name, item); err != nil {
		return err
	}
	next, refused := renew(ctx, current)
	// From here on the old token may be spent, whatever the caller has in mind.
	ctx = context.WithoutCancel(ctx)
	if next.IsZero() || next.Equal(current) {
		if refused == nil {
			r.clearIntent(ctx, p, item)
		}
		return refused
	}
	if err := r.keep(ctx, p, item, current, next); err != nil {
		return errors.Join(err, refused)
	}
	return refused
}

// clearIntent notes that a renewal ended without a new value. That it could not is no failure of the renewal.
func (r *Resolver) clearIntent(ctx context.Context, p place, item envelope) {
	item.Intent = nil
	if err := r.store.write(ctx, p.name, item); err != nil {
		r.log.Warn("the mark of a finished renewal stays in the keyring", slog.String("ref", p.ref.String()), slog.Any("error", err))
	}
}

// keep stores next in place of current.
func (r *Resolver) keep(ctx context.Context, p place, item envelope, current, next Value) error {
	changed := item
	changed.Intent, changed.Previous, changed.Updated = nil, current.Reveal(), wall()
	var err error
	if changed.Value, err = p.with(item, next); err != nil {
		return err
	}
	if err := r.store.write(ctx, p.name, changed); err != nil {
		r.remember(p, unsaved{ref: p.ref, replaces: fingerprint(item.Value), item: changed})
		e := asError("rotate", p.ref, err)
		e.Why = "the new token could not be stored, and is kept in memory and tried again: " + e.Kind.Error() + ": " + e.Why
		return e
	}
	r.announce(p, next.bound(item.Hosts))
	return nil
}

// announce tells other processes of a change, and puts the new value into the cache. The caller holds the item's lock.
func (r *Resolver) announce(p place, next Value) {
	if err := r.store.bump(); err != nil {
		r.log.Warn("other processes were not told of a rotated secret", slog.String("ref", p.ref.String()), slog.Any("error", err))
	}
	if p.beside {
		return
	}
	src := sourceOf(p.ref.Scheme)
	e := entry{value: next, stamp: src.stamp(r.store, p.ref), at: r.now(), looked: new(atomic.Int64)}
	e.until = e.at.Add(src.keep)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.entries[p.ref] = e
	}
}

// A place is where a reference's rotating value is kept.
type place struct {
	ref      Ref
	name     string // of the item
	beside   bool   // in the store beside a reference that cannot be written
	original Value  // what that reference says now
}

func (r *Resolver) placeOf(ctx context.Context, ref Ref) (place, error) {
	if ref.Scheme == "keyring" {
		return place{ref: ref, name: ref.Name}, nil
	}
	v, err := r.Resolve(ctx, ref)
	if err != nil {
		return place{}, err
	}
	id := fingerprint(ref.Scheme + "\x00" + ref.Name + "\x00" + ref.Field)[:32]
	return place{ref: ref, name: "_rotated-" + id, beside: true, original: v}, nil // no user's name starts with _
}

// get is the rotating value in item.
func (p place) get(item envelope) (Value, error) {
	if p.beside {
		return NewValue(item.Value), nil
	}
	return pick(p.ref, item.value())
}

// with is the item's whole value with next in it.
func (p place) with(item envelope, next Value) (string, error) {
	if p.beside || p.ref.Field == "" {
		return next.Reveal(), nil
	}
	s, err := withField(item.Value, p.ref.Field, next.Reveal())
	if err != nil {
		return "", &Error{Kind: ErrInvalid, Why: "field " + p.ref.Field + " cannot be replaced: " + err.Error()}
	}
	return s, nil
}

// current reads the item. The caller holds its lock, so this is what any other process has left, and not what was
// cached before.
func (r *Resolver) current(ctx context.Context, p place) (envelope, error) {
	item, err := r.store.read(ctx, p.name)
	if p.beside {
		original := fingerprint(p.original.Reveal())
		switch {
		case errors.Is(err, ErrNotFound), errors.Is(err, ErrCorrupt), err == nil && item.Original != original:
			item, err = envelope{Value: p.original.Reveal(), Created: wall(), Original: original}, nil
		}
	}
	if err != nil {
		return envelope{}, err
	}
	return r.save(ctx, p.name, item)
}

// save stores what is unsaved for the item that stands in the store, and returns the item as it then is.
func (r *Resolver) save(ctx context.Context, name string, stored envelope) (envelope, error) {
	r.mu.RLock()
	u, ok := r.unsaved[name]
	r.mu.RUnlock()
	if !ok {
		return stored, nil
	}
	item := stored
	if fingerprint(stored.Value) == u.replaces {
		if err := r.store.write(ctx, name, u.item); err != nil {
			return envelope{}, err
		}
		item = u.item
		if err := r.store.bump(); err != nil {
			return envelope{}, err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.unsaved, name)
	return item, nil
}

// remember keeps u in memory and sees to it that storing is tried again.
func (r *Resolver) remember(p place, u unsaved) {
	r.mu.Lock()
	r.unsaved[p.name] = u
	delete(r.entries, p.ref)
	r.mu.Unlock()
	if !r.begin() {
		r.log.Error("a rotated secret is lost: it could not be stored before the end", slog.String("ref", u.ref.String()))
		return
	}
	r.log.Error("a rotated secret could not be stored; it is kept in memory and tried again", slog.String("ref", u.ref.String()))
	go r.retry(p)
}

// retry stores an unsaved secret as soon as it can be. When the Resolver closes it tries a last time.
func (r *Resolver) retry(p place) {
	defer r.work.Done()
	for wait := r.firstRetry; ; wait = min(2*wait, lastRetry) {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-r.base.Done():
			timer.Stop()
		}
		last := r.base.Err() != nil
		err := r.saveAlone(p)
		switch {
		case err == nil:
			r.log.Info("a rotated secret is stored at last", slog.String("ref", p.ref.String()))
			return
		case last:
			r.log.Error("a rotated secret is lost: it could not be stored", slog.String("ref", p.ref.String()), slog.Any("error", err))
			return
		}
	}
}

// saveAlone is save for a caller that does not hold the lock.
func (r *Resolver) saveAlone(p place) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.base), saveLimit)
	defer cancel()
	unlock, err := r.store.lock(ctx, p.name)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = r.current(ctx, p)
	return err
}

// withUnsaved is what the store would give if it had taken all that was rotated.
func (r *Resolver) withUnsaved(name string, stored Value, err error) (Value, error) {
	r.mu.RLock()
	u, ok := r.unsaved[name]
	r.mu.RUnlock()
	switch {
	case !ok:
	case err == nil && fingerprint(stored.Reveal()) == u.replaces,
		errors.Is(err, ErrLocked), errors.Is(err, ErrTimeout), errors.Is(err, ErrUnavailable):
		return u.item.value(), nil
	}
	return stored, err
}
