package secrets

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"
)

func TestParseRef(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in   string
		want Ref
	}{
		{"keyring:github", Ref{Scheme: "keyring", Name: "github"}},
		{"keyring:google#refresh_token", Ref{Scheme: "keyring", Name: "google", Field: "refresh_token"}},
		{"keyring:0a.b_c-d", Ref{Scheme: "keyring", Name: "0a.b_c-d"}},
		{"keyring:" + strings.Repeat("a", 64), Ref{Scheme: "keyring", Name: strings.Repeat("a", 64)}},
		{"env:GITHUB_TOKEN", Ref{Scheme: "env", Name: "GITHUB_TOKEN"}},
		{"env:_x#f", Ref{Scheme: "env", Name: "_x", Field: "f"}},
		{"file:~/.token", Ref{Scheme: "file", Name: "~/.token"}},
	}
	if runtime.GOOS != "windows" {
		tests = append(tests, []struct {
			in   string
			want Ref
		}{
			{"file:/run/secrets/gh", Ref{Scheme: "file", Name: "/run/secrets/gh"}},
			{"file:/a#b#c", Ref{Scheme: "file", Name: "/a#b", Field: "c"}},
			{"file:/with: colon", Ref{Scheme: "file", Name: "/with: colon"}},
		}...)
	}
	for _, test := range tests {
		got, err := ParseRef(test.in)
		if err != nil || got != test.want {
			t.Errorf("ParseRef(%q) = %#v, %v; want %#v", test.in, got, err, test.want)
		}
		if got.String() != test.in {
			t.Errorf("ParseRef(%q).String() = %q", test.in, got)
		}
	}
}

func TestParseRefRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]string{ // input → what the error must say
		"":                                   "not a reference",
		"ghp_16C7e42F292c6912E7710c838347":   "not a reference",
		"AKIAIOSFODNN7EXAMPLE:secret":        "not a reference",
		"sk-ant-xyzzy:plugh":                 "not a reference",
		"https://user:xyzzy@host":            "not a reference",
		"keyrng:github":                      `did you mean "keyring:"?`,
		"KEYRING:github":                     `did you mean "keyring:"?`,
		"keychain:github":                    `did you mean "keyring:"?`,
		"environment:TOKEN":                  `did you mean "env:"?`,
		"evn:TOKEN":                          `did you mean "env:"?`,
		"fille:/etc/xyzzy":                   `did you mean "file:"?`,
		"cmd:op read xyzzy":                  `did you mean "exec:"?`,
		"exec:op read xyzzy":                 "{exec: [cmd, args]}",
		"keyring:":                           "1 to 64",
		"keyring:GitHub":                     "lower-case",
		"keyring:-xyzzy":                     "lower-case",
		"keyring:_rotated-xyzzy":             "lower-case",
		"keyring:a/b":                        "lower-case",
		"keyring:../xyzzy":                   "lower-case",
		"keyring: xyzzy":                     "lower-case",
		"keyring:" + strings.Repeat("a", 65): "1 to 64",
		"keyring:xyzzy#":                     "after #",
		"keyring:xyzzy#a\nb":                 "after #",
		"keyring:xyzzy#" + strings.Repeat("a", 129): "after #",
		"env:":                     "environment variable",
		"env:a-xyzzy":              "environment variable",
		"env:1XYZZY":               "environment variable",
		"env:PATH":                 "cannot hold a secret",
		"env:Path":                 "cannot hold a secret",
		"env:LD_PRELOAD":           "cannot hold a secret",
		"env:DYLD_LIBRARY_PATH":    "cannot hold a secret",
		"env:CREDPROXY_PASSPHRASE": "cannot hold a secret",
		"file:":                    "absolute path",
		"file:xyzzy":               "absolute path",
		"file:./xyzzy":             "absolute path",
		"file:../xyzzy":            "absolute path",
		"file:~":                   "absolute path",
		"file:~/":                  "absolute path",
		"file:~other/xyzzy":        "absolute path",
	}
	for in, want := range tests {
		ref, err := ParseRef(in)
		if err == nil {
			t.Errorf("ParseRef(%q) = %v, want an error", in, ref)
			continue
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("ParseRef(%q): error %q does not say %q", in, err, want)
		}
		for _, part := range []string{"xyzzy", "plugh", "XYZZY", "ghp_", "AKIA", "GitHub"} {
			if strings.Contains(in, part) && strings.Contains(err.Error(), part) {
				t.Errorf("ParseRef(%q): error %q repeats the input", in, err)
			}
		}
	}
}

func TestRefUnmarshalYAML(t *testing.T) {
	t.Parallel()
	op := Ref{Scheme: "exec", Name: `["op","read","op://dev/github"]`}
	timed := op
	timed.TTL, timed.Timeout, timed.Field = 10*time.Minute, 20*time.Second, "token"
	tests := []struct {
		name, in string
		want     Ref
		fails    string // what the error must say
	}{
		{name: "plain", in: "keyring:github", want: Ref{Scheme: "keyring", Name: "github"}},
		{name: "quoted", in: `"env:TOKEN"`, want: Ref{Scheme: "env", Name: "TOKEN"}},
		{name: "exec", in: `{exec: [op, read, "op://dev/github"]}`, want: op},
		{name: "all fields", in: `{exec: [op, read, "op://dev/github"], ttl: 10m, timeout: 20s, field: token}`, want: timed},
		{name: "number as argument", in: `{exec: [head, -c, 5]}`, want: Ref{Scheme: "exec", Name: `["head","-c","5"]`}},
		{name: "literal", in: "xyzzy-literal", fails: "not a reference"},
		{name: "literal number", in: "1234567", fails: "not a reference"},
		{name: "null", in: "null", fails: "not a reference"},
		{name: "list", in: "[xyzzy]", fails: "not a reference"},
		{name: "no exec", in: "{ttl: 5m}", fails: "not a reference"},
		{name: "empty command", in: "{exec: []}", fails: "as a list"},
		{name: "command line", in: "{exec: op read xyzzy}", fails: "as a list"},
		{name: "relative command", in: "{exec: [./xyzzy]}", fails: "absolute path"},
		{name: "nested", in: "{exec: [op, [xyzzy]]}", fails: "plain text"},
		{name: "null argument", in: "{exec: [op, null]}", fails: "plain text"},
		{name: "unknown field", in: "{exec: [op], xyzzy: 1}", fails: "unknown field"},
		{name: "bad ttl", in: "{exec: [op], ttl: xyzzy}", fails: "ttl must be a duration"},
		{name: "negative ttl", in: "{exec: [op], ttl: -5m}", fails: "ttl must be a duration"},
		{name: "huge timeout", in: "{exec: [op], timeout: 24h}", fails: "timeout must be a duration"},
		{name: "empty field", in: "{exec: [op], field: ''}", fails: "after #"},
		{name: "twice", in: "{exec: [op], ttl: 1m, ttl: 2m}", fails: "twice"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			// Nodes come from the rules loader, which does not resolve duplicates for us.
			var doc yaml.Node
			if err := yaml.Unmarshal([]byte(test.in), &doc); err != nil {
				t.Fatal(err)
			}
			var got Ref
			err := got.UnmarshalYAML(doc.Content[0])
			if test.fails == "" && (err != nil || got != test.want) {
				t.Fatalf("got %#v, %v; want %#v", got, err, test.want)
			}
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Fatalf("got error %v, want one that says %q", err, test.fails)
				}
				if strings.Contains(err.Error(), "xyzzy") {
					t.Errorf("error %q repeats the input", err)
				}
				if !got.IsZero() {
					t.Errorf("got %v beside an error", got)
				}
			}
		})
	}
}

func TestRefHidesArguments(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ in, want string }{
		{`{exec: [op, read, xyzzy], field: token}`, "exec:op#token"},
		{`{exec: [/usr/bin/op, xyzzy]}`, "exec:op"},
		{`{exec: ["op read xyzzy"]}`, "exec:…"},
	} {
		var r Ref
		if err := yaml.Unmarshal([]byte(test.in), &r); err != nil {
			t.Fatalf("%s: %v", test.in, err)
		}
		if r.String() != test.want {
			t.Errorf("%s: String() = %q, want %q", test.in, r, test.want)
		}
		b, err := json.Marshal([]Ref{r})
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%v %+v %#v %s %q %s", r, r, r, r, r, b); strings.Contains(got, "xyzzy") {
			t.Errorf("%s: printed %s", test.in, got)
		}
	}
}

func TestFieldErrorsHideValues(t *testing.T) {
	t.Parallel()
	doc := `{"token":"xyzzy-1","n":12.50,"on":true,"none":null,"obj":{"a":"xyzzy-2"},"empty":"","twice":"a","twice":"b","esc":"a\"\u00e4"}`
	tests := []struct {
		doc, field, want string
		kind             error
	}{
		{doc, "token", "xyzzy-1", nil},
		{doc, "n", "12.50", nil},
		{doc, "twice", "b", nil},
		{doc, "esc", `a"ä`, nil},
		{doc, "missing", "", ErrNotFound},
		{doc, "a", "", ErrNotFound},
		{doc, "on", "", ErrInvalid},
		{doc, "none", "", ErrInvalid},
		{doc, "obj", "", ErrInvalid},
		{doc, "empty", "", ErrInvalid},
		{"xyzzy-plain", "token", "", ErrInvalid},
		{`["xyzzy"]`, "token", "", ErrInvalid},
		{`{"token":"xyzzy"`, "token", "", ErrInvalid},
	}
	for _, test := range tests {
		ref := Ref{Scheme: "keyring", Name: "google", Field: test.field}
		v, err := pick(ref, NewValue(test.doc))
		if test.kind == nil {
			if err != nil || v.Reveal() != test.want {
				t.Errorf("%s of %s: got %q, %v; want %q", test.field, test.doc, v.Reveal(), err, test.want)
			}
			continue
		}
		e := asError("resolve", ref, err)
		if e.Kind != test.kind || !strings.Contains(e.Why, test.field) {
			t.Errorf("%s of %s: got %v, want kind %v and the field's name", test.field, test.doc, e, test.kind)
		}
		if strings.Contains(fmt.Sprintf("%v %+v %s", e, *e, e.Hint()), "xyzzy") {
			t.Errorf("%s of %s: error %+v repeats the value", test.field, test.doc, e)
		}
	}
}

func TestWithField(t *testing.T) {
	t.Parallel()
	got, err := withField("{ \"b\": 1,\n\t\"token\" : \"old\", \"a\":{\"token\":\"x\"} }", "token", `n"ew`)
	want := "{ \"b\": 1,\n\t\"token\" : \"n\\\"ew\", \"a\":{\"token\":\"x\"} }"
	if err != nil || got != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
}

func FuzzParseRef(f *testing.F) {
	for _, s := range []string{"keyring:a#b", "env:A", "file:~/x", "exec:x", "keyrng:a", ":", "#", "a:b#"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRef(s)
		if err == nil && r.String() != s {
			t.Errorf("ParseRef(%q).String() = %q", s, r)
		}
	})
}
