package oauth

import (
	"context"
	"net/url"

	"github.com/credproxy/credproxy/secrets"
)

// Revoke makes what is left of a sign-in worthless (RFC 7009 section 2) at endpoint. secret is empty for a client that
// has none. The error, if any, is an *Error.
func (c *Client) Revoke(ctx context.Context, endpoint string, secret secrets.Value, s SignIn) error {
	form := url.Values{"token": {s.Refresh.Reveal()}, "token_type_hint": {"refresh_token"}}
	if s.Refresh.IsZero() {
		form = url.Values{"token": {s.Token.Access.Reveal()}, "token_type_hint": {"access_token"}}
	}
	if _, failed := c.post(ctx, "revocation endpoint", endpoint, secret, form); failed != nil {
		return failed
	}
	return nil
}
