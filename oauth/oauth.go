// Package oauth is an OAuth 2.0 client: grants, and the token cache with its persistence. It knows no YAML.
package oauth

import (
	"time"

	"github.com/credproxy/credproxy/secrets"
)

// A Token is an access token (RFC 6749 section 5.1). A zero Expiry means that it does not expire.
type Token struct {
	Access secrets.Value
	Type   string
	Expiry time.Time
}

// A Cache keeps tokens until shortly before they expire. It outlives rule reloads.
type Cache struct{}

// NewCache returns an empty Cache.
func NewCache() *Cache { return &Cache{} }
