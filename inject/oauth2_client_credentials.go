package inject

import (
	"context"
	"slices"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/oauth"
	"gopkg.in/yaml.v3"
)

type clientCredentialsSettings struct {
	clientSettings `yaml:",inline"`
}

// newClientCredentials is the client credentials grant (RFC 6749 section 4.4). It is for confidential clients only.
func newClientCredentials(s clientCredentialsSettings, at *yaml.Node, env Env) (method, strict.Errors) {
	errs := slices.Concat(s.require(at), s.check(env), s.onlyForClient())
	if auth := s.ClientAuth.Value; s.ClientSecret.Line == 0 && auth != oauth.AuthPrivateKeyJWT && auth != oauth.AuthTLS {
		errs = append(errs, strict.Errorf(at, "missing field %q", "client_secret"))
	}
	if len(errs) > 0 {
		return nil, errs
	}
	g := s.grant("oauth2_client_credentials", env)
	g.ask = func(ctx context.Context) (oauth.Token, error) {
		client, secret, err := g.asClient(ctx)
		if err != nil {
			return oauth.Token{}, err
		}
		return client.ClientCredentials(ctx, secret)
	}
	return g, nil
}
