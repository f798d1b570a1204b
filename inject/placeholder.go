package inject

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

type placeholderSettings struct {
	Placeholder strict.At[string]   `yaml:"placeholder" need:"true"`
	Value       secrets.Ref         `yaml:"value" need:"true"`
	In          strict.Many[string] `yaml:"in" need:"true"`
	Headers     strict.Many[string] `yaml:"headers" some:"true"`
	Env         strict.At[string]   `yaml:"env"`
}

// A replacer puts a secret where the client wrote a marker, and nowhere else.
type replacer struct {
	env     Env
	ref     secrets.Ref
	marker  Marker
	in      []string
	headers []string // in which alone markers count; empty: all
}

// A Marker is the text that a credential of the type placeholder waits for. It is no secret.
type Marker struct {
	Text string
	Env  string     // the variable under which programs get Text; empty: none
	At   strict.Pos // of Env in the rules file
	In   []string   // header, basic, path, query, body

	headers []string
}

// MarkerOf is the marker that c waits for, if it does.
func MarkerOf(c Credential) (m Marker, ok bool) {
	wrapped, ok := c.(*credential)
	if !ok {
		return Marker{}, false
	}
	p, ok := wrapped.method.(*replacer)
	if !ok {
		return Marker{}, false
	}
	m = p.marker
	m.In, m.headers = p.in, p.headers
	return m, true
}

// markerPlaces is every value of the field in. Each puts the value in place of the markers that stand there. The inside
// of Basic comes before the headers, so that no header's new value is taken apart.
var markerPlaces = []struct {
	in  string
	put func(p *replacer, s *swap) error
}{
	{"basic", (*replacer).inBasic},
	{"header", (*replacer).inHeader},
	{"path", (*replacer).inPath},
	{"query", (*replacer).inQuery},
	{"body", (*replacer).inBody},
}

var markerText = regexp.MustCompile(`^[A-Za-z0-9_]{8,64}$`)

// badMarker: two underscores in a row keep ordinary words and names out.
func badMarker(s string) string {
	if !markerText.MatchString(s) || !strings.Contains(s, "__") || strings.Trim(s, "_") == "" {
		return "want 8 to 64 letters, digits and underscores, with two underscores in a row and not only these, such as __slack__"
	}
	return ""
}

func newPlaceholder(s placeholderSettings, _ *yaml.Node, env Env) (method, strict.Errors) {
	p := &replacer{env: env, ref: s.Value, marker: Marker{Text: s.Placeholder.Value, Env: s.Env.Value, At: s.Env.Pos}}
	var errs strict.Errors
	if bad := badMarker(s.Placeholder.Value); s.Placeholder.Value != "" && bad != "" {
		errs = append(errs, s.Placeholder.Errorf("placeholder: %s", bad))
	}
	errs = append(errs, s.places(p)...)
	for _, h := range s.Headers {
		bad := badHeaderName(h.Value)
		switch {
		case bad == "" && (describesBody(h.Value)):
			bad = "says of what kind the body is"
		case bad == "" && slices.ContainsFunc(p.headers, func(name string) bool { return SameField(name, h.Value) }):
			bad = "stands here twice"
		}
		if bad != "" {
			errs = append(errs, h.Errorf("headers: %s", bad))
		}
		p.headers = append(p.headers, h.Value)
	}
	if len(s.Headers) > 0 && len(s.In) > 0 && !slices.Contains(p.in, "header") {
		errs = append(errs, s.Headers[0].Errorf("headers: is used only with header in the field in"))
	}
	if bad := badVariable(s.Env.Value); s.Env.Line != 0 && bad != "" {
		errs = append(errs, s.Env.Errorf("env: %s", bad))
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return p, nil
}

// places reads the field in.
func (s placeholderSettings) places(p *replacer) (errs strict.Errors) {
	known := []string{"header", "basic", "path", "query", "body"}
	var wanted []string
	for _, in := range s.In {
		switch {
		case in.Value == "": // reported by strict, or an empty item
			errs = append(errs, in.Errorf("in: want %s", strict.Choice(known)))
		case !slices.Contains(known, in.Value):
			tail := ""
			if near := strict.Nearest(in.Value, known); near != "" {
				tail = fmt.Sprintf(" (did you mean %q?)", near)
			}
			errs = append(errs, in.Errorf("in: want %s%s", strict.Choice(known), tail))
		case slices.Contains(wanted, in.Value):
			errs = append(errs, in.Errorf("in: stands here twice"))
		}
		wanted = append(wanted, in.Value)
	}
	p.in = slices.DeleteFunc(known, func(in string) bool { return !slices.Contains(wanted, in) })
	return errs
}

// Apply uses nothing, and leaves req alone, if the marker stands in none of the places.
func (p *replacer) Apply(req *http.Request) ([]secrets.Value, error) {
	s := &swap{req: req}
	for _, place := range markerPlaces {
		if !slices.Contains(p.in, place.in) {
			continue
		}
		if err := place.put(p, s); err != nil {
			return nil, err
		}
	}
	return s.used, nil
}

func (p *replacer) Reject(used []secrets.Value) { rejectFirst(p.env, p.ref, used) }

func (p *replacer) Targets() []Target {
	var out []Target
	for _, in := range p.in {
		out = append(out, Target{in + " marker", p.marker.Text, shown(p.ref)})
	}
	return out
}

// maxGrowth bounds by how much a request's head grows: a client may write the marker many times. So that there is a bound
// for that too, each counts for leastGrowth.
const (
	maxGrowth   = 128 << 10
	leastGrowth = 128
)

// A swap is one request on which a marker is looked for.
type swap struct {
	req  *http.Request
	used []secrets.Value // the value first, then its encoded forms
	room int             // what the head has grown by so far
}

// value is what stands in place of n markers in the head, or in the body if n is 0.
func (s *swap) value(p *replacer, n int, bad func(string) string, encode func(string) string) (string, error) {
	v, err := p.env.use(s.req.Context(), p.ref, func(text string) string {
		if strings.Contains(text, p.marker.Text) {
			return "it holds the placeholder" // from a variable that credproxy env has set
		}
		return bad(text)
	})
	if err != nil {
		return "", err
	}
	encoded := encode(v.Reveal())
	if s.room += n * max(len(encoded)-len(p.marker.Text), leastGrowth); s.room > maxGrowth {
		return "", &misfit{"header_too_large", fmt.Sprintf("with all its placeholders replaced, the request's head would grow by more than %d KiB", maxGrowth>>10),
			"write the placeholder only where the API wants the secret"}
	}
	s.note(v)
	s.note(secrets.NewValue(encoded))
	return encoded, nil
}

// note adds v to what was used.
func (s *swap) note(v secrets.Value) {
	if !slices.ContainsFunc(s.used, v.Equal) {
		s.used = append(s.used, v)
	}
}

// inHeader never touches what frames the message or says where it goes.
func (p *replacer) inHeader(s *swap) error {
	for name, values := range s.req.Header {
		if badHeaderName(name) != "" || describesBody(name) || !p.mayStandIn(name) {
			continue
		}
		bad := badHeaderValue
		if SameField(name, "Cookie") {
			bad = badCookieValue
		}
		for i, text := range values {
			n := strings.Count(text, p.marker.Text)
			if n == 0 {
				continue
			}
			put, err := s.value(p, n, bad, asIs)
			if err != nil {
				return err
			}
			values[i] = strings.ReplaceAll(text, p.marker.Text, put)
		}
	}
	return nil
}

func (p *replacer) mayStandIn(header string) bool {
	return len(p.headers) == 0 || slices.ContainsFunc(p.headers, func(name string) bool { return SameField(name, header) })
}

// describesBody: whoever puts a secret there changes what the body is.
func describesBody(header string) bool {
	return SameField(header, "Content-Type") || SameField(header, "Content-Encoding")
}

// inBasic looks into the user name and the password of RFC 7617 section 2.
func (p *replacer) inBasic(s *swap) error {
	for name, values := range s.req.Header {
		if !SameField(name, "Authorization") {
			continue
		}
		for i, text := range values {
			scheme, encoded, _ := strings.Cut(text, " ")
			pair, err := base64.StdEncoding.Strict().DecodeString(strings.Trim(encoded, " "))
			if !strings.EqualFold(scheme, "Basic") || err != nil || !strings.Contains(string(pair), p.marker.Text) {
				continue
			}
			user, password, colon := strings.Cut(string(pair), ":")
			if user, err = p.inPart(s, user, badUsername); err != nil {
				return err
			}
			if password, err = p.inPart(s, password, badPassword); err != nil {
				return err
			}
			if colon {
				user += ":" + password
			}
			out := base64.StdEncoding.EncodeToString([]byte(user))
			s.note(secrets.NewValue(out))
			values[i] = scheme + " " + out
		}
	}
	return nil
}

func (p *replacer) inPart(s *swap, part string, bad func(string) string) (string, error) {
	n := strings.Count(part, p.marker.Text)
	if n == 0 {
		return part, nil
	}
	put, err := s.value(p, 2*n, bad, asIs) // in base64 all grows by a third
	return strings.ReplaceAll(part, p.marker.Text, put), err
}

func (p *replacer) inPath(s *swap) error {
	path := s.req.URL.EscapedPath()
	if !hasEscaped(path, p.marker.Text) {
		return nil
	}
	put, err := s.value(p, strings.Count(path, p.marker.Text), badText, escapeSegment)
	if err != nil {
		return err
	}
	path = replaceEscaped(path, p.marker.Text, put)
	decoded, err := url.PathUnescape(path)
	if err != nil || hasDots(decoded) {
		return &misfit{"bad_path", "the secret in the path would make a segment that servers do not take literally", "see whether the secret is what the API calls it: credproxy secret list"}
	}
	s.req.URL.Path, s.req.URL.RawPath = decoded, path
	return nil
}

// escapeSegment leaves what cannot end a segment, nor begin its parameters, in any server's eyes (RFC 3986 section 3.3).
func escapeSegment(s string) string {
	return strings.NewReplacer("%3A", ":", "%40", "@").Replace(escapeQuery(s))
}

// hasDots reports whether some server may find a dot segment in a decoded path (RFC 3986 section 5.2.4).
func hasDots(path string) bool {
	return slices.ContainsFunc(strings.FieldsFunc(path, func(r rune) bool { return r == '/' || r == '\\' }), func(segment string) bool {
		name, _, _ := strings.Cut(segment, ";")
		return name == "." || name == ".."
	})
}

func (p *replacer) inQuery(s *swap) error {
	raw := s.req.URL.RawQuery
	n := strings.Count(raw, p.marker.Text)
	if n == 0 {
		return nil
	}
	out, found, err := p.inParams(raw, func() (string, error) { return s.value(p, n, badQueryValue, escapeQuery) })
	if found {
		s.req.URL.RawQuery = out
	}
	return err
}

// inParams replaces markers in the values of a query or a form, and leaves names alone. value is asked for if there are any.
func (p *replacer) inParams(raw string, value func() (string, error)) (out string, found bool, err error) {
	items := strings.Split(raw, "&")
	var put string
	for i, item := range items {
		name, text, ok := strings.Cut(item, "=")
		if !ok || !hasEscaped(text, p.marker.Text) {
			continue
		}
		if !found {
			found = true
			if put, err = value(); err != nil {
				return "", false, err
			}
		}
		items[i] = name + "=" + replaceEscaped(text, p.marker.Text, put)
	}
	return strings.Join(items, "&"), found, nil
}

func hasEscaped(text, marker string) bool { return indexEscaped(text, marker) >= 0 }

// replaceEscaped is strings.ReplaceAll for percent-encoded text: the digits of an escape are no part of a marker.
func replaceEscaped(text, marker, put string) string {
	var out strings.Builder
	for {
		i := indexEscaped(text, marker)
		if i < 0 {
			out.WriteString(text)
			return out.String()
		}
		out.WriteString(text[:i])
		out.WriteString(put)
		text = text[i+len(marker):]
	}
}

func indexEscaped(text, marker string) int {
	for from := 0; ; {
		i := strings.Index(text[from:], marker)
		if i < 0 {
			return -1
		}
		i += from
		first := i >= 1 && text[i-1] == '%' && i+1 < len(text) && isHex(text[i]) && isHex(text[i+1])
		second := i >= 2 && text[i-2] == '%' && isHex(text[i-1]) && isHex(text[i])
		if !first && !second {
			return i
		}
		from = i + 1
	}
}

// Example puts the marker into every place of req where m counts.
func (m Marker) Example(req *http.Request) {
	for _, in := range m.In {
		switch in {
		case "header":
			name := "X-Example"
			if len(m.headers) > 0 {
				name = m.headers[0]
			}
			req.Header[name] = append(req.Header[name], m.Text)
		case "basic":
			req.Header["Authorization"] = append(req.Header["Authorization"], "Basic "+base64.StdEncoding.EncodeToString([]byte("x:"+m.Text)))
		case "path":
			req.URL.Path, req.URL.RawPath = "/"+m.Text, ""
		case "query":
			req.URL.RawQuery = "x=" + m.Text
		case "body":
			req.Header["Content-Type"] = []string{"application/json"}
			setBody(req, []byte(`"`+m.Text+`"`))
		}
	}
}
