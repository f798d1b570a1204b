package rules

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// A small world, in which every request can be tried.
var (
	someHosts   = []string{"a.test", "b.a.test", "c.b.a.test", "*.a.test", "*.b.a.test"}
	somePaths   = []string{"/**", "/x", "/x/", "/x/**", "/x/*", "/*/y", "/x/y"}
	someMethods = []string{"GET", "PUT"}
	someClients = []string{"p", "q"}
)

func pick(r *rand.Rand, from []string, most int) string {
	n := 1 + r.IntN(most)
	var out []string
	for _, i := range r.Perm(len(from))[:n] {
		out = append(out, "'"+from[i]+"'")
	}
	return "[" + strings.Join(out, ", ") + "]"
}

func randomRule(r *rand.Rand, i int) string {
	match := "host: " + pick(r, someHosts, 2)
	for field, from := range map[string][]string{"paths": somePaths, "methods": someMethods, "clients": someClients} {
		if r.IntN(3) == 0 {
			match += ", " + field + ": " + pick(r, from, 2)
		}
	}
	match += []string{"", ", scheme: http", ", port: 80", ", scheme: http, port: 80", ", port: 443"}[max(0, r.IntN(10)-5)]
	rule := fmt.Sprintf("- {name: r%d, match: {%s}", i, match)
	if r.IntN(4) == 0 {
		rule += ", deny: no"
	}
	return rule + "}\n"
}

// everyRequest calls f with every request of the small world that can tell two rules apart.
func everyRequest(f func(client string, req *http.Request)) {
	for _, scheme := range []string{"http", "https"} {
		for _, host := range []string{"a.test", "b.a.test", "z.a.test", "c.b.a.test", "z.b.a.test", "z.z.b.a.test"} {
			for _, port := range []string{"80", "443"} {
				for _, path := range []string{"/", "/x", "/x/", "/x/y", "/x/z", "/z/y", "/z", "/x/y/z", "/x//y", "/x/z/"} {
					for _, method := range []string{"GET", "PUT", "ODD"} {
						for _, client := range []string{"", "p", "q"} {
							f(client, &http.Request{Method: method, URL: &url.URL{Scheme: scheme, Host: host + ":" + port, Path: path}})
						}
					}
				}
			}
		}
	}
}

// A rule that is reported as unreachable decides about no request; so the report is never wrong. (The converse
// does not hold: several rules together can hide one.)
func TestUnreachableRulesDecideNothing(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	reported, alone := 0, 0
	for range 150 {
		var text strings.Builder
		text.WriteString("version: 1\nrules:\n")
		n := 2 + r.IntN(4)
		for i := range n {
			text.WriteString(randomRule(r, i))
		}
		set, hidden := parseLoose(t, text.String())
		decides := make(map[string]bool)
		everyRequest(func(client string, req *http.Request) { decides[set.Decide(client, req).Rule] = true })
		for _, rule := range set.rules {
			switch {
			case hidden[rule.name] && decides[rule.name]:
				t.Fatalf("%s is reported as unreachable, and decides:\n%s", rule.name, text.String())
			case hidden[rule.name]:
				reported++
			case n == 2 && !decides[rule.name] && len(rule.hosts) == 1:
				alone++
				t.Errorf("%s decides nothing, and only one rule can hide it:\n%s", rule.name, text.String())
			}
		}
	}
	if reported < 20 {
		t.Errorf("%d rules were reported; the test has nothing to say", reported)
	}
}

// parseLoose also returns a Set whose rules are unreachable, and which are.
func parseLoose(t *testing.T, text string) (*Set, map[string]bool) {
	t.Helper()
	whole := &Set{allow: true}
	hidden := make(map[string]bool)
	for i, line := range strings.Split(strings.TrimSpace(text), "\n")[2:] {
		one := parse(t, "version: 1\nrules:\n"+line)
		r := one.rules[0]
		r.order = i
		whole.rules = append(whole.rules, r)
	}
	whole.index = newIndex(whole.rules)
	c := newCoverage(whole.index, whole.rules)
	for _, r := range whole.rules {
		hidden[r.name] = c.unreachable(r) != ""
	}
	return whole, hidden
}

// Load must stay quick for the worst file that fits: all rules for one host, none covering another.
func BenchmarkUnreachable(b *testing.B) {
	var text strings.Builder
	text.WriteString("version: 1\nrules:\n")
	for i := range 10_000 {
		fmt.Fprintf(&text, "- {name: r%d, match: {host: a.test, paths: [/p%d]}}\n", i, i)
	}
	set := parse(b, text.String())
	for b.Loop() {
		c := newCoverage(set.index, set.rules)
		for _, r := range set.rules {
			if why := c.unreachable(r); why != "" {
				b.Fatal(why)
			}
		}
	}
}
