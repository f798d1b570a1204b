package strict_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/credproxy/credproxy/internal/strict"
	"gopkg.in/yaml.v3"
)

// even decodes itself and accepts even numbers.
type even int

func (e *even) UnmarshalYAML(n *yaml.Node) error {
	var i int
	if n.Decode(&i) != nil || i%2 != 0 {
		return errors.New("want an even number")
	}
	*e = even(i)
	return nil
}

// part decodes itself through Decode, as types in other packages do.
type part struct {
	A string `yaml:"a" need:"true"`
	B string `yaml:"b"`
}

func (p *part) UnmarshalYAML(n *yaml.Node) error { return strict.Decode(n, p, true) }

type placement struct {
	In string `yaml:"in" oneof:"header|query|cookie"`
}

type sample struct {
	Name      string `yaml:"name" need:"true"`
	placement `yaml:"-"`
	Placement `yaml:",inline"`
	Port      uint16              `yaml:"port"`
	Scrub     *bool               `yaml:"scrub"`
	Wait      time.Duration       `yaml:"wait"`
	Methods   []string            `yaml:"methods"`
	Nested    *nested             `yaml:"nested"`
	Extra     map[string]string   `yaml:"extra"`
	Claims    map[string]any      `yaml:"claims"`
	Raw       yaml.Node           `yaml:"raw"`
	Even      even                `yaml:"even"`
	Part      part                `yaml:"part"`
	Where     strict.At[string]   `yaml:"where"`
	Ratio     float64             `yaml:"ratio"`
	Hosts     strict.Many[string] `yaml:"hosts" some:"true"`
	Later     []nested            `yaml:"later" null:"true"`
	Untagged  string
}

type Placement = placement

type nested struct {
	Depth int      `yaml:"depth"`
	Items []nested `yaml:"items"`
}

func TestDecodeFillsEveryKind(t *testing.T) {
	t.Parallel()
	const text = "\xef\xbb\xbfname: a\r\nin: query\r\nport: 8443\r\nscrub: false\r\nwait: 10m\r\nmethods: [GET, PUT]\r\n" +
		"nested: {depth: 1, items: [{depth: 2}]}\r\nextra: {k: 007}\r\nclaims: {n: 1, f: 1.5, b: true, s: x, z: null, l: [1]}\r\n" +
		"raw: {any: thing}\r\neven: 4\r\npart: {a: x}\r\nwhere: here\r\nratio: 2\r\nhosts: h\r\nlater:\r\n"
	var got sample
	decode(t, text, &got, false)
	yes := false
	want := sample{
		Name: "a", Placement: placement{"query"}, Port: 8443, Scrub: &yes, Wait: 10 * time.Minute,
		Methods: []string{"GET", "PUT"}, Nested: &nested{1, []nested{{Depth: 2}}}, Extra: map[string]string{"k": "007"},
		Claims: map[string]any{"n": int64(1), "f": 1.5, "b": true, "s": "x", "z": nil, "l": []any{int64(1)}},
		Raw:    got.Raw, Even: 4, Part: part{A: "x"}, Where: strict.At[string]{Value: "here", Pos: strict.Pos{Line: 13, Column: 8}}, Ratio: 2,
		Hosts: strict.Many[string]{{Value: "h", Pos: strict.Pos{Line: 15, Column: 8}}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got.Raw.Kind != yaml.MappingNode || got.Raw.Line != 10 || got.Raw.Column != 6 {
		t.Errorf("raw node: kind %d at %d:%d, want a mapping at 10:6", got.Raw.Kind, got.Raw.Line, got.Raw.Column)
	}
}

func decode(t *testing.T, text string, v any, secretive bool) {
	t.Helper()
	n, err := strict.Parse([]byte(text))
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	if err := strict.Decode(n, v, secretive); err != nil {
		t.Fatalf("Decode: %v", err)
	}
}

// mistakes is what Parse and Decode say about text.
func mistakes(text string, secretive bool) string {
	n, err := strict.Parse([]byte(text))
	if err == nil {
		var v sample
		err = strict.Decode(n, &v, secretive)
	}
	if err == nil {
		return ""
	}
	if _, ok := err.(strict.Errors); !ok {
		return fmt.Sprintf("not an Errors: %T", err)
	}
	return err.Error()
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, text, want string
		secretive        bool
	}{
		{"unknown field near a known one", "name: a\nmethds: [GET]", `2:1: unknown field "methds" (did you mean "methods"?)`, false},
		{"unknown field in capitals", "Name: a\nname: b", `1:1: unknown field "Name" (did you mean "name"?)`, false},
		{"missing", "port: 1", `1:1: missing field "name"`, false},
		{"empty", "name:\nport: 1", `1:6: field "name" is empty`, false},
		{"empty string where needed", `name: ""`, `1:7: field "name" is empty`, false},
		{"empty list", "name: a\nmethods:", `2:9: field "methods" is empty`, false},
		{"empty item", "name: a\nmethods: [GET, ]\nnested: {items: [~]}", `3:18: nested: items[0]: is empty`, false},
		{"duplicate", "name: a\nname: b", `2:1: duplicate field "name" (first on line 1)`, false},
		{"duplicate in a map", "name: a\nclaims: {x: {y: 1, y: 2}}", `2:20: claims: "x": duplicate field "y" (first on line 2)`, false},
		{"duplicate in what decodes itself", "name: a\npart: {a: x, a: y}", `2:14: part: duplicate field "a" (first on line 2)`, false},
		{"list for a mapping", "[]", `1:1: want a mapping, not a list`, false},
		{"string for a list", "name: a\nmethods: GET", `2:10: methods: want a list, not a string`, false},
		{"string for a number", "name: a\nport: http", `2:7: port: want a whole number, not a string`, false},
		{"quoted number", "name: a\nport: \"8443\"", `2:7: port: want a whole number, not a string`, false},
		{"too large", "name: a\nport: 70000", `2:7: port: want a whole number within its range`, false},
		{"fraction", "name: a\nport: 1.5", `2:7: port: want a whole number, not a number`, false},
		{"yes", "name: a\nscrub: yes", `2:8: scrub: want true or false, not a string`, false},
		{"bool for a string", "name: true", `1:7: name: want a string, not true or false (put it in quotes)`, false},
		{"mapping for a string", "name: {a: b}", `1:7: name: want a string, not a mapping`, false},
		{"duration without unit", "name: a\nwait: 10", `2:7: wait: want a duration such as 90s, 10m or 12h`, false},
		{"negative duration", "name: a\nwait: -1s", `2:7: wait: want a duration such as 90s, 10m or 12h`, false},
		{"not a number", "name: a\nratio: .nan", `2:8: ratio: want a number within its range`, false},
		{"not one of the words", "name: a\nin: heder", `2:5: in must be "header", "query" or "cookie" (did you mean "header"?)`, false},
		{"decodes itself", "name: a\neven: 3", `2:7: even: want an even number`, false},
		{"decodes itself through Decode", "name: a\npart: {aa: 1}", "2:7: missing field \"a\"\n2:8: unknown field \"aa\" (known: a, b)", false},
		{"nested list", "name: a\nnested: {items: [{depth: x}, {dept: 1}]}",
			"2:26: nested: items[0]: depth: want a whole number, not a string\n2:31: nested: items[1]: unknown field \"dept\" (did you mean \"depth\"?)", false},
		{"empty list where some are needed", "name: a\nhosts: []\nlater:", `2:8: hosts is an empty list`, false},
		{"one or many, wrong", "name: a\nhosts: {a: b}", `2:8: hosts: want a string, not a mapping`, false},
		{"one of many wrong", "name: a\nhosts: [a, true]", `2:12: hosts[1]: want a string, not true or false (put it in quotes)`, false},
		{"anchor", "name: &a b", `1:7: name: anchors and aliases are not supported; write the value out`, false},
		{"alias", "name: &a b\nwhere: *a",
			"1:7: name: anchors and aliases are not supported; write the value out\n2:8: where: anchors and aliases are not supported; write the value out", false},
		{"merge key", "name: a\nnested: {<<: {depth: 1}}", `2:10: nested: merge keys are not supported; write the fields out`, false},
		{"anchor in what decodes itself", "name: a\npart: {a: &x y}", `2:11: part: anchors and aliases are not supported; write the value out`, false},
		{"type tag", "name: !!binary aGk=", `1:7: name: this type tag is not supported; leave it out`, false},
		{"own tag", "name: !env FOO", `1:7: name: this type tag is not supported; leave it out`, false},
		{"mapping as a key", "name: a\n? {a: b}\n: c", `2:3: a field's name must be a plain word, not a mapping`, false},
		{"all at once, in order", "prt: 1\nmethods: 3\nin: x",
			"1:1: unknown field \"prt\" (did you mean \"port\"?)\n1:1: missing field \"name\"\n2:10: methods: want a list, not a number\n3:5: in must be \"header\", \"query\" or \"cookie\"", false},
		{"secretive: near field", "nmae: hunter2", "1:1: unknown field \"nmae\" (did you mean \"name\"?)\n1:1: missing field \"name\"", true},
		{"secretive: far field with a harmless name", "name: a\nfoo: 1", `2:1: unknown field "foo" (known: name, in, port, scrub, wait, methods, nested, extra, claims, raw, even, part, where, ratio, hosts, later)`, true},
		{"secretive: value in the place of a field", "{name: a, sk_live_4242: }", `1:11: unknown field (known: name, in, port, scrub, wait, methods, nested, extra, claims, raw, even, part, where, ratio, hosts, later)`, true},
		{"secretive: word in the place of a field", "{name: a, hunter}", `1:11: unknown field (known: name, in, port, scrub, wait, methods, nested, extra, claims, raw, even, part, where, ratio, hosts, later)`, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := mistakes(tt.text, tt.secretive); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestParseMistakes(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, text, want string }{
		{"nothing", "", "1:1: the file is empty"},
		{"comments only", "# a\n\n", "1:1: the file is empty"},
		{"a bare document", "---\n", "1:1: the file is empty"},
		{"two documents", "a: 1\n---\nb: 2\n", "2:1: a second document starts here; a file holds one"},
		{"broken second document", "a: 1\n---\n\"b\n", "3:1: a quote is opened here and never closed"},
		{"too large", strings.Repeat("# 345678\n", 1<<17), "1:1: the file is larger than 1 MiB"},
		{"not UTF-8", "a: 1\nb: \xff", "2:4: the file is not UTF-8 here"},
		{"UTF-16", "\xff\xfea\x00", "1:1: the file is not UTF-8 here"},
		{"NUL", "a: b\x00", "1:5: a control character is not allowed here"},
		{"two colons", "a: 1\nb: s3cret: x\n", `2:10: a ": " is not allowed here; put the value in quotes, or mind the indentation`},
		{"tab", "a:\n\tb: s3cret\n", "2:1: a tab is not allowed in the indentation; use spaces"},
		{"at sign", "a: 1\nb: @s3cret\n", "2:4: a value cannot start with this character; put it in quotes"},
		{"open list", "a: 1\nb: [s3cret\nc: 2\n", `2:4: a "," or "]" is missing`},
		{"open mapping", "a: 1\nb:\n  c: {s3cret: 1\nd: 2\n", `3:6: a "," or "}" is missing`},
		{"open quote", "a: 1\nb: \"s3cret\nc: 2\n", "2:4: a quote is opened here and never closed"},
		{"wrong indentation", "a: 1\nb:\n    c: 1\n   s3cret: 2\ne: 1\n", "4:4: a field's name is expected here; mind the indentation"},
		{"no colon", "a: 1\ns3cret\nc: 2\n", `2:1: a ":" is missing after the field's name`},
		{"unknown alias", "a: 1\nb: *s3cret\n", "2:4: anchors and aliases are not supported; write the value out"},
		{"escape", "a: \"\\q s3cret\"\n", "1:1: unknown escape in double quotes; use single quotes"},
		{"too deep", strings.Repeat("[", 20000), "1:1: too many levels"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := mistakes(tt.text, false); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestErrorsOnce(t *testing.T) {
	t.Parallel()
	e := strict.Errors{{2, 1, "b"}, {1, 9, "c"}, {1, 2, "a"}, {1, 9, "c"}}
	want := strict.Errors{{1, 2, "x: a"}, {1, 9, "x: c"}, {2, 1, "x: b"}}
	if got := e.Prefixed("x: ").Sorted(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if strict.Errors(nil).Err() != nil {
		t.Error("no mistakes, and an error")
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	known := []string{"name", "match", "inject", "deny", "in", "api_key", "bearer", "oauth2_client_credentials"}
	for name, want := range map[string]string{
		"nmae": "name", "mach": "match", "injekt": "inject", "Deny": "deny", "api-key": "api_key", "apikey": "api_key",
		"bearrer": "bearer", "oauth2_client_credential": "oauth2_client_credentials",
		"": "", "x": "", "host": "", "nothing": "", "on": "", "sk_live_51abcdef": "",
	} {
		if got := strict.Nearest(name, known); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", name, got, want)
		}
	}
}

// FuzzDecode: no input makes Parse or Decode panic, and no error repeats a value when secretive.
func FuzzDecode(f *testing.F) {
	const canary = "zq7jx"
	for _, text := range []string{
		"name: zq7jx\nport: zq7jx", "name: [zq7jx]\nwait: zq7jx\nin: zq7jx\neven: zq7jx\nscrub: zq7jx", "claims: {a: !!int zq7jx}",
		"name: zq7jx: zq7jx", "{zq7jx: }", "zq7jx", "\"zq7jx", "a: *zq7jx", "a: &zq7jx b", "? zq7jx\n: zq7jx", "!zq7jx a: 1",
		"%TAG !zq7jx! x\n---\na: b", "extra: {zq7jx: [1], zq7jx: {}}", "port: 0x\nratio: 1e999\nname: 2001-01-01",
		"nested: {items: [{items: [{zq7jx: 1}]}]}", "a: |\n zq7jx\n\tb", "raw: {<<: {zq7jx: 1}}\npart: {zq7jx: 1, zq7jx: 2}",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := strict.Parse(data)
		if err == nil {
			var v sample
			err = strict.Decode(n, &v, true)
		}
		if err == nil {
			return
		}
		all, ok := err.(strict.Errors)
		if !ok || len(all) == 0 {
			t.Fatalf("%T, not an Errors", err)
		}
		for _, e := range all {
			if e.Line < 1 || e.Column < 1 {
				t.Errorf("no position: %v", e)
			}
			if strings.Contains(e.Text, canary) {
				t.Errorf("repeats a value: %v", e)
			}
		}
	})
}
