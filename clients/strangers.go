package clients

import (
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	// So many refusals in a row of one peer are answered and written down at once, and one more each second.
	burst    = 20
	perPiece = time.Second

	maxPeers = 1024 // that are told apart; the others share one account
	maxHeld  = 64   // wrong tokens whose answer waits
)

// A Refusal is why a request is answered with 407.
type Refusal struct {
	detail, hint, remark string
	silent, drop         bool
}

func (e *Refusal) Error() string { return e.detail }

// Slug is the failure's name.
func (e *Refusal) Slug() string { return "proxy_auth" }

// Hint is the next command to type.
func (e *Refusal) Hint() string { return e.hint }

// Remark is what the audit log says in addition, and the client does not get to see.
func (e *Refusal) Remark() string { return e.remark }

// Silent reports whether the audit log leaves this one out: it counts them, so that nobody can flush it.
func (e *Refusal) Silent() bool { return e.silent }

// Drop reports whether the connection is to be closed without an answer.
func (e *Refusal) Drop() bool { return e.drop }

// strangers counts refusals. The zero value is ready for use.
type strangers struct {
	mu    sync.Mutex
	peers map[string]*account
	held  int
}

// An account is what one peer has left.
type account struct {
	full   time.Time // when all of burst is there again
	silent int       // refusals since the last that was written down
}

// Stranger says what to answer to a request that Ask did not know. A peer with many wrong tokens waits a second for each
// answer. Whoever has a right one, or is asked for one first, never waits.
func (d *Door) Stranger(r *http.Request) error {
	p, _ := r.Context().Value(peerKey{}).(*peer)
	name := p.name(r)
	_, wrong := r.Header["Proxy-Authorization"]
	e := &Refusal{detail: d.Detail, hint: d.Hint, remark: "no token, from " + name}
	if wrong {
		e.detail, e.remark = "the proxy's user name or token is wrong", "a wrong token, from "+name
	}
	left, within := d.strangers.count(name, time.Now())
	e.silent = !within
	if left > 0 && within {
		e.remark += ", after " + strconv.Itoa(left) + " more"
	}
	if wrong && !within {
		e.drop = !d.strangers.hold(r)
	}
	return e
}

// count counts a refusal. If it is within the peer's rate, left is how many were not since the last that was.
func (s *strangers) count(name string, now time.Time) (left int, within bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.peers[name]
	if a == nil {
		a = s.open(name, now)
	}
	if a.full.Before(now) {
		a.full = now
	}
	if a.full.Sub(now) > (burst-1)*perPiece {
		a.silent++
		return 0, false
	}
	a.full = a.full.Add(perPiece)
	left, a.silent = a.silent, 0
	return left, true
}

// open opens an account, and closes those that have nothing in them any more.
func (s *strangers) open(name string, now time.Time) *account {
	if s.peers == nil {
		s.peers = make(map[string]*account)
	}
	if len(s.peers) >= maxPeers {
		for other, a := range s.peers {
			if a.full.Before(now) {
				delete(s.peers, other)
			}
		}
	}
	if len(s.peers) >= maxPeers {
		name = "" // all who come now
	}
	if a := s.peers[name]; a != nil {
		return a
	}
	a := new(account)
	s.peers[name] = a
	return a
}

// hold waits before a wrong token is answered. It reports false if too many wait already.
func (s *strangers) hold(r *http.Request) bool {
	s.mu.Lock()
	if s.held >= maxHeld {
		s.mu.Unlock()
		return false
	}
	s.held++
	s.mu.Unlock()
	timer := time.NewTimer(perPiece)
	select {
	case <-timer.C:
	case <-r.Context().Done():
		timer.Stop()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held--
	return true
}
