package secrets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

var errPath = errors.New("file: takes an absolute path, or one that starts with ~/")

func checkPath(path string) error {
	if strings.ContainsRune(path, 0) {
		return errPath
	}
	if rest, ok := strings.CutPrefix(path, "~/"); ok && rest != "" {
		return nil
	}
	if !filepath.IsAbs(path) {
		return errPath
	}
	return nil
}

// expandHome replaces a leading ~/ with the home folder.
func expandHome(path string) (string, error) {
	rest, ok := strings.CutPrefix(path, "~/")
	if !ok {
		return path, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("finding the home folder: %w", err)
	}
	return filepath.Join(home, rest), nil
}

func stampFile(_ *Store, ref Ref) stamp {
	path, err := expandHome(ref.Name)
	if err != nil {
		return stamp{}
	}
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{modified: info.ModTime().UnixNano(), size: info.Size(), mode: info.Mode(), inode: inodeOf(info)}
}

func fetchFile(_ context.Context, st *Store, ref Ref) (Value, error) {
	path, err := expandHome(ref.Name)
	if err != nil {
		return Value{}, &Error{Kind: ErrFailed, Why: err.Error()}
	}
	own := ""
	if st != nil {
		own = st.state
	}
	s, err := readPrivate(path, own)
	if err != nil {
		return Value{}, err
	}
	return NewValue(s), nil
}

// readPrivate reads a file that only its owner can read, without one trailing newline. own is a folder of credproxy's.
func readPrivate(path, own string) (string, error) {
	fail := func(kind error, why, next string) (string, error) {
		return "", &Error{Kind: kind, Why: why, Next: next}
	}
	f, err := os.OpenFile(path, os.O_RDONLY|openWithoutWaiting, 0)
	if err != nil {
		return fail(kindOfFileError(err), fileReason(err), "ls -l "+path)
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	switch {
	case err != nil:
		return fail(ErrFailed, fileReason(err), "ls -l "+path)
	case !info.Mode().IsRegular():
		return fail(ErrFailed, "it is not a regular file", "ls -l "+path)
	case exposed(path, info.Mode()):
		return fail(ErrDenied, "other users can read the file", howToClose(path, info, own))
	}
	b, err := io.ReadAll(io.LimitReader(f, maxValue+1))
	switch {
	case err != nil:
		return fail(ErrFailed, fileReason(err), "ls -l "+path)
	case len(b) > maxValue:
		return fail(ErrTooLarge, "a secret has at most 64 kB", "ls -l "+path)
	}
	s := trimNewline(string(b))
	if s == "" {
		return fail(ErrInvalid, "the file is empty", "ls -l "+path)
	}
	return s, nil
}

// howToClose says what to do about a file that others can read. Only the user's own files below the home folder or own
// may be closed: others may need to read all that lies elsewhere.
func howToClose(path string, info fs.FileInfo, own string) string {
	folders := []string{own}
	if home, err := os.UserHomeDir(); err == nil {
		folders = append(folders, home)
	}
	target, err := filepath.EvalSymlinks(path)
	for _, folder := range folders {
		folder, ferr := filepath.EvalSymlinks(folder)
		if err == nil && ferr == nil && len(folder) > 1 && ownedByUs(info) && strings.HasPrefix(target, folder+string(filepath.Separator)) {
			return "chmod 600 " + path
		}
	}
	return "copy it to a file that only you can read, and name that one"
}

func kindOfFileError(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ErrNotFound
	case errors.Is(err, fs.ErrPermission):
		return ErrDenied
	}
	return ErrFailed
}

// fileReason is the operating system's reason without the path, which the reference names already.
func fileReason(err error) string {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err.Error()
	}
	return err.Error()
}

// exposed reports whether others may read the file at path. In the folders where systemd and container runtimes
// mount secrets, the mode is theirs to choose. Windows has no mode to go by.
func exposed(path string, mode fs.FileMode) bool {
	if runtime.GOOS == "windows" || mode.Perm()&0o077 == 0 {
		return false
	}
	path = filepath.Clean(path)
	for _, folder := range []string{os.Getenv("CREDENTIALS_DIRECTORY"), "/run/secrets"} {
		if filepath.IsAbs(folder) && strings.HasPrefix(path, filepath.Clean(folder)+string(filepath.Separator)) {
			return false
		}
	}
	return true
}
