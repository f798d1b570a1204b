package inject

import (
	"cmp"
	"net/http"
	"strings"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

type apiKeySettings struct {
	In     string            `yaml:"in" oneof:"header|query|cookie"`
	Name   strict.At[string] `yaml:"name" need:"true"`
	Value  secrets.Ref       `yaml:"value" need:"true"`
	Prefix strict.At[string] `yaml:"prefix"`
}

// An apiKey is a secret under a name (OpenAPI: apiKey).
type apiKey struct {
	env    Env
	place  place
	name   string
	prefix string // encoded
	ref    secrets.Ref
	target Target
}

func newAPIKey(s apiKeySettings, _ *yaml.Node, env Env) (method, strict.Errors) {
	in := cmp.Or(s.In, "header")
	p, errs := checkPlace(in, s.Name, s.Prefix)
	if len(errs) > 0 || p.set == nil {
		return nil, errs
	}
	name, prefix := s.Name.Value, s.Prefix.Value
	return &apiKey{env, p, name, p.encode(prefix), s.Value, Target{in, name, prefix + shown(s.Value)}}, nil
}

// checkPlace returns the place called in, and what is wrong with a name and a prefix there. An unknown place is zero:
// strict has reported it.
func checkPlace(in string, name, prefix strict.At[string]) (p place, errs strict.Errors) {
	p, ok := places[in]
	if !ok {
		return place{}, nil
	}
	if name.Value != "" {
		if bad := p.badName(name.Value); bad != "" {
			errs = append(errs, name.Errorf("name: %s", bad))
		}
	}
	if prefix.Value != "" {
		if bad := p.badValue(strings.TrimSuffix(prefix.Value, " ")); bad != "" || in == "cookie" && strings.Contains(prefix.Value, " ") {
			errs = append(errs, prefix.Errorf("prefix: has characters that a %s cannot carry", in))
		}
	}
	if in == "header" && SameField(name.Value, "Authorization") && isToken(prefix.Value) && !strings.HasSuffix(prefix.Value, "=") {
		// YAML drops the space at the end of a value without quotes.
		errs = append(errs, prefix.Errorf(`prefix: a space is missing between it and the value; write it in quotes: "… "`))
	}
	return p, errs
}

func (k *apiKey) Apply(req *http.Request) ([]secrets.Value, error) {
	v, err := k.env.use(req.Context(), k.ref, k.place.badValue)
	if err != nil {
		return nil, err
	}
	encoded := k.place.encode(v.Reveal())
	k.place.set(req, k.name, k.prefix+encoded)
	if encoded != v.Reveal() {
		return []secrets.Value{v, secrets.NewValue(encoded)}, nil
	}
	return []secrets.Value{v}, nil
}

func (k *apiKey) Reject(used []secrets.Value) { rejectFirst(k.env, k.ref, used) }

func (k *apiKey) Targets() []Target { return []Target{k.target} }

// rejectFirst rejects the first of used, which is ref's value.
func rejectFirst(env Env, ref secrets.Ref, used []secrets.Value) {
	if len(used) > 0 {
		env.Secrets.Reject(ref, used[0])
	}
}
