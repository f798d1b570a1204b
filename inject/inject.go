// Package inject turns secrets into credentials on requests: one file per credential type, one table.
//
// A new type is a file with its settings (a struct with yaml tags, see package strict) and a build function, a line
// in the table below, a section in docs/credentials.md and an example in rules.example.yaml. Strict decoding, the
// list of references and the errors' positions come with typ.
package inject

import (
	"errors"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

// types is every credential type.
var types = map[string]maker{
	"api_key":                   typ(newAPIKey),
	"aws_sigv4":                 typ(newSigV4),
	"basic":                     typ(newBasic),
	"bearer":                    typ(newBearer),
	"digest":                    typ(newDigest),
	"github_app":                typ(newGitHubApp),
	"hmac":                      typ(newHMAC),
	"jwt":                       typ(newJWT),
	"negotiate":                 typ(newNegotiate),
	"ntlm":                      typ(newNTLM),
	"oauth1":                    typ(newOAuth1),
	"oauth2_authorization_code": typ(newAuthorizationCode),
	"oauth2_client_credentials": typ(newClientCredentials),
	"oauth2_device_code":        typ(newDeviceCode),
	"oauth2_jwt_bearer":         typ(newJWTBearer),
	"oauth2_password":           typ(newPassword),
	"oauth2_refresh_token":      typ(newRefreshToken),
	"oauth2_token_exchange":     typ(newTokenExchange),
	"placeholder":               typ(newPlaceholder),
	"session":                   typ(newSession),
}

// Env is all that a credential may use from outside.
type Env struct {
	Secrets *secrets.Resolver
	Tokens  *oauth.Cache
	HTTP    *http.Client // for token endpoints: verified TLS, no redirects, no proxy from the environment
	Rule    string       // the name of the rule, for the commands in hints

	Certificate *Certificate // of the rule's tls field; nil: it has none
}

// A Certificate is who a client is in TLS.
type Certificate struct {
	ID   string       // equal for equal certificates
	Key  secrets.Ref  // of its private key
	HTTP *http.Client // as Env.HTTP, and shows the certificate
}

// A Credential is one entry of a rule's inject field, ready for use. It is safe for concurrent use.
type Credential interface {
	// Type is the name of the credential's type, such as api_key.
	Type() string

	// Apply puts the credential on req, the caller's own copy, replacing any that the client sent. Some types read
	// the body, up to a bound, and put another in its place; all others leave it alone. It waits no
	// longer than req's context. It returns the values that it used, so that the response can be scrubbed of
	// them and so that Answer can be told which were sent. After an error req must not be sent.
	Apply(req *http.Request) (used []secrets.Value, err error)

	// Answer sees what the upstream answered to a request with used, as Apply returned it. resp.Request is what was
	// sent, for the time that sent counts from 1. Answer may take from resp's header what is not for the client; it
	// leaves the body alone. again says that the next Apply may fare better: then the request is worth sending once
	// more, unless that Apply uses the same values.
	Answer(resp *http.Response, used []secrets.Value, sent int) (again bool)

	// Targets says where Apply writes, and what, with references in place of values.
	Targets() []Target

	// Refs lists the references that the credential needs.
	Refs() []secrets.Ref
}

// An Asker is a Credential that answers what the server asks for. Its Apply is for where the server has asked before.
type Asker interface {
	Credential

	// ApplyAsking is Apply, but it may call ask: that sends a request of credproxy's own for what req is for, without body
	// and without anything of the client, and returns the head of the answer. If the server asks for no credential,
	// req gets none, and used is empty.
	ApplyAsking(req *http.Request, ask func() (*http.Response, error)) (used []secrets.Value, err error)
}

// A Binder is a Credential that is proved for a connection and not for a request. After Apply, the request goes over an
// HTTP/1.1 connection that was proved with the same values and that carries nothing else, or over a new one.
type Binder interface {
	Credential

	// Bind begins to prove a connection with what Apply returned. first is the Authorization of a request that has nothing
	// else of the client's. answer makes the Authorization of the next one, from the 401 to the first.
	Bind(used []secrets.Value) (first string, answer func(*http.Response) (string, error), err error)
}

// A Target is one place of a request that a Credential writes.
type Target struct {
	In    string `json:"in"`    // header, query, cookie or body; or, of a placeholder, such as "header marker"
	Name  string `json:"name"`  // of the header, parameter, cookie or form field; or the marker
	Shows string `json:"value"` // such as "Bearer <keyring:github>"
}

// Present reports whether req already carries something at t.
func (t Target) Present(req *http.Request) bool {
	if t.In == "body" {
		return hasFormParam(req, t.Name)
	}
	p, ok := places[t.In]
	return ok && p.has(req, t.Name)
}

// same reports whether t and o are one place.
func (t Target) same(o Target) bool {
	return t.In == o.In && (t.Name == o.Name || t.In == "header" && SameField(t.Name, o.Name))
}

// Types lists the names of all credential types, sorted.
func Types() []string { return slices.Sorted(maps.Keys(types)) }

// New builds the credentials that n, the value of a rule's inject field, describes: a mapping is one, a list several.
// It does no I/O. The error, if any, is a strict.Errors with every mistake and its position.
func New(n *yaml.Node, env Env) ([]Credential, error) {
	entries := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		entries = n.Content
		if len(entries) == 0 {
			return nil, strict.Errors{strict.Errorf(n, "the list is empty")}
		}
	}
	var errs strict.Errors
	var creds []Credential
	var where []*yaml.Node
	for _, entry := range entries {
		c, mistakes := one(entry, env)
		errs = append(errs, mistakes...)
		if c == nil {
			continue
		}
		for i, before := range creds {
			errs = append(errs, clash(entry, c, where[i], before)...)
		}
		creds, where = append(creds, c), append(where, entry)
	}
	if err := errs.Err(); err != nil {
		return nil, err
	}
	return creds, nil
}

// A signer is a method that signs the request. What it has signed must not change after it.
type signer interface{ signs(Target) bool }

// clash is a mistake for each place that two entries of one rule write, or that the second writes after the first has
// signed it.
func clash(n *yaml.Node, c Credential, first *yaml.Node, before Credential) (errs strict.Errors) {
	var sign signer
	if wrapped, ok := before.(interface{ special() method }); ok {
		sign, _ = wrapped.special().(signer)
	}
	marker, marked := MarkerOf(c)
	if other, ok := MarkerOf(before); marked && ok && (strings.Contains(marker.Text, other.Text) || strings.Contains(other.Text, marker.Text)) {
		return strict.Errors{strict.Errorf(n, "its placeholder and that of the entry on line %d are the same, or one is a part of the other", first.Line)}
	}
	for _, t := range c.Targets() {
		switch {
		case slices.ContainsFunc(before.Targets(), t.same):
			errs = append(errs, strict.Errorf(n, "writes the same %s as the entry on line %d", t.In, first.Line))
		case sign != nil && marked:
			return strict.Errors{strict.Errorf(n, "may change what the entry on line %d has signed by then; write it before that", first.Line)}
		case sign != nil && sign.signs(t):
			errs = append(errs, strict.Errorf(n, "changes the %s, which the entry on line %d has signed by then; write it before that", t.In, first.Line))
		}
	}
	return errs
}

// Only what cannot be a secret is repeated.
var harmless = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,27}$`)

// one builds the credential of one entry.
func one(n *yaml.Node, env Env) (Credential, strict.Errors) {
	if n.Kind != yaml.MappingNode || n.Anchor != "" {
		return nil, strict.Errors{strict.Errorf(n, "want a mapping with a type, such as {type: bearer, token: keyring:NAME}, or a list of them")}
	}
	known := " (known: " + strings.Join(Types(), ", ") + ")"
	t := field(n, "type")
	if t == nil {
		return nil, strict.Errors{strict.Errorf(n, "missing field %q%s", "type", known)}
	}
	build, ok := types[t.Value]
	if !ok || t.Kind != yaml.ScalarNode {
		quoted := ""
		if harmless.MatchString(t.Value) {
			quoted = " " + strconv.Quote(t.Value)
		}
		if near := strict.Nearest(t.Value, Types()); near != "" {
			known = " (did you mean " + strconv.Quote(near) + "?)"
		}
		return nil, strict.Errors{strict.Errorf(t, "unknown type%s%s", quoted, known)}
	}
	return build(n, env)
}

// field is the value of a mapping's field, or nil.
func field(n *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

// A maker builds the credential of one entry.
type maker func(n *yaml.Node, env Env) (Credential, strict.Errors)

// A method is what is special about one type.
type method interface {
	Apply(req *http.Request) (used []secrets.Value, err error)
	Targets() []Target
	// Reject says that the upstream answered 401 to used: the next Apply uses fresh values if there are any.
	Reject(used []secrets.Value)
}

// An answerer is a method to which more than a 401 says something. Its Answer is that of the Credential.
type answerer interface {
	Answer(resp *http.Response, used []secrets.Value, sent int) (again bool)
}

// An asker is a method that answers what the server asks for. Its applyAsking is the ApplyAsking of an Asker.
type asker interface {
	applyAsking(req *http.Request, ask func() (*http.Response, error)) (used []secrets.Value, err error)
}

// A binder is a method that is proved for a connection. Its bind is the Bind of a Binder.
type binder interface {
	bind(used []secrets.Value) (first string, answer func(*http.Response) (string, error), err error)
}

// typ makes a table entry of the function that builds a credential from its settings C. build also reports what is
// wrong with the settings beyond their form; a field that could not be decoded is zero and was reported already.
func typ[C any](build func(settings C, at *yaml.Node, env Env) (method, strict.Errors)) maker {
	return func(n *yaml.Node, env Env) (Credential, strict.Errors) {
		var entry struct {
			Type     string `yaml:"type"`
			Settings C      `yaml:",inline"`
		}
		var errs strict.Errors
		if err := strict.Decode(n, &entry, true); err != nil && !errors.As(err, &errs) {
			errs = strict.Errors{strict.Errorf(n, "cannot be read")}
		}
		m, more := build(entry.Settings, n, env)
		if errs = append(errs, more...); len(errs) > 0 {
			return nil, errs
		}
		c := &credential{m, entry.Type, refsIn(reflect.ValueOf(entry.Settings), nil)}
		switch m := m.(type) {
		case asker:
			return &asking{c, m}, nil
		case binder:
			return &binding{c, m}, nil
		}
		return c, nil
	}
}

// A credential is a method with what all types have in common.
type credential struct {
	method
	typ  string
	refs []secrets.Ref
}

func (c *credential) special() method     { return c.method }
func (c *credential) Type() string        { return c.typ }
func (c *credential) Refs() []secrets.Ref { return slices.Clone(c.refs) }

func (c *credential) Answer(resp *http.Response, used []secrets.Value, sent int) (again bool) {
	if a, ok := c.method.(answerer); ok {
		return a.Answer(resp, used, sent)
	}
	if resp.StatusCode != http.StatusUnauthorized {
		return false
	}
	c.Reject(used)
	return sent == 1
}

// asking is the credential of an asker.
type asking struct {
	*credential
	asker asker
}

func (a *asking) ApplyAsking(req *http.Request, ask func() (*http.Response, error)) ([]secrets.Value, error) {
	return a.asker.applyAsking(req, ask)
}

// binding is the credential of a binder.
type binding struct {
	*credential
	binder binder
}

func (b *binding) Bind(used []secrets.Value) (first string, answer func(*http.Response) (string, error), err error) {
	return b.binder.bind(used)
}

// AsksServer reports whether c's Apply may ask a server for something that it then puts on the request.
func AsksServer(c Credential) bool {
	wrapped, ok := c.(interface{ special() method })
	if ok {
		_, ok = wrapped.special().(interface{ asksServer() })
	}
	return ok
}

// refsIn collects the references in the fields of v, each once.
func refsIn(v reflect.Value, refs []secrets.Ref) []secrets.Ref {
	switch {
	case v.Type() == reflect.TypeFor[secrets.Ref]():
		if r, ok := v.Interface().(secrets.Ref); ok && !r.IsZero() && !slices.Contains(refs, r) {
			refs = append(refs, r)
		}
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			refs = refsIn(v.Field(i), refs)
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			refs = refsIn(v.Index(i), refs)
		}
	case v.Kind() == reflect.Map:
		for _, name := range slices.SortedFunc(slices.Values(v.MapKeys()), func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) }) {
			refs = refsIn(v.MapIndex(name), refs)
		}
	}
	return refs
}
