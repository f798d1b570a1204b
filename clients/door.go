package clients

import (
	"context"
	"encoding/base64"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Door says who is asking a proxy. Set its fields before its first use. It is safe for concurrent use; the zero Door
// lets nobody in.
type Door struct {
	// Tokens reports whether a token is that of the client of this name.
	Tokens func(name, token string) bool

	// LocalToken lets this machine's programs in without a name, as the password of Local. Empty: there is none.
	LocalToken string

	// OwnUser lets the programs of this process's user in without a token, and without a name, over the loopback interface.
	// See CanTellOwners.
	OwnUser bool

	// Detail and Hint are what a client without a token is told, and what to type.
	Detail, Hint string

	strangers strangers
}

// CanTellOwners reports whether this system says whose a connection over the loopback interface is.
func CanTellOwners() bool { return canTellOwners() }

type peerKey struct{}

// A peer is the other side of one connection.
type peer struct {
	conn *net.TCPConn // nil: what it is made of is not known

	once sync.Once
	uid  uint32
	ours bool  // it is this process's user
	err  error // why uid is not known

	last atomic.Pointer[passage]
}

// A passage is what was right not long ago on one connection.
type passage struct {
	field, name string
	at          time.Time
}

// recheck is how long a token that was right counts on its connection without a look at whether it was removed.
const recheck = 100 * time.Millisecond

// recent returns the client that field was found to be of.
func (p *peer) recent(field string) (name string, ok bool) {
	if p == nil {
		return "", false
	}
	last := p.last.Load()
	if last == nil || last.field != field {
		return "", false
	}
	since := time.Since(last.at)
	return last.name, since >= 0 && since < recheck
}

// Conn adds to ctx, that of the requests of a connection, what Ask needs to know about it.
func (d *Door) Conn(ctx context.Context, c net.Conn) context.Context {
	p := new(peer)
	for {
		if tcp, ok := c.(*net.TCPConn); ok {
			p.conn = tcp
			break
		}
		outer, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		c = outer.NetConn()
	}
	return context.WithValue(ctx, peerKey{}, p)
}

// user is whose connection this is. The kernel is asked once, when it matters for the first time.
func (p *peer) user() (uid uint32, ok bool) {
	if p == nil || p.conn == nil {
		return 0, false
	}
	p.once.Do(func() {
		p.uid, p.err = owner(p.conn)
		p.ours = p.err == nil && isOurs(p.uid)
	})
	return p.uid, p.err == nil
}

// here reports whether the connection comes from this machine.
func (p *peer) here() bool {
	if p == nil || p.conn == nil {
		return false
	}
	remote, okR := p.conn.RemoteAddr().(*net.TCPAddr)
	local, okL := p.conn.LocalAddr().(*net.TCPAddr)
	return okR && okL && (remote.IP.IsLoopback() || remote.IP.Equal(local.IP))
}

// name is what may be written about the other side: a number of this system, or an address.
func (p *peer) name(r *http.Request) string {
	if uid, ok := p.user(); ok {
		return "user " + strconv.FormatUint(uint64(uid), 10)
	}
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return "an unknown address"
	}
	a := ap.Addr().Unmap()
	if a.Is6() && !a.IsLoopback() { // one machine has as many as it likes of the same 64 bits
		prefix, _ := a.WithZone("").Prefix(64)
		return prefix.String()
	}
	return a.String()
}

// Ask says who is asking, from a request to the proxy's own port. A right token counts for its client, whoever has it; a
// wrong one never counts as none.
func (d *Door) Ask(r *http.Request) (name string, ok bool) {
	p, _ := r.Context().Value(peerKey{}).(*peer)
	sent, given := r.Header["Proxy-Authorization"]
	if !given {
		if !d.OwnUser {
			return "", false
		}
		_, known := p.user()
		return "", known && p.ours
	}
	if len(sent) != 1 {
		return "", false
	}
	if name, ok := p.recent(sent[0]); ok {
		return name, true
	}
	began := time.Now()
	name, token, ok := parseBasic(sent[0])
	switch {
	case !ok:
		return "", false
	case name == Local:
		return "", d.LocalToken != "" && One(Local, d.LocalToken)(name, token) && p.here()
	case d.Tokens == nil || !d.Tokens(name, token):
		return "", false
	}
	if p != nil {
		p.last.Store(&passage{sent[0], name, began})
	}
	return name, true
}

// Known reports whether who was let in with a request still would be.
func (d *Door) Known(r *http.Request) bool {
	_, ok := d.Ask(r)
	return ok
}

// parseBasic reads credentials of RFC 7617.
func parseBasic(field string) (name, token string, ok bool) {
	scheme, credentials, _ := strings.Cut(field, " ")
	if !strings.EqualFold(scheme, "basic") || len(credentials) > 1024 {
		return "", "", false
	}
	text, err := base64.StdEncoding.DecodeString(strings.TrimSpace(credentials))
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(text), ":")
}
