package secrets

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
)

var (
	errNotObject = errors.New("not a JSON object")
	errNoField   = errors.New("no such field")
	errNotScalar = errors.New("neither a string nor a number")
)

// findField returns where the value of a JSON object's field stands in doc. Of two fields of one name the last
// counts, as for encoding/json.
func findField(doc, name string) (start, end int, err error) {
	dec := json.NewDecoder(bytes.NewReader([]byte(doc)))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return 0, 0, errNotObject
	}
	found := false
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return 0, 0, errNotObject
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return 0, 0, errNotObject
		}
		if key == name {
			found, end = true, int(dec.InputOffset())
			start = end - len(raw)
		}
	}
	if _, err := dec.Token(); err != nil {
		return 0, 0, errNotObject
	}
	if !found {
		return 0, 0, errNoField
	}
	return start, end, nil
}

// field is one field of the JSON object doc: a string, or a number as it is written.
func field(doc, name string) (string, error) {
	start, end, err := findField(doc, name)
	if err != nil {
		return "", err
	}
	raw := doc[start:end]
	switch c := raw[0]; {
	case c == '"':
		var s string
		err := json.Unmarshal([]byte(raw), &s)
		return s, err
	case c == '-' || '0' <= c && c <= '9':
		return raw, nil
	}
	return "", errNotScalar
}

// withField is doc with a field's value replaced and all else as it was.
func withField(doc, name, value string) (string, error) {
	start, end, err := findField(doc, name)
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(value)
	if err != nil {
		return "", err
	}
	return doc[:start] + string(b) + doc[end:], nil
}

// putField is doc, a JSON object or nothing, with a field set that may be new.
func putField(doc, name, value string) (out string, replaced bool, err error) {
	if doc == "" {
		doc = "{}"
	}
	out, err = withField(doc, name, value)
	switch {
	case !errors.Is(err, errNoField):
		return out, err == nil, err
	case !json.Valid([]byte(doc)): // something stands behind it
		return "", false, errNotObject
	}
	pair, err := json.Marshal(map[string]string{name: value})
	if err != nil {
		return "", false, err
	}
	open := strings.LastIndexByte(doc, '}')
	before := strings.TrimRight(doc[:open], " \t\r\n")
	if !strings.HasSuffix(before, "{") {
		before += ","
	}
	return before + string(pair[1:len(pair)-1]) + doc[open:], false, nil
}

// withoutField is doc without a field, and whether another is left. What is left keeps its order.
func withoutField(doc, name string) (rest string, left bool, err error) {
	if _, _, err := findField(doc, name); err != nil {
		return "", false, err
	}
	dec := json.NewDecoder(strings.NewReader(doc))
	if _, err := dec.Token(); err != nil {
		return "", false, errNotObject
	}
	var pairs []string
	for dec.More() {
		key, err := dec.Token()
		var raw json.RawMessage
		if err == nil {
			err = dec.Decode(&raw)
		}
		if err != nil {
			return "", false, errNotObject
		}
		if key == name {
			continue
		}
		quoted, err := json.Marshal(key)
		if err != nil {
			return "", false, err
		}
		pairs = append(pairs, string(quoted)+":"+string(raw))
	}
	return "{" + strings.Join(pairs, ",") + "}", len(pairs) > 0, nil
}

// pick is the part of a secret that ref asks for. Its error names the field, never the value.
func pick(ref Ref, whole Value) (Value, error) {
	if ref.Field == "" {
		return whole, nil
	}
	s, err := field(whole.Reveal(), ref.Field)
	switch {
	case errors.Is(err, errNoField):
		return Value{}, &Error{Kind: ErrNotFound, Why: "the secret has no field " + ref.Field, Next: nextFor(ErrNotFound, ref)}
	case errors.Is(err, errNotScalar):
		return Value{}, &Error{Kind: ErrInvalid, Why: "field " + ref.Field + " is neither a string nor a number"}
	case err != nil:
		return Value{}, &Error{Kind: ErrInvalid, Why: "the secret is not a JSON object, so it has no field " + ref.Field}
	case s == "":
		return Value{}, &Error{Kind: ErrInvalid, Why: "field " + ref.Field + " is empty"}
	}
	return NewValue(s).bound(whole.hosts), nil
}

// nextFor is the next command to type after a failure, or "".
func nextFor(kind error, ref Ref) string {
	if ref.Scheme != "keyring" {
		return ""
	}
	switch kind {
	case ErrNotFound, ErrCorrupt, ErrInvalid:
		return "credproxy secret set " + ref.Name
	}
	return ""
}
