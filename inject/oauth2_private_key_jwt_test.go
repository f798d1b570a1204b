package inject_test

import (
	"strings"
	"testing"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/secrets"
)

func TestPrivateKeyJWT(t *testing.T) {
	t.Parallel()
	rsaKey, rsaText := newRSA(t)
	ecKey, ecText := newEC(t)
	t.Run("client credentials", func(t *testing.T) {
		t.Parallel()
		a := newAssertionServer(t, rsaKey.Public(), "client_assertion", "client_credentials")
		a.again = 1 // the second try has an assertion of its own
		c := build(t, newEnv(t, nil), "{type: oauth2_client_credentials, token_url: $URL, client_id: app, client_auth: private_key_jwt, key: $S, key_id: k1, scopes: [a]}",
			map[string]string{"URL": a.URL + "/token", "S": secretFile(t, rsaText)})[0]
		if n := len(c.Refs()); n != 1 {
			t.Errorf("%d references, want the key's alone", n)
		}
		wantAssertion(t, a, c, "RS256", "k1")
		_, _, form := a.last(t)
		claims := pyVerify(t, form.Get("client_assertion"), a.URL+"/token", "RS256", rsaKey)
		if claims["sub"] != "app" {
			t.Errorf("PyJWT reads sub %v, want app", claims["sub"])
		}
		if form.Get("scope") != "a" || len(a.tokens) != 3 {
			t.Errorf("scope %q, %d assertions, want a and 3", form.Get("scope"), len(a.tokens))
		}
	})
	t.Run("refresh token", func(t *testing.T) {
		t.Parallel()
		a := newAssertionServer(t, ecKey.Public(), "client_assertion", "refresh_token")
		store := openStore(t, t.TempDir())
		if err := store.Set(t.Context(), "rt", secrets.NewValue("refresh-token-0")); err != nil {
			t.Fatal(err)
		}
		c := build(t, newEnv(t, store), "{type: oauth2_refresh_token, token_url: $URL, client_id: app, client_auth: private_key_jwt, key: $S, algorithm: ES256, refresh_token: keyring:rt}",
			map[string]string{"URL": a.URL + "/token", "S": secretFile(t, ecText)})[0]
		wantAssertion(t, a, c, "ES256", nil)
		if _, _, form := a.last(t); form.Get("refresh_token") != "refresh-token-0" {
			t.Error("the refresh token was not sent")
		}
	})
}

// wantAssertion gets two access tokens from a, and looks at the assertion for the second.
func wantAssertion(t *testing.T, a *assertionServer, c inject.Credential, algorithm string, id any) {
	t.Helper()
	refuse(c, wantAuthorization(t, c, "Bearer access-1"))
	wantAuthorization(t, c, "Bearer access-2")
	header, claims, form := a.last(t)
	if header["alg"] != algorithm || header["kid"] != id || claims["iss"] != "app" || claims["sub"] != "app" || claims["aud"] != a.URL+"/token" {
		t.Errorf("header %v, claims %v, want %s, key %v, and app for itself", header, claims, algorithm, id)
	}
	if got := form.Get("client_assertion_type"); got != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
		t.Errorf("client_assertion_type %q", got)
	}
	if form.Get("client_id") != "app" || form.Has("client_secret") {
		t.Errorf("client_id %q, a secret: %v, want app and none", form.Get("client_id"), form.Has("client_secret"))
	}
}

func TestPrivateKeyJWTRefused(t *testing.T) {
	t.Parallel()
	known, _ := newRSA(t)
	_, other := newRSA(t)
	tests := []struct {
		name, code, secret, slug, hint string
	}{
		{"a key that the server does not know", "invalid_client", other, "token_refresh_failed", "check client_id, key_id, algorithm and assertion_audience"},
		{"a service account's JSON", "", serviceAccount(t, other, "https://login.example.com/"), "secret_invalid", "as PEM"},
		{"a revoked refresh token", "invalid_grant", other, "token_expired", "credproxy secret set rt"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newAssertionServer(t, known.Public(), "client_assertion", "refresh_token")
			a.code = tt.code
			state := t.TempDir()
			store := openStore(t, state)
			if err := store.Set(t.Context(), "rt", secrets.NewValue("refresh-token-0")); err != nil {
				t.Fatal(err)
			}
			c := build(t, newEnv(t, store), "{type: oauth2_refresh_token, token_url: $URL, client_id: app, client_auth: private_key_jwt, key: $S, refresh_token: keyring:rt}",
				map[string]string{"URL": a.URL + "/token", "S": secretFile(t, tt.secret)})[0]
			got, _, err := authorization(t.Context(), c)
			if err == nil {
				t.Fatalf("got %q, want an error", got)
			}
			if slug, hint := failure(t, err); slug != tt.slug || !strings.Contains(hint, tt.hint) {
				t.Errorf("%s: %v; hint %q, want %s and a hint with %q", slug, err, hint, tt.slug, tt.hint)
			}
			if got := stored(t, state, "rt"); got != "refresh-token-0" {
				t.Errorf("stored %q, want refresh-token-0", got)
			}
		})
	}
}
