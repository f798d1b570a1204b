package secrets

import (
	"errors"
	"io/fs"
	"os/exec"
	"strings"
	"syscall"

	"github.com/99designs/keyring"
)

var (
	errReadBack         = errors.New("reading back gave another value")
	errNoPass           = errors.New("no pass")
	errNoPassKey        = errors.New("no key of pass")
	errNoKeychain       = errors.New("no keychain")
	errNoSecretService  = errors.New("no secret service")
	errNoCollection     = errors.New("no default collection")
	errCollectionLocked = errors.New("default collection locked")
	errPassphrase       = errors.New("wrong passphrase")
)

// Reasons that have advice of their own.
const (
	whyNoPass    = "the program pass is not on PATH"
	whyNoPassKey = "the password store has no key yet (pass init)"
)

// ours are the failures that the helper finds itself.
var ours = []struct {
	err  error
	kind error
	why  string
}{
	{errReadBack, ErrUnavailable, "reading back did not give the value that was stored"},
	{errNoPass, ErrUnavailable, whyNoPass},
	{errNoPassKey, ErrUnavailable, whyNoPassKey},
	{errNoKeychain, ErrUnavailable, "this build of credproxy has no Keychain: it was built without cgo"},
	{errNoSecretService, ErrUnavailable, "nobody provides org.freedesktop.secrets on the session bus"},
	{errNoCollection, ErrUnavailable, "there is no default keyring; make one in your keyring program"},
	{errCollectionLocked, ErrLocked, "the default keyring is locked"},
	{errPassphrase, ErrLocked, "the passphrase is not the one that this keyring was made with"},
	{keyring.ErrKeyNotFound, ErrNotFound, ""},
	{keyring.ErrNoAvailImpl, ErrUnavailable, "it cannot be opened here"},
}

// isOurs reports whether our own words say all that there is to say.
func isOurs(err error) bool {
	for _, o := range ours {
		if errors.Is(err, o.err) {
			return true
		}
	}
	return false
}

// said are failures that only their text tells apart: those of gpg and pass, of jose2go and of the macOS Keychain.
// The order matters.
var said = []struct {
	text string
	kind error
	why  string
}{
	{"You must run:", ErrUnavailable, whyNoPassKey},
	{"is not in the password store", ErrNotFound, ""},
	{"No secret key", ErrLocked, "gpg has no key that opens it, or could not ask for its passphrase"},
	{"Inappropriate ioctl", ErrLocked, "gpg could not ask for the passphrase"},
	{"No pinentry", ErrLocked, "gpg could not ask for the passphrase"},
	{"Operation cancelled", ErrDenied, "the passphrase dialog was cancelled"},
	{"No public key", ErrUnavailable, "gpg does not know the key of the password store"},
	{"KeyUnwrap", ErrCorrupt, "the item is damaged"},
	{"message authentication", ErrCorrupt, "the item is damaged"},
	{"jwt.", ErrCorrupt, "the item is damaged"},
	{"Invalid compact", ErrCorrupt, "the item is damaged"},
	{"base64", ErrCorrupt, "the item is damaged"},
	{"JSON input", ErrCorrupt, "the item is damaged"},
	{"invalid character", ErrCorrupt, "the item is damaged"},
	{"-25308", ErrLocked, "macOS may not show a dialog here; run security unlock-keychain"}, // errSecInteractionNotAllowed
	{"-25293", ErrDenied, "macOS refused the password"},                                     // errSecAuthFailed
	{"-128", ErrDenied, "the dialog was cancelled"},                                         // errSecUserCanceled
}

// classify says what kind of failure a backend's error is, and why in words that are safe to show: the raw text is
// not among them. stderr is what the backend's programs wrote.
func classify(err error, stderr string) (kind error, why string) {
	for _, o := range ours {
		if errors.Is(err, o.err) {
			return o.kind, o.why
		}
	}
	if kind, why, ok := classifyBus(err); ok {
		return kind, why
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ErrNotFound, ""
	case errors.Is(err, fs.ErrPermission):
		return ErrDenied, reasonOf(err)
	case errors.Is(err, syscall.Errno(1783)): // RPC_X_BAD_STUB_DATA: Windows' word for over 2560 bytes
		return ErrTooLarge, "the Windows Credential Manager has no room for it"
	}
	text := err.Error() + "\n" + stderr
	for _, s := range said {
		if strings.Contains(text, s.text) {
			return s.kind, s.why
		}
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return ErrUnavailable, "pass failed: " + exit.ProcessState.String()
	}
	return ErrUnavailable, reasonOf(err)
}

// reasonOf is the operating system's word for an error, if it has one.
func reasonOf(err error) string {
	if n, ok := errors.AsType[syscall.Errno](err); ok {
		return n.Error()
	}
	return "it reported an unknown error"
}
