package rules

import (
	"fmt"
	"path/filepath"
	"strings"
)

// A Flaw is a way by which another user could change what a path leads to.
type Flaw struct {
	Why  string // such as: every user of this machine can write the folder /srv
	Next string // the command that ends it
}

// Flaws says who else than this user and root could change the file or folder at path, or put another in its place: by its
// owner and mode, and those of every folder and symbolic link that leads there, as sshd's StrictModes does. It knows nothing
// of Windows, where a user's profile is the user's alone.
func Flaws(path string) []Flaw {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil // what reads the file says so better
	}
	return flaws(path)
}

// exposed is the flaws of a file as an error.
type exposed []Flaw

func (e exposed) Error() string {
	var all []string
	for _, f := range e {
		all = append(all, f.Why+"; type "+f.Next)
	}
	return strings.Join(all, "\n")
}

// safely is an exposed, or nil.
func safely(path string) error {
	if found := Flaws(path); len(found) > 0 {
		return exposed(found)
	}
	return nil
}

func shellQuote(path string) string {
	if strings.ContainsAny(path, " '\"$`\\&;|<>()*?") {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}

// refused is the error for a rules file that others can change.
func refused(path string, e exposed) *FileError {
	f := &FileError{Path: path, cause: e}
	for _, one := range e {
		f.Mistakes = append(f.Mistakes, Mistake{Path: path, Text: fmt.Sprintf("reading rules: %s; type %s", one.Why, one.Next)})
	}
	return f
}
