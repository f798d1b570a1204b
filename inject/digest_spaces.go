package inject

import (
	"crypto/rand"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	maxDigestOrigins = 256
	maxDigestSpaces  = 8 // realms of one origin
	maxDigestRoots   = 8 // paths under which a realm is known to begin
)

// digestSpaces are the protection spaces (RFC 7616 section 3.3) of the origins that have asked, each with its nonce.
type digestSpaces struct {
	mu      sync.Mutex
	origins *lru.Cache[string, []*digestSpace] // the latest first
}

// A digestSpace is one realm of one origin.
type digestSpace struct {
	offer   *digestOffer
	uses    uint32   // of the nonce
	cnonce  string   // one for all uses, for there are servers that take it so, and servers that do not care (-sess only)
	attempt string   // changes if a request that was refused is worth another try
	proved  bool     // the server has taken a digest of this attempt: if it refuses the next, the password is not why
	roots   []string // paths
}

// A digestTurn is one use of a nonce.
type digestTurn struct {
	*digestOffer
	uses            uint32
	cnonce, attempt string
}

func newDigestSpaces() *digestSpaces {
	// The size is a constant above zero, so that there is no error.
	origins, _ := lru.New[string, []*digestSpace](maxDigestOrigins)
	return &digestSpaces{origins: origins}
}

func digestOrigin(req *http.Request) string { return req.URL.Scheme + "://" + req.URL.Host }

// turn takes the next use of the nonce for req, if one is known.
func (d *digestSpaces) turn(req *http.Request) (digestTurn, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	spaces, _ := d.origins.Get(digestOrigin(req))
	s := nearest(spaces, req.URL.EscapedPath())
	if s == nil {
		return digestTurn{}, false
	}
	s.uses++
	cnonce := s.cnonce
	if !s.offer.session {
		cnonce = rand.Text()
	}
	return digestTurn{s.offer, s.uses, cnonce, s.attempt}, true
}

// nearest is the space that begins at the longest part of path, or else the one that was heard of last.
func nearest(spaces []*digestSpace, path string) (best *digestSpace) {
	length := -1
	for _, s := range spaces {
		if best == nil {
			best = s
		}
		for _, root := range s.roots {
			if len(root) > length && strings.HasPrefix(path, root) {
				best, length = s, len(root)
			}
		}
	}
	return best
}

// learn takes note of what the server asks req for. attempt is that of the digest in req, or empty. again says that the
// request may fare better with what is known now.
func (d *digestSpaces) learn(req *http.Request, offer *digestOffer, attempt string) (again bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	origin, path := digestOrigin(req), req.URL.EscapedPath()
	spaces, _ := d.origins.Get(origin)
	s := &digestSpace{attempt: rand.Text()}
	if i := slices.IndexFunc(spaces, func(s *digestSpace) bool { return s.offer.realm == offer.realm }); i >= 0 {
		s = spaces[i]
	}
	again = attempt != s.attempt || offer.stale || s.proved
	if attempt == s.attempt && again {
		s.attempt, s.proved = rand.Text(), offer.stale
	}
	if s.offer == nil || s.offer.nonce != offer.nonce || s.offer.algorithm != offer.algorithm {
		s.uses, s.cnonce = 0, rand.Text() // a nonce that comes a second time is counted on
	}
	s.offer = offer
	spaces = append([]*digestSpace{s}, slices.DeleteFunc(slices.Clone(spaces), func(o *digestSpace) bool { return o == s })...)
	s.begin(offer.roots(req.URL))
	if nearest(spaces, path) != s || len(s.roots) == 0 {
		s.begin([]string{path[:strings.LastIndexByte(path, '/')+1]})
	}
	d.origins.Add(origin, spaces[:min(len(spaces), maxDigestSpaces)])
	return again
}

// prove takes note that the server has taken a digest of attempt.
func (d *digestSpaces) prove(req *http.Request, attempt string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	spaces, _ := d.origins.Get(digestOrigin(req))
	for _, s := range spaces {
		s.proved = s.proved || s.attempt == attempt
	}
}

// begin adds roots, the last ones for the first if there are too many.
func (s *digestSpace) begin(roots []string) {
	for _, root := range roots {
		if !slices.Contains(s.roots, root) {
			s.roots = append(s.roots, root)
		}
	}
	s.roots = s.roots[max(0, len(s.roots)-maxDigestRoots):]
}

// roots are the paths of domain at the origin of u. Other origins have to ask for themselves.
func (o *digestOffer) roots(u *url.URL) (paths []string) {
	for _, word := range strings.Fields(o.domain) {
		at, err := u.Parse(word)
		if err == nil && at.Scheme == u.Scheme && at.Host == u.Host && len(paths) < maxDigestRoots {
			paths = append(paths, at.EscapedPath())
		}
	}
	return paths
}

// renew puts next in the place of the nonce last. A session (-sess) keeps its nonce until the server calls it stale: what it
// is made of after a change, servers do not agree.
func (d *digestSpaces) renew(req *http.Request, last, next string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	spaces, _ := d.origins.Get(digestOrigin(req))
	for _, s := range spaces {
		if next != "" && s.offer.nonce == last && last != next && !s.offer.session {
			offer := *s.offer
			offer.nonce = next
			s.offer, s.uses = &offer, 0
		}
	}
}

// forget forgets the space of req, which is none any more.
func (d *digestSpaces) forget(req *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	spaces, _ := d.origins.Get(digestOrigin(req))
	gone := nearest(spaces, req.URL.EscapedPath())
	d.origins.Add(digestOrigin(req), slices.DeleteFunc(slices.Clone(spaces), func(s *digestSpace) bool { return s == gone }))
}
