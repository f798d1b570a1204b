package oauth

import (
	"context"
	"maps"

	"github.com/credproxy/credproxy/secrets"
)

// An Exchange is what a token exchange is about (RFC 8693 section 2.1). Types are URIs.
type Exchange struct {
	Subject       secrets.Value
	SubjectType   string
	Actor         secrets.Value // zero: none
	ActorType     string
	RequestedType string // empty: as the server likes
}

// TokenExchange asks for a token in exchange for another (RFC 8693 section 2). The one that comes must be a bearer token.
// secret is empty for a client that has none; ID may be empty too.
func (c *Client) TokenExchange(ctx context.Context, secret secrets.Value, e Exchange) (Token, error) {
	asked := *c
	asked.Extra = map[string]string{"subject_token_type": e.SubjectType}
	maps.Copy(asked.Extra, c.Extra)
	with := proofs{"subject_token": fixed(e.Subject)}
	if !e.Actor.IsZero() {
		with["actor_token"], asked.Extra["actor_token_type"] = fixed(e.Actor), e.ActorType
	}
	if e.RequestedType != "" {
		asked.Extra["requested_token_type"] = e.RequestedType
	}
	t, _, err := asked.grant(ctx, secret, "urn:ietf:params:oauth:grant-type:token-exchange", with)
	return t, err
}
