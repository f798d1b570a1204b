// Package audit writes one event per request: what was asked, which rule decided, what was injected by name,
// and how it ended. An Event has no field for queries, headers, bodies or values.
package audit

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// An Event describes one finished request or tunnel.
type Event struct {
	Time     time.Time     `json:"time"` // when the request began
	Client   string        `json:"client,omitempty"`
	Method   string        `json:"method"`
	Host     string        `json:"host"` // canonical, with the port if it is not the scheme's default
	Path     string        `json:"path,omitempty"`
	Rule     string        `json:"rule,omitempty"`
	Decision string        `json:"decision"` // inject, pass, tunnel or refuse
	Reason   string        `json:"reason,omitempty"`
	Inject   []string      `json:"inject,omitempty"`  // credential types
	Secrets  []string      `json:"secrets,omitempty"` // references, never values
	Status   int           `json:"status,omitempty"`  // what the client got; 0 for a tunnel
	Sent     int64         `json:"sent"`              // body bytes towards the upstream
	Received int64         `json:"received"`          // body bytes from the upstream
	Duration time.Duration `json:"duration_ns"`
	Error    string        `json:"error,omitempty"` // the failure's slug
}

// maxPending bounds what may wait for a slow writer, in bytes. Past it, Write waits.
const maxPending = 4 << 20

// A Log writes events as JSON lines. It is safe for concurrent use. A nil *Log drops everything and is never broken.
type Log struct {
	listeners []func(Event)

	mu      sync.Mutex
	room    *sync.Cond // signalled when pending shrinks or the log closes
	pending []byte
	err     error
	closed  bool

	wake chan struct{}
	done chan struct{}
}

// New returns a Log that writes to w, in a goroutine of its own. Each listener sees each event, in the goroutine of
// its request, and must return at once. Close ends the Log.
func New(w io.Writer, listeners ...func(Event)) *Log {
	l := &Log{listeners: listeners, wake: make(chan struct{}, 1), done: make(chan struct{})}
	l.room = sync.NewCond(&l.mu)
	go l.drain(w)
	return l
}

// Write hands over e. It waits only while more than 4 MiB of events are unwritten.
func (l *Log) Write(e Event) {
	if l == nil {
		return
	}
	for _, listen := range l.listeners {
		listen(e)
	}
	line, err := json.Marshal(e)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.err = fmt.Errorf("encoding an audit event: %w", err)
		return
	}
	for len(l.pending) > maxPending && !l.closed {
		l.room.Wait()
	}
	if l.closed {
		return
	}
	l.pending = append(append(l.pending, line...), '\n')
	select {
	case l.wake <- struct{}{}:
	default:
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
		close(l.wake)
	}
	<-l.done
	return l.Err()
}

// retryAfter is the pause before a failed write is tried again.
const retryAfter = time.Second

func (l *Log) drain(w io.Writer) {
	defer close(l.done)
	var retry <-chan time.Time
	for open := true; open; {
		select {
		case _, open = <-l.wake:
		case <-retry:
		}
		retry = nil
		if !l.flush(w) {
			retry = time.After(retryAfter)
		}
	}
}

// flush writes what is pending, outside the lock. What a failed write left stays pending.
func (l *Log) flush(w io.Writer) bool {
	l.mu.Lock()
	batch := l.pending
	l.pending = nil
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
		return false
	}
	l.err = nil
	l.room.Broadcast()
	return true
}
