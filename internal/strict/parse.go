package strict

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// MaxSize is how many bytes Parse accepts.
const MaxSize = 1 << 20

// Parse reads the one YAML document in data and returns its root, which is not a document node. A byte order mark
// and CRLF line ends are fine. The error, if any, is an Errors, and never quotes data.
func Parse(data []byte) (*yaml.Node, error) {
	if len(data) > MaxSize {
		return nil, Errors{{1, 1, "the file is larger than 1 MiB"}}
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if e, bad := notText(data); bad {
		return nil, Errors{e}
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, Errors{{1, 1, "the file is empty"}}
	case err != nil:
		return nil, Errors{syntaxError(data, err)}
	}
	switch err := d.Decode(&second); {
	case err == nil:
		return nil, Errors{Errorf(&second, "a second document starts here; a file holds one")}
	case !errors.Is(err, io.EOF):
		return nil, Errors{syntaxError(data, err)}
	}
	if len(doc.Content) != 1 || isNull(doc.Content[0]) {
		return nil, Errors{{1, 1, "the file is empty"}}
	}
	return doc.Content[0], nil
}

// notText finds the first byte that is not UTF-8 or not allowed in YAML 1.2 (section 5.1).
func notText(data []byte) (Error, bool) {
	line, column := 1, 1
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		switch {
		case r == utf8.RuneError && size == 1:
			return Error{line, column, "the file is not UTF-8 here"}, true
		case r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0x7f:
			return Error{line, column, "a control character is not allowed here"}, true
		case r == '\n':
			line, column = line+1, 0
		}
		column++
		data = data[size:]
	}
	return Error{}, false
}

// What yaml.v3 says, and what we say. Its own texts have no column and can quote the file.
var syntaxTexts = []struct{ theirs, ours string }{
	{"mapping values are not allowed", `a ": " is not allowed here; put the value in quotes, or mind the indentation`},
	{"mapping keys are not allowed", `a "? " is not allowed here`},
	{"block sequence entries are not allowed", `a "- " is not allowed here; mind the indentation`},
	{"cannot start any token", "a value cannot start with this character; put it in quotes"},
	{"unknown anchor", "anchors and aliases are not supported; write the value out"},
	{"could not find expected ':'", `a ":" is missing after the field's name`},
	{"found unexpected end of stream", "a quote is opened here and never closed"},
	{"found unknown escape character", "unknown escape in double quotes; use single quotes"},
	{"expected ',' or '}'", `a "," or "}" is missing`},
	{"expected ',' or ']'", `a "," or "]" is missing`},
	{"did not find expected '-' indicator", `a "- " is expected here; mind the indentation`},
	{"did not find expected key", "a field's name is expected here; mind the indentation"},
	{"did not find expected node content", "a value is expected here"},
	{"exceeded max depth", "too many levels"},
}

var (
	theirLine = regexp.MustCompile(`^yaml: line (\d+): `)
	tabIndent = regexp.MustCompile(`^ *\t`)
)

func syntaxError(data []byte, err error) Error {
	text := "this is not valid YAML"
	for _, t := range syntaxTexts {
		if strings.Contains(err.Error(), t.theirs) {
			text = t.ours
			break
		}
	}
	lines := strings.SplitAfter(string(data), "\n")
	line := 1
	if m := theirLine.FindStringSubmatch(err.Error()); m != nil {
		line, _ = strconv.Atoi(m[1])
	}
	line = min(max(line, firstBad(lines)), len(lines))
	for line > 1 && strings.TrimSpace(lines[line-1]) == "" {
		line--
	}
	if tabIndent.MatchString(lines[line-1]) {
		text = "a tab is not allowed in the indentation; use spaces"
	}
	return Error{line, columnOf(lines[line-1], err.Error()), text}
}

// firstBad returns the line on which the construct begins that makes the text invalid: the lines before it are
// valid without it. yaml.v3 names the line where the surrounding block begins, or one too few.
func firstBad(lines []string) int {
	const most, ahead = 2000, 40 // keeps the work to a fraction of a second; beyond, yaml.v3's own line has to do
	if len(lines) > most {
		return 1
	}
	good, bad := 0, len(lines)
	for bad-good > 1 {
		if mid := (good + bad) / 2; valid(lines[:mid]) {
			good = mid
		} else {
			bad = mid
		}
	}
	// The search may have stopped in a construct of several lines that is closed further down.
	for next := good + 2; next <= min(good+ahead, len(lines)-1); next++ {
		if valid(lines[:next]) {
			good = next
		}
	}
	return good + 1
}

func valid(lines []string) bool {
	var n yaml.Node
	return yaml.Unmarshal([]byte(strings.Join(lines, "")), &n) == nil
}

// columnOf finds the likely place in line of what yaml.v3 complains about.
func columnOf(line, complaint string) int {
	at := len(line) - len(strings.TrimLeft(line, " \t"))
	switch {
	case tabIndent.MatchString(line):
		at = strings.IndexByte(line, '\t')
	case strings.Contains(complaint, "mapping values are not allowed"):
		if first := strings.Index(line, ": "); first >= 0 {
			at = first
			if second := strings.Index(line[first+2:], ": "); second >= 0 {
				at = first + 2 + second
			}
		}
	case strings.Contains(complaint, "found unexpected end of stream"):
		if quote := strings.IndexAny(line, `"'`); quote >= 0 {
			at = quote
		}
	case strings.Contains(complaint, "cannot start any token"):
		if odd := strings.IndexAny(line, "@`%"); odd >= 0 {
			at = odd
		}
	case strings.Contains(complaint, "expected ',' or"):
		if open := strings.IndexAny(line, "[{"); open >= 0 {
			at = open
		}
	case strings.Contains(complaint, "unknown anchor"):
		if star := strings.IndexByte(line, '*'); star >= 0 {
			at = star
		}
	}
	return utf8.RuneCountInString(line[:at]) + 1
}
