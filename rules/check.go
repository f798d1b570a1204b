package rules

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/credproxy/credproxy/internal/strict"
	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/publicsuffix"
)

// CheckHost says what is wrong with a host as a rule would have it, a name or *.domain in canonical form, or nothing.
func CheckHost(text string) (problem string) {
	_, problem = parseHost(text)
	return problem
}

// parseHost reads a rule's host. problem says what to write instead; it repeats neither user information nor a
// path.
func parseHost(text string) (p hostPattern, problem string) {
	name, wild := strings.CutPrefix(text, "*.")
	switch {
	case text == "":
		return p, "host is empty"
	case text == "*" || text == "*.":
		return p, `host "*" would match every host there is; name the hosts`
	case strings.Contains(name, "*"):
		return p, `a "*" in a host stands at the beginning only, before a dot, as in "*.example.com"`
	case !hostLike(name):
		return p, messyHost(text)
	}
	canonical, err := CanonicalHost(name)
	if err != nil {
		return p, "host is not a host name: " + err.Error()
	}
	p = hostPattern{canonical, wild}
	if canonical != name {
		return p, fmt.Sprintf("host is not in its canonical form; use %q", p)
	}
	if !wild {
		return p, ""
	}
	if _, err := netip.ParseAddr(canonical); err == nil {
		return p, fmt.Sprintf("an IP address has no names below it; use %q", canonical)
	}
	// Suffixes that companies registered for their customers, such as myshopify.com, are hosts of APIs.
	if suffix, icann := publicsuffix.PublicSuffix(canonical); icann && suffix == canonical {
		return p, fmt.Sprintf("host %q would match names of many owners (%s is a public suffix); name the domain", p, canonical)
	}
	return p, ""
}

// hostLike reports whether name can be a host alone: an IPv6 address, or no colon, and nothing of a URL.
func hostLike(name string) bool {
	if strings.ContainsAny(name, "/@?#\\ \t\r\n") {
		return false
	}
	if !strings.Contains(name, ":") {
		return true
	}
	_, err := canonicalIPv6(name)
	return err == nil
}

// messyHost says how to write what is a URL, or parts of one.
func messyHost(text string) string {
	rest := strings.TrimSpace(text)
	if strings.ContainsAny(rest, " \t\r\n\\") {
		return "host is not a host name: it has a space or a backslash in it"
	}
	var holds, fields []string
	if scheme, after, ok := strings.Cut(rest, "://"); ok {
		holds, rest = append(holds, "a scheme"), after
		if strings.EqualFold(scheme, "http") {
			fields = append(fields, "scheme: http")
		}
	}
	path := false
	if end := strings.IndexAny(rest, "/?#"); end >= 0 {
		rest, path = rest[:end], true // what stands there can be secret, as in webhooks; it is not repeated
	}
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		holds, rest = append(holds, "a user name"), rest[at+1:]
	}
	if host, port, err := net.SplitHostPort(rest); err == nil {
		holds, rest = append(holds, "a port"), host
		if n := portNumber(port); n > 0 && n <= 65535 {
			fields = append(fields, fmt.Sprintf("port: %d", n))
		}
	}
	if path {
		holds = append(holds, "a path")
	}
	name, wild := strings.CutPrefix(rest, "*.")
	canonical, err := CanonicalHost(name)
	if err != nil {
		return "host is not a host name: " + err.Error()
	}
	if len(holds) == 0 {
		holds = []string{"spaces"}
	}
	fields = append([]string{fmt.Sprintf("%q", hostPattern{canonical, wild})}, fields...)
	if path {
		fields = append(fields, "paths")
	}
	return fmt.Sprintf("host is a name only, and this has %s in it; use %s", and(holds), and(fields))
}

func and(words []string) string {
	last := len(words) - 1
	if last == 0 {
		return words[0]
	}
	return strings.Join(words[:last], ", ") + " and " + words[last]
}

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

var knownMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}

// methodProblem says what is wrong with a method, or nothing.
func methodProblem(m string) string {
	upper := strings.ToUpper(m)
	switch {
	case strings.Contains(m, "*"):
		return "leave methods out to match every method"
	case !httpguts.ValidHeaderFieldName(m): // the same grammar, RFC 9110 section 5.6.2
		return "not a method"
	case m == http.MethodConnect:
		return "CONNECT opens a tunnel and is not matched; name the methods inside it"
	case m != upper && slices.Contains(knownMethods, upper):
		return fmt.Sprintf("methods are case-sensitive; use %q", upper)
	}
	return ""
}

// clientProblem says what is wrong with a client's name, or nothing.
func clientProblem(c string) string {
	switch {
	case c == "*":
		return "leave clients out to match every client"
	case !namePattern.MatchString(c): // it stands in the proxy's URL as it is
		return `a client's name is made of small letters, digits, ".", "_" and "-", at most 64`
	}
	return ""
}

// parsePath reads a path pattern.
func parsePath(text string) (p pathPattern, problem string) {
	if !strings.HasPrefix(text, "/") {
		if strings.HasPrefix(text, "*") {
			return p, `a path starts with "/"; use "/**" for every path`
		}
		return p, `a path starts with "/"`
	}
	if len(text) > 2048 {
		return p, "a path has at most 2048 characters"
	}
	if strings.ContainsAny(text, "?#") {
		return p, `a path ends before "?" and "#"; the query is not matched (write %3F or %23 if they are part of the path)`
	}
	if _, err := url.PathUnescape(text); err != nil {
		return p, `a "%" in a path is followed by two hexadecimal digits (write %25 for a percent sign)`
	}
	if problem := pathProblem(text); problem != "" {
		return p, "never reached: " + problem + ", and such requests are refused"
	}
	parts := strings.Split(text[1:], "/")
	for i, part := range parts {
		last := i == len(parts)-1
		switch {
		case part == "**" && last:
			p.rest = true
			return p, ""
		case part == "**":
			return p, `"**" stands at the end of a path only`
		case part == "*":
			p.segments = append(p.segments, segment{any: true})
			continue
		case strings.Contains(part, "*"):
			return p, `a "*" in a path stands for a whole segment (write %2A for an asterisk)`
		case part == "" && !last:
			return p, "a path has no empty segments"
		}
		p.segments = append(p.segments, segment{text: string(decode(nil, part))})
	}
	return p, ""
}

// Headers that HTTP itself needs; the proxy sets or drops them.
var fixedHeaders = []string{"Host", "Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Te", "Trailer"}

// headerProblem says what is wrong with a header to remove, or nothing.
func headerProblem(name string) string {
	canonical := http.CanonicalHeaderKey(name)
	switch {
	case !httpguts.ValidHeaderFieldName(name) || strings.Contains(name, "*"):
		return "not the name of a header"
	case slices.Contains(fixedHeaders, canonical):
		return "this header cannot be removed: HTTP needs it"
	}
	return ""
}

// checked runs check over list, and reports its problems and what stands there twice.
func checked(field string, list []strict.At[string], check func(string) string) (values []string, errs strict.Errors) {
	for i, item := range list {
		at := fmt.Sprintf("%s[%d]: ", field, i)
		switch problem := check(item.Value); {
		case problem != "":
			errs = append(errs, item.Errorf("%s%s", at, problem))
		case slices.Contains(values, item.Value):
			errs = append(errs, item.Errorf("%sstands here twice", at))
		default:
			values = append(values, item.Value)
		}
	}
	return values, errs
}
