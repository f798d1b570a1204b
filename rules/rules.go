// Package rules is the rules file: loading, matching and deciding. It is pure after loading.
//
// # Hosts, schemes and ports
//
// A host is exact, or *.domain: any name below domain at any depth, and not domain itself. Names are compared in
// the one spelling that CanonicalHost gives. A rule without a port matches https on 443 and http on 80; a rule with
// one matches both schemes on it. A rule with scheme: http matches http only.
//
// # Paths
//
// The path is split on "/" as it stands in the request and each segment is percent-decoded once, so %2F is part of
// its segment. In a pattern * is one segment that is not empty and ** is the rest, nothing included, at the end
// only: /repos/** matches /repos, /repos/ and all below. Comparison is case-sensitive. Empty segments count:
// /a//b has three. The path of OPTIONS * counts as /*. The query plays no part.
//
// Where the decision depends on the path, a path that servers read in more than one way (dot segments in any
// encoding, backslashes, control characters) is refused with bad_path. A deny rule moreover matches the path as a
// lenient server reads it: empty segments, path parameters, and dots and spaces at a segment's end left out,
// %2F a separator, and decoded twice. It matches methods in any case.
package rules

import (
	"slices"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/secrets"
)

// A Set is a loaded rules file. It does not change: a reload makes a new one. It is safe for concurrent use.
type Set struct {
	rules []*rule // in file order
	index index
	allow bool // what becomes of a request that no rule matches
	trial bool // it passes, and is reported
	files []string
}

// Rule is one rule as check and explain show it.
type Rule struct {
	Name  string
	Line  int
	Hosts []string
	Types []string // credential types
	Refs  []secrets.Ref
	Deny  string
}

// Refs lists the references that the rules need, each once, in file order.
func (s *Set) Refs() []secrets.Ref {
	seen := make(map[secrets.Ref]bool)
	var out []secrets.Ref
	for _, r := range s.rules {
		for _, ref := range r.refs() {
			if !seen[ref] {
				seen[ref] = true
				out = append(out, ref)
			}
		}
	}
	return out
}

// Rules lists the rules in file order.
func (s *Set) Rules() []Rule {
	out := make([]Rule, len(s.rules))
	for i, r := range s.rules {
		out[i] = Rule{Name: r.name, Line: r.line, Refs: r.refs(), Deny: r.deny}
		for _, h := range r.hosts {
			out[i].Hosts = append(out[i].Hosts, h.String())
		}
		for _, c := range r.decision.Inject {
			out[i].Types = append(out[i].Types, c.Type())
		}
	}
	return out
}

// Clients lists the names that rules have under clients, each once, in file order.
func (s *Set) Clients() []string {
	var out []string
	for _, r := range s.rules {
		for _, name := range r.clients {
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// Credentials lists what rule i of Rules injects.
func (s *Set) Credentials(i int) []inject.Credential { return slices.Clone(s.rules[i].decision.Inject) }

// Markers lists what client, the name of who is asking, writes in place of secrets, in file order.
func (s *Set) Markers(client string) []inject.Marker {
	var out []inject.Marker
	for _, r := range s.rules {
		if len(r.clients) > 0 && !slices.Contains(r.clients, client) {
			continue
		}
		for _, c := range r.decision.Inject {
			if m, ok := inject.MarkerOf(c); ok {
				out = append(out, m)
			}
		}
	}
	return out
}

// Trial reports whether what no rule matches passes for now, to be reported as what default: deny would refuse.
func (s *Set) Trial() bool { return s.trial }

// denying is s with default: deny.
func (s *Set) denying() *Set {
	if s == nil {
		return nil
	}
	d := *s
	d.allow, d.trial = false, false
	return &d
}

// A rule is one rule, ready for matching.
type rule struct {
	scope
	order    int // in the file, from 0
	name     string
	line     int
	deny     string   // the reason, or empty
	decision Decision // for a request that the rule matches
	limited  Decision // the same where methods play a part for the host
}

func (r *rule) refs() []secrets.Ref {
	var out []secrets.Ref
	for _, c := range r.decision.Inject {
		out = append(out, c.Refs()...)
	}
	if t := r.decision.TLS; t != nil && !t.Key.IsZero() {
		out = append(out, t.Key)
	}
	return out
}

// OnExisting says what becomes of a credential that the client sent itself.
type OnExisting int

const (
	// Replace puts the rule's credential in its place.
	Replace OnExisting = iota
	// Keep sends the client's own, and not the rule's.
	Keep
	// Fail refuses the request.
	Fail
)

// A Decision says what to do with one request, and why.
type Decision struct {
	Allow  bool
	Trial  bool   // it passes only because the default is audit
	Rule   string // name, or empty if none matched
	Line   int    // where the rule stands; 0 if none matched
	Slug   string // why not, if not Allow: denied, no_rule, bad_path, or bad_request for a host that is no host name
	Reason string // for the client and the audit log

	Inject  []inject.Credential
	Types   []string // of the credentials, one each
	Secrets []string // the references that the credentials need, as written

	// Remove lists the canonical names of headers that must not be sent: those of the rule, and where a rule for
	// the host limits methods also the headers with which a request asks for another method than its own. It can
	// be set although no rule matched.
	Remove     []string
	OnExisting OnExisting

	// AllowHTTP says that the credential may travel over plain http to any host. A rule with scheme: https matches
	// the plain http request as well (on port 80, or on its own port): Allow is true, and the proxy refuses with
	// plain_http if there is something to inject, AllowHTTP is not set, and the host is not Loopback. Were the
	// rule not to match, the request would pass without its credential. A rule with scheme: http matches nothing
	// but plain http, and cannot be loaded without allow_http unless its hosts are Loopback.
	AllowHTTP bool

	// AllowPrivate says that a request which passes without a credential may go to private addresses, and not only to
	// public ones.
	AllowPrivate bool

	// Browser says that a page in a browser may use the credential.
	Browser bool

	Scrub bool
	TLS   *TLS // nil: the system's roots, no client certificate
}
