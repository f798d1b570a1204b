package rules

import "net/http"

// Handling is what becomes of a tunnel.
type Handling int

const (
	// Refuse is the zero value: nothing passes by accident.
	Refuse Handling = iota
	// Tunnel relays bytes, never decrypted.
	Tunnel
	// Intercept terminates TLS and decides per request.
	Intercept
)

func (h Handling) String() string {
	switch h {
	case Tunnel:
		return "tunnel"
	case Intercept:
		return "intercept"
	}
	return "refuse"
}

// Connect says what to do with a tunnel to host:port before any request is seen. host is canonical (CanonicalHost).
// It is Intercept if some request in the tunnel, https or plain http, could match a rule for this client.
func (s *Set) Connect(client, host string, port int) Handling {
	var buf [usualBuckets]*bucket
	for _, b := range s.index.find(buf[:0], host) {
		for _, list := range [...][]*rule{b.deny, b.rest} {
			for _, r := range list {
				if r.inTunnel(client, port) {
					return Intercept
				}
			}
		}
	}
	if s.allow {
		return Tunnel
	}
	return Refuse
}

func (r *rule) inTunnel(client string, port int) bool {
	q := query{client: client, port: port}
	if c := r.compareEnds(&q); c == matches {
		return true
	}
	q.plain = true
	return r.compareEnds(&q) == matches
}

// overrides are headers with which a request asks for another method than its own.
var overrides = []string{"X-Http-Method", "X-Http-Method-Override", "X-Method-Override"}

// Decide says what to do with req, whose URL is absolute with a canonical host. Deny rules win; then the first match in file order.
func (s *Set) Decide(client string, req *http.Request) Decision {
	q, bad := queryOf(client, req)
	if bad != nil {
		return *bad
	}
	r, result, limited := s.match(&q)
	switch {
	case result == badPath:
		return Decision{Rule: r.name, Line: r.line, Slug: "bad_path", Reason: q.problem}
	case r == nil && !s.allow:
		return Decision{Slug: "no_rule", Reason: "no rule matches " + q.host + ", and the default is deny"}
	case r == nil:
		d := Decision{Allow: true, Reason: "no rule matches; the default is allow"}
		if s.trial {
			d.Trial, d.Reason = true, "no rule matches; the default is audit: deny would refuse it"
		}
		if limited {
			d.Remove = overrides
		}
		return d
	case limited:
		return r.limited
	}
	return r.decision
}

// match returns the rule that decides about q, or nil, and whether it matches or has found a bad path. limited
// says that methods play a part for the host.
func (s *Set) match(q *query) (r *rule, result outcome, limited bool) {
	var buf [usualBuckets]*bucket
	var lists [usualBuckets][]*rule
	buckets := s.index.find(buf[:0], q.host)
	for _, b := range buckets {
		limited = limited || b.methods
	}
	for _, deny := range [...]bool{true, false} {
		m := merge{lists[:0]}
		for _, b := range buckets {
			if deny {
				m.lists = append(m.lists, b.deny)
			} else {
				m.lists = append(m.lists, b.rest)
			}
		}
		for r := m.next(); r != nil; r = m.next() {
			if result := r.compare(q); result == matches || result == badPath {
				return r, result, limited
			}
		}
	}
	return nil, matches, limited
}
