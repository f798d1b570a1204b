// Package oauth is an OAuth 2.0 client: grants, and the token cache. It knows no YAML and no rules.
//
// A [Login] is a site's own way to sign in; a session that it gives counts as an access token.
//
// A [Client] makes one token request at a time and remembers nothing. A [Cache] remembers access tokens, renews
// them ahead of expiry, and lets any number of callers share one renewal.
package oauth

import (
	"time"

	"github.com/credproxy/credproxy/secrets"
)

// A Token is an access token (RFC 6749 section 5.1). A zero Expiry means that it does not expire; any other
// Expiry is wall clock time, so that a computer's sleep counts.
type Token struct {
	Access secrets.Value
	Type   string
	Expiry time.Time
}
