package rules

import (
	"errors"
	"fmt"
	"strings"

	"github.com/credproxy/credproxy/internal/strict"
)

// A FileError is every mistake of a rules file.
type FileError struct {
	Path     string
	Mistakes []Mistake

	cause error    // why the file could not be read, or nil
	files []string // what the file refers to, so that a change there is noticed
}

// A Mistake is one mistake, with the source line it stands on.
type Mistake struct {
	Path   string `json:"path"`
	Line   int    `json:"line"`   // from 1; 0 if it concerns the file as a whole
	Column int    `json:"column"` // in characters, from 1
	Text   string `json:"message"`

	// Source is the source line, in which "…" stands for whatever could be a secret: all values under inject, what
	// strict decoding does not know, comments. It is empty if nothing of it can be shown.
	Source string `json:"-"`
	Caret  int    `json:"-"` // the column in Source, from 1; 0 if Source is empty
}

// String is path:line:column: text, without the source line.
func (m Mistake) String() string {
	if m.Line == 0 {
		return m.Path + ": " + m.Text
	}
	return fmt.Sprintf("%s:%d:%d: %s", m.Path, m.Line, m.Column, m.Text)
}

// Error is every mistake, each with its source line and a mark below it.
func (e *FileError) Error() string {
	var b strings.Builder
	for i, m := range e.Mistakes {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(m.String())
		if m.Source != "" {
			fmt.Fprintf(&b, "\n    %s\n    %s^", m.Source, strings.Repeat(" ", m.Caret-1))
		}
	}
	return b.String()
}

// Unwrap gives the cause to errors.Is, if the file could not be read.
func (e *FileError) Unwrap() error { return e.cause }

// Slug is rules_invalid.
func (e *FileError) Slug() string { return "rules_invalid" }

// Hint is the next command to type.
func (e *FileError) Hint() string {
	if found, ok := errors.AsType[exposed](e.cause); ok {
		var all []string
		for _, f := range found {
			all = append(all, f.Next)
		}
		return strings.Join(all, "\n")
	}
	if e.cause != nil {
		return "ls -ld " + shellQuote(e.Path)
	}
	return "credproxy check --rules " + shellQuote(e.Path)
}

func newFileError(path string, errs strict.Errors, show func(line, column int) (string, int)) *FileError {
	e := &FileError{Path: path}
	for _, one := range errs.Sorted() {
		m := Mistake{Path: path, Line: one.Line, Column: one.Column, Text: one.Text}
		m.Source, m.Caret = show(m.Line, m.Column)
		e.Mistakes = append(e.Mistakes, m)
	}
	return e
}
