package proxy

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/credproxy/credproxy/secrets"
)

const (
	firstLook = 20 * time.Millisecond
	nextLook  = 100 * time.Millisecond
)

// A requestContext is the context of one request. It carries the request's exchange and ends when the request is over
// or the client leaves. It is made for every request, so it does by itself, and only if somebody asks, what a chain of
// contexts of package context would do.
type requestContext struct {
	context.Context // of net/http; its end is this one's too, but for conn
	exchange        *exchange
	conn            net.Conn // is looked at now and then: net/http does not watch it (see h1Conn). Nil: net/http does

	mu    sync.Mutex // guards what follows, which is used only with conn
	timer *time.Timer
	done  chan struct{} // made when it is asked for
	err   error         // set at the end
	hooks []*func()     // to be run at the end
}

// newRequestContext returns the context of x. Its owner calls end.
func newRequestContext(parent context.Context, x *exchange, conn net.Conn) *requestContext {
	c := &requestContext{Context: parent, exchange: x, conn: conn}
	if conn != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.timer = time.AfterFunc(firstLook, c.look)
	}
	return c
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange { return ctx.Value(exchangeKey{}).(*exchange) }

// Value is that of context.Context.
func (c *requestContext) Value(key any) any {
	switch key {
	case exchangeKey{}:
		return c.exchange
	case secrets.DestinationKey{}:
		return secrets.Destination(c.exchange.target.host)
	}
	return c.Context.Value(key)
}

// Done is that of context.Context.
func (c *requestContext) Done() <-chan struct{} {
	if c.conn == nil {
		return c.Context.Done()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err != nil {
			close(c.done)
		}
	}
	return c.done
}

// Err is that of context.Context.
func (c *requestContext) Err() error {
	if c.conn == nil {
		return c.Context.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// AfterFunc is what context.AfterFunc asks a context of another package for.
func (c *requestContext) AfterFunc(f func()) (stop func() bool) {
	if c.conn == nil {
		return context.AfterFunc(c.Context, f)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		go f()
		return func() bool { return false }
	}
	c.hooks = append(c.hooks, &f)
	return func() bool { return c.unhook(&f) }
}

// unhook reports whether f was still to be run.
func (c *requestContext) unhook(f *func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, hook := range c.hooks {
		if hook == f {
			c.hooks = append(c.hooks[:i], c.hooks[i+1:]...)
			return true
		}
	}
	return false
}

// afterEnd is context.AfterFunc, with less work for a requestContext.
func afterEnd(ctx context.Context, f func()) (stop func() bool) {
	if c, ok := ctx.(*requestContext); ok {
		return c.AfterFunc(f)
	}
	return context.AfterFunc(ctx, f)
}

// look ends the request if its client has left.
func (c *requestContext) look() {
	if hasLeft(c.conn) {
		c.end()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.timer.Reset(nextLook)
	}
}

// end ends the context. Once is enough.
func (c *requestContext) end() {
	if c.conn == nil {
		return // net/http does it
	}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = context.Canceled
	c.timer.Stop()
	if c.done != nil {
		close(c.done)
	}
	hooks := c.hooks
	c.hooks = nil
	c.mu.Unlock()
	for _, hook := range hooks {
		(*hook)()
	}
}
