package oauth

import (
	"context"
	"errors"

	"github.com/credproxy/credproxy/secrets"
)

// Password asks for a token with a person's name and password (RFC 6749 section 4.3), which RFC 9700 has put out of use.
// secret is empty for a client that has none. A refused password is not offered again soon by a Cache: some servers lock
// the account after a few.
func (c *Client) Password(ctx context.Context, secret, username, password secrets.Value) (Token, error) {
	t, _, err := c.grant(ctx, secret, "password", proofs{"username": fixed(username), "password": fixed(password)})
	if e, ok := errors.AsType[*Error](err); ok && e.Code == "invalid_grant" {
		e.lockout = true
	}
	return t, err
}
