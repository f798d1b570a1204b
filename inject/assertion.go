package inject

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"maps"
	"strings"
	"time"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
	"github.com/golang-jwt/jwt/v5"
)

// Assertions are short-lived, whatever the access token is (RFC 7523 section 3): a server needs them once.
const (
	assertionLifetime    = 5 * time.Minute
	maxAssertionLifetime = time.Hour
)

// assertionSettings are the fields of what signs assertions (RFC 7523).
type assertionSettings struct {
	Key       strict.At[secrets.Ref] `yaml:"key"`
	KeyID     strict.At[string]      `yaml:"key_id"`
	Algorithm strict.At[string]      `yaml:"algorithm" oneof:"RS256|RS384|RS512|PS256|PS384|PS512|ES256|ES384|ES512|EdDSA"`
}

func (s assertionSettings) check() (errs strict.Errors) {
	if s.KeyID.Value != "" {
		if bad := badText(s.KeyID.Value); bad != "" {
			errs = append(errs, s.KeyID.Errorf("key_id: %s", bad))
		}
	}
	return errs
}

// An asserter signs assertions. It asks the key's reference anew for each renewal of a token.
type asserter struct {
	env       Env
	ref       secrets.Ref
	name      string // of the algorithm
	algorithm jwtAlgorithm
	keyID     string // empty: the one that comes with the key, if any
	lifetime  time.Duration
	now       func() time.Time
	key       parsed[assertionKey]
}

// asserter is nil if the settings name an algorithm that there is not: strict has reported that.
func (s assertionSettings) asserter(env Env, lifetime time.Duration) *asserter {
	name := cmp.Or(s.Algorithm.Value, "RS256")
	algorithm, ok := jwtAlgorithms[name]
	if !ok {
		return nil
	}
	return &asserter{
		env: env, ref: s.Key.Value, name: name, algorithm: algorithm, keyID: s.KeyID.Value, lifetime: lifetime, now: time.Now,
	}
}

// An assertionKey is a private key, and what stands beside it in a Google service account's JSON.
type assertionKey struct {
	private  any
	account  bool // it is from such a JSON
	id       string
	email    string
	tokenURL string
}

// load reads the key: PEM, or the JSON of a service account if accounts are wanted.
func (a *asserter) load(ctx context.Context, accounts bool) (key assertionKey, err error) {
	wants := a.algorithm.wants
	if accounts && strings.HasPrefix(a.name, "RS") {
		wants += ", or the JSON of a Google service account"
	}
	_, err = a.env.useAs(ctx, a.ref, wants, func(text string) (bad string) {
		key, bad = a.key.of(secrets.NewValue(text), func(text string) (assertionKey, string) {
			if accounts && strings.HasPrefix(strings.TrimSpace(text), "{") {
				return a.serviceAccount(text)
			}
			private, bad := a.algorithm.key(text, "")
			return assertionKey{private: private}, bad
		})
		return bad
	})
	return key, err
}

// serviceAccount is the key in the JSON that Google hands out for a service account.
func (a *asserter) serviceAccount(text string) (assertionKey, string) {
	var file struct {
		Type         string `json:"type"`
		PrivateKeyID string `json:"private_key_id"`
		PrivateKey   string `json:"private_key"`
		ClientEmail  string `json:"client_email"`
		TokenURI     string `json:"token_uri"`
	}
	switch {
	case json.Unmarshal([]byte(text), &file) != nil:
		return assertionKey{}, "it begins like JSON and is not a service account's"
	case file.Type != "service_account":
		return assertionKey{}, "it is JSON, but its type is not service_account"
	case file.PrivateKey == "" || file.ClientEmail == "":
		return assertionKey{}, "the JSON lacks private_key or client_email"
	case file.TokenURI != "" && oauth.CheckURL(file.TokenURI) != nil:
		return assertionKey{}, "its token_uri is not an https:// URL"
	}
	private, bad := a.algorithm.key(file.PrivateKey, "")
	return assertionKey{private: private, account: true, id: file.PrivateKeyID, email: file.ClientEmail, tokenURL: file.TokenURI}, bad
}

// sign makes an assertion with claims. Each is good for one request: it has a jti of its own.
func (a *asserter) sign(key assertionKey, claims map[string]any) (secrets.Value, error) {
	all := jwt.MapClaims(maps.Clone(claims))
	begin := a.now().Add(-min(jwtClockSkew, a.lifetime/10)).Unix()
	all["iat"], all["exp"], all["jti"] = begin, begin+int64(a.lifetime/time.Second), rand.Text()
	t := jwt.NewWithClaims(a.algorithm.method, all)
	if id := cmp.Or(a.keyID, key.id); id != "" {
		t.Header["kid"] = id
	}
	text, err := t.SignedString(key.private)
	return secrets.NewValue(text), err
}
