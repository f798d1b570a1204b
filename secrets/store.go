package secrets

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	backgroundLimit  = 5 * time.Second   // nobody is there to answer a dialog
	interactiveLimit = 120 * time.Second // somebody may be typing a password
	pauseAfterSilent = 30 * time.Second
)

// A Store is the keyring behind keyring: references. Each operation runs in a short-lived helper process, so that
// a keyring that hangs or crashes harms nobody. A Store is safe for concurrent use, by several processes too.
type Store struct {
	state          string
	generationPath string
	backend        *backend
	interactive    bool
	limit          time.Duration
	lockWait       time.Duration
	pause          time.Duration
	bus            busAddress

	unlocking singleflight.Group

	mu     sync.Mutex
	key    []byte // of the file backend
	silent silence
}

// StoreConfig says which keyring, and where credproxy's own files are.
type StoreConfig struct {
	State   string // folder for locks, the generation file and the file backend
	Backend string // file, secret-service, pass, keychain, wincred, kwallet; "": the one written down in State, else the platform's

	// Interactive says that a person is there to answer a dialog or to type a passphrase: operations may take 120 s
	// instead of 5 s.
	Interactive bool
}

// OpenStore chooses the backend. It does not touch the keyring. It makes the State folder, and the first time on
// Linux it asks the session bus whether there is a secret service.
func OpenStore(cfg StoreConfig) (*Store, error) {
	if cfg.State == "" {
		return nil, &Error{Op: "open", Kind: ErrUnavailable, Why: "no state folder was given", Next: "credproxy … --state DIR"}
	}
	state, err := filepath.Abs(cfg.State)
	if err != nil {
		return nil, &Error{Op: "open", Kind: ErrUnavailable, Why: err.Error()}
	}
	s := &Store{
		state:          state,
		generationPath: filepath.Join(state, "generation"),
		interactive:    cfg.Interactive,
		limit:          backgroundLimit,
		lockWait:       lockWait,
		pause:          pauseAfterSilent,
		bus:            sessionBus(),
	}
	if cfg.Interactive {
		s.limit = interactiveLimit
	}
	if err := privateFolder(state); err != nil {
		return nil, asError("open", Ref{}, s.stateError(err))
	}
	if s.backend, err = s.chooseBackend(cfg.Backend); err != nil {
		return nil, err
	}
	return s, nil
}

// Backend is the backend's name.
func (s *Store) Backend() string { return s.backend.name }

// Set stores v under name and verifies it by reading it back. What Rotate kept beside the old value is gone.
func (s *Store) Set(ctx context.Context, name string, v Value) error {
	_, err := s.Put(ctx, name, v)
	return err
}

// Put is Set that also reports whether there was a value before.
func (s *Store) Put(ctx context.Context, name string, v Value) (replaced bool, err error) {
	return s.PutRef(ctx, Ref{Scheme: "keyring", Name: name}, v)
}

// Bind is Put for a value that may be sent to hosts only; none are all hosts. Put itself keeps the hosts of the value before.
func (s *Store) Bind(ctx context.Context, name string, v Value, hosts []string) (replaced bool, err error) {
	if len(hosts) == 0 {
		hosts = []string{}
	}
	return s.PutRef(ctx, Ref{Scheme: "keyring", Name: name}, v.bound(hosts))
}

// Hosts is where the secret name may be sent; none: anywhere.
func (s *Store) Hosts(ctx context.Context, name string) ([]string, error) {
	item, err := s.read(ctx, name)
	if err != nil {
		ref := Ref{Scheme: "keyring", Name: name}
		return nil, withNext(asError("list", ref, err), ref)
	}
	return item.Hosts, nil
}

// PutRef is Put for what ref, which is in the keyring, names: with a field that one alone is set, in a new JSON object if
// there is none.
func (s *Store) PutRef(ctx context.Context, ref Ref, v Value) (replaced bool, err error) {
	if err := checkName(ref.Name); err != nil {
		return false, &Error{Op: "set", Kind: ErrInvalid, Why: err.Error(), Next: "credproxy secret set NAME"}
	}
	if err := CheckStorable(v); err != nil {
		return false, asError("set", ref, err)
	}
	if replaced, err = s.set(ctx, ref, v); err != nil {
		return false, withNext(asError("set", ref, err), ref)
	}
	return replaced, nil
}

func (s *Store) set(ctx context.Context, ref Ref, v Value) (replaced bool, err error) {
	unlock, err := s.lock(ctx, ref.Name)
	if err != nil {
		return false, err
	}
	defer unlock()
	now := wall()
	item := envelope{Value: v.Reveal(), Created: now, Updated: now, Hosts: v.hosts}
	old, err := s.read(ctx, ref.Name)
	replaced = !errors.Is(err, ErrNotFound)
	if err == nil && !old.Created.IsZero() {
		item.Created = old.Created
	}
	switch {
	case err == nil && v.hosts == nil: // nobody has said that it may go elsewhere
		item.Hosts = old.Hosts
	case err != nil && replaced && !errors.Is(err, ErrCorrupt):
		return false, err
	}
	if ref.Field != "" {
		if item.Value, replaced, err = putField(old.Value, ref.Field, v.Reveal()); err != nil {
			return false, &Error{Kind: ErrInvalid, Why: "field " + ref.Field + " cannot be set in it: " + err.Error()}
		}
	}
	if err := s.write(ctx, ref.Name, item); err != nil {
		return false, err
	}
	return replaced, s.bump()
}

// Remove removes name; ErrNotFound on every backend if it is absent.
func (s *Store) Remove(ctx context.Context, name string) error {
	return s.RemoveRef(ctx, Ref{Scheme: "keyring", Name: name})
}

// RemoveRef is Remove for what ref, which is in the keyring, names: with a field that one alone is removed, and the rest
// only if nothing is left of it.
func (s *Store) RemoveRef(ctx context.Context, ref Ref) error {
	if err := checkName(ref.Name); err != nil {
		return &Error{Op: "rm", Kind: ErrInvalid, Why: err.Error(), Next: "credproxy secret list"}
	}
	if err := s.remove(ctx, ref); err != nil {
		e := asError("rm", ref, err)
		if e.Next == "" && e.Kind == ErrNotFound {
			e.Next = "credproxy secret list"
		}
		return e
	}
	return nil
}

func (s *Store) remove(ctx context.Context, ref Ref) error {
	unlock, err := s.lock(ctx, ref.Name)
	if err != nil {
		return err
	}
	defer unlock()
	if ref.Field != "" {
		item, err := s.read(ctx, ref.Name)
		if err != nil {
			return err
		}
		rest, left, err := withoutField(item.Value, ref.Field)
		if err != nil {
			return &Error{Kind: ErrNotFound, Why: "field " + ref.Field + ": " + err.Error()}
		}
		if left {
			item.Value, item.Previous, item.Intent, item.Updated = rest, "", nil, wall()
			if err := s.write(ctx, ref.Name, item); err != nil {
				return err
			}
			return s.bump()
		}
	}
	if _, err := s.call(ctx, request{Op: "remove", Item: ref.Name}); err != nil {
		return err
	}
	return s.bump()
}

// List returns what is stored, by name. It reads no values.
func (s *Store) List(ctx context.Context) ([]Info, error) {
	rep, err := s.call(ctx, request{Op: "list"})
	if err != nil {
		return nil, asError("list", Ref{}, err)
	}
	return rep.Items, nil
}

// Info describes a stored secret without its value.
type Info struct {
	Name    string    `json:"name"`
	Updated time.Time `json:"updated,omitzero"` // zero if the backend cannot tell

	// List leaves these to the caller: they stand beside the value.
	Hosts  []string `json:"hosts,omitempty"`  // where it may be sent; none: anywhere
	Unread bool     `json:"unread,omitempty"` // the hosts could not be read
}

// Unlock makes the file backend ready, so that a wrong or missing passphrase shows at once and not at the first
// request. If the Store is Interactive it may ask for the passphrase on the terminal. It does nothing for other
// backends and for a keyring that does not exist yet.
func (s *Store) Unlock(ctx context.Context) error {
	if s.backend.name != "file" || !s.fileKeyringExists() {
		return nil
	}
	if _, err := s.call(ctx, request{Op: "verify"}); err != nil {
		return asError("unlock", Ref{}, err)
	}
	return nil
}

// read returns an item as it is in the keyring now.
func (s *Store) read(ctx context.Context, item string) (envelope, error) {
	rep, err := s.call(ctx, request{Op: "get", Item: item})
	if err != nil {
		return envelope{}, err
	}
	return decodeEnvelope(rep.Data)
}

// write stores an item; the helper reads it back. The caller holds the item's lock.
func (s *Store) write(ctx context.Context, item string, e envelope) error {
	data, err := e.encode()
	if err != nil {
		return &Error{Kind: ErrInvalid, Why: "it cannot be encoded"}
	}
	limit := s.backend.limit
	if limit > 0 && len(data) > limit && e.Previous != "" {
		e.Previous = "" // a convenience, and here there is no room for it
		if data, err = e.encode(); err != nil {
			return &Error{Kind: ErrInvalid, Why: "it cannot be encoded"}
		}
	}
	if limit > 0 && len(data) > limit {
		return &Error{Kind: ErrTooLarge, Why: "the Windows Credential Manager has no room for it",
			Next: "CREDPROXY_BACKEND=file credproxy secret set " + strings.TrimPrefix(item, "_")}
	}
	_, err = s.call(ctx, request{Op: "set", Item: item, Data: data})
	return err
}
