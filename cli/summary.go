package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/credproxy/credproxy/audit"
)

// A summary counts what went through a proxy. The zero summary is empty; it is safe for concurrent use.
type summary struct {
	mu       sync.Mutex
	counts   map[string]int // by decision
	rules    []string       // that injected
	slugs    []string       // of refusals
	rejected []string       // rules whose credential the upstream answered with 401
}

// add is an audit listener.
func (s *summary) add(e audit.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts == nil {
		s.counts = make(map[string]int)
	}
	s.counts[e.Decision]++
	switch e.Decision {
	case "inject":
		s.rules = addName(s.rules, e.Rule)
		if e.Status == 401 {
			s.rejected = addName(s.rejected, e.Rule)
		}
	case "refuse":
		s.slugs = addName(s.slugs, e.Error)
	}
}

// mostNames bounds how many names a line shows.
const mostNames = 8

func addName(names []string, name string) []string {
	if name == "" || slices.Contains(names, name) || len(names) > mostNames {
		return names
	}
	return append(names, name)
}

// write prints the one line, and a hint for each credential that its server did not take.
func (s *summary) write(w io.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	total := 0
	for decision, n := range s.counts {
		if decision != "tunnel" {
			total += n
		}
	}
	line := fmt.Sprintf("credproxy: %s, %d injected%s · %d passed · %d refused%s",
		plural(total, "request"), s.counts["inject"], inBrackets(s.rules), s.counts["pass"], s.counts["refuse"], inBrackets(s.slugs))
	if n := s.counts["tunnel"]; n > 0 {
		line += " · " + plural(n, "tunnel")
	}
	fmt.Fprintln(w, line)
	for _, rule := range s.rejected {
		fmt.Fprintf(w, "credproxy: hint: the server answered 401 to the credential of rule %s; is it still valid?\n", rule)
	}
}

func inBrackets(names []string) string {
	if len(names) == 0 {
		return ""
	}
	shown := names[:min(len(names), mostNames)]
	more := ""
	if len(names) > mostNames {
		more = ", …"
	}
	return " (" + strings.Join(shown, ", ") + more + ")"
}
