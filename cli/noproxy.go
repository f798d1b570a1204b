package cli

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/credproxy/credproxy/rules"
)

// loopbackNames are what clients reach without the proxy. All of them read this form; see docs/clients.md.
var loopbackNames = []string{"localhost", "127.0.0.1", "::1"}

// A shadow is an entry of the user's NO_PROXY that would lead around a rule.
type shadow struct{ entry, rule, host string }

// noProxy is the value for NO_PROXY: loopback, then the user's own entries, without those that would keep a request to
// a host of a rule from reaching the proxy.
func noProxy(inherited string, all []rules.Rule) (value string, dropped []shadow) {
	var kept []string
	own := strings.FieldsFunc(inherited, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' })
	for i, entry := range append(slices.Clone(loopbackNames), own...) {
		rule, host := shadowed(entry, all)
		switch {
		case host == "":
			if !slices.Contains(kept, entry) {
				kept = append(kept, entry)
			}
		case i >= len(loopbackNames) && !slices.Contains(loopbackNames, entry):
			dropped = append(dropped, shadow{entry, rule, host})
		}
	}
	return strings.Join(kept, ","), dropped
}

// inheritedNoProxy is the user's own NO_PROXY, in either case.
func inheritedNoProxy() string { return os.Getenv("NO_PROXY") + "," + os.Getenv("no_proxy") }

// shadowed finds a rule with a host that entry covers.
func shadowed(entry string, all []rules.Rule) (rule, host string) {
	for _, r := range all {
		for _, host := range r.Hosts {
			if covers(entry, host) {
				return r.Name, host
			}
		}
	}
	return "", ""
}

// covers reports whether some client would take entry for some host that pattern, an exact host or *.domain, stands
// for. Clients differ; the widest reading counts.
func covers(entry, pattern string) bool {
	if entry == "*" {
		return true
	}
	entry = strings.ToLower(entry)
	if host, _, err := net.SplitHostPort(entry); err == nil {
		entry = host
	}
	entry = strings.Trim(entry, "[]")
	if block, err := netip.ParsePrefix(entry); err == nil {
		addr, err := netip.ParseAddr(pattern)
		return err == nil && block.Contains(addr)
	}
	if a, err := netip.ParseAddr(entry); err == nil {
		b, err := netip.ParseAddr(pattern)
		return err == nil && a == b
	}
	entry = strings.Trim(strings.TrimPrefix(entry, "*"), ".")
	domain, wild := strings.CutPrefix(pattern, "*.")
	within := func(host, domain string) bool { return host == domain || strings.HasSuffix(host, "."+domain) }
	return entry != "" && (within(domain, entry) || wild && within(entry, domain))
}
