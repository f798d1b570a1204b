// Package audit writes one event per request: what was asked, which rule decided, what was injected by name,
// and how it ended. An Event has no field for queries, headers, bodies or values.
package audit

import (
	"fmt"
	"io"
	"sync"
	"time"
	"unicode/utf8"
)

// An Event describes one finished request or tunnel.
type Event struct {
	Time     time.Time     `json:"time"` // when the request began
	Client   string        `json:"client,omitempty"`
	Method   string        `json:"method"`
	Host     string        `json:"host"` // canonical, with the port if it is not the scheme's default
	Path     string        `json:"path,omitempty"`
	Rule     string        `json:"rule,omitempty"`
	Decision string        `json:"decision"` // inject, pass, tunnel or refuse; of the log itself: begin, mend, lost (Reason says why)
	Reason   string        `json:"reason,omitempty"`
	Inject   []string      `json:"inject,omitempty"`  // credential types
	Secrets  []string      `json:"secrets,omitempty"` // references, never values
	Status   int           `json:"status,omitempty"`  // what the client got; 0 for a tunnel
	Sent     int64         `json:"sent"`              // body bytes towards the upstream
	Received int64         `json:"received"`          // body bytes from the upstream
	Duration time.Duration `json:"duration_ns"`
	Error    string        `json:"error,omitempty"` // the failure's slug
	Trial    string        `json:"trial,omitempty"` // the slug of the refusal that default: deny would be
}

// Bounds of what clients write into an Event: a path may be as long as a header.
const (
	maxPath = 1024
	maxText = 256
)

// cut shortens what is too long to be of use, and says so in it.
func (e *Event) cut() {
	e.Path, e.Reason = shortened(e.Path, maxPath), shortened(e.Reason, maxPath)
	e.Client, e.Method, e.Host = shortened(e.Client, maxText), shortened(e.Method, maxText), shortened(e.Host, maxText)
}

func shortened(s string, bound int) string {
	if len(s) <= bound {
		return s
	}
	end := bound
	for end > bound-utf8.UTFMax && !utf8.RuneStart(s[end]) {
		end--
	}
	return fmt.Sprintf("%s… (%d bytes)", s[:end], len(s))
}

// maxPending bounds what may wait for a slow writer, in bytes. Past it Write waits, or for a writer that fails drops.
const maxPending = 4 << 20

// A Log writes events as JSON lines. It is safe for concurrent use. A nil *Log drops everything and is never broken.
type Log struct {
	listeners []func(Event)

	mu      sync.Mutex
	room    *sync.Cond // signalled when pending shrinks or the log closes
	pending []byte
	spare   []byte // the buffer that is not pending, to be used again
	lost    int    // events that were dropped since the last good write
	err     error
	closed  bool

	wake   chan struct{} // there is something pending
	ending chan struct{} // closed by Close
	done   chan struct{} // closed when the goroutine has ended
}

// New returns a Log that writes to w, in a goroutine of its own. Each listener sees each event, in the goroutine of
// its request, and must return at once. Close ends the Log.
func New(w io.Writer, listeners ...func(Event)) *Log {
	l := &Log{listeners: listeners, wake: make(chan struct{}, 1), ending: make(chan struct{}), done: make(chan struct{})}
	l.room = sync.NewCond(&l.mu)
	go l.drain(w)
	return l
}

// Write hands over e. It waits only while more than 4 MiB of events are unwritten. While writing fails it does not wait,
// for that may be long, and nothing is injected meanwhile: what is too much is counted, and the log says so later.
func (l *Log) Write(e Event) {
	if l == nil {
		return
	}
	e.cut()
	for _, listen := range l.listeners {
		listen(e)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.pending) > maxPending && !l.closed && l.err == nil {
		l.room.Wait()
	}
	switch {
	case l.closed:
	case len(l.pending) > maxPending:
		l.lost++
	default:
		l.add(e)
	}
}

// add makes e pending. l.mu is held.
func (l *Log) add(e Event) {
	first := len(l.pending) == 0
	l.pending = append(e.appendJSON(l.pending), '\n')
	if first {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// Err reports whether the last write failed. Until it is nil again nothing may be injected.
func (l *Log) Err() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Close writes what is pending, ends the Log's goroutine and returns the last error.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	l.room.Broadcast()
	l.mu.Unlock()
	if first {
		close(l.ending)
	}
	<-l.done
	return l.Err()
}

const (
	// retryAfter is the pause before a failed write is tried again.
	retryAfter = time.Second
	// gather is how long events are gathered for one write.
	gather = 10 * time.Millisecond
)

func (l *Log) drain(w io.Writer) {
	defer close(l.done)
	for l.wait() {
		for !l.flush(w) {
			select {
			case <-l.ending:
				return
			case <-time.After(retryAfter):
			}
		}
	}
	if l.flush(w) {
		l.flush(w) // that events were lost
	}
}

// wait returns when it is time to write, with false when the log ends.
func (l *Log) wait() bool {
	select {
	case <-l.ending:
		return false
	case <-l.wake:
	}
	select {
	case <-l.ending:
		return false
	case <-time.After(gather):
		return true
	}
}

// flush writes what is pending, outside the lock. What a failed write left stays pending.
func (l *Log) flush(w io.Writer) bool {
	l.mu.Lock()
	batch := l.pending
	l.pending = l.spare[:0]
	l.spare = nil
	l.mu.Unlock()
	if len(batch) == 0 {
		return true
	}
	n, err := w.Write(batch)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.err = fmt.Errorf("writing the audit log: %w", err)
		l.pending = append(batch[n:len(batch):len(batch)], l.pending...)
		l.room.Broadcast()
		return false // what was pending before is tried again first
	}
	l.err = nil
	l.spare = batch
	if l.lost > 0 {
		l.add(Event{Time: time.Now(), Decision: "lost", Reason: fmt.Sprintf("%d events while the log could not be written", l.lost)})
		l.lost = 0
	}
	l.room.Broadcast()
	return true
}
