package rules

import (
	"fmt"
	"slices"
	"strings"
)

// unreachable says why r can never decide about a request: a rule that comes before it matches all that it
// matches. It returns nothing if r can. x is the index of all rules.
func (x index) unreachable(r *rule) string {
	var by *rule
	for _, b := range x.over(r.hosts[0]) {
		for _, other := range b.deny {
			if other != r && (r.deny == "" || other.order < r.order) && other.covers(&r.scope) {
				by = earlier(by, other)
				break
			}
		}
		for _, other := range b.rest {
			if r.deny != "" || other.order >= r.order {
				break
			}
			if other.covers(&r.scope) {
				by = earlier(by, other)
				break
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

func earlier(a, b *rule) *rule {
	if a == nil || b.order < a.order {
		return b
	}
	return a
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
	wanted := o.paths
	if len(wanted) == 0 {
		wanted = []pathPattern{{rest: true}}
	}
	return !slices.ContainsFunc(wanted, func(w pathPattern) bool {
		return !slices.ContainsFunc(s.paths, func(p pathPattern) bool { return p.covers(w) })
	})
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
