package rules

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/inject"
)

func parse(t testing.TB, text string) *Set {
	t.Helper()
	s, err := Parse("rules.yaml", []byte(text), inject.Env{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func request(t testing.TB, method, target string) *http.Request {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Request{Method: method, URL: u, Host: u.Host, Header: http.Header{}}
}

const decideRules = `
version: 1
default: deny
rules:
  - {name: pass, match: {host: [pass.example.com, "*.pass.example.com"]}}
  - {name: get, match: {host: api.example.com, methods: [GET, HEAD], paths: [/v1/**]}, remove: [authorization, X-Method-Override]}
  - {name: ci, match: {host: api.example.com, clients: [ci], paths: [/v1/**]}}
  - {name: rest, match: {host: api.example.com, paths: ["/*/open", "/%2A"]}}
  - {name: no-deletes, match: {host: "*.example.com", methods: [DELETE], paths: [/v1/**]}, deny: deleting needs a person}
  - {name: port, match: {host: api.example.com, port: 8443}}
  - {name: plain, match: {host: "*.test", scheme: http}}
  - {name: plain8080, match: {host: "*.test", scheme: http, port: 8080}}
  - {name: address, match: {host: "::1"}}
  - {name: wide, match: {host: "*.wide.test", clients: [a]}}
  - {name: narrow, match: {host: x.wide.test}}
`

func TestDecide(t *testing.T) {
	t.Parallel()
	s := parse(t, decideRules)
	tests := []struct {
		client, method, target string
		rule, slug             string // slug "": allowed
	}{
		{"", "GET", "https://pass.example.com/", "pass", ""},
		{"", "GET", "https://pass.example.com", "pass", ""},
		{"", "GET", "https://PASS.example.com./", "pass", ""},
		{"", "GET", "https://pass.example.com:443/", "pass", ""},
		{"", "GET", "https://pass.example.com:8443/", "", "no_rule"},
		{"", "GET", "https://pass.example.com:0443/", "pass", ""},
		{"", "GET", "https://pass.example.com:4294967739/", "", "no_rule"},
		{"", "GET", "http://pass.example.com/", "pass", ""},
		{"", "GET", "http://pass.example.com:443/", "", "no_rule"},
		{"", "GET", "https://a.b.pass.example.com/", "pass", ""},
		{"", "GET", "https://evilpass.example.com/", "", "no_rule"},
		{"", "GET", "https://pass.example.com.evil.net/", "", "no_rule"},
		{"", "", "https://api.example.com/v1/x", "get", ""},
		{"", "GET", "https://api.example.com/v1/x?a=../b", "get", ""},
		{"", "get", "https://api.example.com/v1/x", "", "no_rule"},
		{"", "POST", "https://api.example.com/v1/x", "", "no_rule"},
		{"ci", "POST", "https://api.example.com/v1/x", "ci", ""},
		{"ci", "GET", "https://api.example.com/v1/x", "get", ""},
		{"CI", "POST", "https://api.example.com/v1/x", "", "no_rule"},
		{"ci", "DELETE", "https://api.example.com/v1/x", "no-deletes", "denied"},
		{"ci", "DELETE", "https://api.example.com//v1/x", "no-deletes", "denied"},
		{"ci", "DELETE", "https://api.example.com/v1;a=b/x", "no-deletes", "denied"},
		{"ci", "DELETE", "https://api.example.com/v1;a=b%2Fx", "no-deletes", "denied"},
		{"ci", "DELETE", "https://api.example.com/v1%2Fx", "no-deletes", "denied"},
		{"ci", "delete", "https://api.example.com/v1/x", "no-deletes", "denied"},
		{"ci", "Delete", "https://api.example.com/v1/x", "no-deletes", "denied"},
		{"ci", "DELETE", "https://api.example.com/%2576%31/x", "no-deletes", "denied"},
		{"ci", "DELETE", "https://api.example.com/v1%252Fx", "no-deletes", "denied"},
		{"ci", "DELETE", "https://api.example.com/v1%253Ba/x", "no-deletes", "denied"},
		{"ci", "DELETE", "https://api.example.com/v1./x", "no-deletes", "denied"},
		{"ci", "DELETE", "https://api.example.com/V1/x", "", "no_rule"},
		{"", "DELETE", "https://pass.example.com/v1/x", "no-deletes", "denied"},
		{"", "DELETE", "https://pass.example.com/v2/x", "pass", ""},
		{"", "DELETE", "https://example.com/v1/x", "", "no_rule"},
		{"", "GET", "https://api.example.com/v1/../x", "get", "bad_path"},
		{"", "PUT", "https://api.example.com/%2e%2e/x", "rest", "bad_path"},
		{"", "GET", "https://pass.example.com/a/../b", "pass", ""}, // nothing depends on the path
		{"", "DELETE", "https://pass.example.com/a/../b", "no-deletes", "bad_path"},
		{"", "PUT", "https://api.example.com/x/open", "rest", ""},
		{"", "PUT", "https://api.example.com//open", "", "no_rule"},
		{"", "GET", "https://api.example.com:8443/any/../thing", "port", ""},
		{"", "GET", "http://api.example.com:8443/", "port", ""},
		{"", "GET", "http://a.test/", "plain", ""},
		{"", "GET", "https://a.test/", "", "no_rule"},
		{"", "GET", "http://a.test:8080/", "plain8080", ""},
		{"", "GET", "http://a.test:8081/", "", "no_rule"},
		{"", "GET", "https://[::1]/", "address", ""},
		{"", "GET", "https://[0:0::1]:443/", "address", ""},
		{"a", "GET", "https://x.wide.test/", "wide", ""},
		{"b", "GET", "https://x.wide.test/", "narrow", ""},
		{"a", "GET", "https://1.1/", "", "bad_request"},
		{"a", "GET", "https:opaque", "", "bad_request"},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s %s %s", tt.client, tt.method, tt.target), func(t *testing.T) {
			t.Parallel()
			req := request(t, tt.method, tt.target)
			d := s.Decide(tt.client, req)
			if d.Rule != tt.rule || d.Slug != tt.slug || d.Allow != (tt.slug == "") {
				t.Errorf("got rule %q, slug %q, allow %v (%s), want rule %q, slug %q", d.Rule, d.Slug, d.Allow, d.Reason, tt.rule, tt.slug)
			}
			if !d.Allow && d.Reason == "" {
				t.Error("refused without a reason")
			}
			if explained, _ := s.Explain(tt.client, req); explained.Rule != d.Rule || explained.Slug != d.Slug {
				t.Errorf("Explain says %q %q, Decide %q %q", explained.Rule, explained.Slug, d.Rule, d.Slug)
			}
		})
	}
}

func TestDecideTargets(t *testing.T) {
	t.Parallel()
	s := parse(t, "version: 1\nrules: [{name: a, match: {host: a.test, paths: [/a]}, deny: no}]")
	star := request(t, "OPTIONS", "https://a.test")
	star.URL.Path = "*"
	if d := s.Decide("", star); !d.Allow || d.Rule != "" {
		t.Errorf("OPTIONS *: got %+v, want allowed by default", d)
	}
	opaque := request(t, "GET", "https://a.test/b")
	opaque.URL.Opaque = "//a.test/a"
	if d := s.Decide("", opaque); d.Slug != "bad_path" {
		t.Errorf("opaque URL: got %+v, want bad_path", d)
	}
	handmade := request(t, "GET", "https://a.test/a")
	handmade.URL.RawPath = "/b" // disagrees with Path: net/http sends Path
	if d := s.Decide("", handmade); d.Slug != "denied" {
		t.Errorf("RawPath that is not Path: got %+v, want denied", d)
	}
}

// A method can be asked for in a header; a rule that limits methods must not be passed by in that way.
func TestDecideDropsMethodOverrides(t *testing.T) {
	t.Parallel()
	s := parse(t, strings.Replace(decideRules, "default: deny", "default: allow", 1))
	tests := []struct {
		target string
		want   []string
	}{
		{"https://api.example.com/v1/x", []string{"Authorization", "X-Method-Override", "X-Http-Method", "X-Http-Method-Override"}},
		{"https://api.example.com/v2/x", overrides}, // no rule matches, and a deny rule names the method
		{"https://a.test/", nil},
		{"http://a.test/", nil},
	}
	for _, tt := range tests {
		if d := s.Decide("", request(t, "GET", tt.target)); !d.Allow || !slices.Equal(d.Remove, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.target, d.Remove, tt.want)
		}
	}
}

func TestConnect(t *testing.T) {
	t.Parallel()
	deny := parse(t, decideRules)
	allow := parse(t, strings.Replace(decideRules, "default: deny", "default: allow", 1))
	tests := []struct {
		client, host string
		port         int
		intercept    bool
	}{
		{"", "pass.example.com", 443, true},
		{"", "pass.example.com", 80, true}, // plain http in a tunnel
		{"", "pass.example.com", 8443, false},
		{"", "api.example.com", 8443, true},
		{"", "other.example.com", 443, true}, // the deny rule
		{"", "example.com", 443, false},
		{"", "a.test", 443, false},
		{"", "a.test", 80, true},
		{"", "a.test", 8080, true},
		{"", "unknown.org", 443, false},
		{"", "::1", 443, true},
	}
	for _, tt := range tests {
		want, wantDeny := Tunnel, Refuse
		if tt.intercept {
			want, wantDeny = Intercept, Intercept
		}
		if got := allow.Connect(tt.client, tt.host, tt.port); got != want {
			t.Errorf("default allow: %s:%d: got %v, want %v", tt.host, tt.port, got, want)
		}
		if got := deny.Connect(tt.client, tt.host, tt.port); got != wantDeny {
			t.Errorf("default deny: %s:%d: got %v, want %v", tt.host, tt.port, got, wantDeny)
		}
	}
	only := parse(t, "version: 1\nrules: [{name: a, match: {host: a.test, clients: [ci]}}]")
	if got := only.Connect("ci", "a.test", 443); got != Intercept {
		t.Errorf("named client: got %v, want intercept", got)
	}
	if got := only.Connect("", "a.test", 443); got != Tunnel {
		t.Errorf("another client: got %v, want tunnel", got)
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	s := parse(t, decideRules)
	d, misses := s.Explain("", request(t, "GET", "https://api.example.com/v1/x"))
	if d.Rule != "get" || d.Line != 6 {
		t.Errorf("got rule %q on line %d, want get on line 6", d.Rule, d.Line)
	}
	want := []Miss{
		{"ci", 7, "a client without a name is not ci"},
		{"rest", 8, "the path is not one of /*/open, /%2A"},
		{"no-deletes", 9, "method GET is not DELETE"},
		{"port", 10, "port 443 is not 8443"},
	}
	if !slices.Equal(misses, want) {
		t.Errorf("got  %v\nwant %v", misses, want)
	}
	for _, tt := range []struct{ client, method, target, rule, why string }{
		{"ci", "DELETE", "https://api.example.com/v1/x", "ci", `rule "no-deletes" denies it, and deny rules win`},
		{"ci", "GET", "https://api.example.com/v1/x", "ci", `rule "get" stands before it`},
		{"bob", "GET", "https://api.example.com/v1/x", "ci", "client bob is not ci"},
		{"bob", "PUT", "https://api.example.com/v1/x", "get", "method PUT is not one of GET, HEAD"},
		{"", "GET", "https://a.test/", "plain", "scheme https is not http"},
		{"ci", "GET", "https://api.example.com/v1/..", "ci", `rule "get" depends on the path, which cannot be compared`},
	} {
		_, misses := s.Explain(tt.client, request(t, tt.method, tt.target))
		i := slices.IndexFunc(misses, func(m Miss) bool { return m.Rule == tt.rule })
		if i < 0 || misses[i].Why != tt.why {
			t.Errorf("%s %s, rule %s: got %v, want %q", tt.method, tt.target, tt.rule, misses, tt.why)
		}
	}
}

// Many more wildcards above a host than the usual: the order of the file decides all the same.
func TestDecideOrderAcrossWildcards(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	text.WriteString("version: 1\nrules:\n")
	for i := 12; i >= 1; i-- {
		fmt.Fprintf(&text, "- {name: r%d, match: {host: '*.%stest', clients: [c%d, all]}}\n", i, strings.Repeat("a.", i), i)
	}
	s := parse(t, text.String())
	host := strings.Repeat("a.", 13) + "test"
	for client, want := range map[string]string{"all": "r12", "c1": "r1", "c7": "r7", "none": ""} {
		if d := s.Decide(client, request(t, "GET", "https://"+host+"/")); d.Rule != want {
			t.Errorf("client %s: got %q, want %q", client, d.Rule, want)
		}
	}
}

// rulesOfSize is n rules for as many hosts, among them wildcards and deny rules.
func rulesOfSize(n int) string {
	var b strings.Builder
	b.WriteString("version: 1\nrules:\n")
	b.WriteString("- {name: first, match: {host: '*.example.com', methods: [DELETE]}, deny: no}\n")
	b.WriteString("- {name: hit, match: {host: api.example.com, paths: [/v1/**]}}\n")
	for i := 2; i < n; i++ {
		switch i % 10 {
		case 0:
			fmt.Fprintf(&b, "- {name: r%d, match: {host: '*.w%d.example.org'}}\n", i, i)
		case 1:
			fmt.Fprintf(&b, "- {name: r%d, match: {host: h%d.example.com}, deny: no}\n", i, i)
		default:
			fmt.Fprintf(&b, "- {name: r%d, match: {host: h%d.example.com}}\n", i, i)
		}
	}
	return b.String()
}

// BenchmarkDecide reports as ratio what a decision costs among 10,000 rules, compared with 10.
func BenchmarkDecide(b *testing.B) {
	for _, c := range []struct{ name, target, rule string }{
		{"match", "https://api.example.com/v1/users/42?q=1", "hit"},
		{"none", "https://unknown.example.net/", ""},
	} {
		var small float64
		for _, n := range []int{10, 10_000} {
			s := parse(b, rulesOfSize(n))
			req := request(b, "GET", c.target)
			b.Run(fmt.Sprintf("%s/rules=%d", c.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if d := s.Decide("", req); d.Rule != c.rule {
						b.Fatalf("got rule %q, want %q", d.Rule, c.rule)
					}
				}
				cost := float64(b.Elapsed().Nanoseconds()) / float64(b.N)
				if n == 10 {
					small = cost
				} else if small > 0 {
					b.ReportMetric(cost/small, "ratio")
				}
			})
		}
	}
}

// What Decide and Connect do per request allocates nothing, so it cannot hide work that grows.
func TestDecideAllocatesNothing(t *testing.T) {
	s := parse(t, rulesOfSize(1000))
	req := request(t, "GET", "https://api.example.com/v1/a/b/c?q=1")
	if n := testing.AllocsPerRun(100, func() { s.Decide("", req) }); n != 0 {
		t.Errorf("Decide: %v allocations, want none", n)
	}
	if n := testing.AllocsPerRun(100, func() { s.Connect("", "api.example.com", 443) }); n != 0 {
		t.Errorf("Connect: %v allocations, want none", n)
	}
}
