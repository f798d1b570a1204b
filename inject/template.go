package inject

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/credproxy/credproxy/internal/strict"
)

// A template is text with placeholders for what a request is made of. The zero template is empty.
type template struct {
	source  string
	parts   []templatePart
	headers []string // that are read
	query   bool     // the query is read
	body    bool     // the body is read
}

// A templatePart is text and then, if write is not nil, a placeholder.
type templatePart struct {
	text  string
	write func(out []byte, s *signing) []byte
}

// A signing is what the templates of one credential say of one request: all of them the same time and nonce.
type signing struct {
	req      *http.Request
	body     []byte
	now      time.Time
	nonce    string // empty: none yet
	newNonce func() string
}

// A placeholder is what stands for one name.
type placeholder struct {
	write       func(out []byte, s *signing) []byte
	query, body bool // what it reads
	longText    bool // for messages only: a header may be too small for it, or change it
}

// placeholders is every name that a template may have, except for those of headers.
var placeholders = map[string]placeholder{
	"method": {write: func(out []byte, s *signing) []byte { return append(out, s.req.Method...) }},
	"host":   {write: func(out []byte, s *signing) []byte { return append(out, hostOf(s.req)...) }},
	"path":   {write: appendPath, longText: true},
	"query":  {write: func(out []byte, s *signing) []byte { return append(out, s.req.URL.RawQuery...) }, query: true, longText: true},
	"target": {write: func(out []byte, s *signing) []byte { return append(out, s.req.URL.RequestURI()...) }, query: true, longText: true},

	"timestamp":            {write: func(out []byte, s *signing) []byte { return strconv.AppendInt(out, s.now.Unix(), 10) }},
	"timestamp_ms":         {write: func(out []byte, s *signing) []byte { return strconv.AppendInt(out, s.now.UnixMilli(), 10) }},
	"timestamp_rfc3339":    {write: appendTime("2006-01-02T15:04:05Z")},
	"timestamp_rfc3339_ms": {write: appendTime("2006-01-02T15:04:05.000Z")},
	"timestamp_http":       {write: appendTime(http.TimeFormat)},
	"nonce":                {write: appendNonce},

	"body":               {write: func(out []byte, s *signing) []byte { return append(out, s.body...) }, body: true, longText: true},
	"body_md5_hex":       {write: appendDigest(md5.New, hex.AppendEncode), body: true},
	"body_md5_base64":    {write: appendDigest(md5.New, base64.StdEncoding.AppendEncode), body: true},
	"body_sha1_hex":      {write: appendDigest(sha1.New, hex.AppendEncode), body: true},
	"body_sha1_base64":   {write: appendDigest(sha1.New, base64.StdEncoding.AppendEncode), body: true},
	"body_sha256_hex":    {write: appendDigest(sha256.New, hex.AppendEncode), body: true},
	"body_sha256_base64": {write: appendDigest(sha256.New, base64.StdEncoding.AppendEncode), body: true},
	"body_sha512_hex":    {write: appendDigest(sha512.New, hex.AppendEncode), body: true},
	"body_sha512_base64": {write: appendDigest(sha512.New, base64.StdEncoding.AppendEncode), body: true},
}

func appendPath(out []byte, s *signing) []byte {
	if path := s.req.URL.EscapedPath(); path != "" {
		return append(out, path...)
	}
	return append(out, '/')
}

func appendTime(layout string) func([]byte, *signing) []byte {
	return func(out []byte, s *signing) []byte { return s.now.UTC().AppendFormat(out, layout) }
}

func appendNonce(out []byte, s *signing) []byte {
	if s.nonce == "" {
		s.nonce = s.newNonce()
	}
	return append(out, s.nonce...)
}

func appendDigest(h func() hash.Hash, encode func(dst, src []byte) []byte) func([]byte, *signing) []byte {
	return func(out []byte, s *signing) []byte {
		sum := h()
		sum.Write(s.body)
		return encode(out, sum.Sum(nil))
	}
}

// appendHeader is every value of a field, as one (RFC 9110 section 5.3), or nothing.
func appendHeader(name string) func([]byte, *signing) []byte {
	return func(out []byte, s *signing) []byte {
		for k, values := range s.req.Header {
			if strings.EqualFold(k, name) {
				return append(out, strings.Join(values, ", ")...)
			}
		}
		return out
	}
}

// parseTemplate reads {name} as a placeholder, and {{ and }} as a brace. Only a message may hold what no header can.
// Each of bad is one mistake; it repeats nothing of source that is not like a placeholder's name.
func parseTemplate(source string, message bool) (t template, bad []string) {
	t.source = source
	var text []byte
	mistake := func(at int, what string) {
		bad = append(bad, fmt.Sprintf("character %d: %s", utf8.RuneCountInString(source[:at])+1, what))
	}
	for i := 0; i < len(source); i++ {
		c := source[i]
		switch {
		case c != '{' && c != '}':
			text = append(text, c)
		case i+1 < len(source) && source[i+1] == c:
			text = append(text, c)
			i++
		case c == '}':
			mistake(i, "a } without its {; for a brace itself write }}")
		default:
			name, _, ok := strings.Cut(source[i+1:], "}")
			if !ok || strings.Contains(name, "{") {
				mistake(i, "a { without its }; for a brace itself write {{")
				continue
			}
			if why := t.add(string(text), name, message); why != "" {
				mistake(i, why)
			}
			text = text[:0]
			i += len(name) + 1
		}
	}
	if len(text) > 0 {
		t.parts = append(t.parts, templatePart{text: string(text)})
	}
	return t, bad
}

// add adds text and the placeholder called name, or returns what is wrong with the name.
func (t *template) add(text, name string, message bool) (bad string) {
	if header, ok := strings.CutPrefix(name, "header:"); ok {
		if why := badHeaderName(header); why != "" {
			return "the name after header: " + why
		}
		if !message {
			return "{header:…} can stand in a message only"
		}
		t.headers = append(t.headers, header)
		t.parts = append(t.parts, templatePart{text, appendHeader(header)})
		return ""
	}
	p, ok := placeholders[name]
	switch {
	case !ok:
		return unknownPlaceholder(name)
	case p.longText && !message:
		return "{" + name + "} can stand in a message only"
	}
	t.query, t.body = t.query || p.query, t.body || p.body
	t.parts = append(t.parts, templatePart{text, p.write})
	return ""
}

func unknownPlaceholder(name string) string {
	known := slices.Sorted(maps.Keys(placeholders))
	if near := strict.Nearest(name, known); near != "" {
		return "unknown placeholder {" + name + "} (did you mean {" + near + "}?)"
	}
	quoted := ""
	if harmless.MatchString(name) {
		quoted = " {" + name + "}"
	}
	return "unknown placeholder" + quoted + " (known: " + strings.Join(known, ", ") + ", header:NAME)"
}

// fixed reports whether t has no placeholder.
func (t template) fixed() bool {
	return !slices.ContainsFunc(t.parts, func(p templatePart) bool { return p.write != nil })
}

// sample is t with an x in place of each placeholder.
func (t template) sample() string {
	var b strings.Builder
	for _, p := range t.parts {
		b.WriteString(p.text)
		if p.write != nil {
			b.WriteByte('x')
		}
	}
	return b.String()
}

// appendTo adds to out what t says of a request.
func (t template) appendTo(out []byte, s *signing) []byte {
	for _, p := range t.parts {
		out = append(out, p.text...)
		if p.write != nil {
			out = p.write(out, s)
		}
	}
	return out
}
