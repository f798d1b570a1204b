package inject

import (
	"net/http"
	"strings"
)

// A challenge is what a server wants (RFC 9110 section 11.3).
type challenge struct {
	scheme string            // in lower case
	token  string            // token68, or empty
	params map[string]string // names in lower case, values without their quotes
}

const (
	maxChallenges     = 16
	maxChallengeParam = 4 << 10 // a realm or a nonce is a line of text
	maxChallengeWords = 32      // parameters of one challenge
)

// challengesIn lists the challenges of WWW-Authenticate fields: several stand in one field or in several. One that is not well
// formed is left out, with all that follows it in its field.
func challengesIn(h http.Header) (all []challenge) {
	for _, line := range h["Www-Authenticate"] {
		p := challengeParser{rest: line}
		for c, ok := p.next(); ok && len(all) < maxChallenges; c, ok = p.next() {
			all = append(all, c)
		}
	}
	return all
}

// asksFor is the challenge for scheme, or nil.
func asksFor(all []challenge, scheme string) *challenge {
	for i := range all {
		if all[i].scheme == scheme {
			return &all[i]
		}
	}
	return nil
}

// A challengeParser reads the challenges of one field, and credentials, which have the same form.
type challengeParser struct{ rest string }

func (p *challengeParser) next() (challenge, bool) {
	p.skip(" \t,")
	scheme := p.word(isTokenByte)
	c := challenge{scheme: strings.ToLower(scheme), params: map[string]string{}}
	if scheme == "" || p.rest != "" && strings.IndexByte(" \t,", p.rest[0]) < 0 {
		return c, false
	}
	p.skip(" \t")
	if token, rest, ok := cutToken68(p.rest); ok {
		c.token, p.rest = token, rest
		return c, true
	}
	for {
		p.skip(" \t,")
		before := p.rest
		name := strings.ToLower(p.word(isTokenByte))
		p.skip(" \t")
		if name == "" || !strings.HasPrefix(p.rest, "=") {
			p.rest = before // the next challenge
			return c, true
		}
		p.rest = p.rest[1:]
		p.skip(" \t")
		value, ok := p.value()
		if _, twice := c.params[name]; twice || !ok || len(c.params) == maxChallengeWords {
			return c, false
		}
		c.params[name] = value
	}
}

func (p *challengeParser) skip(set string) { p.rest = strings.TrimLeft(p.rest, set) }

func (p *challengeParser) word(is func(byte) bool) string {
	n := 0
	for n < len(p.rest) && is(p.rest[n]) {
		n++
	}
	word := p.rest[:n]
	p.rest = p.rest[n:]
	return word
}

// value reads a token or a quoted string, which holds no control character.
func (p *challengeParser) value() (string, bool) {
	if !strings.HasPrefix(p.rest, `"`) {
		// Wider than a token: there are servers that forget the quotes of a nonce.
		v := p.word(func(c byte) bool { return c > ' ' && c != ',' && c != '"' && c != 0x7f })
		return v, v != "" && len(v) <= maxChallengeParam
	}
	var b strings.Builder
	for i := 1; i < len(p.rest) && b.Len() <= maxChallengeParam; i++ {
		c := p.rest[i]
		if c == '"' {
			p.rest = p.rest[i+1:]
			return b.String(), true
		}
		if c == '\\' {
			if i++; i == len(p.rest) {
				break
			}
			c = p.rest[i]
		}
		if c < ' ' && c != '\t' || c == 0x7f {
			break
		}
		b.WriteByte(c)
	}
	return "", false
}

// cutToken68 cuts the one word of a challenge that has no parameters.
func cutToken68(s string) (token, rest string, ok bool) {
	n := 0
	for n < len(s) && (isTokenByte(s[n]) || s[n] == '/') {
		n++
	}
	end := n
	for end < len(s) && s[end] == '=' {
		end++
	}
	rest = strings.TrimLeft(s[end:], " \t")
	if n == 0 || rest != "" && rest[0] != ',' {
		return "", "", false
	}
	return s[:end], rest, true
}

// appendQuoted appends s as a quoted-string (RFC 9110 section 5.6.4).
func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b = append(b, '\\')
		}
		b = append(b, s[i])
	}
	return append(b, '"')
}
