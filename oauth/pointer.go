package oauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
)

// A Pointer names a value inside of a JSON document (RFC 6901), such as /data/token. The zero value is the whole document.
type Pointer string

// CheckPointer reports why p is no JSON pointer to something inside of a document.
func CheckPointer(p Pointer) error {
	if !strings.HasPrefix(string(p), "/") {
		return errors.New("want a JSON pointer such as /data/token (RFC 6901)")
	}
	for rest := string(p); ; {
		_, after, ok := strings.Cut(rest, "~")
		if !ok {
			return nil
		}
		if after == "" || after[0] != '0' && after[0] != '1' {
			return errors.New("want ~0 for ~ and ~1 for / in a JSON pointer (RFC 6901)")
		}
		rest = after
	}
}

var unescapePointer = strings.NewReplacer("~1", "/", "~0", "~")

// In is the value that p names in doc, or nil if there is none, or two.
func (p Pointer) In(doc []byte) json.RawMessage {
	here := json.RawMessage(doc)
	for _, step := range strings.Split(string(p), "/")[1:] {
		step = unescapePointer.Replace(step)
		switch here = bytes.TrimLeft(here, " \t\r\n"); {
		case len(here) > 0 && here[0] == '[':
			var list []json.RawMessage
			i, err := strconv.ParseUint(step, 10, 16)
			if err != nil || strconv.FormatUint(i, 10) != step || json.Unmarshal(here, &list) != nil || i >= uint64(len(list)) {
				return nil
			}
			here = list[i]
		default:
			fields, twice, err := members(here)
			if err != nil || twice[step] {
				return nil
			}
			here = fields[step]
		}
	}
	return here
}

// members takes a JSON object apart. Of a name that it has twice the last value counts, as for encoding/json.
func members(object []byte) (fields map[string]json.RawMessage, twice map[string]bool, err error) {
	if err := json.Unmarshal(object, &fields); err != nil {
		return nil, nil, err
	}
	if fields == nil {
		return nil, nil, errors.New("null is not an object")
	}
	twice = make(map[string]bool)
	seen := make(map[string]bool, len(fields))
	d := json.NewDecoder(bytes.NewReader(object))
	_, _ = d.Token() // the brace: it is known to be an object
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, nil, err
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, nil, err
		}
		s, _ := name.(string)
		twice[s] = seen[s] || twice[s]
		seen[s] = true
	}
	return fields, twice, nil
}
