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
	ErrTooLarge    = errors.New("too large")
	ErrConflict    = errors.New("in use by another process")
)

var slugs = []struct {
	kind error
	slug string
}{
	{ErrNotFound, "secret_missing"},
	{ErrLocked, "keyring_locked"},
	{ErrDenied, "secret_denied"},
	{ErrTimeout, "secret_timeout"},
	{ErrUnavailable, "keyring_unavailable"},
	{ErrFailed, "secret_unavailable"},
	{ErrCorrupt, "secret_corrupt"},
	{ErrInvalid, "secret_invalid"},
	{ErrTooLarge, "secret_too_large"},
	{ErrConflict, "secret_conflict"},
	{context.Canceled, "secret_timeout"}, // whoever asked has gone
}

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
	Next string // the next command to type, or empty

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

// Hint is the next command to type.
func (e *Error) Hint() string { return e.Next }

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
