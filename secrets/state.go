package secrets

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	lockWait = 30 * time.Second
	lockPoll = 10 * time.Millisecond
)

// privateFolder makes path and its parents. What it makes only the owner can enter.
func privateFolder(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("making the folder %s: %w", path, err)
	}
	return nil
}

// writeTemp writes data to a new file in folder and makes it durable.
func writeTemp(folder string, data []byte) (path string, err error) {
	f, err := os.CreateTemp(folder, ".new-*") // 0600
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	if _, err := f.Write(data); err != nil {
		return "", err
	}
	if err := f.Sync(); err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}

// createOnce makes the file path with data, unless it exists, and returns what it then holds. Of several processes
// that do so at once, one wins and the others read what it wrote.
func createOnce(path string, data []byte) ([]byte, error) {
	temp, err := writeTemp(filepath.Dir(path), data)
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", path, err)
	}
	if err = linkOrMove(temp, path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("writing %s: %w", path, err)
	}
	return os.ReadFile(path)
}

// linkOrMove gives temp the name path if that is free, and removes the name temp in any case.
func linkOrMove(temp, path string) error {
	err := os.Link(temp, path)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return errors.Join(err, os.Remove(temp), syncFolder(filepath.Dir(path)))
	}
	// A file system without hard links: the check and the move are two steps there.
	if _, err := os.Stat(path); err == nil {
		return errors.Join(fs.ErrExist, os.Remove(temp))
	}
	return os.Rename(temp, path)
}

// lock takes the lock of one item against all processes, or fails after 30 s. Locks on network file systems are
// not to be relied on.
func (s *Store) lock(ctx context.Context, item string) (unlock func(), err error) {
	folder := filepath.Join(s.state, "locks")
	if err := privateFolder(folder); err != nil {
		return nil, s.stateError(err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.lockWait)
	defer cancel()
	// Whoever is next waits at the gate and keeps it shut, so that a process that takes the lock again and again
	// cannot keep the others out.
	gate, err := s.lockFile(ctx, filepath.Join(folder, item+".gate"))
	if err != nil {
		return nil, err
	}
	defer gate()
	return s.lockFile(ctx, filepath.Join(folder, item+".lock"))
}

func (s *Store) lockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, s.stateError(err)
	}
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		ok, err := tryLock(f)
		if err != nil {
			return nil, s.stateError(errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close()))
		}
		if ok {
			return func() { _ = f.Close() }, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			_ = f.Close()
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil, context.Canceled
			}
			return nil, &Error{Kind: ErrConflict, Why: "another credproxy has held its lock for too long", Next: "try again"}
		}
	}
}

// stateError is a failure of credproxy's own folder.
func (s *Store) stateError(err error) *Error {
	kind := ErrUnavailable
	if errors.Is(err, fs.ErrPermission) {
		kind = ErrDenied
	}
	return &Error{Kind: kind, Why: err.Error(), Next: "ls -ld " + s.state}
}

// generation changes with every change of the keyring, by whatever process. It costs one stat.
func (s *Store) generation() int64 {
	info, err := os.Stat(s.generationPath)
	if err != nil {
		return 0
	}
	return info.ModTime().UnixNano()
}

// bump tells all processes that the keyring has changed.
func (s *Store) bump() error {
	temp, err := writeTemp(s.state, nil)
	if err != nil {
		return s.stateError(err)
	}
	// The file system stamps in ticks of milliseconds, in which two changes would look like one.
	now := time.Now()
	if err := os.Chtimes(temp, now, now); err != nil {
		return s.stateError(errors.Join(err, os.Remove(temp)))
	}
	if err := replaceFile(context.Background(), temp, s.generationPath); err != nil {
		return s.stateError(errors.Join(err, os.Remove(temp)))
	}
	return nil
}
