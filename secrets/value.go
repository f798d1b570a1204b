package secrets

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
)

const redacted = "[REDACTED]"

// A Value is a secret in plain text. Every verb, encoder and logger prints [REDACTED]; only Reveal gives
// the text. The zero Value is the empty secret. The text sits behind a closure, so that printers that walk
// unexported fields find a function and not the text.
type Value struct {
	reveal func() string
	hosts  []string // where it may go; none: anywhere
}

// NewValue returns the Value of s.
func NewValue(s string) Value { return Value{reveal: func() string { return s }} }

// Reveal returns the plain text. Call it only where bytes go on the wire or into a store.
func (v Value) Reveal() string {
	if v.reveal == nil {
		return ""
	}
	return v.reveal()
}

// Hosts is where v may be sent, as names and *.domain patterns; none: anywhere.
func (v Value) Hosts() []string { return slices.Clone(v.hosts) }

// bound is v that may be sent to hosts only.
func (v Value) bound(hosts []string) Value {
	v.hosts = hosts
	return v
}

// IsZero reports whether v is empty.
func (v Value) IsZero() bool { return v.Reveal() == "" }

// Equal compares in constant time.
func (v Value) Equal(o Value) bool {
	return subtle.ConstantTimeCompare([]byte(v.Reveal()), []byte(o.Reveal())) == 1
}

var errNoEncoding = errors.New("a secret value has no binary encoding")

func (Value) String() string                 { return redacted }
func (Value) GoString() string               { return redacted }
func (Value) Format(f fmt.State, _ rune)     { _, _ = io.WriteString(f, redacted) }
func (Value) LogValue() slog.Value           { return slog.StringValue(redacted) }
func (Value) MarshalText() ([]byte, error)   { return []byte(redacted), nil }
func (Value) MarshalJSON() ([]byte, error)   { return []byte(`"` + redacted + `"`), nil }
func (Value) MarshalYAML() (any, error)      { return redacted, nil }
func (Value) GobEncode() ([]byte, error)     { return nil, errNoEncoding }
func (Value) MarshalBinary() ([]byte, error) { return nil, errNoEncoding }
