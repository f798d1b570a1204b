package rules

import (
	"maps"
	"slices"
	"strings"
)

// Domain returns the part of host, which is canonical, that the narrowest rule for it names: host itself, or of
// *.example.com the part after "*.". It is false if no rule names host.
func (s *Set) Domain(host string) (domain string, ok bool) {
	if s.index.exact[host] != nil {
		return host, true
	}
	for {
		if _, host, ok = strings.Cut(host, "."); !ok {
			return "", false
		}
		if s.index.wild[host] != nil {
			return host, true
		}
	}
}

// Domains lists what Domain can return, each once, in alphabetical order.
func (s *Set) Domains() []string {
	all := make(map[string]bool, len(s.index.exact)+len(s.index.wild))
	for name := range s.index.exact {
		all[name] = true
	}
	for name := range s.index.wild {
		all[name] = true
	}
	return slices.Sorted(maps.Keys(all))
}
