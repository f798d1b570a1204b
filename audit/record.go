package audit

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

const (
	// lockWait bounds the wait for another process, which holds the lock for one write.
	lockWait = 2 * time.Second
	lockPoll = time.Millisecond
)

// A record is a file beside the log that says where the log ended after the last write. It tells a log whose end was
// cut off from one that is whole, and its lock is the log's: while one process has it open no other writes.
type record struct {
	f    *os.File
	last link
	size int64 // of the log
	ok   bool  // there is something in it
}

const recordFormat = "%020d %x %020d\n" // of one length, so that it is replaced by one write

// openRecord opens the record and waits for its lock.
func openRecord(path string) (*record, error) {
	for deadline := time.Now().Add(lockWait); ; {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		locked, err := tryLock(f)
		if locked && isAt(f, path) {
			r := &record{f: f}
			if err := r.read(); err != nil {
				return nil, errors.Join(err, f.Close())
			}
			return r, nil
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		if locked {
			continue // somebody has removed it, and with it our lock
		}
		if time.Now().After(deadline) {
			return nil, errors.New("another process has held " + path + " for too long")
		}
		time.Sleep(lockPoll)
	}
}

// isAt reports whether f is still the file that stands at path.
func isAt(f *os.File, path string) bool {
	ours, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(ours, there)
}

// read takes what is not a whole record for none: the log itself then says where it ends.
func (r *record) read() error {
	buf := make([]byte, 128)
	n, err := r.f.ReadAt(buf, 0)
	if err != nil && err != io.EOF {
		return err
	}
	var hash []byte
	if _, err := fmt.Sscanf(string(buf[:n]), "%d %x %d\n", &r.last.seq, &hash, &r.size); err == nil {
		r.ok = copy(r.last.hash[:], hash) == len(r.last.hash)
	}
	if !r.ok {
		r.last, r.size = link{}, 0
	}
	return nil
}

// write says that the log now ends with last.
func (r *record) write(last link, size int64) error {
	_, err := fmt.Fprintf(io.NewOffsetWriter(r.f, 0), recordFormat, last.seq, last.hash, size)
	return err
}

// Close gives the lock back.
func (r *record) Close() error { return r.f.Close() }

// ParseAnchor reads what Anchor.String has written.
func ParseAnchor(s string) (Anchor, error) {
	var a Anchor
	var hash []byte
	if _, err := fmt.Sscanf(s, "%d:%x", &a.seq, &hash); err != nil || copy(a.hash[:], hash) != len(a.hash) || a.String() != s {
		return Anchor{}, errors.New("an anchor is a number, a colon and 64 hexadecimal digits")
	}
	return a, nil
}

// An Anchor names one line of a log so that no other can take its place: its number and its hash.
type Anchor link

func (a Anchor) String() string { return fmt.Sprintf("%d:%s", a.seq, hex.EncodeToString(a.hash[:])) }
