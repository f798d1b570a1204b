package certs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// lockWait is how long to wait for another process, which holds the lock for milliseconds.
const lockWait = 10 * time.Second

// makePrivate makes sure that dir is a folder that nobody else can look into.
func makePrivate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return &Error{Text: "making the local CA's folder", Next: "choose another folder with --state", Err: err}
	}
	info, err := os.Stat(dir)
	if err != nil {
		return &Error{Text: "making the local CA's folder", Err: err}
	}
	return checkPrivate(info, dir, "chmod 700 "+dir)
}

// checkKeyFile refuses a key that others can read, or that belongs to somebody else.
func checkKeyFile(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return checkPrivate(info, f.Name(), "chmod 600 "+f.Name())
}

// writeFile replaces path in one step: after a crash it holds the old data or the new, never a part.
func writeFile(path string, data []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, werr := f.Write(data)
	if err := errors.Join(werr, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// readBounded reads all of f; more than bound bytes is an error.
func readBounded(f *os.File, bound int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, bound+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > bound {
		return nil, &Error{Text: fmt.Sprintf("%s is larger than %d KiB", f.Name(), bound>>10)}
	}
	return data, nil
}

// lock takes the lock file at path, across processes. The system releases it if the process dies.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockWait); ; time.Sleep(5 * time.Millisecond) {
		ok, err := tryLock(f)
		if ok {
			return func() { _ = f.Close() }, nil // closing releases it
		}
		if err == nil && time.Now().After(deadline) {
			err = errors.New("another process holds it for too long")
		}
		if err != nil {
			_ = f.Close()
			return nil, err
		}
	}
}
