package secrets

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// A backend is one kind of keyring.
type backend struct {
	name    string
	systems []string // GOOS; nil: all
	bus     bool     // needs the D-Bus session bus
	limit   int      // bytes of an item; 0: none of its own
}

var backends = []*backend{
	{name: "file"},
	{name: "secret-service", systems: []string{"linux"}, bus: true},
	{name: "pass", systems: []string{"linux", "darwin", "freebsd", "openbsd", "netbsd"}},
	{name: "keychain", systems: []string{"darwin"}},
	{name: "wincred", systems: []string{"windows"}, limit: 2400}, // CRED_MAX_CREDENTIAL_BLOB_SIZE is 2560
	{name: "kwallet", systems: []string{"linux"}, bus: true},
}

func (b *backend) runsHere() bool {
	return b.systems == nil || slices.Contains(b.systems, runtime.GOOS)
}

// Backends lists the backends that exist on this operating system.
func Backends() []string {
	var names []string
	for _, b := range backends {
		if b.runsHere() {
			names = append(names, b.name)
		}
	}
	return names
}

func findBackend(name string) (*backend, error) {
	for _, b := range backends {
		if b.name == name && b.runsHere() {
			return b, nil
		}
		if b.name == name {
			return nil, &Error{Op: "open", Kind: ErrUnavailable, Why: "the backend " + name + " does not exist on " + runtime.GOOS, Next: useBackend()}
		}
	}
	return nil, &Error{Op: "open", Kind: ErrUnavailable, Why: "unknown backend; this system has " + strings.Join(Backends(), ", "), Next: useBackend()}
}

func useBackend() string {
	return "CREDPROXY_BACKEND=file credproxy … (or one of: " + strings.Join(Backends(), ", ") + ")"
}

// chooseBackend is the backend that was asked for, else the one written down, else the platform's, which it writes
// down. It never changes by itself after that: secrets must not seem to vanish because a daemon was late.
func (s *Store) chooseBackend(name string) (*backend, error) {
	if name != "" {
		return findBackend(name)
	}
	path := filepath.Join(s.state, "backend")
	written, err := os.ReadFile(path)
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist):
		if written, err = createOnce(path, []byte(s.platformBackend()+"\n")); err != nil {
			return nil, asError("open", Ref{}, s.stateError(err))
		}
	default:
		return nil, asError("open", Ref{}, s.stateError(err))
	}
	b, err := findBackend(strings.TrimSpace(string(written)))
	if e, ok := errors.AsType[*Error](err); ok {
		e.Why = fmt.Sprintf("%s (as %s says)", e.Why, path)
	}
	return b, err
}

func (s *Store) platformBackend() string {
	switch runtime.GOOS {
	case "darwin":
		return "keychain"
	case "windows":
		return "wincred"
	case "linux":
		// A helper asks, because the bus may not answer.
		s.backend = backends[1]
		ctx, cancel := context.WithTimeout(context.Background(), backgroundLimit)
		defer cancel()
		if _, err := s.call(ctx, request{Op: "probe"}); err == nil {
			return "secret-service"
		}
	}
	return "file"
}
