// Package strict decodes YAML with no silent mistakes: unknown and duplicate fields, wrong types and second
// documents are errors, all of them reported at once, each with its position.
//
// # Tags
//
// A struct field takes part if it has a yaml tag; a field without one is left alone.
//
//	Name  string `yaml:"name" need:"true"`              // absent or empty is a mistake
//	In    string `yaml:"in" oneof:"header|query"`       // absent, or one of these words
//	Paths []string `yaml:"paths" some:"true"`           // absent, or a list that is not empty
//	Rules []Rule `yaml:"rules" null:"true"`             // "rules:" with nothing after it is as if absent
//	Limit `yaml:",inline"`                              // the fields of an embedded struct
//
// # Types
//
// Strings (a plain number counts as its own spelling), booleans, numbers, time.Duration ("10m"), pointers,
// slices, maps with string keys, structs, any, yaml.Node (kept raw: whoever decodes it checks it), At, Many, and
// every type with UnmarshalYAML(*yaml.Node) error. An Error or Errors from UnmarshalYAML is taken as it is, another
// error gets the node's position; such errors must not quote values.
//
// Anchors, aliases and merge keys are refused: a rules file says what it says where it says it.
package strict

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// An Error is one mistake.
type Error struct {
	Line, Column int    // from 1; Column counts characters, not bytes
	Text         string // such as: unknown field "nmae" (did you mean "name"?)
}

// Error is line:column: text.
func (e Error) Error() string { return fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Text) }

// Errorf returns an Error at n.
func Errorf(n *yaml.Node, format string, args ...any) Error {
	return Pos{n.Line, n.Column}.Errorf(format, args...)
}

// Errors is every mistake of a file, in order of position.
type Errors []Error

// Error is one line for each mistake.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, one := range e {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Prefixed returns a copy of e with prefix before each text.
func (e Errors) Prefixed(prefix string) Errors {
	out := slices.Clone(e)
	for i := range out {
		out[i].Text = prefix + out[i].Text
	}
	return out
}

// Sorted returns a copy of e in order of position, each mistake once.
func (e Errors) Sorted() Errors {
	out := slices.Clone(e)
	slices.SortStableFunc(out, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return slices.Compact(out)
}

// Err is e sorted, or nil if it is empty.
func (e Errors) Err() error {
	if len(e) == 0 {
		return nil
	}
	return e.Sorted()
}

// A Pos is a place in a file. The zero Pos is that of an absent field.
type Pos struct{ Line, Column int }

// Errorf returns an Error at p.
func (p Pos) Errorf(format string, args ...any) Error {
	return Error{Line: max(p.Line, 1), Column: max(p.Column, 1), Text: fmt.Sprintf(format, args...)}
}

// At is a value that knows where in the file it stands.
type At[T any] struct {
	Value T
	Pos
}

func (a *At[T]) place(n *yaml.Node) any {
	a.Pos = Pos{n.Line, n.Column}
	return &a.Value
}

type placer interface{ place(n *yaml.Node) any }

// Many is a list that may also be written as its one item, without brackets.
type Many[T any] []At[T]

func (*Many[T]) oneOrMany() {}

type oneOrMany interface{ oneOrMany() }

// Decode decodes n into v, a pointer to a struct with yaml tags. Fields whose Go type implements yaml.Unmarshaler
// decode themselves; v itself does not, so that its UnmarshalYAML may call Decode. With secretive set, no error
// repeats a value of the file. The error, if any, is an Errors. What is not mistaken is decoded all the same.
func Decode(n *yaml.Node, v any, secretive bool) error {
	if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		n = n.Content[0]
	}
	d := decoder{secretive: secretive}
	d.top(n, v)
	return d.errs.Err()
}

// asErrors gives an error from UnmarshalYAML a position.
func asErrors(n *yaml.Node, path string, err error) Errors {
	var many Errors
	var one Error
	var typed *yaml.TypeError
	switch {
	case errors.As(err, &many):
		return many
	case errors.As(err, &one):
		return Errors{one}
	case errors.As(err, &typed): // its text quotes values
		return Errors{Errorf(n, "%swrong type", path)}
	}
	return Errors{Errorf(n, "%s%s", path, err)}
}
