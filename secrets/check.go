package secrets

import (
	"encoding/json"
	"encoding/pem"
	"strings"
	"unicode/utf8"
)

const breaksLine = "\r\n\x00"

// CheckLine reports whether v can stand in one line of a request: it is not empty and has no CR, LF or NUL. Whoever
// writes v into a header, a URL or a cookie asks first. The error is an *Error without a Ref.
func (v Value) CheckLine() error {
	switch s := v.Reveal(); {
	case s == "":
		return &Error{Op: "use", Kind: ErrInvalid, Why: "it is empty"}
	case strings.ContainsAny(s, breaksLine):
		return &Error{Op: "use", Kind: ErrInvalid, Why: "it contains a line break or a NUL byte",
			Next: "credproxy secret set NAME, with the value on one line"}
	}
	return nil
}

// CheckStorable reports whether v may be stored: UTF-8 text of at most 64 kB, on one line unless it is PEM or JSON.
func CheckStorable(v Value) error {
	s := v.Reveal()
	bad := func(kind error, why, next string) error { return &Error{Op: "set", Kind: kind, Why: why, Next: next} }
	const binary = "store text; encode binary data as base64, without line breaks"
	switch {
	case s == "":
		return bad(ErrInvalid, "it is empty", "credproxy secret set NAME --from-file FILE")
	case len(s) > maxValue:
		return bad(ErrTooLarge, "a secret has at most 64 kB", "store a key or a token, not a document")
	case !utf8.ValidString(s):
		return bad(ErrInvalid, "it is not UTF-8 text", binary)
	case strings.ContainsRune(s, 0):
		return bad(ErrInvalid, "it contains a NUL byte", binary)
	case strings.ContainsAny(s, "\r\n") && !isPEM(s) && !isJSON(s):
		return bad(ErrInvalid, "it contains a line break, and is neither PEM nor JSON", "store one line; several lines only as PEM or JSON")
	}
	return nil
}

func isPEM(s string) bool {
	block, _ := pem.Decode([]byte(s))
	return block != nil && strings.HasPrefix(strings.TrimSpace(s), "-----BEGIN ")
}

func isJSON(s string) bool {
	t := strings.TrimSpace(s)
	return (strings.HasPrefix(t, "{") || strings.HasPrefix(t, "[")) && json.Valid([]byte(s))
}

// trimNewline removes exactly one line end, which editors, echo and commands add.
func trimNewline(s string) string {
	if t, ok := strings.CutSuffix(s, "\n"); ok {
		return strings.TrimSuffix(t, "\r")
	}
	return s
}
