package secrets

import (
	"fmt"
	"strings"
)

// reasons is what to do about failures that say more than their kind.
var reasons = map[string]string{
	whyNoPass:    "install pass, or use files: CREDPROXY_BACKEND=file",
	whyNoPassKey: "pass init KEY (a key that gpg --list-secret-keys shows; gpg --full-generate-key makes one)",
}

// advice is what to do about the failures of a backend, where the failure itself does not know better. STATE stands for
// the state folder.
var advice = []struct {
	backend string
	kind    error
	next    string
}{
	{"file", ErrLocked, "CREDPROXY_PASSPHRASE_FILE=PATH credproxy … (a file with the passphrase of this keyring)"},
	{"file", ErrDenied, "ls -ld STATE STATE/keyring"},
	{"file", ErrTimeout, "df STATE"},
	{"file", ErrUnavailable, "df STATE"},

	{"secret-service", ErrLocked, "unlock your login keyring and try again (without a desktop: CREDPROXY_BACKEND=file)"},
	{"secret-service", ErrDenied, "credproxy secret list, and allow it in the dialog"},
	{"secret-service", ErrTimeout, "answer the dialog on the screen and try again (without a desktop: CREDPROXY_BACKEND=file)"},
	{"secret-service", ErrUnavailable, "log in to a desktop with a keyring, or use files: CREDPROXY_BACKEND=file"},

	{"kwallet", ErrLocked, "open your wallet and try again (without a desktop: CREDPROXY_BACKEND=file)"},
	{"kwallet", ErrDenied, "credproxy secret list, and allow it in the dialog"},
	{"kwallet", ErrTimeout, "answer the dialog on the screen and try again (without a desktop: CREDPROXY_BACKEND=file)"},
	{"kwallet", ErrUnavailable, "log in to a desktop with KWallet, or use files: CREDPROXY_BACKEND=file"},

	{"pass", ErrLocked, "pass show credproxy/NAME, on a terminal where gpg can ask for its passphrase"},
	{"pass", ErrDenied, "pass show credproxy/NAME, and give gpg its passphrase"},
	{"pass", ErrTimeout, "pass show credproxy/NAME, on a terminal where gpg can ask for its passphrase"},
	{"pass", ErrUnavailable, "pass ls, and see what it says"},

	{"keychain", ErrLocked, "security unlock-keychain"},
	{"keychain", ErrDenied, "credproxy secret list, and allow it in the dialog"},
	{"keychain", ErrTimeout, "answer the dialog on the screen and try again"},
	{"keychain", ErrUnavailable, "security list-keychains (or use files: CREDPROXY_BACKEND=file)"},
}

// explain adds the backend's name and what to do.
func (s *Store) explain(e *Error) *Error {
	c := *e
	switch c.Kind {
	case ErrNotFound, ErrTooLarge, ErrInvalid, ErrConflict:
		return &c
	}
	name := s.backend.name
	if c.Next == "" {
		c.Next = reasons[c.Why]
	}
	for _, a := range advice {
		if c.Next == "" && a.backend == name && a.kind == c.Kind {
			c.Next = strings.ReplaceAll(a.next, "STATE", s.state)
		}
	}
	c.Why = fmt.Sprintf("backend %s: %s", name, c.Why)
	return &c
}
