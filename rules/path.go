package rules

import (
	"bytes"
	"strings"
)

// A pathPattern is one of a rule's paths.
type pathPattern struct {
	segments []segment
	rest     bool // the pattern ends in **
}

type segment struct {
	any  bool   // *
	text string // decoded
}

// match reports whether raw, a path as it stands in the request, is one of p's. It does not allocate.
func (p pathPattern) match(raw string) bool {
	left, more := strings.TrimPrefix(raw, "/"), true
	for _, s := range p.segments {
		if !more {
			return false
		}
		var one string
		one, left, more = strings.Cut(left, "/")
		if s.any && nameless(one) || !s.any && !decodesTo(one, s.text) {
			return false
		}
	}
	return p.rest || !more
}

// nameless reports whether a segment is empty, or holds nothing but parameters, which servers cut off.
func nameless(raw string) bool {
	c, _, ok := decodeByte(raw)
	return !ok || c == ';'
}

func decodesTo(raw, text string) bool {
	for len(raw) > 0 {
		c, size, _ := decodeByte(raw)
		if text == "" || text[0] != c {
			return false
		}
		raw, text = raw[size:], text[1:]
	}
	return text == ""
}

// decodeByte decodes the first byte of s, which takes size bytes; ok is false at the end.
func decodeByte(s string) (c byte, size int, ok bool) {
	if s == "" {
		return 0, 0, false
	}
	if s[0] == '%' && len(s) > 2 {
		hi, ok1 := unhex(s[1])
		lo, ok2 := unhex(s[2])
		if ok1 && ok2 {
			return hi<<4 | lo, 3, true
		}
	}
	return s[0], 1, true
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

func decode(dst []byte, s string) []byte {
	for len(s) > 0 {
		c, size, _ := decodeByte(s)
		dst, s = append(dst, c), s[size:]
	}
	return dst
}

// pathProblem says why raw cannot be compared with patterns, or nothing.
func pathProblem(raw string) string {
	if raw == "*" { // OPTIONS *
		return ""
	}
	if !strings.HasPrefix(raw, "/") {
		return "the path does not start with a slash"
	}
	for left, more := raw[1:], true; more; {
		var one string
		one, left, more = strings.Cut(left, "/")
		if problem := segmentProblem(one); problem != "" {
			return problem
		}
	}
	return ""
}

const dotSegment = `the path has a "." or ".." segment`

func segmentProblem(raw string) string {
	var buf [128]byte
	once := decode(buf[:0], raw)
	for i, c := range once {
		switch {
		case c < ' ' || c == 0x7f:
			return "the path has a control character"
		case c == '\\':
			return "the path has a backslash"
		case (c == 0xc0 || c == 0xc1) && i+1 < len(once) && once[i+1]&0xc0 == 0x80:
			return "the path has an overlong encoding" // of an ASCII character, such as "." or "/"
		}
	}
	if dots(once) {
		return dotSegment
	}
	// What a server that decodes twice would see.
	if bytes.IndexByte(once, '%') >= 0 && dots(decode(nil, string(once))) {
		return dotSegment
	}
	return ""
}

// dots reports whether a server might read a decoded segment as "." or "..": alone, before parameters, among
// spaces, or as a part between encoded slashes.
func dots(segment []byte) bool {
	if bytes.IndexByte(segment, '.') < 0 {
		return false
	}
	for left, more := segment, true; more; {
		var part []byte
		part, left, more = bytes.Cut(left, []byte{'/'})
		name, _, _ := bytes.Cut(part, []byte{';'})
		switch string(bytes.Trim(name, " ")) {
		case ".", "..":
			return true
		}
	}
	return bytes.IndexByte(segment, '/') >= 0 && bytes.Contains(segment, []byte(".."))
}

// lenient returns raw as a lenient server reads it, encoded so that match can read it: without empty segments,
// parameters, or dots and spaces at a segment's end, and with %2F as a separator. Servers differ in whether they
// cut parameters off before they decode.
func lenient(raw string, cutFirst bool) string {
	if !needsLenient(raw) {
		return raw
	}
	text := raw
	if cutFirst {
		var b strings.Builder
		for part := range strings.SplitSeq(raw, "/") {
			name, _, _ := strings.Cut(part, ";")
			b.WriteString(name + "/")
		}
		text = b.String()
	}
	var out strings.Builder
	for part := range strings.SplitSeq(string(decode(nil, text)), "/") {
		name, _, _ := strings.Cut(part, ";")
		if name = strings.TrimRight(name, ". "); name != "" {
			out.WriteString("/" + strings.ReplaceAll(name, "%", "%25"))
		}
	}
	if out.Len() == 0 {
		return "/"
	}
	return out.String()
}

func needsLenient(raw string) bool {
	return strings.ContainsAny(raw, "%; .") || strings.Contains(raw, "//") || strings.HasSuffix(raw, "/")
}
