package secrets

import (
	"context"
	"errors"
	"regexp"
)

var (
	secretName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

	errName = errors.New("keyring: takes a name of 1 to 64 lower-case letters, digits, dots, dashes and underscores, a letter or digit first")
)

// checkName keeps names to what every backend and file system tells apart.
func checkName(name string) error {
	if !secretName.MatchString(name) {
		return errName
	}
	return nil
}

func stampKeyring(st *Store, _ Ref) stamp {
	if st == nil {
		return stamp{}
	}
	return stamp{generation: st.generation()}
}

func fetchKeyring(ctx context.Context, st *Store, ref Ref) (Value, error) {
	if st == nil {
		return Value{}, errNoStore
	}
	item, err := st.read(ctx, ref.Name)
	if err != nil {
		return Value{}, err
	}
	return item.value(), nil
}

var errNoStore = &Error{Kind: ErrUnavailable, Why: "no keyring is open"}
