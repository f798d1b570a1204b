package secrets

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"time"
	"unicode/utf8"
)

const envelopeVersion = 1

// An envelope is what stands in the keyring: JSON on every backend. A payload that is not one counts as a raw value,
// so that items made with other tools work.
type envelope struct {
	Version int       `json:"v"`
	Kind    string    `json:"kind"` // raw, or base64 for a value that is not UTF-8
	Value   string    `json:"value"`
	Created time.Time `json:"created,omitzero"`
	Updated time.Time `json:"updated,omitzero"`
	Hosts   []string  `json:"hosts,omitempty"` // where it may be sent; none: anywhere

	// Of rotation: the value before the last one, the mark of a renewal under way, and, for a value kept beside a
	// reference that cannot be written, the fingerprint of what the reference said when rotation began.
	Previous string  `json:"previous,omitempty"`
	Intent   *intent `json:"intent,omitempty"`
	Original string  `json:"original,omitempty"`
}

// value is the item's value, as far as it may go.
func (e envelope) value() Value { return NewValue(e.Value).bound(e.Hosts) }

// An intent says that a renewal began. Found later, it says that one did not end.
type intent struct {
	Fingerprint string    `json:"fingerprint"` // of the value that was sent
	At          time.Time `json:"at"`
	PID         int       `json:"pid"`
}

// fingerprint tells values apart. It stands only beside the value itself, so it needs no key.
func fingerprint(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:])
}

func (e envelope) encode() ([]byte, error) {
	e.Version, e.Kind = envelopeVersion, "raw"
	if !utf8.ValidString(e.Value) || !utf8.ValidString(e.Previous) {
		e.Kind = "base64"
		e.Value = base64.StdEncoding.EncodeToString([]byte(e.Value))
		e.Previous = base64.StdEncoding.EncodeToString([]byte(e.Previous))
	}
	return json.Marshal(e)
}

func decodeEnvelope(data []byte) (envelope, error) {
	var shape struct {
		Version *int    `json:"v"`
		Kind    *string `json:"kind"`
		Value   *string `json:"value"`
	}
	if json.Unmarshal(data, &shape) != nil || shape.Version == nil || shape.Kind == nil || shape.Value == nil {
		if len(data) == 0 {
			return envelope{}, &Error{Kind: ErrCorrupt, Why: "the keyring holds an empty item"}
		}
		return envelope{Kind: "raw", Value: string(data)}, nil
	}
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil || e.Version != envelopeVersion {
		return envelope{}, &Error{Kind: ErrCorrupt, Why: "the item was written by another version of credproxy"}
	}
	if e.Kind == "base64" {
		value, err := base64.StdEncoding.DecodeString(e.Value)
		previous, err2 := base64.StdEncoding.DecodeString(e.Previous)
		if err != nil || err2 != nil {
			return envelope{}, &Error{Kind: ErrCorrupt, Why: "the item is damaged"}
		}
		e.Value, e.Previous = string(value), string(previous)
	}
	return e, nil
}
