package inject_test

import (
	"net/url"
	"testing"
	"time"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/internal/testoidc"
	"github.com/credproxy/credproxy/oauth"
)

// TestProviderSignsIn has a person sign in at a certified server for every kind of client, by browser and by device. Then
// the token is used, renewed, and revoked.
func TestProviderSignsIn(t *testing.T) {
	t.Parallel()
	key, keyText := newEC(t)
	app := func(id, auth string, more map[string]any) map[string]any {
		client := robot(id, auth, more)
		client["application_type"], client["response_types"] = "native", []string{"code"}
		client["redirect_uris"] = []string{"http://127.0.0.1/callback"}
		client["grant_types"] = []string{"authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"}
		return client
	}
	s := testoidc.Provider(t, testoidc.Config{TLS: true, Clients: []map[string]any{
		resourceServer,
		app("public", "none", nil),
		app("basic:+%", "client_secret_basic", map[string]any{"client_secret": oddSecret}),
		app("post", "client_secret_post", map[string]any{"client_secret": oddSecret}),
		app("key", "private_key_jwt", map[string]any{"jwks": map[string]any{"keys": []any{jwk(t, key)}}, "token_endpoint_auth_signing_alg": "ES256"}),
	}})
	for _, tt := range []struct{ client, settings, secret string }{
		{"public", "", ""},
		{"basic:+%", "client_secret: $S, ", oddSecret},
		{"post", "client_auth: post, client_secret: $S, ", oddSecret},
		{"key", "client_auth: private_key_jwt, algorithm: ES256, key: $S, ", keyText},
	} {
		for _, typ := range []string{"oauth2_authorization_code", "oauth2_device_code"} {
			t.Run(typ+" "+tt.client, func(t *testing.T) {
				t.Parallel()
				store := openStore(t, t.TempDir())
				text := "{type: " + typ + ", issuer: $URL, client_id: $ID, " + tt.settings + "refresh_token: keyring:me, scopes: [openid, offline_access], auth_extra: {prompt: consent}}"
				process := func() (inject.Credential, inject.Env) {
					env := newEnv(t, store)
					env.HTTP, env.Rule = s.Client, "spotify"
					return build(t, env, text, map[string]string{"URL": s.Issuer, "ID": tt.client, "S": secretFile(t, tt.secret)})[0], env
				}
				c, env := process()
				wantSignIn(t, c, "secret_missing")
				sign := attend(t, s, c)
				if _, err := store.PutRef(t.Context(), inject.LoginOf(c).Kept, sign.Value()); err != nil {
					t.Fatal(err)
				}
				claims, used := introspect(t, s, c)
				if claims["sub"] != "ada" || claims["client_id"] != tt.client {
					t.Errorf("the token is %v", claims)
				}
				refuse(c, used)
				if claims, again := introspect(t, s, c); claims["sub"] != "ada" || again[0].Equal(used[0]) {
					t.Errorf("the second token is %v", claims)
				}
				revokeNow(t, env, c)
				other, _ := process()
				wantSignIn(t, other, "token_expired")
			})
		}
	}
}

// attend is a sign-in, by ada.
func attend(t *testing.T, s *testoidc.Server, c inject.Credential) oauth.SignIn {
	t.Helper()
	l, ada := inject.LoginOf(c), testoidc.Person{Name: "ada", Client: s.Client}
	client, secret, server, err := l.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if l.Redirect == nil {
		d, err := client.StartDevice(t.Context(), server.DeviceURL, secret, l.Extra)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := ada.Visit(d.Complete); err != nil {
			t.Fatal(err)
		}
		sign, err := d.Wait(t.Context(), secret)
		if err != nil {
			t.Fatal(err)
		}
		return sign
	}
	a, err := client.Authorize(server, "http://127.0.0.1:4000/callback", l.Extra)
	if err != nil {
		t.Fatal(err)
	}
	left, text, err := ada.Visit(a.URL)
	if err != nil {
		t.Fatalf("ada stopped at %s, %v", text, err)
	}
	back, err := url.Parse(left)
	if err != nil {
		t.Fatal(err)
	}
	code, err := a.Code(back.Query())
	if err != nil {
		t.Fatal(err)
	}
	sign, err := a.Exchange(t.Context(), secret, code)
	if err != nil {
		t.Fatal(err)
	}
	return sign
}

// revokeNow revokes what is stored for c.
func revokeNow(t *testing.T, env inject.Env, c inject.Credential) {
	t.Helper()
	l := inject.LoginOf(c)
	client, secret, server, err := l.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	v, err := env.Secrets.Resolve(t.Context(), l.Kept)
	if err == nil {
		err = client.Revoke(t.Context(), server.RevocationURL, secret, oauth.ReadSignIn(v))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestMockSignsIn: what another server's answer to a sign-in leaves.
func TestMockSignsIn(t *testing.T) {
	t.Parallel()
	s := testoidc.Mock(t)
	store := openStore(t, t.TempDir())
	env := newEnv(t, store)
	env.Rule = "spotify"
	c := build(t, env, "{type: oauth2_authorization_code, issuer: $URL, client_id: app, refresh_token: keyring:me, scopes: [openid]}", map[string]string{"URL": s.Issuer})[0]
	for _, tt := range []struct {
		name    string
		answer  testoidc.Answer
		refresh string
		life    time.Duration
	}{
		{"a refresh token", testoidc.Answer{Set: map[string]any{"refresh_token": "r1"}}, "r1", 0},
		{"none, and a life as text", testoidc.Answer{Set: map[string]any{"expires_in": "7200"}, Unset: []string{"refresh_token"}}, "", 2 * time.Hour},
		{"none, and a long life", testoidc.Answer{Set: map[string]any{"expires_in": 5184000}, Unset: []string{"refresh_token"}}, "", 1440 * time.Hour},
		{"none, and no end", testoidc.Answer{Unset: []string{"refresh_token", "expires_in"}}, "", 0},
	} {
		s.Next(t, tt.answer)
		sign := attend(t, s, c)
		if _, err := store.PutRef(t.Context(), inject.LoginOf(c).Kept, sign.Value()); err != nil {
			t.Fatal(err)
		}
		left := time.Until(sign.Token.Expiry)
		if sign.Refresh.Reveal() != tt.refresh || tt.life > 0 && (left > tt.life || left < tt.life-time.Minute) || tt.life == 0 && !sign.Token.Expiry.IsZero() {
			t.Errorf("%s: refresh token %v, %s left", tt.name, !sign.Refresh.IsZero(), left)
		}
		if tt.refresh == "" {
			wantAuthorization(t, c, "Bearer "+sign.Token.Access.Reveal())
		}
	}
}
