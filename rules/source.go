package rules

import (
	"bytes"
	"regexp"
	"slices"
	"strings"

	"github.com/credproxy/credproxy/internal/strict"
	"gopkg.in/yaml.v3"
)

// A source shows lines of a rules file without anything that could be a secret.
type source struct {
	lines []string
	marks map[int][]mark // by line
}

// A mark is where a key or a value begins.
type mark struct {
	column int
	shown  bool
}

func newSource(data []byte, root *yaml.Node) *source {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	s := &source{lines: strings.Split(string(data), "\n"), marks: make(map[int][]mark)}
	if root != nil {
		s.walk(root, "")
	}
	for _, m := range s.marks {
		slices.SortStableFunc(m, func(a, b mark) int { return a.column - b.column })
	}
	return s
}

// The fields whose values cannot be secrets, if they look as they should, by their path in the file.
var shownFields = map[string]*regexp.Regexp{
	"version": word, "default": word,
	"rules.name": word, "rules.deny": prose, "rules.remove": word, "rules.on_existing": word,
	"rules.scrub": word, "rules.allow_http": word, "rules.allow_private": word, "rules.browser": word, "rules.inject": nil,
	"rules.match.host": hostname, "rules.match.scheme": word, "rules.match.port": word,
	"rules.match.methods": word, "rules.match.paths": address, "rules.match.clients": word,
	"rules.tls.ca": address, "rules.tls.cert": address, "rules.tls.server_name": word,
}

var (
	word     = regexp.MustCompile(`^[\pL\pN._*-]{0,100}$`)
	hostname = regexp.MustCompile(`^[^/?@=]*$`) // not a URL, in which each part can be secret
	address  = regexp.MustCompile(`^[^?@=]*$`)
	prose    = regexp.MustCompile(`^[^=]*$`)
)

// walk marks every scalar below n, which stands at path.
func (s *source) walk(n *yaml.Node, path string) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			at := strings.TrimPrefix(path+"."+key.Value, ".")
			s.mark(key, strict.Harmless(key, value) || knownField(at))
			s.walk(value, at)
		}
	case yaml.SequenceNode:
		for _, item := range n.Content {
			s.walk(item, path)
		}
	default:
		pattern := shownFields[path]
		s.mark(n, pattern != nil && pattern.MatchString(n.Value))
	}
}

func knownField(path string) bool {
	for known := range shownFields {
		if known == path || strings.HasPrefix(known, path+".") {
			return true
		}
	}
	return false
}

func (s *source) mark(n *yaml.Node, shown bool) {
	if n.Kind == yaml.ScalarNode && n.Value == "" && n.Style == 0 { // an absent value has no place of its own
		return
	}
	s.marks[n.Line] = append(s.marks[n.Line], mark{n.Column, shown})
}

var (
	comment = regexp.MustCompile(`(^|\s)#.*$`)
	keyOnly = regexp.MustCompile(`^(\s*(?:- +)*)([a-z][a-z_]*): `)
)

// show returns the line and the column in it, shifted by what is left out.
func (s *source) show(line, column int) (string, int) {
	if line < 1 || line > len(s.lines) || column < 1 {
		return "", 0
	}
	text := []rune(strings.TrimRight(s.lines[line-1], " \t\r"))
	marks := s.marks[line]
	if len(marks) == 0 {
		return showUnparsed(string(text), column)
	}
	first := min(marks[0].column-1, len(text))
	out, caret := slices.Clone(text[:first]), min(column, first+1)
	for i, m := range marks {
		end := len(text)
		if i+1 < len(marks) {
			end = min(marks[i+1].column-1, end)
		}
		start := min(m.column-1, end)
		if column-1 >= start {
			caret = len(out) + 1
		}
		if !m.shown {
			out = append(out, '…')
			if end < len(text) {
				out = append(out, ' ')
			}
			continue
		}
		if column-1 >= start {
			caret += min(column-1, end) - start
		}
		part := string(text[start:end])
		out = append(out, []rune(comment.ReplaceAllString(part, ""))...)
	}
	return string(out), min(caret, len(out)+1)
}

// showUnparsed shows of a line that is no valid YAML, or holds no value, the field's name.
func showUnparsed(line string, column int) (string, int) {
	m := keyOnly.FindStringSubmatch(line)
	if m == nil {
		return "", 0
	}
	shown := m[0] + "…"
	return shown, min(column, len([]rune(shown)))
}
