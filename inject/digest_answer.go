package inject

import (
	"crypto/md5"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"net/http"
	"strings"
	"unicode/utf8"
)

// A digestOffer is a challenge that can be answered.
type digestOffer struct {
	realm, nonce, opaque, domain string
	hasOpaque                    bool
	algorithm                    string // as the server writes it; empty: not said
	hash                         func() hash.Hash
	strength                     int
	session                      bool // -sess
	qop                          string
	stale, userhash, utf8        bool
}

// digestHashes are the algorithms of RFC 7616 section 6.1, the weakest first.
var digestHashes = []struct {
	name string
	hash func() hash.Hash
}{{"md5", md5.New}, {"sha-256", sha256.New}, {"sha-512-256", sha512.New512_256}}

// strongestDigest is the offer with the strongest hash, of equal ones the first, or nil.
func strongestDigest(asked []challenge) (best *digestOffer) {
	for _, c := range asked {
		if offer := newDigestOffer(c); offer != nil && (best == nil || offer.strength > best.strength) {
			best = offer
		}
	}
	return best
}

// newDigestOffer is nil if c cannot be answered.
func newDigestOffer(c challenge) *digestOffer {
	if c.scheme != "digest" || c.params["nonce"] == "" {
		return nil
	}
	o := &digestOffer{
		realm: c.params["realm"], nonce: c.params["nonce"], opaque: c.params["opaque"], domain: c.params["domain"], algorithm: c.params["algorithm"],
		stale: strings.EqualFold(c.params["stale"], "true"), userhash: strings.EqualFold(c.params["userhash"], "true"), utf8: strings.EqualFold(c.params["charset"], "UTF-8"),
	}
	_, o.hasOpaque = c.params["opaque"]
	name := strings.ToLower(o.algorithm)
	if name == "" {
		name = "md5"
	}
	name, o.session = strings.CutSuffix(name, "-sess")
	for i, h := range digestHashes {
		if h.name == name {
			o.hash, o.strength = h.hash, i
		}
	}
	qops, asks := c.params["qop"]
	for qop := range strings.SplitSeq(qops, ",") {
		switch qop = strings.ToLower(strings.Trim(qop, " \t")); qop {
		case "auth":
			o.qop = qop
		case "auth-int":
			if o.qop == "" {
				o.qop = qop
			}
		}
	}
	if o.hash == nil || asks && o.qop == "" || o.session && o.qop == "" {
		return nil
	}
	return o
}

// authorize is the value of Authorization for req. Only auth-int reads the body.
func (t digestTurn) authorize(req *http.Request, user, password string) (string, error) {
	uri := req.URL.RequestURI()
	a1 := t.sum(user, t.realm, password)
	if t.session {
		a1 = t.sum(a1, t.nonce, t.cnonce)
	}
	a2 := []string{req.Method, uri}
	if t.qop == "auth-int" {
		body, err := wholeBody(req, "send less at once; the server wants the whole body hashed")
		if err != nil {
			return "", err
		}
		a2 = append(a2, t.sum(string(body)))
	}
	b := t.appendName(append(make([]byte, 0, 512), "Digest "...), user)
	b = appendQuoted(append(b, ", realm="...), t.realm)
	b = appendQuoted(append(b, ", nonce="...), t.nonce)
	b = appendQuoted(append(b, ", uri="...), uri)
	if t.algorithm != "" {
		b = append(append(b, ", algorithm="...), t.algorithm...)
	}
	if t.qop == "" {
		b = appendQuoted(append(b, ", response="...), t.sum(a1, t.nonce, t.sum(a2...)))
	} else {
		nc := count(t.uses)
		b = appendQuoted(append(b, ", response="...), t.sum(a1, t.nonce, nc, t.cnonce, t.qop, t.sum(a2...)))
		b = append(append(append(append(b, ", qop="...), t.qop...), ", nc="...), nc...)
		b = appendQuoted(append(b, ", cnonce="...), t.cnonce)
	}
	if t.hasOpaque {
		b = appendQuoted(append(b, ", opaque="...), t.opaque)
	}
	if t.userhash {
		b = append(b, ", userhash=true"...)
	}
	return string(b), nil
}

// sum is the hash of parts with colons between them, in hex.
func (t digestTurn) sum(parts ...string) string {
	h := t.hash()
	buf := make([]byte, 0, 512)
	for i, part := range parts {
		if i > 0 {
			buf = append(buf, ':')
		}
		buf = append(buf, part...)
	}
	h.Write(buf)
	return hex.EncodeToString(h.Sum(buf[:0]))
}

// appendName appends the parameter that says who it is (RFC 7616 section 3.4). Servers that do not speak of UTF-8 know no
// username*.
func (t digestTurn) appendName(b []byte, user string) []byte {
	switch {
	case t.userhash:
		return appendQuoted(append(b, "username="...), t.sum(user, t.realm))
	case t.utf8 && strings.ContainsFunc(user, func(r rune) bool { return r >= utf8.RuneSelf }):
		return append(append(b, "username*=UTF-8''"...), escapeQuery(user)...)
	}
	return appendQuoted(append(b, "username="...), user)
}
