package proxy

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/credproxy/credproxy/rules"
)

const dialTimeout = 10 * time.Second

var (
	errLoop        = errors.New("the destination is this proxy itself")
	errNotLoopback = errors.New("the destination is not on the loopback interface")
	errPrivate     = errors.New("the destination is a private address")
)

// errForbidden says what the destination is, to which nothing is ever sent.
type errForbidden string

func (e errForbidden) Error() string { return "the destination is " + string(e) }

// A reach is how far a connection may go. Nothing goes to this proxy itself, or where rules.ForbiddenAddr says no.
type reach int

const (
	reachPublic   reach = iota // not to private addresses, for what passes by a rule without a credential
	reachLoopback              // not beyond this machine, for a credential over plain http
	reachAll
)

// A dialer opens upstream connections. The address that it checks is the address that it dials.
type dialer struct {
	resolver *net.Resolver // nil: net.DefaultResolver

	mu  sync.RWMutex
	own []netip.AddrPort // where this proxy listens
}

// refuse makes a an address that is never dialled.
func (d *dialer) refuse(a net.Addr) {
	if tcp, ok := a.(*net.TCPAddr); ok {
		d.mu.Lock()
		defer d.mu.Unlock()
		ap := tcp.AddrPort()
		d.own = append(d.own, netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()))
	}
}

// within is the dial function of an http.Transport for what may go as far as r.
func (d *dialer) within(r reach) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return d.dial(ctx, network, address, r)
	}
}

// Dial connects to address, a host:port, as the proxy does: localhost and *.localhost are loopback addresses, without
// asking DNS (RFC 6761 section 6.3), and clouds' metadata services are refused. It takes at most 10 s for each address.
func Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return new(dialer).dial(ctx, network, address, reachAll)
}

// check says why nothing may be sent to an address, or nil.
func (d *dialer) check(to netip.AddrPort, r reach) error {
	addr := to.Addr()
	if err := d.checkLoop(to); err != nil {
		return err
	}
	if what := rules.ForbiddenAddr(addr); what != "" {
		return errForbidden(what)
	}
	switch {
	case r == reachLoopback && !addr.IsLoopback():
		return errNotLoopback
	case r == reachPublic && (rules.Private(addr) || isOwnAddress(addr)):
		return errPrivate
	}
	return nil
}

// dial connects to address, a host:port, if that is not beyond r. Each address that the name has is checked.
func (d *dialer) dial(ctx context.Context, network, address string, r reach) (net.Conn, error) {
	nd := net.Dialer{
		Timeout:   dialTimeout,
		KeepAlive: 30 * time.Second,
		Resolver:  d.resolver,
		// The kernel is about to connect to exactly this address: no second look-up can change it.
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			return d.check(netip.AddrPortFrom(to.Addr().Unmap(), to.Port()), r)
		},
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err != nil { // an address is checked below, after the loop
		if what := rules.Forbidden(host); what != "" {
			return nil, errForbidden(what)
		}
	}
	if !isLocalhost(host) {
		return nd.DialContext(ctx, network, address)
	}
	// RFC 6761 section 6.3: localhost names are loopback addresses, without asking DNS.
	conn, err := nd.DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
	if errors.Is(err, syscall.ECONNREFUSED) {
		if v6, err6 := nd.DialContext(ctx, network, net.JoinHostPort("::1", port)); err6 == nil {
			return v6, nil
		}
	}
	return conn, err
}

func isLocalhost(host string) bool {
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// namesAddress reports whether host, which is canonical, says by itself which address it is, and not a server of names.
func namesAddress(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil || isLocalhost(host)
}

// checkLoop refuses this proxy's own listeners.
func (d *dialer) checkLoop(to netip.AddrPort) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, own := range d.own {
		if own.Port() != to.Port() {
			continue
		}
		if own.Addr() == to.Addr() || own.Addr().IsUnspecified() && isOwnAddress(to.Addr()) || to.Addr().IsUnspecified() {
			return errLoop
		}
	}
	return nil
}

// isOwnAddress reports whether a belongs to this machine.
func isOwnAddress(a netip.Addr) bool {
	if a.IsLoopback() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true // fail closed
	}
	for _, ia := range addrs {
		if n, ok := ia.(*net.IPNet); ok {
			if own, ok := netip.AddrFromSlice(n.IP); ok && own.Unmap() == a {
				return true
			}
		}
	}
	return false
}

// isLoopbackHost reports whether every address of host is a loopback address.
func (d *dialer) isLoopbackHost(ctx context.Context, host string) bool {
	if isLocalhost(host) {
		return true
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.Unmap().IsLoopback()
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	addrs, err := d.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(addrs) == 0 {
		return false
	}
	for _, a := range addrs {
		if !a.Unmap().IsLoopback() {
			return false
		}
	}
	return true
}
