package cli

import (
	"errors"
	"io/fs"
	"os"
)

// auditBound is how large the audit log grows before it is moved aside, once: the newest 10 to 20 MiB are kept.
const auditBound = 10 << 20

// An auditFile appends to the audit log and moves it aside when it is full. Any number of processes may do so at once.
// It is not safe for concurrent use: the audit log writes from one goroutine.
type auditFile struct {
	path  string
	bound int64
	f     *os.File
}

func openAuditFile(path string) (*auditFile, error) {
	a := &auditFile{path: path, bound: auditBound}
	if err := a.reopen(); err != nil {
		return nil, &failure{slug: slugState, text: "opening the audit log", next: "choose another folder with --state", err: err}
	}
	return a, nil
}

// Write appends p, whole lines, in one system call.
func (a *auditFile) Write(p []byte) (int, error) {
	if err := a.follow(); err != nil {
		return 0, err
	}
	info, err := a.f.Stat()
	if err != nil {
		return 0, err
	}
	if info.Size() > 0 && info.Size()+int64(len(p)) > a.bound {
		if err := a.rotate(); err != nil {
			return 0, err
		}
	}
	return a.f.Write(p)
}

func (a *auditFile) Close() error { return a.f.Close() }

// follow opens the log anew if another process, or a person, has moved it.
func (a *auditFile) follow() error {
	if a.current() {
		return nil
	}
	_ = a.f.Close() // nothing is buffered
	return a.reopen()
}

// current reports whether the open file is the one that stands at path.
func (a *auditFile) current() bool {
	there, err := os.Stat(a.path)
	if err != nil {
		return false
	}
	ours, err := a.f.Stat()
	return err == nil && os.SameFile(there, ours)
}

// rotate moves the full log aside. The lock is on the full file itself, so that of several processes which find it
// full one moves it, and the others then see that it has gone.
func (a *auditFile) rotate() error {
	full := a.f
	defer full.Close()
	if err := lockFile(full); err != nil {
		return err
	}
	if a.current() {
		// Windows does not move a file that another process has open. The log then grows until that process ends.
		if err := os.Rename(a.path, a.path+".1"); err != nil && !errors.Is(err, fs.ErrPermission) && !sharingViolation(err) {
			return err
		}
	}
	return a.reopen()
}

func (a *auditFile) reopen() error {
	f, err := os.OpenFile(a.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	a.f = f
	return nil
}
