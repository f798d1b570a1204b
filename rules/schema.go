package rules

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode"

	"github.com/credproxy/credproxy/internal/strict"
	"gopkg.in/yaml.v3"
)

type fileField struct {
	Version strict.At[int] `yaml:"version"`
	Default string         `yaml:"default" oneof:"allow|deny|audit"`
	Rules   []yaml.Node    `yaml:"rules" null:"true"`
}

type ruleField struct {
	Name         strict.At[string]              `yaml:"name" need:"true"`
	Match        strict.At[matchField]          `yaml:"match" need:"true"`
	Inject       yaml.Node                      `yaml:"inject"`
	Deny         strict.At[string]              `yaml:"deny"`
	Remove       strict.At[[]strict.At[string]] `yaml:"remove" some:"true"`
	OnExisting   strict.At[string]              `yaml:"on_existing" oneof:"replace|keep|fail"`
	Scrub        strict.At[*bool]               `yaml:"scrub"`
	AllowHTTP    strict.At[bool]                `yaml:"allow_http"`
	AllowPrivate strict.At[bool]                `yaml:"allow_private"`
	Browser      strict.At[bool]                `yaml:"browser"`
	TLS          strict.At[*tlsField]           `yaml:"tls"`
}

type matchField struct {
	Host    strict.Many[string] `yaml:"host" need:"true"`
	Scheme  string              `yaml:"scheme" oneof:"https|http"`
	Port    strict.At[int]      `yaml:"port"`
	Methods []strict.At[string] `yaml:"methods" some:"true"`
	Paths   []strict.At[string] `yaml:"paths" some:"true"`
	Clients []strict.At[string] `yaml:"clients" some:"true"`
}

// scope checks a rule's match. What is mistaken is left out of the scope.
func (f *matchField) scope() (scope, strict.Errors) {
	s := scope{plain: f.Scheme == "http", port: f.Port.Value}
	var errs strict.Errors
	for i, h := range f.Host {
		p, problem := parseHost(h.Value)
		if problem == "" && slices.Contains(s.hosts, p) {
			problem = "host stands here twice"
		}
		if problem != "" {
			if len(f.Host) > 1 {
				problem = strings.Replace(problem, "host", fmt.Sprintf("host[%d]", i), 1)
			}
			errs = append(errs, h.Errorf("match: %s", problem))
			continue
		}
		s.hosts = append(s.hosts, p)
	}
	if f.Port.Line != 0 && (s.port < 1 || s.port > 65535) {
		errs = append(errs, f.Port.Errorf("match: port must be from 1 to 65535"))
	}
	keep := func(field string, list []strict.At[string], check func(string) string) []string {
		values, wrong := checked("match: "+field, list, check)
		errs = append(errs, wrong...)
		return values
	}
	s.methods = keep("methods", f.Methods, methodProblem)
	s.clients = keep("clients", f.Clients, clientProblem)
	s.texts = keep("paths", f.Paths, func(text string) string {
		p, problem := parsePath(text)
		s.paths = append(s.paths, p)
		return problem
	})
	return s, errs
}

// combination checks that the fields of a rule go together.
func (f *ruleField) combination() strict.Errors {
	var errs strict.Errors
	injects, denies := f.Inject.Kind != 0, f.Deny.Line != 0
	switch {
	case denies && f.Deny.Value == "":
		errs = append(errs, f.Deny.Errorf("deny needs a reason"))
	case strings.ContainsFunc(f.Deny.Value, unicode.IsControl): // it goes into a header
		errs = append(errs, f.Deny.Errorf("the reason for deny must be one line of text"))
	case denies && injects:
		errs = append(errs, f.Deny.Errorf("a rule has inject or deny, not both"))
	}
	for _, e := range []struct {
		field  string
		at     strict.Pos
		effect bool
		where  string
	}{
		{"remove", f.Remove.Pos, !denies, "in a deny rule"},
		{"tls", f.TLS.Pos, !denies, "in a deny rule"},
		{"tls", f.TLS.Pos, f.Match.Value.Scheme != "http", "with scheme: http"},
		{"on_existing", f.OnExisting.Pos, injects, "without inject"},
		{"scrub", f.Scrub.Pos, injects, "without inject"},
		{"allow_http", f.AllowHTTP.Pos, injects, "without inject"},
		{"browser", f.Browser.Pos, injects, "without inject"},
		{"allow_private", f.AllowPrivate.Pos, !denies, "in a deny rule"},
		{"allow_private", f.AllowPrivate.Pos, !injects, "with inject: what has a credential may go to private addresses"},
	} {
		if e.at.Line != 0 && !e.effect {
			errs = append(errs, e.at.Errorf("%s has no effect %s", e.field, e.where))
		}
	}
	if f.TLS.Value != nil && *f.TLS.Value == (tlsField{}) {
		errs = append(errs, f.TLS.Errorf("tls is empty"))
	}
	return errs
}

// plainProblem says why a rule's credential must not travel over its scheme, or nothing.
func (f *ruleField) plainProblem(s *scope) string {
	if f.Inject.Kind == 0 || !s.plain || f.AllowHTTP.Value {
		return ""
	}
	for _, h := range s.hosts {
		if !Loopback(h.name) {
			return "scheme: http would send the credential in the clear; add allow_http: true if that is what you want"
		}
	}
	return ""
}

// forbidden finds hosts to which no request ever goes. A deny rule may name them, for a reason of its own.
func (f *ruleField) forbidden() (errs strict.Errors) {
	if f.Deny.Line != 0 {
		return nil
	}
	for _, h := range f.Match.Value.Host {
		if what := Forbidden(h.Value); what != "" {
			errs = append(errs, h.Errorf("match: never reached: %s is %s, and no request goes there", h.Value, what))
		}
	}
	return errs
}

// canonicalHeaders returns names in canonical form, each once.
func canonicalHeaders(names []string) []string {
	var out []string
	for _, n := range names {
		if n = http.CanonicalHeaderKey(n); !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}
