package secrets

import "context"

// An Own is one of credproxy's own items in the keyring, such as the key of the local CA. No reference can name one, and
// List does not show them.
type Own struct {
	store *Store
	name  string
}

// Own returns the item of the given name, which has the form of a secret's. It need not exist.
func (s *Store) Own(name string) Own { return Own{s, "_" + name} }

// Get reads the item. The error is an *Error; ErrNotFound if there is none.
func (o Own) Get(ctx context.Context) (Value, error) {
	item, err := o.store.read(ctx, o.name)
	if err != nil {
		return Value{}, o.fail("use", err)
	}
	return NewValue(item.Value), nil
}

// Set stores the item and reads it back.
func (o Own) Set(ctx context.Context, v Value) error {
	unlock, err := o.store.lock(ctx, o.name)
	if err != nil {
		return o.fail("set", err)
	}
	defer unlock()
	now := wall()
	if err := o.store.write(ctx, o.name, envelope{Value: v.Reveal(), Created: now, Updated: now}); err != nil {
		return o.fail("set", err)
	}
	return nil
}

// Remove removes the item; ErrNotFound if there is none.
func (o Own) Remove(ctx context.Context) error {
	unlock, err := o.store.lock(ctx, o.name)
	if err != nil {
		return o.fail("rm", err)
	}
	defer unlock()
	if _, err := o.store.call(ctx, request{Op: "remove", Item: o.name}); err != nil {
		return o.fail("rm", err)
	}
	return nil
}

func (o Own) fail(op string, err error) error {
	return asError(op, Ref{Scheme: "keyring", Name: o.name}, err)
}
