package inject

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

type hmacSettings struct {
	Key         secrets.Ref                  `yaml:"key" need:"true"`
	KeyEncoding string                       `yaml:"key_encoding" oneof:"text|base64|hex"`
	Algorithm   string                       `yaml:"algorithm" need:"true" oneof:"SHA-1|SHA-256|SHA-512"`
	Message     strict.At[string]            `yaml:"message" need:"true"`
	Encoding    string                       `yaml:"encoding" oneof:"hex|base64"`
	In          string                       `yaml:"in" oneof:"header|query"`
	Name        strict.At[string]            `yaml:"name" need:"true"`
	Prefix      strict.At[string]            `yaml:"prefix"`
	Suffix      strict.At[string]            `yaml:"suffix"`
	Headers     map[string]strict.At[string] `yaml:"headers"`
	Query       map[string]strict.At[string] `yaml:"query"`
}

var hmacHashes = map[string]func() hash.Hash{"SHA-1": sha1.New, "SHA-256": sha256.New, "SHA-512": sha512.New}

var hmacKeys = map[string]string{"text": "the shared secret", "base64": "the shared secret in base64", "hex": "the shared secret in hex"}

// A macSigner signs each request with a shared secret (RFC 2104). What is signed, and how it is sent, is up to the rule.
type macSigner struct {
	env      Env
	ref      secrets.Ref
	encoding string // of the key
	hash     func() hash.Hash
	message  template
	base64   bool // or else hex

	in             string
	place          place
	name           string
	prefix, suffix template
	extra          []extraField // sent beside the signature, and set before it
	body           bool         // some template reads the body
	target         Target

	key   parsed[[]byte]
	now   func() time.Time
	nonce func() string
}

// An extraField is a header or a parameter of the query.
type extraField struct {
	in    string
	place place
	name  string
	value template
}

func newHMAC(s hmacSettings, _ *yaml.Node, env Env) (method, strict.Errors) {
	h := &macSigner{
		env: env, ref: s.Key, encoding: cmp.Or(s.KeyEncoding, "text"), hash: hmacHashes[s.Algorithm], base64: s.Encoding == "base64",
		in: cmp.Or(s.In, "header"), name: s.Name.Value, now: time.Now, nonce: rand.Text,
	}
	errs := s.templates(h)
	prefix := s.Prefix
	prefix.Value = h.prefix.sample()
	p, more := checkPlace(h.in, s.Name, prefix)
	errs = append(errs, more...)
	if p.set == nil || h.hash == nil {
		return nil, errs // what is not in errs, strict has reported
	}
	if p.badValue("x"+h.suffix.sample()) != "" {
		errs = append(errs, s.Suffix.Errorf("suffix: has characters that a %s cannot carry", h.in))
	}
	if h.in == "header" && slices.ContainsFunc(h.message.headers, func(name string) bool { return SameField(name, h.name) }) {
		errs = append(errs, s.Message.Errorf("message: signs the header that the signature goes into"))
	}
	for _, in := range []string{"header", "query"} {
		errs = append(errs, s.extra(h, in)...)
	}
	if len(errs) > 0 {
		return nil, errs
	}
	h.place = p
	h.body = h.message.body || h.prefix.body || h.suffix.body || slices.ContainsFunc(h.extra, func(e extraField) bool { return e.value.body })
	h.target = Target{h.in, h.name, h.prefix.source + "<HMAC-" + s.Algorithm + " with " + shown(s.Key) + ">" + h.suffix.source}
	return h, nil
}

// templates reads what stands around the signature, and under it.
func (s hmacSettings) templates(h *macSigner) (errs strict.Errors) {
	read := func(field string, text strict.At[string], message bool) template {
		t, bad := parseTemplate(text.Value, message)
		for _, why := range bad {
			errs = append(errs, text.Errorf("%s: %s", field, why))
		}
		if message && text.Value != "" && len(bad) == 0 && t.fixed() {
			errs = append(errs, text.Errorf("message: has no placeholder, so nothing of the request would be signed"))
		}
		return t
	}
	h.message = read("message", s.Message, true)
	h.prefix, h.suffix = read("prefix", s.Prefix, false), read("suffix", s.Suffix, false)
	return errs
}

// extra reads the fields in one place that are sent beside the signature.
func (s hmacSettings) extra(h *macSigner, in string) (errs strict.Errors) {
	field, fields := "headers", s.Headers
	if in == "query" {
		field, fields = "query", s.Query
	}
	taken := []Target{{In: h.in, Name: h.name}}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		text, p := fields[name], places[in]
		value, bad := parseTemplate(text.Value, false)
		if why := p.badName(name); why != "" {
			bad = append(bad, "the name "+why)
		}
		scheme, _, ok := strings.Cut(text.Value, ":")
		switch {
		case ok && slices.Contains(secrets.Sources(), scheme): // would go out as it stands
			bad = append(bad, "is plain text here; for a secret write an entry of type api_key before this one")
		case len(bad) == 0 && p.badValue(value.sample()) != "":
			bad = append(bad, p.badValue(value.sample()))
		}
		if target := (Target{In: in, Name: name}); slices.ContainsFunc(taken, target.same) {
			bad = append(bad, "writes what the signature or another of them writes too")
		} else {
			taken = append(taken, target)
		}
		for _, why := range bad {
			errs = append(errs, text.Errorf("%s: %s", field, why))
		}
		h.extra = append(h.extra, extraField{in, p, name, value})
	}
	return errs
}

// Apply returns the key. Nothing of req is changed until all that can fail is done, except for the body's being held.
func (h *macSigner) Apply(req *http.Request) ([]secrets.Value, error) {
	var key []byte
	secret, err := h.env.useAs(req.Context(), h.ref, hmacKeys[h.encoding], func(text string) (bad string) {
		key, bad = h.key.of(secrets.NewValue(text), func(text string) ([]byte, string) { return macKey(text, h.encoding, 1) })
		return bad
	})
	if err != nil {
		return nil, err
	}
	s := &signing{req: req, now: h.now(), newNonce: h.nonce}
	if h.body {
		if s.body, err = wholeBody(req, "send less at once; the API wants the whole body signed"); err != nil {
			return nil, err
		}
	}
	for _, e := range h.extra {
		e.place.set(req, e.name, e.place.encode(string(e.value.appendTo(nil, s))))
	}
	if h.in == "query" {
		req.URL.RawQuery = withoutParams(req.URL.RawQuery, []string{h.name})
	}
	mac := hmac.New(h.hash, key)
	mac.Write(h.message.appendTo(nil, s))
	out := h.prefix.appendTo(nil, s)
	if sum := mac.Sum(nil); h.base64 {
		out = base64.StdEncoding.AppendEncode(out, sum)
	} else {
		out = hex.AppendEncode(out, sum)
	}
	h.place.set(req, h.name, h.place.encode(string(h.suffix.appendTo(out, s))))
	return []secrets.Value{secret}, nil
}

func (h *macSigner) Reject(used []secrets.Value) { rejectFirst(h.env, h.ref, used) }

// signs reports whether a change at t would break the signature.
func (h *macSigner) signs(t Target) bool {
	switch t.In {
	case "query":
		return h.message.query
	case "body":
		return h.body
	case "cookie":
		t.Name = "Cookie"
	}
	return slices.ContainsFunc(h.message.headers, func(name string) bool { return SameField(name, t.Name) })
}

func (h *macSigner) Targets() []Target {
	out := []Target{h.target}
	for _, e := range h.extra {
		out = append(out, Target{e.in, e.name, e.value.source})
	}
	return out
}
