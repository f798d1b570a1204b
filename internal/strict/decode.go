package strict

import (
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

type decoder struct {
	secretive bool
	errs      Errors
}

var (
	nodeType     = reflect.TypeFor[yaml.Node]()
	durationType = reflect.TypeFor[time.Duration]()
)

func (d *decoder) fail(n *yaml.Node, path, format string, args ...any) {
	e := Errorf(n, format, args...)
	e.Text = path + e.Text
	d.errs = append(d.errs, e)
}

func (d *decoder) top(n *yaml.Node, v any) {
	target := reflect.ValueOf(v)
	if target.Kind() != reflect.Pointer || target.IsNil() {
		panic("strict: Decode needs a pointer")
	}
	if d.plain(n, "") {
		d.byKind(n, target.Elem(), "")
	}
}

// plain reports whether n is neither an alias, nor an anchor, nor tagged with a type that this package does not know.
func (d *decoder) plain(n *yaml.Node, path string) bool {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.fail(n, path, "anchors and aliases are not supported; write the value out")
	case n.Style&yaml.TaggedStyle != 0 && !slices.Contains(knownTags, n.ShortTag()):
		d.fail(n, path, "this type tag is not supported; leave it out")
	default:
		return true
	}
	return false
}

var knownTags = []string{"!!str", "!!int", "!!float", "!!bool", "!!null", "!!map", "!!seq"}

// value decodes n into v; path ends in ": " or is empty.
func (d *decoder) value(n *yaml.Node, v reflect.Value, path string) {
	if !d.plain(n, path) {
		return
	}
	if p, ok := v.Addr().Interface().(placer); ok {
		d.value(n, reflect.ValueOf(p.place(n)).Elem(), path)
		return
	}
	if v.Type() == nodeType {
		v.Set(reflect.ValueOf(*n))
		return
	}
	if _, ok := v.Addr().Interface().(oneOrMany); ok && n.Kind != yaml.SequenceNode {
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		d.value(n, v.Index(0), path)
		return
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), path)
		return
	}
	if u, ok := v.Addr().Interface().(yaml.Unmarshaler); ok {
		before := len(d.errs)
		d.tree(n, path)
		if len(d.errs) > before {
			return
		}
		if err := u.UnmarshalYAML(n); err != nil {
			d.errs = append(d.errs, asErrors(n, path, err)...)
		}
		return
	}
	d.byKind(n, v, path)
}

func (d *decoder) byKind(n *yaml.Node, v reflect.Value, path string) {
	if v.Type() == durationType {
		d.duration(n, v, path)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, v, path)
	case reflect.Slice:
		d.slice(n, v, path)
	case reflect.Map:
		d.mapping(n, v, path)
	case reflect.Interface:
		if x := d.untyped(n, path); x != nil {
			v.Set(reflect.ValueOf(x))
		}
	case reflect.String, reflect.Bool, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		d.scalar(n, v, path)
	default:
		panic("strict: cannot decode into " + v.Type().String())
	}
}

// tree checks all of n, which something else will decode, for what plain and pairs refuse.
func (d *decoder) tree(n *yaml.Node, path string) {
	if !d.plain(n, path) {
		return
	}
	if n.Kind == yaml.MappingNode {
		d.pairs(n, path)
	}
	for _, child := range n.Content {
		d.tree(child, path)
	}
}

type pair struct {
	name       string
	key, value *yaml.Node
}

// pairs returns the entries of a mapping that have usable keys, each key once.
func (d *decoder) pairs(n *yaml.Node, path string) []pair {
	lines := make(map[string]int)
	var out []pair
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		switch {
		case k.Tag == "!!merge":
			d.fail(k, path, "merge keys are not supported; write the fields out")
		case !d.plain(k, path):
		case k.Kind != yaml.ScalarNode:
			d.fail(k, path, "a field's name must be a plain word, not %s", kindOf(k))
		case lines[k.Value] != 0:
			d.fail(k, path, "duplicate field%s (first on line %d)", d.quoted(k, nil, v), lines[k.Value])
		default:
			lines[k.Value] = max(k.Line, 1)
			out = append(out, pair{k.Value, k, v})
		}
	}
	return out
}

// Only what cannot be a secret: letters, and short.
var harmlessName = regexp.MustCompile(`^[a-z][a-z_-]{0,23}$`)

// Harmless reports whether key looks like a field's name with a value, and not like a secret that stands where a
// name belongs.
func Harmless(key, value *yaml.Node) bool {
	return key.Kind == yaml.ScalarNode && harmlessName.MatchString(key.Value) && !isNull(value)
}

// quoted is ` "name"`, or nothing if a field's name could be a secret that stands where a name belongs.
func (d *decoder) quoted(key *yaml.Node, known []string, value *yaml.Node) string {
	if d.secretive && Nearest(key.Value, known) == "" && !Harmless(key, value) {
		return ""
	}
	return " " + strconv.Quote(key.Value)
}

func (d *decoder) structure(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "want a mapping, not %s", kindOf(n))
		return
	}
	fields := fieldsOf(v.Type(), nil)
	known := make([]string, len(fields))
	byName := make(map[string]field, len(fields))
	for i, f := range fields {
		known[i] = f.name
		byName[f.name] = f
	}
	seen := make(map[string]bool)
	for _, p := range d.pairs(n, path) {
		f, ok := byName[p.name]
		if !ok {
			d.unknown(p, known, path)
			continue
		}
		seen[p.name] = true
		d.field(p.value, v.FieldByIndex(f.index), f, path)
	}
	for _, f := range fields {
		if f.need && !seen[f.name] {
			d.fail(n, path, "missing field %q", f.name)
		}
	}
}

func (d *decoder) unknown(p pair, known []string, path string) {
	tail := " (known: " + strings.Join(known, ", ") + ")"
	if near := Nearest(p.name, known); near != "" {
		tail = " (did you mean " + strconv.Quote(near) + "?)"
	}
	d.fail(p.key, path, "unknown field%s%s", d.quoted(p.key, known, p.value), tail)
}

func (d *decoder) field(n *yaml.Node, v reflect.Value, f field, path string) {
	if isNull(n) && f.null {
		return
	}
	if isNull(n) && v.Kind() != reflect.Interface || f.need && n.Kind == yaml.ScalarNode && n.Value == "" {
		d.fail(n, path, "field %q is empty", f.name)
		return
	}
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 && (f.need || f.some) {
		d.fail(n, path, "%s is an empty list", f.name)
		return
	}
	before := len(d.errs)
	d.value(n, v, path+f.name+": ")
	if len(f.oneof) > 0 && len(d.errs) == before && !slices.Contains(f.oneof, n.Value) {
		tail := ""
		if near := Nearest(n.Value, f.oneof); near != "" {
			tail = " (did you mean " + strconv.Quote(near) + "?)"
		}
		d.fail(n, path, "%s must be %s%s", f.name, Choice(f.oneof), tail)
	}
}

func (d *decoder) slice(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.SequenceNode {
		d.fail(n, path, "want a list, not %s", kindOf(n))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		at := strings.TrimSuffix(path, ": ") + "[" + strconv.Itoa(i) + "]: "
		if isNull(item) && out.Index(i).Kind() != reflect.Interface {
			d.fail(item, at, "is empty")
			continue
		}
		d.value(item, out.Index(i), at)
	}
	v.Set(out)
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, "want a mapping, not %s", kindOf(n))
		return
	}
	out := reflect.MakeMapWithSize(v.Type(), len(n.Content)/2)
	for _, p := range d.pairs(n, path) {
		item := reflect.New(v.Type().Elem()).Elem()
		at := path
		if q := d.quoted(p.key, nil, p.value); q != "" {
			at = path + q[1:] + ": "
		}
		if isNull(p.value) && item.Kind() != reflect.Interface {
			d.fail(p.value, at, "is empty")
			continue
		}
		d.value(p.value, item, at)
		out.SetMapIndex(reflect.ValueOf(p.name).Convert(v.Type().Key()), item)
	}
	v.Set(out)
}

// untyped is n as string, bool, int64, float64, []any, map[string]any or nil.
func (d *decoder) untyped(n *yaml.Node, path string) any {
	if !d.plain(n, path) {
		return nil
	}
	switch n.Kind {
	case yaml.SequenceNode:
		out := make([]any, 0, len(n.Content))
		for _, item := range n.Content {
			out = append(out, d.untyped(item, path))
		}
		return out
	case yaml.MappingNode:
		out := make(map[string]any, len(n.Content)/2)
		for _, p := range d.pairs(n, path) {
			out[p.name] = d.untyped(p.value, path)
		}
		return out
	}
	var target reflect.Value
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool":
		target = reflect.ValueOf(new(bool)).Elem()
	case "!!int":
		target = reflect.ValueOf(new(int64)).Elem()
	case "!!float":
		target = reflect.ValueOf(new(float64)).Elem()
	default:
		target = reflect.ValueOf(new(string)).Elem()
	}
	d.scalar(n, target, path)
	return target.Interface()
}

// A want is what a Go kind accepts: YAML's tags, and how to say so.
type want struct {
	tags []string
	text string
}

var (
	wantString = want{[]string{"!!str", "!!int", "!!float", "!!timestamp"}, "a string"}
	wantBool   = want{[]string{"!!bool"}, "true or false"}
	wantFloat  = want{[]string{"!!int", "!!float"}, "a number"}
	wantInt    = want{[]string{"!!int"}, "a whole number"}
)

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string) {
	w := wantInt
	switch v.Kind() {
	case reflect.String:
		w = wantString
	case reflect.Bool:
		w = wantBool
	case reflect.Float32, reflect.Float64:
		w = wantFloat
	}
	tag := n.ShortTag()
	if n.Kind != yaml.ScalarNode || !slices.Contains(w.tags, tag) {
		hint := ""
		if v.Kind() == reflect.String && tag == "!!bool" {
			hint = ` (put it in quotes)`
		}
		d.fail(n, path, "want %s, not %s%s", w.text, kindOf(n), hint)
		return
	}
	if v.Kind() == reflect.String {
		v.SetString(n.Value)
		return
	}
	if err := n.Decode(v.Addr().Interface()); err != nil { // yaml's text quotes the value
		d.fail(n, path, "want %s within its range", w.text)
		return
	}
	if v.CanFloat() && (math.IsNaN(v.Float()) || math.IsInf(v.Float(), 0)) {
		d.fail(n, path, "want %s within its range", w.text)
	}
}

func (d *decoder) duration(n *yaml.Node, v reflect.Value, path string) {
	t, err := time.ParseDuration(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || t < 0 {
		d.fail(n, path, "want a duration such as 90s, 10m or 12h")
		return
	}
	v.SetInt(int64(t))
}
