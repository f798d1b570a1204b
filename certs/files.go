package certs

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// lockWait is how long to wait for another process. It holds the lock for milliseconds, or while it waits for the keyring.
const lockWait = 30 * time.Second

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
func writeFile(path string, data []byte, mode fs.FileMode) error {
	return replace(path, data, mode, (*os.File).Sync)
}

// replaceFile is writeFile for a private file that can be made again: it does not wait for the disk.
func replaceFile(path string, data []byte) error {
	return replace(path, data, 0o600, func(*os.File) error { return nil })
}

func replace(path string, data []byte, mode fs.FileMode, sync func(*os.File) error) (err error) {
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
	if err := errors.Join(werr, f.Chmod(mode), sync(f), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// readPrivate reads a small file that nobody else can read.
func readPrivate(path string) ([]byte, error) { return readSmall(path, checkKeyFile) }

// readPEM reads the blocks of a small file.
func readPEM(path string, check func(*os.File) error) (blocks []*pem.Block, err error) {
	data, err := readSmall(path, check)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		blocks = append(blocks, block)
	}
	return blocks, nil
}

func readSmall(path string, check func(*os.File) error) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if check != nil {
		if err := check(f); err != nil {
			return nil, err
		}
	}
	return readBounded(f, pemBound)
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
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := tryLock(f)
		if ok {
			return func() { _ = f.Close() }, nil // closing releases it
		}
		if err != nil {
			_ = f.Close()
			return nil, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			_ = f.Close()
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil, context.Canceled
			}
			return nil, errors.New("another process holds it for too long; it may be waiting for the keyring")
		}
	}
}

// withHint makes an *Error of err that has a hint; one that stands already is kept.
func withHint(err error, text, hint string) error {
	var e *Error
	if !errors.As(err, &e) {
		return &Error{Text: text, Next: hint, Err: err}
	}
	if e.Next == "" {
		e.Next = hint
	}
	return e
}
