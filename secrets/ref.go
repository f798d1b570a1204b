package secrets

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"
	"unicode"

	"gopkg.in/yaml.v3"
)

// A Ref names a secret: scheme:name, or scheme:name#field for one field of a JSON secret. Refs are comparable.
// The zero Ref names nothing.
type Ref struct {
	Scheme  string // keyring, env, file or exec
	Name    string // for exec the argument list, as a JSON array
	Field   string
	TTL     time.Duration // exec only: how long a value is kept; 0 is the source's default
	Timeout time.Duration // exec only: how long the command may take; 0 is the source's default
}

// These errors never repeat what was written: it may be a secret in the wrong place.
var (
	errLiteral = errors.New(`not a reference: write keyring:NAME, env:NAME, file:PATH or {exec: [cmd, args]}, never the secret itself ` +
		`(store it with "credproxy secret set NAME")`)
	errExecForm = errors.New("a command is written as a list: {exec: [cmd, args]}")
	errField    = errors.New("the field after # must be 1 to 128 printable characters")
)

const (
	maxField   = 128
	maxArgs    = 64
	maxTTL     = 24 * time.Hour
	maxTimeout = 5 * time.Minute
)

// ParseRef parses the plain form of a reference. Its errors never repeat s.
func ParseRef(s string) (Ref, error) {
	scheme, name, ok := strings.Cut(s, ":")
	if !ok {
		return Ref{}, errLiteral
	}
	src := sourceOf(scheme)
	if src == nil {
		if near := nearestScheme(scheme); near != "" {
			return Ref{}, fmt.Errorf("unknown kind of reference (did you mean %q?)", near+":")
		}
		return Ref{}, errLiteral
	}
	if src.check == nil {
		return Ref{}, errExecForm
	}
	r := Ref{Scheme: scheme, Name: name}
	if i := strings.LastIndexByte(name, '#'); i >= 0 {
		r.Name, r.Field = name[:i], name[i+1:]
		if err := checkField(r.Field); err != nil {
			return Ref{}, err
		}
	}
	if err := src.check(r.Name); err != nil {
		return Ref{}, err
	}
	return r, nil
}

func checkField(field string) error {
	if field == "" || len(field) > maxField || strings.ContainsFunc(field, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return errField
	}
	return nil
}

// UnmarshalYAML accepts references only, as a plain scalar or as {exec: [cmd, args], ttl, timeout, field}.
// Its errors have no position and never repeat the text.
func (r *Ref) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	var (
		ref Ref
		err error
	)
	switch {
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str":
		ref, err = ParseRef(n.Value)
	case n.Kind == yaml.MappingNode:
		ref, err = parseExec(n)
	default:
		err = errLiteral
	}
	if err != nil {
		return err
	}
	*r = ref
	return nil
}

// parseExec reads the mapping form. Unknown names are not repeated either.
func parseExec(n *yaml.Node) (Ref, error) {
	r := Ref{Scheme: "exec"}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i].Value, n.Content[i+1]
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		if seen[key] {
			return Ref{}, errors.New("a field of an exec reference is given twice")
		}
		seen[key] = true
		var err error
		switch key {
		case "exec":
			r.Name, err = parseArgs(value)
		case "ttl":
			r.TTL, err = parseDuration("ttl", value, maxTTL)
		case "timeout":
			r.Timeout, err = parseDuration("timeout", value, maxTimeout)
		case "field":
			r.Field, err = value.Value, checkField(value.Value)
		default:
			err = errors.New("unknown field in an exec reference: it has exec, ttl, timeout and field")
		}
		if err != nil {
			return Ref{}, err
		}
	}
	if r.Name == "" {
		return Ref{}, errLiteral
	}
	return r, nil
}

func parseArgs(n *yaml.Node) (string, error) {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		return "", errExecForm
	}
	if len(n.Content) > maxArgs {
		return "", fmt.Errorf("a command has at most %d arguments", maxArgs)
	}
	args := make([]string, 0, len(n.Content))
	for _, a := range n.Content {
		if a.Kind == yaml.AliasNode {
			a = a.Alias
		}
		if a.Kind != yaml.ScalarNode || a.ShortTag() == "!!null" || strings.ContainsRune(a.Value, 0) {
			return "", errors.New("each part of a command is plain text")
		}
		args = append(args, a.Value)
	}
	if err := checkCommand(args[0]); err != nil {
		return "", err
	}
	b, err := json.Marshal(args)
	return string(b), err
}

func parseDuration(name string, n *yaml.Node, limit time.Duration) (time.Duration, error) {
	d, err := time.ParseDuration(n.Value)
	if err != nil || d <= 0 || d > limit {
		return 0, fmt.Errorf("%s must be a duration such as 30s, above zero and at most %s", name, limit)
	}
	return d, nil
}

// IsZero reports whether r names nothing.
func (r Ref) IsZero() bool { return r == Ref{} }

var plainCommand = regexp.MustCompile(`^[A-Za-z0-9._-]{1,32}$`)

// String is r as people write it. It never shows an exec reference's arguments.
func (r Ref) String() string {
	if r.IsZero() {
		return ""
	}
	name := r.Name
	if r.Scheme == "exec" {
		name = "…"
		var args []string
		if json.Unmarshal([]byte(r.Name), &args) == nil && len(args) > 0 {
			// Anything but a plain program name may be a whole command line in the wrong place.
			if base := filepath.Base(args[0]); plainCommand.MatchString(base) {
				name = base
			}
		}
	}
	if r.Field != "" {
		name += "#" + r.Field
	}
	return r.Scheme + ":" + name
}

// GoString keeps %#v from showing an exec reference's arguments.
func (r Ref) GoString() string { return r.String() }

// MarshalText is String, so that encoders show no more than printers.
func (r Ref) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// otherNames are what people call a source elsewhere.
var otherNames = map[string]string{
	"keychain": "keyring", "wincred": "keyring", "secret": "keyring", "secrets": "keyring", "secret-service": "keyring",
	"environ": "env", "environment": "env", "envvar": "env", "path": "file", "cmd": "exec", "command": "exec",
}

// nearestScheme is the scheme that was probably meant, or "".
func nearestScheme(s string) string {
	s = strings.ToLower(s)
	if to, ok := otherNames[s]; ok {
		return to
	}
	best, least := "", 3
	for _, name := range Sources() {
		if d := distance(s, name); d < least && d < len(name) {
			best, least = name, d
		}
	}
	return best
}

// distance is the Levenshtein distance of two short strings.
func distance(a, b string) int {
	if len(a) > 32 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
