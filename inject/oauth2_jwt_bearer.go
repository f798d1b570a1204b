package inject

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

type jwtBearerSettings struct {
	clientSettings `yaml:",inline"`
	Claims         strict.At[map[string]any] `yaml:"claims"`
	Lifetime       strict.At[time.Duration]  `yaml:"lifetime"`
}

// newJWTBearer is the JWT bearer grant (RFC 7523 section 2.1).
func newJWTBearer(s jwtBearerSettings, at *yaml.Node, env Env) (method, strict.Errors) {
	errs := slices.Concat(s.clientSettings.check(env), s.checkClaims())
	if s.ClientAuth.Value == oauth.AuthPrivateKeyJWT {
		return nil, append(errs, s.ClientAuth.Errorf("client_auth: the assertion says who the client is; leave this out"))
	}
	if s.Key.Line == 0 {
		errs = append(errs, strict.Errorf(at, "missing field %q", "key"))
	}
	if s.ClientID.Value == "" && s.ClientSecret.Line != 0 {
		errs = append(errs, strict.Errorf(at, "missing field %q", "client_id"))
	}
	lifetime := assertionLifetime
	if s.Lifetime.Line != 0 {
		lifetime = s.Lifetime.Value
	}
	if lifetime < time.Second || lifetime > maxAssertionLifetime || lifetime%time.Second != 0 {
		errs = append(errs, s.Lifetime.Errorf("lifetime: want whole seconds, from 1s to 1h"))
	}
	a := s.asserter(env, lifetime)
	if len(errs) > 0 || a == nil {
		return nil, errs
	}
	g := s.grant("oauth2_jwt_bearer", env, s.Key.Value)
	g.signer, g.blame = s.Key.Value, "key_id, algorithm and claims"
	g.key = fingerprint("oauth2_jwt_bearer", g.client, g.refs, g.issuer, a.name, a.keyID, s.Claims.Value, lifetime)
	g.ask = func(ctx context.Context) (oauth.Token, error) { return g.assert(ctx, a, s.Claims.Value) }
	return g, nil
}

func (s jwtBearerSettings) checkClaims() (errs strict.Errors) {
	for _, name := range slices.Sorted(maps.Keys(s.Claims.Value)) {
		if slices.Contains([]string{"iat", "exp", "jti"}, name) {
			errs = append(errs, s.Claims.Errorf("claims: %s is made for each assertion", name))
		} else if bad := badClaim(name, s.Claims.Value[name]); bad != "" {
			errs = append(errs, s.Claims.Errorf("claims: %s %s", name, bad))
		}
	}
	return errs
}

// assert asks for a token with an assertion that has claims, and those that follow from the rest.
func (g *grant) assert(ctx context.Context, a *asserter, claims map[string]any) (oauth.Token, error) {
	client, secret, err := g.asClient(ctx)
	if err != nil {
		return oauth.Token{}, err
	}
	key, err := a.load(ctx, true)
	if err != nil {
		return oauth.Token{}, err
	}
	client.TokenURL = cmp.Or(client.TokenURL, key.tokenURL)
	if client.TokenURL == "" {
		return oauth.Token{}, &oauth.Error{Why: "the rule has no token_url, and its key is not the JSON of a service account, which would have one",
			Next: "write token_url in the rules file"}
	}
	if err := g.may(secrets.For(ctx, hostname(client.TokenURL))); err != nil { // the key itself may have said where it goes
		return oauth.Token{}, err
	}
	all := map[string]any{"aud": client.TokenURL}
	if issuer := cmp.Or(key.email, client.ID); issuer != "" {
		all["iss"] = issuer
	}
	if key.account && len(client.Scopes) > 0 { // Google reads them here, others in the request
		all["scope"], client.Scopes = strings.Join(client.Scopes, " "), nil
	}
	maps.Copy(all, claims)
	if _, ok := all["sub"]; !ok && !key.account && all["iss"] != nil { // for Google sub is another whom the account acts for
		all["sub"] = all["iss"]
	}
	return client.JWTBearer(ctx, secret, func() (secrets.Value, error) { return a.sign(key, all) })
}
