package inject

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"net/url"
	"regexp"
	"slices"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

// A siteLogin is the field login: what is posted, and where.
type siteLogin struct {
	URL     strict.At[string]                          `yaml:"url" need:"true"`
	Form    strict.At[map[string]strict.At[textOrRef]] `yaml:"form"`
	JSON    strict.At[jsonTree]                        `yaml:"json"`
	Headers map[string]strict.At[textOrRef]            `yaml:"headers"`
	Success strict.Many[int]                           `yaml:"success" some:"true"`
	CSRF    struct {
		Field strict.At[string] `yaml:"field" need:"true"`
		URL   strict.At[string] `yaml:"url"`
	} `yaml:"csrf"`
}

// secretField is the name of a field that holds a secret at every site there is.
var secretField = regexp.MustCompile(`(?i)pass|pwd|secret`)

func (s siteLogin) check(at *yaml.Node) (errs strict.Errors) {
	if s.URL.Line == 0 {
		return nil // strict has reported it
	}
	if err := oauth.CheckURL(s.URL.Value); err != nil {
		errs = append(errs, s.URL.Errorf("login: url: %s", err))
	}
	switch {
	case s.Form.Line == 0 && s.JSON.Line == 0:
		errs = append(errs, strict.Errorf(at, "login: want form or json, what to sign in with"))
	case s.Form.Line != 0 && s.JSON.Line != 0:
		errs = append(errs, s.JSON.Errorf("login: has form and json; leave one out"))
	case s.JSON.Line != 0 && s.JSON.Value.Root == nil: // strict has reported it
	case len(s.refs()) == 0:
		errs = append(errs, strict.Pos{Line: max(s.Form.Line, s.JSON.Line), Column: max(s.Form.Column, s.JSON.Column)}.
			Errorf("login: has no secret in it; write it as a reference, such as password: keyring:NAME"))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Form.Value)) {
		field := s.Form.Value[name]
		if bad := badText(name); bad != "" {
			errs = append(errs, field.Errorf("login: form: the name of a field: %s", bad))
		}
		if field.Value.Text != "" && secretField.MatchString(name) {
			errs = append(errs, field.Errorf("login: form: want a reference here, such as keyring:NAME"))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Headers)) {
		bad := badHeaderName(name)
		if bad == "" && (describesBody(name) || SameField(name, "Cookie")) {
			bad = "is a header that the proxy itself writes"
		}
		if bad != "" {
			errs = append(errs, s.Headers[name].Errorf("login: headers: %s", bad))
		} else if bad = badHeaderValue(s.Headers[name].Value.Text); bad != "" && s.Headers[name].Value.Ref.IsZero() {
			errs = append(errs, s.Headers[name].Errorf("login: headers: %s", bad))
		}
	}
	for _, status := range s.Success {
		if status.Value < 200 || status.Value > 399 {
			errs = append(errs, status.Errorf("login: success: want statuses from 200 to 399"))
		}
	}
	return append(errs, s.checkCSRF()...)
}

func (s siteLogin) checkCSRF() (errs strict.Errors) {
	if s.CSRF.Field.Line == 0 {
		return nil
	}
	if s.JSON.Line != 0 {
		errs = append(errs, s.CSRF.Field.Errorf("login: csrf: is for a form"))
	}
	if _, twice := s.Form.Value[s.CSRF.Field.Value]; twice {
		errs = append(errs, s.CSRF.Field.Errorf("login: csrf: form has this field too; leave one out"))
	}
	if s.CSRF.URL.Line != 0 {
		page, err := url.Parse(s.CSRF.URL.Value)
		to, _ := url.Parse(s.URL.Value)
		if bad := oauth.CheckURL(s.CSRF.URL.Value); bad != nil {
			errs = append(errs, s.CSRF.URL.Errorf("login: csrf: url: %s", bad))
		} else if err == nil && to != nil && page.Host != to.Host {
			errs = append(errs, s.CSRF.URL.Errorf("login: csrf: url: want the host of login.url"))
		}
	}
	return errs
}

// refs lists the references, each once: those of the form or JSON first.
func (s siteLogin) refs() []secrets.Ref {
	var out []secrets.Ref
	add := func(r secrets.Ref) {
		if !r.IsZero() && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	names := slices.Sorted(maps.Keys(s.Form.Value))
	slices.SortStableFunc(names, func(a, b string) int { // the password first: it is what hints are about
		return cmp.Compare(btoi(secretField.MatchString(b)), btoi(secretField.MatchString(a)))
	})
	for _, name := range names {
		add(s.Form.Value[name].Value.Ref)
	}
	for _, r := range s.JSON.Value.Refs {
		add(r)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Headers)) {
		add(s.Headers[name].Value.Ref)
	}
	return out
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// shape is all that is sent, with references in place of values, for the fingerprint.
func (s siteLogin) shape() any {
	flat := func(fields map[string]strict.At[textOrRef]) map[string][]any {
		out := make(map[string][]any, len(fields))
		for name, f := range fields {
			out[name] = f.Value.shape()
		}
		return out
	}
	tree, err := mapTree(s.JSON.Value.Root, func(t textOrRef) (any, error) { return t.shape(), nil })
	if err != nil {
		panic(err) // no leaf gives one
	}
	return []any{flat(s.Form.Value), flat(s.Headers), tree}
}

func (t textOrRef) shape() []any {
	return []any{t.Text, t.Ref.Scheme, t.Ref.Name, t.Ref.Field}
}

// resolve is the text, or the secret, which bad may find fault with.
func (t textOrRef) resolve(ctx context.Context, env Env, bad func(string) string) (string, error) {
	if t.Ref.IsZero() {
		return t.Text, nil
	}
	v, err := env.use(ctx, t.Ref, bad)
	return v.Reveal(), err
}

// body is what is posted.
func (s siteLogin) body(ctx context.Context, env Env) (string, error) {
	if s.JSON.Line != 0 {
		tree, err := mapTree(s.JSON.Value.Root, func(t textOrRef) (any, error) { return t.resolve(ctx, env, badPassword) })
		if err != nil {
			return "", err
		}
		text, err := json.Marshal(tree)
		return string(text), err
	}
	form := make(url.Values, len(s.Form.Value))
	for name, f := range s.Form.Value {
		v, err := f.Value.resolve(ctx, env, badPassword)
		if err != nil {
			return "", err
		}
		form.Set(name, v)
	}
	return form.Encode(), nil
}
