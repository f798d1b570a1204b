package proxy

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/credproxy/credproxy/rules"
)

// An authority is the one canonical destination of a request.
type authority struct {
	host string // as rules.CanonicalHost returns it
	port int
}

var errAuthority = errors.New("want host:port and nothing else")

// parseAuthority parses host:port or, with a port to fall back on, host. The grammar is strict: what another parser
// could read as a different host is refused.
func parseAuthority(s string, fallback int) (authority, error) {
	if s == "" || strings.ContainsAny(s, "@/\\?#% \t") {
		return authority{}, errAuthority
	}
	host, port := s, fallback
	bracketed := strings.HasPrefix(s, "[")
	if colon := strings.LastIndexByte(s, ':'); colon >= 0 && colon > strings.LastIndexByte(s, ']') {
		var err error
		if port, err = parsePort(s[colon+1:]); err != nil {
			return authority{}, err
		}
		host = s[:colon]
	}
	if port == 0 {
		return authority{}, errors.New("want a port")
	}
	if bracketed {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
		if ip, err := netip.ParseAddr(host); err != nil || !ip.Is6() || ip.Zone() != "" {
			return authority{}, errors.New("want an IPv6 address between the brackets")
		}
	} else if strings.Contains(host, ":") {
		return authority{}, errors.New("want brackets around an IPv6 address")
	}
	host, err := rules.CanonicalHost(host)
	if err != nil {
		return authority{}, err
	}
	return authority{host, port}, nil
}

func parsePort(s string) (int, error) {
	port, err := strconv.ParseUint(s, 10, 16)
	if err != nil || port == 0 || s[0] == '+' || s[0] == '0' {
		return 0, errors.New("want a port between 1 and 65535")
	}
	return int(port), nil
}

// names reports whether s, from a Host header or :authority, is the same destination. A port may be missing there, as
// gRPC clients leave it out, but not differ.
func (a authority) names(s string) bool {
	if s == a.host {
		return true // the common case, without allocation
	}
	other, err := parseAuthority(s, a.port)
	return err == nil && other == a
}

// address is a for net.Dial.
func (a authority) address() string { return net.JoinHostPort(a.host, strconv.Itoa(a.port)) }

// host header of a request with scheme to a: the port only if it is not the scheme's default.
func (a authority) hostHeader(scheme string) string {
	if a.port == defaultPort(scheme) {
		if strings.Contains(a.host, ":") {
			return "[" + a.host + "]"
		}
		return a.host
	}
	return a.address()
}

// defaultPort is the port of scheme's URLs that name none, 0 for an unknown scheme.
func defaultPort(scheme string) int {
	switch scheme {
	case "http":
		return 80
	case "https":
		return 443
	}
	return 0
}
