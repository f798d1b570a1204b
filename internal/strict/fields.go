package strict

import (
	"reflect"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// A field is what a struct field's tags say.
type field struct {
	name  string
	index []int
	need  bool
	null  bool
	some  bool
	oneof []string
}

// fieldsOf lists the fields of a struct type that have a yaml tag, those of inlined structs included.
func fieldsOf(t reflect.Type, index []int) []field {
	var out []field
	for i := range t.NumField() {
		f := t.Field(i)
		tag, ok := f.Tag.Lookup("yaml")
		name, option, _ := strings.Cut(tag, ",")
		at := append(slices.Clone(index), i)
		switch {
		case !ok || name == "-":
		case option == "inline":
			out = append(out, fieldsOf(f.Type, at)...)
		default:
			is := func(tag string) bool { return f.Tag.Get(tag) == "true" }
			g := field{name: name, index: at, need: is("need"), null: is("null"), some: is("some")}
			if words := f.Tag.Get("oneof"); words != "" {
				g.oneof = strings.Split(words, "|")
			}
			out = append(out, g)
		}
	}
	return out
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// kindOf names n's kind as people say it.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "true or false"
	case "!!int", "!!float":
		return "a number"
	case "!!timestamp":
		return "a date"
	}
	return "a string"
}
