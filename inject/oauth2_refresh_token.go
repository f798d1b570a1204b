package inject

import (
	"context"
	"errors"
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
// replaced the token already. If the server refuses it, the store is read once more: somebody who knows nothing of our
// lock may have put another there.
func (g *grant) rotate(ctx context.Context, ref secrets.Ref) (t oauth.Token, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rotationTimeout)
	defer cancel()
	client, secret, err := g.asClient(ctx)
	if err != nil {
		return oauth.Token{}, err
	}
	if g.login != nil {
		client.Scopes = nil // the person may have granted fewer
	}
	var sent secrets.Value
	var refused error
	use := func(ctx context.Context, current secrets.Value) (secrets.Value, error) {
		s := oauth.ReadSignIn(current)
		switch {
		case s.Refresh.IsZero():
			t, err = g.unrenewed(s)
			return secrets.Value{}, err
		case refused != nil && s.Refresh.Equal(sent):
			return secrets.Value{}, refused
		}
		sent = s.Refresh
		var next secrets.Value
		t, next, err = client.Refresh(ctx, secret, s.Refresh)
		if !next.IsZero() {
			s.Refresh = next
			next = s.Value()
		}
		return next, err // next is stored even with an error: the answer can be useless beside it
	}
	err = g.env.Secrets.Rotate(ctx, ref, use)
	if e, ok := errors.AsType[*oauth.Error](err); ok && e.Slug() == "token_expired" && !sent.IsZero() {
		refused = err
		g.env.Secrets.Reject(ref, sent) // if it is not in the keyring, it is read anew
		err = g.env.Secrets.Rotate(ctx, ref, use)
	}
	if err != nil {
		return oauth.Token{}, err
	}
	return t, nil
}
