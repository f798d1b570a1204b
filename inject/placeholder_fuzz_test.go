package inject_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

// Whatever a client sends, a value changes what it stands in place of and nothing else: JSON stays the same tree with the
// same names, and a query and a path keep their parts.
func FuzzPlaceholder(f *testing.F) {
	for _, seed := range []string{`"__slack__"`, `{"__slack__":["__slack__",{"a":"x__slack__\\"}]}`, `["\"__slack__","\u005f_slack__", "__slack____slack__"]`, `{"a" : 1, "b":"__slack__"}`,
		`[1,"a\n__slack__\t" , null]`, "a=__slack__&b=%5F_slack__&&=__slack__&__slack__=c", "%41__slack__", "%4__slack__", "__slack__/../x", "__slack__;x", "+__slack__ "} {
		f.Add(seed)
	}
	c := build(f, newEnv(f, nil), "{type: placeholder, placeholder: __slack__, value: $S, in: [path, query, body]}", map[string]string{"S": secretFile(f, nasty)})[0]
	f.Fuzz(func(t *testing.T, text string) {
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://api.example.com/", strings.NewReader(text))
		if err != nil || len(text) > 10_000 {
			return
		}
		req.Header.Set("Content-Type", "application/json")
		if u, err := url.ParseRequestURI("/x/" + strings.Map(func(r rune) rune {
			if r <= ' ' || r > '~' || r == '#' {
				return 'x'
			}
			return r
		}, text)); err == nil {
			req.URL.Path, req.URL.RawPath, req.URL.RawQuery = u.Path, u.RawPath, u.RawQuery
		}
		path, query := req.URL.EscapedPath(), req.URL.RawQuery
		if _, err := c.Apply(req); err != nil {
			return // the upstream gets nothing
		}
		checkParts(t, path, req.URL.EscapedPath(), "/")
		checkParts(t, query, req.URL.RawQuery, "&")
		body, err := io.ReadAll(req.Body)
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(body)) != req.ContentLength {
			t.Errorf("%d bytes of body, and a length of %d", len(body), req.ContentLength)
		}
		checkTree(t, text, string(body))
	})
}

// checkParts compares a path or a query part by part: names stay, and values decode to what they should.
func checkParts(t *testing.T, before, after, between string) {
	t.Helper()
	olds, news := strings.Split(before, between), strings.Split(after, between)
	if len(olds) != len(news) || strings.ContainsAny(after, "?# ") && !strings.ContainsAny(before, "?# ") {
		t.Fatalf("%q became %q", before, after)
	}
	for i := range olds {
		oldName, oldValue, _ := strings.Cut(olds[i], "=")
		newName, newValue, _ := strings.Cut(news[i], "=")
		if between == "/" {
			oldName, oldValue, newName, newValue = "", olds[i], "", news[i]
		}
		want, err := url.PathUnescape(oldValue)
		got, err2 := url.PathUnescape(newValue)
		if oldName != newName || (err == nil) != (err2 == nil) {
			t.Fatalf("%q became %q", olds[i], news[i])
		}
		if !strings.Contains(oldValue, "%") && got != strings.ReplaceAll(want, "__slack__", nasty) {
			t.Fatalf("%q became %q, which is %q", oldValue, newValue, got)
		}
	}
}

func checkTree(t *testing.T, before, after string) {
	t.Helper()
	var old, now any
	if json.Unmarshal([]byte(before), &old) != nil {
		if before != after {
			t.Fatalf("%q, which is no JSON, became %q", before, after)
		}
		return
	}
	if err := json.Unmarshal([]byte(after), &now); err != nil {
		t.Fatalf("%q became %q: %v", before, after, err)
	}
	if !strings.Contains(before, `\`) && !reflect.DeepEqual(replaced(old), now) {
		t.Fatalf("%q became %q", before, after)
	}
	if !reflect.DeepEqual(bare(old), bare(now)) {
		t.Fatalf("%q became another tree: %q", before, after)
	}
}

// replaced is tree with the markers in its values replaced.
func replaced(tree any) any {
	return mapped(tree, func(s string) any { return strings.ReplaceAll(s, "__slack__", nasty) })
}

// bare is tree without its texts.
func bare(tree any) any { return mapped(tree, func(string) any { return "" }) }

func mapped(tree any, f func(string) any) any {
	switch v := tree.(type) {
	case string:
		return f(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = mapped(v[i], f)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, item := range v {
			out[name] = mapped(item, f)
		}
		return out
	}
	return tree
}
