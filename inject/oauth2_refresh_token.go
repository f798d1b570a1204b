package inject

import (
	"context"
	"slices"
	"time"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

type refreshTokenSettings struct {
	clientSettings `yaml:",inline"`
	RefreshToken   secrets.Ref `yaml:"refresh_token" need:"true"`
}

// rotationTimeout is a backstop: the wait for another process, the keyring and the token request have bounds of
// their own.
const rotationTimeout = 3 * time.Minute

// newRefreshToken is the refresh token grant (RFC 6749 section 6). A rotated refresh token is stored before the
// access token that came with it is used.
func newRefreshToken(s refreshTokenSettings, at *yaml.Node, env Env) (method, strict.Errors) {
	if errs := slices.Concat(s.require(at), s.check(env), s.onlyForClient()); len(errs) > 0 {
		return nil, errs
	}
	g := s.grant("oauth2_refresh_token", env, s.RefreshToken)
	g.ask = func(ctx context.Context) (oauth.Token, error) { return g.rotate(ctx, s.RefreshToken) }
	return g, nil
}

// rotate uses the refresh token at ref once. It runs to its end even while the proxy stops: the server may have
// replaced the token already.
func (g *grant) rotate(ctx context.Context, ref secrets.Ref) (t oauth.Token, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rotationTimeout)
	defer cancel()
	client, secret, err := g.asClient(ctx)
	if err != nil {
		return oauth.Token{}, err
	}
	err = g.env.Secrets.Rotate(ctx, ref, func(ctx context.Context, current secrets.Value) (next secrets.Value, err error) {
		t, next, err = client.Refresh(ctx, secret, current)
		return next, err // next is stored even with an error: the answer can be useless beside it
	})
	if err != nil {
		return oauth.Token{}, err
	}
	return t, nil
}
