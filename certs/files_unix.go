//go:build !windows

package certs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// checkPrivate refuses what others can get at, and what belongs to somebody else.
func checkPrivate(info fs.FileInfo, path, fix string) error {
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return &Error{Text: fmt.Sprintf("%s is open to other users (mode %04o)", path, mode), Next: fix}
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return &Error{
			Text: fmt.Sprintf("%s belongs to user %d, not to you (user %d)", path, st.Uid, os.Geteuid()),
			Next: "choose a folder of your own with --state",
		}
	}
	return nil
}

func tryLock(f *os.File) (bool, error) {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return false, nil
	}
	return err == nil, err
}
