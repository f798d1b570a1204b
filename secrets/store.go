package secrets

import (
	"context"
	"time"
)

// A Store is the keyring behind keyring: references. Each operation runs in a short-lived helper process.
type Store struct{}

// StoreConfig says which keyring, and where credproxy's own files are.
type StoreConfig struct {
	State   string // folder for locks, the generation file and the file backend
	Backend string // file, secret-service, pass, keychain, wincred, kwallet; "": the one written down in State, else the platform's
}

// OpenStore chooses the backend. It does not touch the keyring.
func OpenStore(cfg StoreConfig) (*Store, error) { panic("stub") }

// Backend is the backend's name.
func (s *Store) Backend() string { panic("stub") }

// Set stores v under name and verifies it by reading it back.
func (s *Store) Set(ctx context.Context, name string, v Value) error { panic("stub") }

// Remove removes name; ErrNotFound on every backend if it is absent.
func (s *Store) Remove(ctx context.Context, name string) error { panic("stub") }

// List returns what is stored, by name.
func (s *Store) List(ctx context.Context) ([]Info, error) { panic("stub") }

// Info describes a stored secret without its value.
type Info struct {
	Name    string    `json:"name"`
	Updated time.Time `json:"updated,omitzero"` // zero if the backend cannot tell
}

// RunHelper serves one keyring operation if this process was started as the helper; then ok is true and the
// process must exit with code. Call it first thing in main and in TestMain.
func RunHelper() (code int, ok bool) { return 0, false }
