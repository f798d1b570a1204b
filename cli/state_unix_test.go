//go:build unix

package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// In a folder that others can write to, they could put a key of theirs, or a link that leads the audit log elsewhere.
func TestStateFolderIsOurs(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		mode os.FileMode
		want string // of the error; empty: none
	}{
		{"ours alone", 0o700, ""},
		{"readable", 0o755, ""},
		{"of a group", 0o775, ""},
		{"everybody's", 0o777, "every user"},
		{"like /tmp", 0o777 | os.ModeSticky, "every user"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "state")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, test.mode); err != nil {
				t.Fatal(err)
			}
			_, err := (&options{state: dir}).stateDir()
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			// It may be a folder that everybody needs.
			if own, ok := errors.AsType[slugged](err); ok && strings.Contains(own.Hint(), "chmod") {
				t.Errorf("hint %q closes a folder that somebody named", own.Hint())
			}
		})
	}
	t.Run("somebody else's", func(t *testing.T) {
		t.Parallel()
		dir := "/"
		if os.Geteuid() == 0 {
			dir = t.TempDir()
			if err := os.Chown(dir, 54321, -1); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := (&options{state: dir}).stateDir(); err == nil || !strings.Contains(err.Error(), "somebody else") {
			t.Errorf("got %v", err)
		}
	})
}
