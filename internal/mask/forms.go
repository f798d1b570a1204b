package mask

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"net/url"
	"regexp"
	"strings"
)

// forms is secret as it is and as it stands in an answer that shows what was sent: percent-encoded (RFC 3986 section
// 2.1), inside of a JSON string (RFC 8259 section 7) or of HTML, and in base64 (RFC 4648) whatever stands around it.
func forms(secret string) []string {
	all := make([]string, 1, 20)
	all[0] = secret
	if strings.Trim(secret, unreserved) != "" {
		all = append(all, escapes(secret)...)
	}
	for before := range 3 {
		inner := insideBase64(secret, before)
		if len(inner) >= minBase64 {
			all = append(all, inner, forURLs.Replace(inner))
		}
	}
	return all
}

// unreserved mean themselves everywhere.
const unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"

// escapes is secret as it stands in URLs, in JSON and in HTML.
func escapes(secret string) (all []string) {
	for _, escaped := range []string{url.QueryEscape(secret), url.PathEscape(secret), everythingEscaped(secret)} {
		all = append(all, escaped, lowerEscapes(escaped))
	}
	for _, quoted := range []string{quote(secret, false), quote(secret, true)} {
		all = append(all, quoted, strings.ReplaceAll(quoted, "/", `\/`))
	}
	return append(all, html.EscapeString(secret))
}

var forURLs = strings.NewReplacer("+", "-", "/", "_")

// minBase64 keeps out what is too short to be no accident.
const minBase64 = 8

// insideBase64 is the part of the base64 of secret that stays the same whatever comes before it, if that has before
// bytes more than a multiple of three, and after it.
func insideBase64(secret string, before int) string {
	skip := (3 - before) % 3
	if len(secret) < skip {
		return ""
	}
	secret = secret[skip:]
	return base64.StdEncoding.EncodeToString([]byte(secret[:len(secret)/3*3]))
}

var percent = regexp.MustCompile(`%[0-9A-F]{2}`)

func lowerEscapes(s string) string { return percent.ReplaceAllStringFunc(s, strings.ToLower) }

// everythingEscaped leaves only the unreserved characters of RFC 3986 section 2.3, as encodeURIComponent nearly does.
func everythingEscaped(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// quote is s inside of a JSON string. Some encoders escape what HTML would take for its own.
func quote(s string, forHTML bool) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(forHTML)
	if err := e.Encode(s); err != nil {
		return s // every string has a JSON form
	}
	return strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(b.String()), `"`), `"`)
}
