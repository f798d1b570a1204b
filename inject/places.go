package inject

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// A place is a part of a request that can carry a credential.
type place struct {
	badName  func(name string) string                      // what is wrong with a name, or empty
	badValue func(value string) string                     // what is wrong with a secret, or empty
	encode   func(value string) string                     // as it stands on the wire
	set      func(req *http.Request, name, encoded string) // replaces all that req has under name
	has      func(req *http.Request, name string) bool
}

// places is every value of the field in.
var places = map[string]place{
	"header": {badHeaderName, badHeaderValue, asIs, setHeader, hasHeader},
	"query":  {badQueryName, badQueryValue, escapeQuery, setQuery, hasQuery},
	"cookie": {badCookieName, badCookieValue, asIs, setCookie, hasCookie},
}

func asIs(s string) string { return s }

// badText finds what no credential may have, wherever it stands: control characters break lines, and a space at an
// end is a slip of the hand that is hard to see.
func badText(s string) string {
	switch {
	case s == "":
		return "it is empty"
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "it contains a line break or another control character"
	case strings.HasPrefix(s, " ") || strings.HasSuffix(s, " "):
		return "it begins or ends with a space"
	case !utf8.ValidString(s):
		return "it is not UTF-8 text"
	}
	return ""
}

// isToken reports whether s is a token (RFC 9110 section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		if !isTokenByte(s[i]) {
			return false
		}
	}
	return s != ""
}

func isTokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// Headers that say how the message is framed or where it goes. They belong to the proxy.
var reserved = map[string]bool{
	"host": true, "content-length": true, "transfer-encoding": true, "connection": true, "te": true, "trailer": true,
	"upgrade": true, "keep-alive": true, "expect": true, "http2-settings": true,
}

func badHeaderName(name string) string {
	folded := strings.ReplaceAll(strings.ToLower(name), "_", "-")
	switch {
	case !isToken(name):
		return "is not a header name (RFC 9110 section 5.1)"
	case reserved[folded] || strings.HasPrefix(folded, "proxy-"):
		return "is a header that the proxy itself writes"
	}
	return ""
}

func badHeaderValue(s string) string {
	if bad := badText(s); bad != "" {
		return bad
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r > '~' }) {
		return "it contains a character that is not ASCII"
	}
	return ""
}

// setHeader also removes names that differ in case or have _ for -, which some servers take for the same.
func setHeader(req *http.Request, name, value string) {
	dropHeader(req, name)
	req.Header[wireName(name)] = []string{value}
}

func dropHeader(req *http.Request, name string) {
	for k := range req.Header {
		if SameField(k, name) {
			delete(req.Header, k)
		}
	}
}

func hasHeader(req *http.Request, name string) bool {
	for k, v := range req.Header {
		if len(v) > 0 && SameField(k, name) {
			return true
		}
	}
	return false
}

// Headers that net/http looks for under their canonical name. All others go out as the rule spells them: there are
// servers that mind.
var canonical = map[string]bool{
	"Accept": true, "Accept-Encoding": true, "Authorization": true, "Content-Type": true, "Cookie": true,
	"Origin": true, "Range": true, "Referer": true, "User-Agent": true,
}

func wireName(name string) string {
	if c := http.CanonicalHeaderKey(name); canonical[c] {
		return c
	}
	return name
}

// SameField reports whether the header fields a and b are one to some server: case does not count, and many take _ for -.
func SameField(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if foldHeader(a[i]) != foldHeader(b[i]) {
			return false
		}
	}
	return true
}

func foldHeader(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c + 'a' - 'A'
	case c == '_':
		return '-'
	}
	return c
}

func badQueryName(name string) string {
	if badText(name) != "" {
		return "is not usable as a parameter's name"
	}
	return ""
}

func badQueryValue(s string) string { return badText(s) }

// escapeQuery writes a space as %20, which every server reads, and not as +.
func escapeQuery(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

func setQuery(req *http.Request, name, encoded string) {
	req.URL.RawQuery = replaceParam(req.URL.RawQuery, name, escapeQuery(name)+"="+encoded)
}

func hasQuery(req *http.Request, name string) bool { return hasParam(req.URL.RawQuery, name) }

func hasParam(raw, name string) bool {
	for rest, more := raw, true; more; {
		var item string
		item, rest, more = strings.Cut(rest, "&")
		if isParam(item, name) {
			return true
		}
	}
	return false
}

// replaceParam takes every parameter called name out of a raw query and appends item. What else stands there stays
// byte for byte: order, encoding and empty items can be part of a signature.
func replaceParam(raw, name, item string) string {
	out := make([]byte, 0, len(raw)+1+len(item))
	for rest, more := raw, raw != ""; more; {
		var next string
		next, rest, more = strings.Cut(rest, "&")
		if !isParam(next, name) {
			out = append(append(out, next...), '&')
		}
	}
	return string(append(out, item...))
}

// withoutParams takes the parameters called one of names out of a raw query. What else stands there stays byte for byte.
func withoutParams(raw string, names []string) string {
	called := func(item string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return isParam(item, name) })
	}
	items := strings.Split(raw, "&")
	kept := slices.DeleteFunc(items, called)
	return strings.Join(kept, "&")
}

// isParam reports whether item, name or name=value, is called name once decoded.
func isParam(item, name string) bool {
	if i := strings.IndexByte(item, '='); i >= 0 {
		item = item[:i]
	}
	n := 0
	for i := 0; i < len(item); i++ {
		c := item[i]
		switch {
		case c == '+':
			c = ' '
		case c == '%' && i+2 < len(item) && isHex(item[i+1]) && isHex(item[i+2]):
			c = unhex(item[i+1])<<4 | unhex(item[i+2])
			i += 2
		}
		if n == len(name) || name[n] != c {
			return false
		}
		n++
	}
	return n == len(name)
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}

func badCookieName(name string) string {
	if !isToken(name) {
		return "is not a cookie name (RFC 6265 section 4.1.1)"
	}
	return ""
}

// badCookieValue: a cookie has no encoding of its own, so what it cannot carry is refused.
func badCookieValue(s string) string {
	if bad := badHeaderValue(s); bad != "" {
		return bad
	}
	if len(s) > 2 && strings.HasPrefix(s, `"`) && strings.HasSuffix(s, `"`) {
		s = s[1 : len(s)-1]
	}
	if strings.ContainsAny(s, " \",;\\") {
		return "it contains a character that a cookie cannot carry (RFC 6265 section 4.1.1)"
	}
	return ""
}

// setCookie leaves one Cookie header (RFC 6265 section 5.4), the other cookies byte for byte.
func setCookie(req *http.Request, name, value string) {
	var kept []string
	for k, headers := range req.Header {
		if !SameField(k, "Cookie") {
			continue
		}
		for _, h := range headers {
			kept = append(kept, withoutCookie(h, name))
		}
		delete(req.Header, k)
	}
	kept = append(kept, name+"="+value)
	out := kept[:0]
	for _, k := range kept {
		if k != "" {
			out = append(out, k)
		}
	}
	req.Header["Cookie"] = []string{strings.Join(out, "; ")}
}

// withoutCookie takes the cookies called name out of a Cookie header's value.
func withoutCookie(header, name string) string {
	if !hasCookieIn(header, name) {
		return strings.Trim(header, "; \t")
	}
	var kept []string
	for item := range strings.SplitSeq(header, ";") {
		if !isCookie(item, name) {
			kept = append(kept, item)
		}
	}
	return strings.Trim(strings.Join(kept, ";"), "; \t")
}

func hasCookie(req *http.Request, name string) bool {
	for k, headers := range req.Header {
		if !SameField(k, "Cookie") {
			continue
		}
		for _, h := range headers {
			if hasCookieIn(h, name) {
				return true
			}
		}
	}
	return false
}

func hasCookieIn(header, name string) bool {
	for item := range strings.SplitSeq(header, ";") {
		if isCookie(item, name) {
			return true
		}
	}
	return false
}

func isCookie(item, name string) bool {
	n, _, _ := strings.Cut(item, "=")
	return strings.Trim(n, " \t") == name
}
