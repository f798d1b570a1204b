package rules

import (
	"fmt"
	"net/http"
	"strings"
)

// A Miss is a rule that does not apply to a request, and why.
type Miss struct {
	Rule string `json:"rule"`
	Line int    `json:"line"`
	Why  string `json:"why"` // such as: method GET is not one of DELETE
}

// Explain is Decide with the reason for every rule that names the host but does not apply.
func (s *Set) Explain(client string, req *http.Request) (Decision, []Miss) {
	d := s.Decide(client, req)
	q, bad := queryOf(client, req)
	if bad != nil {
		return d, nil
	}
	var m merge
	for _, b := range s.index.find(nil, q.host) {
		m.lists = append(m.lists, b.deny, b.rest)
	}
	var misses []Miss
	before := -1
	for r := m.next(); r != nil; r = m.next() {
		if r.order != before && r.name != d.Rule {
			misses = append(misses, Miss{r.name, r.line, r.why(&q, d)})
		}
		before = r.order
	}
	return d, misses
}

func (r *rule) why(q *query, d Decision) string {
	switch r.compare(q) {
	case missScheme:
		return "scheme https is not http"
	case missPort:
		return fmt.Sprintf("port %d is not %d", q.port, r.onPort(q.plain))
	case missClient:
		if q.client == "" {
			return "a client without a name is not " + oneOf(r.clients)
		}
		return fmt.Sprintf("client %s is not %s", q.client, oneOf(r.clients))
	case missMethod:
		return fmt.Sprintf("method %s is not %s", q.method, oneOf(r.methods))
	case missPath:
		return "the path is not " + oneOf(r.texts)
	}
	switch {
	case d.Slug == "bad_path":
		return fmt.Sprintf("rule %q depends on the path, which cannot be compared", d.Rule)
	case d.Slug == "denied":
		return fmt.Sprintf("rule %q denies it, and deny rules win", d.Rule)
	}
	return fmt.Sprintf("rule %q stands before it", d.Rule)
}

func oneOf(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return "one of " + strings.Join(words, ", ")
}
