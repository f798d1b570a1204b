package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/secrets"
)

// maxBoundPools bounds the pools of connections that belong to credentials.
const maxBoundPools = 64

// A boundKey says whose a boundPool is. Nothing else ever travels on its connections.
type boundKey struct {
	pool       *pool // for the TLS settings, and where it may dial
	credential inject.Binder
	client     string
}

// A boundPool is the connections that one credential has been proved for. Each is a Transport of its own that dials once,
// so that a request can be held to it.
type boundPool struct {
	template *http.Transport
	binder   inject.Binder

	mu     sync.Mutex
	idle   []*boundConn // the most recently used last
	closed bool
}

// A boundConn is one connection. One request at a time uses it.
type boundConn struct {
	*http.Transport
	to    origin
	proof []secrets.Value // what it was proved with
	once  bool            // not for a second request
}

var errSpent = errors.New("the connection is gone, and with it what was proved")

func newBoundPool(b inject.Binder, tr *http.Transport) *boundPool {
	return &boundPool{template: tr, binder: b}
}

// open returns a connection that is not there yet: the first request dials.
func (p *boundPool) open(out *http.Request, proof []secrets.Value) *boundConn {
	tr := p.template.Clone()
	tr.Protocols = new(http.Protocols)
	tr.Protocols.SetHTTP1(true)
	tr.ForceAttemptHTTP2 = false
	tr.TLSClientConfig.NextProtos = []string{"http/1.1"}
	tr.MaxConnsPerHost, tr.MaxIdleConns, tr.MaxIdleConnsPerHost = 1, 1, 1
	var dialled atomic.Bool
	tr.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if dialled.Swap(true) {
			return nil, errSpent
		}
		return p.template.DialContext(ctx, network, address)
	}
	return &boundConn{tr, originOf(out), proof, false}
}

// send is one round trip over a connection with proof, which is what the credential's Apply returned. proved is false if the server
// wanted no proof.
func (p *boundPool) send(out *http.Request, proof []secrets.Value, interim interimFunc) (resp *http.Response, proved bool, err error) {
	for c := p.take(originOf(out), proof); c != nil; c = p.take(originOf(out), proof) {
		resp, err := c.RoundTrip(withInterim(unclosed(out), interim))
		if errors.Is(err, errSpent) {
			c.CloseIdleConnections()
			continue // nothing was sent
		}
		if err != nil {
			return nil, true, err
		}
		p.own(c, resp)
		return resp, true, nil
	}
	c := p.open(out, proof)
	resp, proved, err = p.prove(c, out, interim)
	if errors.Is(err, errSpent) { // the server has closed it in between: once more
		c = p.open(out, proof)
		resp, proved, err = p.prove(c, out, interim)
	}
	if errors.Is(err, errSpent) {
		err = faultf(upstreamProtocol, "%s closes the connection in the middle of the proof", out.URL.Hostname()).advise("try again; a proxy or load balancer before the server may not keep connections")
	}
	if err != nil {
		c.CloseIdleConnections()
		return nil, proved, err
	}
	c.once = !proved || resp.StatusCode == http.StatusUnauthorized || strings.EqualFold(resp.Header.Get("Persistent-Auth"), "false")
	p.own(c, resp)
	return resp, proved, nil
}

// prove sends out over a new connection, after a request of our own that begins the proof.
func (p *boundPool) prove(c *boundConn, out *http.Request, interim interimFunc) (resp *http.Response, proved bool, err error) {
	first, answer, err := p.binder.Bind(c.proof)
	if err != nil {
		return nil, false, err
	}
	asked, err := probe(out, first, c.RoundTrip)
	if err != nil {
		return nil, false, err
	}
	next := unclosed(out)
	if asked.StatusCode == http.StatusUnauthorized {
		header, err := answer(asked)
		if err != nil {
			return nil, false, err
		}
		next.Header = out.Header.Clone()
		next.Header.Set("Authorization", header)
		proved = true
	}
	resp, err = c.RoundTrip(withInterim(next, interim))
	return resp, proved, err
}

// unclosed is a copy of out whose body stays open: a connection that is gone closes it, and then another one needs it.
func unclosed(out *http.Request) *http.Request {
	next := *out
	if out.Body != nil && out.Body != http.NoBody {
		next.Body = io.NopCloser(out.Body)
	}
	return &next
}

// own makes resp's body give c back.
func (p *boundPool) own(c *boundConn, resp *http.Response) {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return // it belongs to the other protocol
	}
	if resp.Body == http.NoBody {
		p.release(c, !resp.Close)
		return
	}
	resp.Body = &boundBody{ReadCloser: resp.Body, release: func(whole bool) { p.release(c, whole && !resp.Close) }}
}

// A boundBody gives its connection back when it has been read to its end.
type boundBody struct {
	io.ReadCloser
	release func(whole bool)
	over    atomic.Bool
}

func (b *boundBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !b.over.Swap(true) {
		b.release(err == io.EOF)
	}
	return n, err
}

// Close ends the exchange. A body that was not read to its end costs the connection.
func (b *boundBody) Close() error {
	err := b.ReadCloser.Close()
	if !b.over.Swap(true) {
		b.release(false)
	}
	return err
}

// release keeps c for the next request, or closes it.
func (p *boundPool) release(c *boundConn, keep bool) {
	p.mu.Lock()
	keep = keep && !c.once && !p.closed
	var oldest *boundConn
	if keep {
		if len(p.idle) == maxIdlePerHost {
			oldest, p.idle = p.idle[0], p.idle[1:]
		}
		p.idle = append(p.idle, c)
	}
	p.mu.Unlock()
	if !keep {
		c.CloseIdleConnections()
	}
	if oldest != nil {
		oldest.CloseIdleConnections()
	}
}

// take returns the connection to an origin that was used last, if it was proved with the same values. Those that were proved
// with others are of no use any more.
func (p *boundPool) take(to origin, proof []secrets.Value) *boundConn {
	var found *boundConn
	var stale []*boundConn
	p.mu.Lock()
	for i := len(p.idle) - 1; i >= 0; i-- {
		c := p.idle[i]
		same := slices.EqualFunc(c.proof, proof, secrets.Value.Equal)
		if same && (c.to != to || found != nil) {
			continue
		}
		p.idle = slices.Delete(p.idle, i, i+1)
		if same {
			found = c
		} else {
			stale = append(stale, c)
		}
	}
	p.mu.Unlock()
	for _, c := range stale {
		c.CloseIdleConnections()
	}
	return found
}

// closeIdle closes the kept connections, and those that come back later.
func (p *boundPool) closeIdle() {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, c := range idle {
		c.CloseIdleConnections()
	}
}
