package inject

import (
	"context"
	"net/url"
	"slices"
	"strings"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

type tokenExchangeSettings struct {
	clientSettings     `yaml:",inline"`
	SubjectToken       secrets.Ref            `yaml:"subject_token" need:"true"`
	SubjectTokenType   strict.At[string]      `yaml:"subject_token_type" need:"true"`
	ActorToken         strict.At[secrets.Ref] `yaml:"actor_token"`
	ActorTokenType     strict.At[string]      `yaml:"actor_token_type"`
	RequestedTokenType strict.At[string]      `yaml:"requested_token_type"`
}

// newTokenExchange is token exchange (RFC 8693). It needs no client_id: some servers take the subject token alone.
func newTokenExchange(s tokenExchangeSettings, at *yaml.Node, env Env) (method, strict.Errors) {
	errs := slices.Concat(s.check(env), s.onlyForClient(), s.checkTypes())
	if s.TokenURL.Line == 0 && s.Issuer.Line == 0 {
		errs = append(errs, strict.Errorf(at, "missing field %q", "token_url"))
	}
	if s.ClientID.Line == 0 && s.auth() != oauth.AuthNone {
		errs = append(errs, strict.Errorf(at, "missing field %q", "client_id"))
	}
	if len(errs) > 0 {
		return nil, errs
	}
	refs := []secrets.Ref{s.SubjectToken}
	if s.ActorToken.Line != 0 {
		refs = append(refs, s.ActorToken.Value)
	}
	g := s.grant("oauth2_token_exchange", env, refs...)
	g.subject = s.SubjectToken
	what := oauth.Exchange{
		SubjectType: tokenType(s.SubjectTokenType.Value), ActorType: tokenType(s.ActorTokenType.Value), RequestedType: tokenType(s.RequestedTokenType.Value),
	}
	g.key = fingerprint(g.key, g.client, g.refs, what.SubjectType, what.ActorType, what.RequestedType)
	g.ask = func(ctx context.Context) (oauth.Token, error) { return g.exchange(ctx, what, refs) }
	return g, nil
}

func (s tokenExchangeSettings) checkTypes() (errs strict.Errors) {
	switch {
	case s.ActorToken.Line != 0 && s.ActorTokenType.Line == 0:
		errs = append(errs, s.ActorToken.Errorf("actor_token: needs an actor_token_type"))
	case s.ActorToken.Line == 0 && s.ActorTokenType.Line != 0:
		errs = append(errs, s.ActorTokenType.Errorf("actor_token_type: needs an actor_token"))
	}
	fields := []strict.At[string]{s.SubjectTokenType, s.ActorTokenType, s.RequestedTokenType}
	for i, name := range []string{"subject_token_type", "actor_token_type", "requested_token_type"} {
		if f := fields[i]; f.Value != "" && !isURI(tokenType(f.Value)) {
			errs = append(errs, f.Errorf("%s: want %s, or a URI", name, strings.Join(tokenTypes, ", ")))
		}
	}
	return errs
}

// tokenTypes are the last words of the token types of RFC 8693 section 3.
var tokenTypes = []string{"access_token", "refresh_token", "id_token", "saml1", "saml2", "jwt"}

// tokenType is the full name of a token type.
func tokenType(name string) string {
	if slices.Contains(tokenTypes, name) {
		return "urn:ietf:params:oauth:token-type:" + name
	}
	return name
}

// isURI reports whether s is an absolute URI without a fragment.
func isURI(s string) bool {
	u, err := url.Parse(s)
	return err == nil && u.IsAbs() && (u.Host != "" || u.Opaque != "") && !strings.ContainsAny(s, "# ")
}

// exchange asks for a token for those that the references hold: the subject's, and the actor's if there is one.
func (g *grant) exchange(ctx context.Context, what oauth.Exchange, refs []secrets.Ref) (oauth.Token, error) {
	client, secret, err := g.asClient(ctx)
	if err != nil {
		return oauth.Token{}, err
	}
	for i, to := range []*secrets.Value{&what.Subject, &what.Actor}[:len(refs)] {
		if *to, err = g.env.use(ctx, refs[i], badText); err != nil {
			return oauth.Token{}, err
		}
	}
	return client.TokenExchange(ctx, secret, what)
}
