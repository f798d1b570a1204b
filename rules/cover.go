package rules

import (
	"fmt"
	"slices"
	"strings"
)

// A coverage finds rules that can never be reached. To compare each rule with each other would take seconds for a
// large file, so rules are kept by host pattern and by what their paths begin with.
type coverage struct {
	index   index
	buckets map[*bucket]map[string][]*rule
}

func newCoverage(x index, rules []*rule) coverage {
	c := coverage{x, make(map[*bucket]map[string][]*rule)}
	for _, r := range rules {
		for _, h := range r.hosts {
			b := x.bucket(h)
			if c.buckets[b] == nil {
				c.buckets[b] = make(map[string][]*rule)
			}
			for _, p := range r.pathsOrAll() {
				prefixes := p.prefixes()
				whole := prefixes[len(prefixes)-1]
				c.buckets[b][whole] = append(c.buckets[b][whole], r)
			}
		}
	}
	return c
}

// prefixes lists the beginnings of p's literal segments, from none to all before the first wildcard. A pattern
// that covers p has one of them as its own last.
func (p pathPattern) prefixes() []string {
	out := []string{""}
	for _, s := range p.segments {
		if s.any {
			break
		}
		out = append(out, out[len(out)-1]+"/"+strings.ReplaceAll(s.text, "/", "%2F"))
	}
	return out
}

// unreachable says why r can never decide about a request: another rule, which comes before it, matches all that it
// matches. It returns nothing if r can.
func (c coverage) unreachable(r *rule) string {
	var by *rule
	for _, b := range c.index.over(r.hosts[0]) {
		for _, prefix := range r.pathsOrAll()[0].prefixes() {
			for _, other := range c.buckets[b][prefix] {
				if (by == nil || other.order < by.order) && other.before(r) && other.covers(&r.scope) {
					by = other
				}
			}
		}
	}
	switch {
	case by == nil:
		return ""
	case by.deny != "":
		return fmt.Sprintf("never reached: rules[%d] %q (line %d) denies all of it", by.order, by.name, by.line)
	}
	return fmt.Sprintf("never reached: rules[%d] %q (line %d) matches all of it", by.order, by.name, by.line)
}

// before reports whether r decides if both match.
func (r *rule) before(o *rule) bool {
	if (r.deny != "") != (o.deny != "") {
		return r.deny != ""
	}
	return r.order < o.order
}

// over returns the buckets whose pattern covers h.
func (x index) over(h hostPattern) []*bucket {
	if !h.wild {
		return x.find(nil, h.name)
	}
	var out []*bucket
	if b := x.wild[h.name]; b != nil {
		out = append(out, b)
	}
	return x.above(out, h.name)
}

// covers reports whether s matches everything that o matches.
func (s *scope) covers(o *scope) bool {
	return s.coversPort(o) && coversAll(s.methods, o.methods) && coversAll(s.clients, o.clients) &&
		s.coversPaths(o) && s.coversHosts(o)
}

func (s *scope) coversPort(o *scope) bool {
	for _, plain := range [...]bool{false, true} {
		if port := o.onPort(plain); port != 0 && s.onPort(plain) != port {
			return false
		}
	}
	return true
}

// coversAll compares lists of which the empty one means everything.
func coversAll(s, o []string) bool {
	if len(s) == 0 || len(o) == 0 {
		return len(s) == 0
	}
	return !slices.ContainsFunc(o, func(one string) bool { return !slices.Contains(s, one) })
}

func (s *scope) coversHosts(o *scope) bool {
	return !slices.ContainsFunc(o.hosts, func(h hostPattern) bool {
		return !slices.ContainsFunc(s.hosts, func(g hostPattern) bool { return g.covers(h) })
	})
}

func (p hostPattern) covers(o hostPattern) bool {
	if p == o {
		return true
	}
	return p.wild && strings.HasSuffix(o.name, "."+p.name)
}

func (s *scope) coversPaths(o *scope) bool {
	if len(s.paths) == 0 {
		return true
	}
	return !slices.ContainsFunc(o.pathsOrAll(), func(w pathPattern) bool {
		return !slices.ContainsFunc(s.paths, func(p pathPattern) bool { return p.covers(w) })
	})
}

func (s *scope) pathsOrAll() []pathPattern {
	if len(s.paths) == 0 {
		return []pathPattern{{rest: true}}
	}
	return s.paths
}

func (p pathPattern) covers(o pathPattern) bool {
	if len(o.segments) < len(p.segments) || !p.rest && (o.rest || len(o.segments) != len(p.segments)) {
		return false
	}
	for i, s := range p.segments {
		other := o.segments[i]
		named := other.any || other.text != "" && other.text[0] != ';'
		if s.any && !named || !s.any && (other.any || s.text != other.text) {
			return false
		}
	}
	return true
}
