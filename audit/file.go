package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
)

const (
	// fileBound is how large the log grows before it is moved aside, and keepOld how many old ones are kept.
	fileBound = 20 << 20
	keepOld   = 4

	// maxSpare bounds the memory that a File keeps between writes.
	maxSpare = 1 << 20
)

// A File is an audit log on disk in which each line names the hash of the one before it, over restarts and over the
// old files beside it. Any number of processes may write the same log. One File is not safe for concurrent use: a Log
// writes from one goroutine.
type File struct {
	path  string
	bound int64
	buf   []byte
}

// OpenFile returns the log at path, which it makes if there is none, and mends its end if the last write was cut short.
func OpenFile(path string) (*File, error) {
	f := &File{path: path, bound: fileBound}
	_, err := f.Write(nil)
	return f, err
}

// Write appends lines, each a JSON object with its newline, to the log. It returns how much of them the log has as
// whole lines.
func (f *File) Write(lines []byte) (n int, err error) {
	r, err := openRecord(recordPath(f.path))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	out, err := f.open(r, len(lines))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	return f.append(r, out, lines)
}

func (f *File) append(r *record, out *logEnd, lines []byte) (n int, err error) {
	at, buf := out.last, f.buf[:0]
	for _, e := range out.notes {
		buf, at = at.appendEvent(buf, e)
	}
	for line := range bytes.Lines(lines) {
		buf, at = at.appendLine(buf, line)
	}
	if cap(buf) <= maxSpare {
		f.buf = buf
	}
	if len(buf) == 0 {
		return 0, nil
	}
	written, err := out.Write(buf)
	if err != nil {
		whole := bytes.LastIndexByte(buf[:written], '\n') + 1
		_ = out.Truncate(out.size + int64(whole)) // if it cannot be, the next write finds half a line and says so
		return lengthOf(lines, bytes.Count(buf[:whole], []byte("\n"))-len(out.notes)), err
	}
	return len(lines), r.write(at, out.size+int64(len(buf)))
}

// lengthOf is the length of the first n lines.
func lengthOf(lines []byte, n int) (length int) {
	for line := range bytes.Lines(lines) {
		if n <= 0 {
			break
		}
		length += len(line)
		n--
	}
	return length
}

// A logEnd is the log, open for appending.
type logEnd struct {
	*os.File
	size  int64
	last  link    // what the next line follows
	notes []Event // what the log has to say about itself first
}

// open opens the log and finds its end; if more bytes are too many for it, that of a new one.
func (f *File) open(r *record, more int) (*logEnd, error) {
	end, err := openEnd(f.path, r)
	if err != nil || end.size == 0 || end.size+int64(more) <= f.bound || more == 0 {
		return end, err
	}
	last, notes := end.last, end.notes
	if err := end.Close(); err != nil {
		return nil, err
	}
	moved, err := f.rotate()
	if err != nil {
		return nil, err
	}
	end, err = openEnd(f.path, &record{last: last, ok: true})
	if err == nil && moved {
		end.notes = append([]Event{note("begin", "continues the log that was full")}, notes...)
	}
	return end, err
}

// rotate moves the full log aside. The lock is held.
func (f *File) rotate() (moved bool, err error) {
	for n := keepOld - 1; n >= 0; n-- {
		err := os.Rename(oldPath(f.path, n), oldPath(f.path, n+1))
		switch {
		case err == nil || errors.Is(err, fs.ErrNotExist):
		case busy(err): // the log grows until nobody reads the old ones
			return false, nil
		default:
			return false, err
		}
	}
	return true, nil
}

// oldPath is where the log goes when it is moved aside for the nth time; 0 is the log itself.
func oldPath(path string, n int) string {
	if n == 0 {
		return path
	}
	return fmt.Sprintf("%s.%d", path, n)
}

func recordPath(path string) string { return path + ".last" }

func note(decision, reason string) Event {
	e := Event{Time: time.Now(), Decision: decision, Reason: reason}
	e.cut()
	return e
}

// openEnd opens the log at path, where the record says that it ends.
func openEnd(path string, r *record) (end *logEnd, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if exposed(info) { // who asked whom for what is nobody else's business
		if err := f.Chmod(0o600); err != nil {
			return nil, err
		}
	}
	end = &logEnd{File: f, size: info.Size(), last: r.last}
	switch {
	case end.size == 0 && r.last.seq > 0:
		end.notes = []Event{note("begin", "the log before this line has been moved or removed")}
	case end.size == 0:
		end.notes = []Event{note("begin", "there was no log before this line")}
	case !r.ok:
		end.notes = []Event{note("mend", "there was no record of where the log before this line ended")}
		return end, end.mend(r.last)
	case r.size != end.size:
		return end, end.mend(r.last)
	}
	return end, nil
}

// mend finds the end of a log that is not as it was after the last write, and says what is wrong with it. The chain goes
// on from recorded if the log ends before that, so that what is missing stays missing.
func (e *logEnd) mend(recorded link) error {
	tail, err := e.tail()
	if err != nil {
		return err
	}
	whole := bytes.LastIndexByte(tail, '\n') + 1
	if torn := tail[whole:]; len(torn) > 0 {
		if err := e.Truncate(e.size - int64(len(torn))); err != nil {
			return err
		}
		e.size -= int64(len(torn))
		e.notes = append(e.notes, note("mend", fmt.Sprintf("the last line was not whole, and has been taken off: %s", torn)))
	}
	lines := slices.Collect(bytes.Lines(tail[:whole]))
	if len(lines) == 0 {
		return nil
	}
	last, _, ok := readLine(lines[len(lines)-1])
	switch {
	case !ok:
		e.notes = append(e.notes, note("mend", "the line before this one was not written by credproxy"))
	case last.seq > recorded.seq: // a crash before the record was written
		e.last = last
	case last != recorded:
		e.notes = append(e.notes, note("mend", "the end of the log before this line is not what was written there"))
	}
	return nil
}

// tail returns the last line and what follows it.
func (e *logEnd) tail() ([]byte, error) {
	for n := int64(64 << 10); ; n *= 4 {
		n = min(n, e.size)
		buf := make([]byte, n)
		if _, err := e.ReadAt(buf, e.size-n); err != nil && err != io.EOF {
			return nil, err
		}
		whole := bytes.LastIndexByte(buf, '\n')
		before := bytes.LastIndexByte(buf[:max(whole, 0)], '\n')
		if whole >= 0 && before >= 0 {
			return buf[before+1:], nil
		}
		if n == e.size {
			return buf, nil
		}
		if n > maxTail {
			return nil, errors.New("the log ends in something that is no line")
		}
	}
}

// maxTail is more than a line of the log can have.
const maxTail = 16 << 20
