package rules

import (
	"slices"
	"testing"

	"github.com/credproxy/credproxy/inject"
)

func TestDomain(t *testing.T) {
	s, err := Parse("rules.yaml", []byte(`
version: 1
rules:
  - {name: deep, match: {host: api.example.com}, deny: no}
  - {name: wide, match: {host: ["*.example.com", "*.eu.example.com"]}}
  - {name: address, match: {host: ["127.0.0.1", "::1"]}}
`), inject.Env{})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		host, domain string
		ok           bool
	}{
		{"api.example.com", "api.example.com", true},
		{"x.api.example.com", "example.com", true},
		{"a.b.eu.example.com", "eu.example.com", true},
		{"eu.example.com", "example.com", true},
		{"example.com", "", false},
		{"notexample.com", "", false},
		{"com", "", false},
		{"127.0.0.1", "127.0.0.1", true},
		{"127.0.0.2", "", false},
		{"::1", "::1", true},
		{"", "", false},
	} {
		if domain, ok := s.Domain(test.host); domain != test.domain || ok != test.ok {
			t.Errorf("Domain(%q) = %q, %v, want %q, %v", test.host, domain, ok, test.domain, test.ok)
		}
	}
	if got, want := s.Domains(), []string{"127.0.0.1", "::1", "api.example.com", "eu.example.com", "example.com"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if n := testing.AllocsPerRun(10, func() { s.Domain("a.b.eu.example.com") }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
