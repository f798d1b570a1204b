package rules

import (
	"net/http"
	"slices"
	"strings"
)

// A hostPattern is one of a rule's hosts.
type hostPattern struct {
	name string // canonical; of *.example.com the part after "*."
	wild bool
}

func (p hostPattern) String() string {
	if p.wild {
		return "*." + p.name
	}
	return p.name
}

// A scope is what a rule's match field says. Empty lists match everything.
type scope struct {
	hosts   []hostPattern
	plain   bool // scheme: http
	port    int  // 0: the scheme's own
	methods []string
	paths   []pathPattern
	texts   []string // paths as they stand in the file
	clients []string
}

// onPort returns the port that the scope means for a scheme, or 0 if it does not match the scheme.
func (s *scope) onPort(plain bool) int {
	switch {
	case s.plain && !plain:
		return 0
	case s.port != 0:
		return s.port
	}
	return portOf(plain)
}

func portOf(plain bool) int {
	if plain {
		return 80
	}
	return 443
}

// A query is what of a request plays a part in matching.
type query struct {
	client, host, method string
	path                 string // as it stands in the request
	plain                bool   // scheme http
	port                 int

	checked bool // problem is set
	problem string
}

// queryOf fails with a Decision.
func queryOf(client string, req *http.Request) (query, *Decision) {
	u := req.URL
	host, err := CanonicalHost(u.Hostname())
	if err != nil {
		return query{}, &Decision{Slug: "bad_request", Reason: "the host is not a host name: " + err.Error()}
	}
	if u.Opaque != "" { // sent as it is, whatever Path says
		return query{}, &Decision{Slug: "bad_path", Reason: "the request target has no path"}
	}
	q := query{client: client, host: host, method: req.Method, path: u.EscapedPath(), plain: u.Scheme == "http"}
	if q.method == "" { // net/http's spelling of GET on the client's side
		q.method = http.MethodGet
	}
	if q.path == "" {
		q.path = "/"
	}
	q.port = portNumber(u.Port())
	if u.Port() == "" {
		q.port = portOf(q.plain)
	}
	return q, nil
}

// portNumber is 0, which no rule names, for what is no port.
func portNumber(s string) int {
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' || n > 65535 {
			return 0
		}
		n = n*10 + int(s[i]-'0')
	}
	return n
}

func (q *query) pathProblem() string {
	if !q.checked {
		q.checked, q.problem = true, pathProblem(q.path)
	}
	return q.problem
}

// An outcome is the result of comparing a rule that names the host with a request.
type outcome int

const (
	matches outcome = iota
	missScheme
	missPort
	missClient
	missMethod
	missPath
	badPath // the rule would apply if the path could be compared
)

func (r *rule) compare(q *query) outcome {
	if o := r.compareEnds(q); o != matches {
		return o
	}
	switch {
	case len(r.methods) > 0 && !r.hasMethod(q.method):
		return missMethod
	case len(r.paths) == 0:
		return matches
	case q.pathProblem() != "":
		return badPath
	case r.onPath(q.path):
		return matches
	case r.deny != "" && r.onLenientPath(q.path):
		return matches
	}
	return missPath
}

// hasMethod compares as RFC 9110 section 9.1 does, with case. Not every server does, so a deny rule does not.
func (r *rule) hasMethod(method string) bool {
	return slices.Contains(r.methods, method) ||
		r.deny != "" && slices.ContainsFunc(r.methods, func(m string) bool { return strings.EqualFold(m, method) })
}

// onLenientPath reports whether some server may read raw as one of the paths. Some decode twice.
func (s *scope) onLenientPath(raw string) bool {
	if !needsLenient(raw) {
		return false
	}
	if s.onPath(lenient(raw, true)) || s.onPath(lenient(raw, false)) {
		return true
	}
	return strings.Contains(raw, "%25") && s.onPath(lenient(string(decode(nil, raw)), false))
}

// compareEnds compares what is known of a tunnel: who, and where to.
func (s *scope) compareEnds(q *query) outcome {
	switch port := s.onPort(q.plain); {
	case port == 0:
		return missScheme
	case port != q.port:
		return missPort
	case len(s.clients) > 0 && !slices.Contains(s.clients, q.client):
		return missClient
	}
	return matches
}

func (s *scope) onPath(raw string) bool {
	for _, p := range s.paths {
		if p.match(raw) {
			return true
		}
	}
	return false
}

// An index finds the rules that name a host, in time that does not depend on how many others there are.
type index struct {
	exact, wild map[string]*bucket
}

// A bucket holds the rules with one host pattern, in file order.
type bucket struct {
	deny, rest []*rule
	methods    bool // one of them limits methods
}

func newIndex(rules []*rule) index {
	x := index{make(map[string]*bucket), make(map[string]*bucket)}
	for _, r := range rules {
		for _, h := range r.hosts {
			x.bucket(h).add(r)
		}
	}
	return x
}

func (x index) bucket(h hostPattern) *bucket {
	m := x.exact
	if h.wild {
		m = x.wild
	}
	if m[h.name] == nil {
		m[h.name] = new(bucket)
	}
	return m[h.name]
}

func (b *bucket) add(r *rule) {
	if r.deny != "" {
		b.deny = append(b.deny, r)
	} else {
		b.rest = append(b.rest, r)
	}
	b.methods = b.methods || len(r.methods) > 0
}

// find appends the buckets whose pattern matches host to dst.
func (x index) find(dst []*bucket, host string) []*bucket {
	if b := x.exact[host]; b != nil {
		dst = append(dst, b)
	}
	return x.above(dst, host)
}

// above appends the buckets of the wildcards that match host to dst.
func (x index) above(dst []*bucket, host string) []*bucket {
	if len(x.wild) == 0 {
		return dst
	}
	for {
		_, parent, ok := strings.Cut(host, ".")
		if !ok {
			return dst
		}
		if b := x.wild[parent]; b != nil {
			dst = append(dst, b)
		}
		host = parent
	}
}

// Few hosts are matched by more patterns than this; beyond, lookups allocate.
const usualBuckets = 8

// A merge goes through the rules of several buckets in file order. A rule that names the host twice comes twice.
type merge struct {
	lists [][]*rule
}

func (m *merge) next() *rule {
	first := -1
	for i, l := range m.lists {
		if len(l) > 0 && (first < 0 || l[0].order < m.lists[first][0].order) {
			first = i
		}
	}
	if first < 0 {
		return nil
	}
	r := m.lists[first][0]
	m.lists[first] = m.lists[first][1:]
	return r
}
