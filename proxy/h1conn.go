package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// An h1Conn is the client's side of an intercepted tunnel in which HTTP/1.1 is spoken over TLS.
//
// While a handler runs, net/http reads one byte ahead in a goroutine of its own, to learn that the client has left.
// Waking that goroutine for each request costs a tenth of the whole. An h1Conn answers that read with nothing, and
// a departure is found by a look at the socket's state, for the few requests that take long enough (watch).
type h1Conn struct {
	*tls.Conn
	tunnel *tunnelConn
}

// Read reads, but not ahead: only net/http's background read asks for a single byte, because all others go through a
// buffer. (0, nil) is a valid answer of a Reader, and ends that goroutine. If net/http changes, all that is lost is time.
func (c *h1Conn) Read(p []byte) (int, error) {
	if len(p) == 1 {
		return 0, nil
	}
	return c.Conn.Read(p)
}

const (
	firstLook = 20 * time.Millisecond
	nextLook  = 100 * time.Millisecond
)

// watch cancels a request when its client leaves. Until stop is called it looks at the connection now and then.
func watch(parent context.Context, conn net.Conn) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	w := &watcher{conn: conn, cancel: cancel}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(firstLook, w.look)
	return ctx, w.stop
}

type watcher struct {
	conn   net.Conn
	cancel context.CancelFunc
	timer  *time.Timer

	mu      sync.Mutex // guards timer and stopped
	stopped bool
}

func (w *watcher) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.stopped:
	case hasLeft(w.conn):
		w.cancel()
	default:
		w.timer.Reset(nextLook)
	}
}

func (w *watcher) stop() {
	w.mu.Lock()
	w.stopped = true
	w.timer.Stop()
	w.mu.Unlock()
	w.cancel()
}
