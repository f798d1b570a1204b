package inject

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
)

// maxGrown bounds a body in which markers were replaced: the value may be long and the markers many.
const maxGrown = 2 << 20

// bodyKinds is how markers are replaced in a body of some kind. A kind that is not here is not looked at.
var bodyKinds = map[string]func(p *replacer, s *swap, body string) (string, error){
	"json": (*replacer).inJSON,
	"form": (*replacer).inForm,
	"text": (*replacer).inText,
}

// kindOfBody is a key of bodyKinds, or empty. plain is false if the body's bytes are not its text.
func kindOfBody(h http.Header) (kind string, plain bool) {
	plain = true
	for _, coding := range h["Content-Encoding"] {
		plain = plain && strings.EqualFold(strings.TrimSpace(coding), "identity")
	}
	types := h["Content-Type"]
	if len(types) == 0 {
		return "text", plain
	}
	media, params, err := mime.ParseMediaType(types[0])
	if err != nil || len(types) > 1 {
		return "text", false
	}
	charset := strings.ToLower(params["charset"])
	plain = plain && slices.Contains([]string{"", "utf-8", "utf8", "us-ascii", "iso-8859-1"}, charset)
	switch {
	case media == "application/json" || strings.HasSuffix(media, "+json"):
		return "json", plain
	case media == "application/x-www-form-urlencoded":
		return "form", plain
	case strings.HasPrefix(media, "text/") || media == "application/xml" || strings.HasSuffix(media, "+xml") ||
		slices.Contains([]string{"application/graphql", "application/x-ndjson", "application/jsonl", "multipart/form-data"}, media):
		return "text", plain
	}
	return "", plain
}

func badBody(why, hint string) error { return &misfit{"bad_body", why, hint} }

func (p *replacer) inBody(s *swap) error {
	kind, plain := kindOfBody(s.req.Header)
	if kind == "" || s.req.Body == nil || s.req.Body == http.NoBody {
		return nil
	}
	if !plain {
		return badBody("the body is compressed, or in another character set than UTF-8, so no placeholder can be found in it",
			"send it as it is, or take body out of the rule's field in")
	}
	all, err := wholeBody(s.req, fmt.Sprintf("send at most %d MiB at once, or take body out of the rule's field in", maxBody>>20))
	if err != nil {
		return err
	}
	body := string(all)
	if !strings.Contains(body, p.marker.Text) {
		return nil
	}
	out, err := bodyKinds[kind](p, s, body)
	if err != nil || out == body {
		return err
	}
	setBody(s.req, []byte(out))
	return nil
}

// bodyValue is the value as it stands in body, if it has room for that.
func (p *replacer) bodyValue(s *swap, body string, bad func(string) string, encode func(string) string) (string, error) {
	put, err := s.value(p, 0, bad, encode)
	if err != nil {
		return "", err
	}
	if n := strings.Count(body, p.marker.Text); len(body)+n*max(len(put)-len(p.marker.Text), 0) > maxGrown {
		return "", &misfit{"body_too_large", fmt.Sprintf("with all its placeholders replaced, the body would be larger than %d MiB", maxGrown>>20),
			"write the placeholder only where the API wants the secret"}
	}
	return put, nil
}

func (p *replacer) inForm(s *swap, body string) (string, error) {
	out, found, err := p.inParams(body, func() (string, error) { return p.bodyValue(s, body, badText, escapeQuery) })
	if !found {
		return body, err
	}
	return out, err
}

// inText is for text whose grammar is not known here: the value must mean itself in all of them.
func (p *replacer) inText(s *swap, body string) (string, error) {
	put, err := p.bodyValue(s, body, badInText, asIs)
	return strings.ReplaceAll(body, p.marker.Text, put), err
}

func badInText(s string) string {
	if bad := badText(s); bad != "" {
		return bad
	}
	if strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=:") != "" {
		return "it contains a character that can mean something else in a body that is neither JSON nor a form"
	}
	return ""
}

// inJSON replaces markers in strings that are values (RFC 8259 section 7), and leaves names alone.
func (p *replacer) inJSON(s *swap, body string) (string, error) {
	if !json.Valid([]byte(body)) {
		return "", badBody("the body says that it is JSON and is not", "send JSON (RFC 8259), or name the body's kind in Content-Type")
	}
	var out strings.Builder
	var put string
	for rest := body; ; {
		open := strings.IndexByte(rest, '"')
		if open < 0 {
			out.WriteString(rest)
			return out.String(), nil
		}
		length, found := scanString(rest[open+1:], p.marker.Text)
		end := open + 1 + length
		isName := strings.HasPrefix(strings.TrimLeft(rest[end+1:], " \t\r\n"), ":")
		if len(found) == 0 || isName {
			out.WriteString(rest[:end+1])
			rest = rest[end+1:]
			continue
		}
		if put == "" {
			var err error
			if put, err = p.bodyValue(s, body, badText, escapeJSON); err != nil {
				return "", err
			}
		}
		out.WriteString(rest[:open+1])
		from := open + 1
		for _, at := range found {
			out.WriteString(rest[from:open+1+at] + put)
			from = open + 1 + at + len(p.marker.Text)
		}
		out.WriteString(rest[from : end+1])
		rest = rest[end+1:]
	}
}

// scanString is the length of the string that text, which is valid JSON, begins with, up to its quote, and where in it
// marker stands. What is escaped is no part of a marker.
func scanString(text, marker string) (length int, found []int) {
	for i := 0; i < len(text); {
		switch {
		case text[i] == '"':
			return i, found
		case text[i] == '\\' && text[i+1] == 'u':
			i += 6
		case text[i] == '\\':
			i += 2
		case strings.HasPrefix(text[i:], marker):
			found = append(found, i)
			i += len(marker)
		default:
			i++
		}
	}
	return len(text), found
}

// escapeJSON is s inside a JSON string.
func escapeJSON(s string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic(err) // every string has a JSON form
	}
	return strings.TrimSuffix(strings.TrimPrefix(strings.TrimSuffix(b.String(), "\n"), `"`), `"`)
}
