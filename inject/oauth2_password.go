package inject

import (
	"context"
	"slices"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

type passwordSettings struct {
	clientSettings `yaml:",inline"`
	Username       strict.At[textOrRef] `yaml:"username" need:"true"`
	Password       secrets.Ref          `yaml:"password" need:"true"`
}

// newPassword is the resource owner password credentials grant (RFC 6749 section 4.3), for servers that have no other.
// A refresh token in the answer is not used: the password is there.
func newPassword(s passwordSettings, at *yaml.Node, env Env) (method, strict.Errors) {
	errs := slices.Concat(s.require(at), s.check(env), s.onlyForClient())
	if name := s.Username.Value; name.Ref.IsZero() && s.Username.Line != 0 && badText(name.Text) != "" {
		errs = append(errs, s.Username.Errorf("username: %s", badText(name.Text)))
	}
	if len(errs) > 0 {
		return nil, errs
	}
	refs := []secrets.Ref{s.Password}
	if !s.Username.Value.Ref.IsZero() {
		refs = append(refs, s.Username.Value.Ref)
	}
	g := s.grant("oauth2_password", env, refs...)
	g.password = s.Password
	g.key = fingerprint(g.key, g.client, g.refs, s.Username.Value.Text)
	g.ask = func(ctx context.Context) (oauth.Token, error) { return g.signIn(ctx, s.Username.Value) }
	return g, nil
}

// signIn asks for a token with the user's name and password.
func (g *grant) signIn(ctx context.Context, username textOrRef) (oauth.Token, error) {
	client, secret, err := g.asClient(ctx)
	if err != nil {
		return oauth.Token{}, err
	}
	name := secrets.NewValue(username.Text)
	if !username.Ref.IsZero() {
		if name, err = g.env.use(ctx, username.Ref, badText); err != nil {
			return oauth.Token{}, err
		}
	}
	password, err := g.env.use(ctx, g.password, badPassword)
	if err != nil {
		return oauth.Token{}, err
	}
	return client.Password(ctx, secret, name, password)
}
