package secrets

import (
	"context"
	"errors"
	"strings"
)

// The kinds of failure; test for them with errors.Is.
var (
	ErrNotFound    = errors.New("not found")
	ErrLocked      = errors.New("the keyring is locked")
	ErrDenied      = errors.New("access denied")
	ErrTimeout     = errors.New("timed out")
	ErrUnavailable = errors.New("the keyring is unavailable")
	ErrFailed      = errors.New("cannot be read")
	ErrCorrupt     = errors.New("stored but unreadable")
	ErrInvalid     = errors.New("not usable as a secret")
	ErrMisdirected = errors.New("not for this destination")
	ErrTooLarge    = errors.New("too large")
	ErrConflict    = errors.New("in use by another process")
)

var slugs = []struct {
	kind error
	slug string
	next string // what to do, for want of better advice
}{
	{ErrNotFound, "secret_missing", "credproxy secret list"},
	{ErrLocked, "keyring_locked", "unlock the keyring and try again"},
	{ErrDenied, "secret_denied", "allow credproxy to read it and try again"},
	{ErrTimeout, "secret_timeout", "try again"},
	{ErrUnavailable, "keyring_unavailable", useFiles},
	{ErrFailed, "secret_unavailable", "credproxy check"},
	{ErrCorrupt, "secret_corrupt", "store it anew: credproxy secret set NAME"},
	{ErrInvalid, "secret_invalid", "put a value there that is text, on one line"},
	{ErrMisdirected, "secret_misdirected", "check the hosts of the rule, or see where the secret may go: credproxy secret list"},
	{ErrTooLarge, "secret_too_large", "use a key or a token, not a document"},
	{ErrConflict, "secret_conflict", "try again"},
	{context.Canceled, "secret_timeout", "try again"}, // whoever asked has gone
}

const useFiles = "CREDPROXY_BACKEND=file credproxy secret set NAME"

// slugOf is the slug of a kind.
func slugOf(kind error) string {
	for _, s := range slugs {
		if s.kind == kind {
			return s.slug
		}
	}
	return "internal"
}

// kindOf is the kind with a slug, ErrUnavailable for any other text.
func kindOf(slug string) error {
	for _, s := range slugs {
		if s.slug == slug {
			return s.kind
		}
	}
	return ErrUnavailable
}

// An Error says which reference failed, why, and what to do. It never carries a value.
type Error struct {
	Op   string // resolve, use, set, list, rm, rotate, open, unlock
	Ref  string // as Ref.String prints it, or empty
	Kind error  // one of the Err… sentinels
	Why  string // detail that is safe to show, or empty
	Next string // the next command to type; empty: what Kind suggests

	// Detail is the raw text of a keyring, or what a command wrote to standard error, cut short. It is for a
	// person at the terminal: it is not in Error, and must not reach a log or an HTTP answer.
	Detail string
}

// Error is the failure in one line, without Detail.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Ref != "" {
		b.WriteString(" " + e.Ref)
	}
	b.WriteString(": " + e.Kind.Error())
	if e.Why != "" {
		b.WriteString(": " + e.Why)
	}
	return b.String()
}

// Unwrap gives the kind to errors.Is.
func (e *Error) Unwrap() error { return e.Kind }

// Slug is the failure's one name in the CLI, the log, the audit line and the HTTP answer.
func (e *Error) Slug() string { return slugOf(e.Kind) }

// Hint is the next command to type. There always is one.
func (e *Error) Hint() string {
	for _, s := range slugs {
		if e.Next == "" && s.kind == e.Kind {
			return s.next
		}
	}
	return e.Next
}

// asError returns err as an *Error of operation op on ref. What sources and the store report keeps its kind.
func asError(op string, ref Ref, err error) *Error {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			e = &Error{Kind: ErrTimeout}
		case errors.Is(err, context.Canceled):
			e = &Error{Kind: context.Canceled}
		default:
			e = &Error{Kind: ErrFailed, Detail: err.Error()}
		}
	}
	c := *e
	c.Op = op
	if !ref.IsZero() {
		c.Ref = ref.String()
	}
	return &c
}
