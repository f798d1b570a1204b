package oauth

import (
	"net/http"
	"strings"
	"time"

	"github.com/credproxy/credproxy/secrets"
)

// A setCookie is what a server says of one cookie (RFC 6265 section 4.1).
type setCookie struct {
	name, value string    // the value as it must be sent back, quotes and all
	expiry      time.Time // zero: it ends with the session
	gone        bool      // the server takes it away
}

// parseSetCookie reads the value of a Set-Cookie header. Of what surrounds the cookie only its age counts.
func parseSetCookie(line string, now time.Time) setCookie {
	pair, attributes, _ := strings.Cut(line, ";")
	name, value, _ := strings.Cut(pair, "=")
	c := setCookie{name: strings.Trim(name, " \t"), value: strings.Trim(value, " \t")}
	parsed, err := http.ParseSetCookie("x=x;" + attributes)
	switch {
	case err != nil:
	case parsed.MaxAge < 0:
		c.gone = true
	case parsed.MaxAge > 0:
		c.expiry = now.Round(0).Add(time.Duration(min(parsed.MaxAge, maxCookieAge)) * time.Second)
	case !parsed.Expires.IsZero():
		c.expiry, c.gone = parsed.Expires, !parsed.Expires.After(now)
	}
	return c
}

// maxCookieAge is what browsers believe, in seconds: 400 days.
const maxCookieAge = 400 * 24 * 60 * 60

// cookiesIn is the cookies that an answer sets, in order.
func cookiesIn(h http.Header, now time.Time) []setCookie {
	var out []setCookie
	for _, line := range h["Set-Cookie"] {
		out = append(out, parseSetCookie(line, now))
	}
	return out
}

// cookieHeader is a Cookie header with cookies.
func cookieHeader(cookies []setCookie) string {
	var pairs []string
	for _, c := range cookies {
		if !c.gone && visible(c.value, '!') && visible(c.name, '!') {
			pairs = append(pairs, c.name+"="+c.value)
		}
	}
	return strings.Join(pairs, "; ")
}

// CookieIn is the session that a Set-Cookie header's value sets under name. mine is false if it is about another
// cookie, and t is zero if it takes the cookie away or has nothing that can be sent back.
func CookieIn(line, name string, now time.Time) (t Token, mine bool) {
	c := parseSetCookie(line, now)
	if c.name != name {
		return Token{}, false
	}
	if c.gone || len(c.value) > maxToken || !visible(c.value, '!') {
		return Token{}, true
	}
	return Token{Access: secrets.NewValue(c.value), Expiry: c.expiry}, true
}
