package rules

import (
	"net/url"
	"path"
	"regexp"
	"strings"
	"testing"
)

func TestPathPattern(t *testing.T) {
	t.Parallel()
	tests := []struct {
		pattern, path string
		want          bool
	}{
		{"/", "/", true},
		{"/", "/a", false},
		{"/**", "/", true},
		{"/**", "/a/b//c/", true},
		{"/**", "*", true},
		{"/*", "*", true},
		{"/a", "*", false},
		{"/repos/**", "/repos", true},
		{"/repos/**", "/repos/", true},
		{"/repos/**", "/repos/a/b", true},
		{"/repos/**", "/reposx", false},
		{"/repos/**", "/Repos/a", false},
		{"/repos/*", "/repos", false},
		{"/repos/*", "/repos/", false},
		{"/repos/*", "/repos/a", true},
		{"/repos/*", "/repos/a/", false},
		{"/repos/*", "/repos/;x", false},
		{"/repos/*", "/repos/%3Bx", false},
		{"/repos/*", "/repos/a%2Fb", true},
		{"/repos/a/b", "/repos/a%2Fb", false},
		{"/repos/a%2Fb", "/repos/a%2fb", true},
		{"/repos/a%2Fb", "/repos/a/b", false},
		{"/repos/*/issues", "/repos/a/issues", true},
		{"/repos/*/issues", "/repos//issues", false},
		{"/a/", "/a/", true},
		{"/a/", "/a", false},
		{"/a/b", "/a//b", false},
		{"/a b", "/a%20b", true},
		{"/ä", "/%C3%A4", true},
		{"/%61", "/a", true},
		{"/a", "/%61", true},
		{"/a", "/%2561", false},
		{"/%2A", "/*", true},
		{"/%2A", "/b", false},
	}
	for _, tt := range tests {
		p, problem := parsePath(tt.pattern)
		if problem != "" {
			t.Errorf("pattern %q: %s", tt.pattern, problem)
			continue
		}
		if got := p.match(tt.path); got != tt.want {
			t.Errorf("%q matches %q: %v, want %v", tt.pattern, tt.path, got, tt.want)
		}
	}
}

func TestPathProblem(t *testing.T) {
	t.Parallel()
	for raw, bad := range map[string]bool{
		"/": false, "*": false, "/a//b": false, "/a.b/..c/c..": false, "/a;x=1/b": false, "/%2F": false, "/@scope%2fname": false,
		"/a%20b": false, "/...": false, "/a%25b": false, "/%C3%84": false, "/caf%E9": false, "/a%252fb": false,
		"/a/../b": true, "/a/./b": true, "/..": true, "/.": true, "/a/%2e%2e/b": true, "/a/.%2E": true, "/%2e": true,
		"/..%2f": true, "/a%2f..%2fb": true, "/a%2f%2e%2e": true, "/x%2fa..b": true, "/%252e%252e/": true, "/%252e": true,
		"/..;/a": true, "/..;x=1": true, "/.;/": true, "/%2e%2e%3b": true, "/..%20/": true, "/%20../": true,
		"/a\\b": true, "/a%5cb": true, "/a%00": true, "/a%0ab": true, "/a%7f": true, "/%c0%ae%c0%ae/": true, "/%c1%9c": true,
		"a/b": true, "": true, "http:foo": true,
	} {
		if got := pathProblem(raw); (got != "") != bad {
			t.Errorf("pathProblem(%q) = %q, want a problem: %v", raw, got, bad)
		}
	}
}

// Three ways in which servers read a path.
var readings = map[string]func(raw string) string{
	"RFC 3986": func(raw string) string { // section 5.2.4 on what the client sent
		u := &url.URL{Scheme: "http", Host: "x"}
		ref, err := url.Parse(raw)
		if err != nil {
			return raw
		}
		return u.ResolveReference(ref).EscapedPath()
	},
	"WHATWG": func(raw string) string { // backslashes are slashes, %2e is a dot, tabs and line ends vanish
		raw = strings.NewReplacer("\\", "/", "\t", "", "\n", "", "\r", "").Replace(raw)
		return dotless(regexp.MustCompile(`(?i)%2e`).ReplaceAllString(raw, "."))
	},
	"Tomcat": func(raw string) string { // parameters cut, decoded except for %2F, slashes merged, dots resolved
		raw = regexp.MustCompile(`;[^/]*`).ReplaceAllString(raw, "")
		raw = regexp.MustCompile(`(?i)%2f`).ReplaceAllString(raw, "%252F")
		decoded := string(decode(nil, raw))
		decoded = regexp.MustCompile(`/+`).ReplaceAllString(decoded, "/")
		return strings.NewReplacer("%2F", "%2F", "%", "%25").Replace(dotless(decoded))
	},
}

// dotless resolves dot segments and keeps empty ones.
func dotless(p string) string {
	var out []string
	parts := strings.Split(p, "/")[1:]
	for i, part := range parts {
		last := i == len(parts)-1
		switch part {
		case ".", "..":
			if part == ".." && len(out) > 0 {
				out = out[:len(out)-1]
			}
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, part)
		}
	}
	return "/" + strings.Join(out, "/")
}

// FuzzPath: a path that is allowed is allowed in every way in which a server may read it, and a path that is not
// denied is not denied in any of them.
func FuzzPath(f *testing.F) {
	for _, raw := range []string{
		"/public/../admin", "/public/%2e%2e/admin", "/public/..%2fadmin", "/public/%252e%252e/admin", "/public/..;/admin", "/public\\..\\admin",
		"//admin", "/public//admin", "/admin;x=1/y", "/admin%00", "/admin%2Fx", "/ADMIN", "/public/./x", "/public/a%2Fb", "/admin./x", "/admin%20/x",
		"/public/;x", "/%61dmin/x", "/public/%2F..%2Fadmin", "/public/x/..", "/pub%09lic/x", "/.;a/admin/b", "/public/a;b%2Fc/../d",
	} {
		f.Add(raw)
	}
	patterns := func(texts ...string) (out []pathPattern) {
		for _, text := range texts {
			p, problem := parsePath(text)
			if problem != "" {
				f.Fatalf("%s: %s", text, problem)
			}
			out = append(out, p)
		}
		return out
	}
	allow := &rule{scope: scope{paths: patterns("/public/**", "/one/*", "/a/*/b", "/exact", "/dir/")}}
	deny := &rule{deny: "no", scope: scope{paths: patterns("/admin/**", "/public/admin/*")}}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.ParseRequestURI(raw)
		if err != nil || u.Host != "" || !strings.HasPrefix(raw, "/") {
			return
		}
		sent := u.EscapedPath() // what Decide compares, and what goes to the upstream
		q := func(path string) *query { return &query{port: 443, path: path} }
		allowed, denied := allow.compare(q(sent)), deny.compare(q(sent))
		if (allowed == badPath) != (denied == badPath) {
			t.Fatalf("%q: allow says %d, deny says %d", sent, allowed, denied)
		}
		if allowed == badPath {
			return
		}
		for name, read := range readings {
			seen := read(sent)
			if got := allow.compare(q(seen)); allowed == matches && got != matches {
				t.Errorf("%q is allowed, but %s reads %q, which is not", sent, name, seen)
			}
			if got := deny.compare(q(seen)); denied != matches && got == matches {
				t.Errorf("%q is not denied, but %s reads %q, which is", sent, name, seen)
			}
		}
		if denied != matches {
			full := path.Clean("/" + string(decode(nil, sent))) // as Go's http.ServeMux and many frameworks
			if got := deny.compare(q(strings.ReplaceAll(full, "%", "%25"))); got == matches {
				t.Errorf("%q is not denied, but decoded and cleaned it is %q, which is", sent, full)
			}
		}
	})
}
