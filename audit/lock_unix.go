//go:build unix

package audit

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// tryLock takes the lock on f, or reports false if another holds it. Closing f releases it.
func tryLock(f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return false, nil
	}
	return err == nil, err
}

// busy reports that a file cannot be moved because somebody reads it.
func busy(error) bool { return false }

// exposed reports whether other users can open a file of ours.
func exposed(info fs.FileInfo) bool { return info.Mode().Perm()&0o077 != 0 }
