package oauth

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/credproxy/credproxy/secrets"
)

// A SignIn is what is left of a person's sign-in: a refresh token or, from a server that gives none, an access token.
type SignIn struct {
	ID      string // differs from sign-in to sign-in; empty for a refresh token that was stored by hand
	Refresh secrets.Value
	Token   Token // only where there is no Refresh
}

// newSignIn is the sign-in that brought t and refresh.
func newSignIn(t Token, refresh secrets.Value, now time.Time) SignIn {
	s := SignIn{ID: now.UTC().Format(time.RFC3339Nano), Refresh: refresh}
	if refresh.IsZero() {
		s.Token = t
	}
	return s
}

// A signInRecord is a SignIn as it is stored.
type signInRecord struct {
	Refresh  string    `json:"refresh_token,omitempty"`
	Access   string    `json:"access_token,omitempty"`
	Expires  time.Time `json:"expires,omitzero"`
	SignedIn string    `json:"signed_in"`
}

// ReadSignIn reads what Value has made. Everything else is a refresh token.
func ReadSignIn(v secrets.Value) SignIn {
	var r signInRecord
	text := v.Reveal()
	if !strings.HasPrefix(text, "{") || json.Unmarshal([]byte(text), &r) != nil || r.SignedIn == "" || r.Refresh == "" && r.Access == "" {
		return SignIn{Refresh: v}
	}
	s := SignIn{ID: r.SignedIn, Refresh: secrets.NewValue(r.Refresh)}
	if r.Refresh == "" {
		s.Token = Token{Access: secrets.NewValue(r.Access), Type: "Bearer", Expiry: r.Expires}
	}
	return s
}

// Value is s as one secret.
func (s SignIn) Value() secrets.Value {
	if s.ID == "" {
		return s.Refresh
	}
	text, err := json.Marshal(signInRecord{s.Refresh.Reveal(), s.Token.Access.Reveal(), s.Token.Expiry, s.ID})
	if err != nil {
		return secrets.Value{} // strings and a time of this age have a JSON form
	}
	return secrets.NewValue(string(text))
}
