package secrets

import (
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/99designs/keyring"
)

type stringError string

func (e stringError) Error() string { return string(e) }

func TestClassify(t *testing.T) {
	t.Parallel()
	needShell(t)
	failed := exec.Command("sh", "-c", "exit 2").Run()
	if _, ok := errors.AsType[*exec.ExitError](failed); !ok {
		t.Fatal(failed)
	}
	path := func(n syscall.Errno) error { return &fs.PathError{Op: "open", Path: "/xyzzy", Err: n} }
	tests := []struct {
		name   string
		err    error
		stderr string
		want   error
		why    string
	}{
		{"absent", keyring.ErrKeyNotFound, "", ErrNotFound, ""},
		{"absent file", path(syscall.ENOENT), "", ErrNotFound, ""},
		{"no backend", keyring.ErrNoAvailImpl, "", ErrUnavailable, "cannot be opened"},
		{"not ours", path(syscall.EACCES), "", ErrDenied, "permission denied"},
		{"not permitted", syscall.EPERM, "", ErrDenied, "not permitted"},
		{"full", path(syscall.ENOSPC), "", ErrUnavailable, "no space left"},
		{"too long for the disk", path(syscall.EFBIG), "", ErrUnavailable, "file too large"},
		{"read-only", path(syscall.EROFS), "", ErrUnavailable, "read-only"},
		{"wrong passphrase or damage", stringError("aes.KeyUnwrap(): integrity check failed."), "", ErrCorrupt, "damaged"},
		{"authentication", stringError("cipher: message authentication failed"), "", ErrCorrupt, "damaged"},
		{"not a JWT", stringError("Invalid compact encoding"), "", ErrCorrupt, "damaged"},
		{"base64", stringError("illegal base64 data at input byte 4"), "", ErrCorrupt, "damaged"},
		{"no JSON", stringError("unexpected end of JSON input"), "", ErrCorrupt, "damaged"},
		{"no private key", failed, "gpg: decryption failed: No secret key", ErrLocked, "gpg has no key"},
		{"no terminal", failed, "gpg: public key decryption failed: Inappropriate ioctl for device", ErrLocked, "could not ask"},
		{"cancelled", failed, "gpg: public key decryption failed: Operation cancelled", ErrDenied, "cancelled"},
		{"not initialised", failed, "Error: You must run:\n\n    pass init your-gpg-id", ErrUnavailable, "pass init"},
		{"pass says absent", failed, "Error: credproxy/x is not in the password store.", ErrNotFound, ""},
		{"pass otherwise", failed, "xyzzy", ErrUnavailable, "pass failed: exit status 2"},
		{"Windows blob", syscall.Errno(1783), "", ErrTooLarge, "no room"},
		{"Keychain without UI", stringError("User interaction is not allowed. (-25308)"), "", ErrLocked, "security unlock-keychain"},
		{"Keychain password", stringError("The user name or passphrase you entered is not correct. (-25293)"), "", ErrDenied, "refused"},
		{"Keychain cancelled", stringError("User canceled the operation. (-128)"), "", ErrDenied, "cancelled"},
		{"read back", errReadBack, "", ErrUnavailable, "reading back"},
		{"unknown", stringError("xyzzy"), "", ErrUnavailable, "unknown error"},
	}
	for _, test := range tests {
		for _, err := range []error{test.err, fmt.Errorf("reading back: %w", test.err)} {
			kind, why := classify(err, test.stderr)
			if kind != test.want || !strings.Contains(why, test.why) {
				t.Errorf("%s: got %v, %q; want %v, %q", test.name, kind, why, test.want, test.why)
			}
			if strings.Contains(why, "xyzzy") {
				t.Errorf("%s: %q shows raw text", test.name, why)
			}
		}
	}
}

func TestSlugs(t *testing.T) {
	t.Parallel()
	want := map[error]string{
		ErrNotFound: "secret_missing", ErrLocked: "keyring_locked", ErrDenied: "secret_denied", ErrTimeout: "secret_timeout",
		ErrUnavailable: "keyring_unavailable", ErrFailed: "secret_unavailable", ErrCorrupt: "secret_corrupt",
		ErrInvalid: "secret_invalid", ErrTooLarge: "secret_too_large", ErrConflict: "secret_conflict",
	}
	for kind, slug := range want {
		e := &Error{Op: "resolve", Ref: "keyring:x", Kind: kind, Why: "w", Next: "n", Detail: "raw"}
		if e.Slug() != slug || e.Hint() != "n" || !errors.Is(e, kind) {
			t.Errorf("%v: slug %q, hint %q", kind, e.Slug(), e.Hint())
		}
		if got := e.Error(); got != "resolve keyring:x: "+kind.Error()+": w" {
			t.Errorf("%v: %q", kind, got)
		}
		if kindOf(slug) != kind {
			t.Errorf("kindOf(%q) = %v", slug, kindOf(slug))
		}
	}
}
