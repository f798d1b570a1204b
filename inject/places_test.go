package inject

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var escape = regexp.MustCompile(`%[0-9a-fA-F]{2}|\+`)

// nameOf is the decoded name of a query item, written independently of isParam.
func nameOf(item string) string {
	name, _, _ := strings.Cut(item, "=")
	return escape.ReplaceAllStringFunc(name, func(e string) string {
		s, err := url.QueryUnescape(e)
		if err != nil {
			panic(err)
		}
		return s
	})
}

func FuzzReplaceParam(f *testing.F) {
	for _, raw := range []string{"", "key", "key=1&key=2", "a=b&k%65y=1&&c", "&&", "=", "a;key=1", "%zz=1&%", "k+y=1&key=", "ü=%FF"} {
		f.Add(raw, "key", "value")
	}
	f.Add("a+b=1&a%20b=2", "a b", "x&y=z#é")
	f.Add("%25=1&%=2&", "%", "")
	f.Fuzz(func(t *testing.T, raw, name, value string) {
		if name == "" {
			return
		}
		got := replaceParam(raw, name, escapeQuery(name)+"="+escapeQuery(value))
		var rest []string
		if raw != "" {
			rest = slices.DeleteFunc(strings.Split(raw, "&"), func(item string) bool { return nameOf(item) == name })
		}
		items := strings.Split(got, "&")
		last := items[len(items)-1]
		if !slices.Equal(items[:len(items)-1], rest) {
			t.Errorf("replaceParam(%q, %q) = %q: the other items were %q", raw, name, got, rest)
		}
		v, err := url.ParseQuery(last)
		if err != nil || len(v) != 1 || v.Get(name) != value {
			t.Errorf("replaceParam(%q, %q): the last item %q is not %q", raw, name, last, value)
		}
		req := &http.Request{URL: &url.URL{RawQuery: raw}}
		if had := len(rest) != strings.Count(raw, "&")+1 && raw != ""; hasQuery(req, name) != had {
			t.Errorf("hasQuery(%q, %q) = %v, want %v", raw, name, !had, had)
		}
	})
}

func FuzzSetCookie(f *testing.F) {
	for _, header := range []string{"", "sid=1", "a=b; sid=1; c=d", "sid;sid=2 ;  sid = 3", "a=\"x y\";;b", " ; ", "=1; sid"} {
		f.Add(header, "second=1; sid=9")
	}
	f.Fuzz(func(t *testing.T, first, second string) {
		if strings.ContainsAny(first+second, "\r\n\x00") {
			return // never reaches a header
		}
		req := &http.Request{Header: http.Header{"Cookie": {first, second}}}
		setCookie(req, "sid", "new")
		got := req.Header["Cookie"]
		if len(got) != 1 || len(req.Header) != 1 {
			t.Fatalf("%d Cookie headers, want 1", len(got))
		}
		items := split(got[0])
		want := append(slices.DeleteFunc(append(split(first), split(second)...), func(item string) bool {
			name, _, _ := strings.Cut(item, "=")
			return strings.Trim(name, " \t") == "sid"
		}), "sid=new")
		if !slices.Equal(items, want) {
			t.Errorf("setCookie(%q, %q) = %q\ncookies %q\nwant    %q", first, second, got[0], items, want)
		}
	})
}

// split lists the cookies of a header, without empty ones.
func split(header string) []string {
	var out []string
	for item := range strings.SplitSeq(header, ";") {
		if item = strings.Trim(item, " \t"); item != "" {
			out = append(out, item)
		}
	}
	return out
}
