// Package secrets turns references into values: from the operating system's keyring, the environment,
// files and commands. It knows no HTTP.
package secrets

import (
	"context"
	"time"

	"gopkg.in/yaml.v3"
)

// A Ref names a secret: scheme:name, or scheme:name#field for one field of a JSON secret. Refs are comparable.
// The zero Ref names nothing.
type Ref struct {
	Scheme  string // keyring, env, file or exec
	Name    string // for exec the argument list, as a JSON array
	Field   string
	TTL     time.Duration // exec only: how long a value is kept; 0 is the source's default
	Timeout time.Duration // exec only: how long the command may take; 0 is the source's default
}

// ParseRef parses the plain form of a reference. Its errors never repeat s.
func ParseRef(s string) (Ref, error) { panic("stub") }

// UnmarshalYAML accepts references only, as a plain scalar or as {exec: [cmd, args], ttl, timeout, field}.
func (r *Ref) UnmarshalYAML(n *yaml.Node) error { panic("stub") }

// IsZero reports whether r names nothing.
func (r Ref) IsZero() bool { return r == Ref{} }

// String is r as people write it. It never shows an exec reference's arguments.
func (r Ref) String() string { panic("stub") }

// A Resolver resolves references. Callers of one reference share one fetch; values are kept for a short while.
type Resolver struct{}

// Config is what a Resolver needs.
type Config struct {
	Store *Store // nil: keyring references are unavailable
}

// NewResolver returns a Resolver.
func NewResolver(cfg Config) *Resolver { panic("stub") }

// Resolve returns the value of ref. The error, if any, is an *Error.
func (r *Resolver) Resolve(ctx context.Context, ref Ref) (Value, error) { panic("stub") }

// Reject says that an upstream refused v, which Resolve returned for ref: the next Resolve fetches anew,
// at most once per 30 s and reference.
func (r *Resolver) Reject(ref Ref, v Value) { panic("stub") }

// Forget drops all cached values.
func (r *Resolver) Forget() { panic("stub") }

// Rotate replaces a refresh token: it reads the current value under a cross-process lock, calls renew with it
// and stores what renew returns, durably and read back, before it returns. A zero next keeps the current value.
// A reference that cannot be written (env, file, exec) has its rotated value kept in the store beside it.
func (r *Resolver) Rotate(ctx context.Context, ref Ref, renew func(ctx context.Context, current Value) (next Value, err error)) error {
	panic("stub")
}
