package inject

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

// clientSettings are the fields of all OAuth 2.0 types.
type clientSettings struct {
	TokenURL     strict.At[string]            `yaml:"token_url"`
	Issuer       strict.At[string]            `yaml:"issuer"`
	ClientID     strict.At[string]            `yaml:"client_id"`
	ClientSecret strict.At[secrets.Ref]       `yaml:"client_secret"`
	ClientAuth   strict.At[string]            `yaml:"client_auth" oneof:"basic|post|private_key_jwt|tls|none"`
	Scopes       strict.At[[]string]          `yaml:"scopes"`
	Audience     string                       `yaml:"audience"`
	Resource     strict.At[[]string]          `yaml:"resource"`
	Extra        strict.At[map[string]string] `yaml:"extra"`
	TokenFields  strict.At[map[string]string] `yaml:"token_fields"`

	AssertionAudience strict.At[string] `yaml:"assertion_audience"`

	assertionSettings `yaml:",inline"`
}

// auth is how the client says who it is: if the rule does not say, basic with a secret and none without.
func (s clientSettings) auth() string {
	if s.ClientSecret.Line == 0 {
		return cmp.Or(s.ClientAuth.Value, oauth.AuthNone)
	}
	return cmp.Or(s.ClientAuth.Value, oauth.AuthBasic)
}

// require reports that token_url or client_id is not there, for the types that need both.
func (s clientSettings) require(at *yaml.Node) (errs strict.Errors) {
	if s.TokenURL.Line == 0 && s.Issuer.Line == 0 {
		errs = append(errs, strict.Errorf(at, "missing field %q", "token_url"))
	}
	if s.ClientID.Line == 0 {
		errs = append(errs, strict.Errorf(at, "missing field %q", "client_id"))
	}
	return errs
}

// onlyForClient reports a key that nothing would use, for the types that use it to say who the client is.
func (s clientSettings) onlyForClient() (errs strict.Errors) {
	if s.ClientAuth.Value == oauth.AuthPrivateKeyJWT {
		return nil
	}
	for name, at := range map[string]strict.Pos{"key": s.Key.Pos, "key_id": s.KeyID.Pos, "algorithm": s.Algorithm.Pos, "assertion_audience": s.AssertionAudience.Pos} {
		if at.Line != 0 {
			errs = append(errs, at.Errorf("%s: is used only with client_auth private_key_jwt", name))
		}
	}
	return errs
}

func (s clientSettings) check(env Env) (errs strict.Errors) {
	if s.TokenURL.Line != 0 {
		if err := oauth.CheckURL(s.TokenURL.Value); err != nil {
			errs = append(errs, s.TokenURL.Errorf("token_url: %s", err))
		}
	}
	if s.Issuer.Line != 0 {
		if err := oauth.CheckIssuer(s.Issuer.Value); err != nil {
			errs = append(errs, s.Issuer.Errorf("issuer: %s", err))
		}
		if s.TokenURL.Line != 0 {
			errs = append(errs, s.Issuer.Errorf("issuer: token_url says it already; leave one out"))
		}
	}
	if s.ClientID.Line != 0 && s.ClientID.Value == "" {
		errs = append(errs, s.ClientID.Errorf("client_id: must not be empty"))
	}
	errs = append(errs, s.assertionSettings.check()...)
	errs = append(errs, s.checkAuth(env)...)
	for _, scope := range s.Scopes.Value {
		if scope != "" && !isScope(scope) {
			errs = append(errs, s.Scopes.Errorf("scopes: want one scope in each item, without spaces or quotes"))
			break
		}
	}
	if slices.ContainsFunc(s.Resource.Value, func(uri string) bool { return !isURI(uri) }) {
		errs = append(errs, s.Resource.Errorf("resource: want absolute URIs without a fragment (RFC 8707 section 2)"))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Extra.Value)) {
		if slices.Contains(oauth.Reserved(), name) || name == "resource" && s.Resource.Line != 0 {
			errs = append(errs, s.Extra.Errorf("extra: must not set %q", name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.TokenFields.Value)) {
		if !slices.Contains(oauth.TokenFields(), name) {
			errs = append(errs, s.TokenFields.Errorf("token_fields: unknown field (known: %s)", strings.Join(oauth.TokenFields(), ", ")))
		} else if err := oauth.CheckPointer(oauth.Pointer(s.TokenFields.Value[name])); err != nil {
			errs = append(errs, s.TokenFields.Errorf("token_fields: %s: %v", name, err))
		}
	}
	return errs
}

// fields says where the token endpoint's answer has what.
func (s clientSettings) fields() map[string]oauth.Pointer {
	out := make(map[string]oauth.Pointer, len(s.TokenFields.Value))
	for name, at := range s.TokenFields.Value {
		out[name] = oauth.Pointer(at)
	}
	return out
}

// checkAuth reports what client_auth lacks, or has too much.
func (s clientSettings) checkAuth(env Env) (errs strict.Errors) {
	auth := s.ClientAuth.Value
	switch auth {
	case oauth.AuthPrivateKeyJWT, oauth.AuthTLS, oauth.AuthNone:
		if s.ClientSecret.Line != 0 {
			errs = append(errs, s.ClientSecret.Errorf("client_secret: is not used with client_auth %s", auth))
		}
	case oauth.AuthBasic, oauth.AuthPost:
		if s.ClientSecret.Line == 0 {
			errs = append(errs, s.ClientAuth.Errorf("client_auth: needs a client_secret"))
		}
	}
	switch {
	case auth == oauth.AuthPrivateKeyJWT && s.Key.Line == 0:
		errs = append(errs, s.ClientAuth.Errorf("client_auth: needs a key"))
	case auth == oauth.AuthTLS && env.Certificate == nil:
		errs = append(errs, s.ClientAuth.Errorf("client_auth: needs a certificate in the rule: tls: {cert: FILE, key: REFERENCE}"))
	}
	return errs
}

// isScope reports whether s is a scope-token (RFC 6749 section 3.3).
func isScope(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' })
}
