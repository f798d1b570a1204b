// Package strict decodes YAML with no silent mistakes: unknown and duplicate fields, wrong types and second
// documents are errors, all of them reported at once, each with its position.
package strict

import "gopkg.in/yaml.v3"

// An Error is one mistake.
type Error struct {
	Line, Column int
	Text         string // such as: unknown field "nmae" (did you mean "name"?)
}

func (e Error) Error() string { panic("stub") }

// Errors is every mistake of a file, in order of position.
type Errors []Error

func (e Errors) Error() string { panic("stub") }

// Decode decodes n into v, a pointer to a struct with yaml tags. Fields whose Go type implements yaml.Unmarshaler
// decode themselves. With secretive set, no error repeats a value of the file. The error, if any, is an Errors.
func Decode(n *yaml.Node, v any, secretive bool) error { panic("stub") }

// Nearest returns the candidate that name was most likely meant to be, or "".
func Nearest(name string, candidates []string) string { panic("stub") }
