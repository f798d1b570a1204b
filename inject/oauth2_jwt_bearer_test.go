package inject_test

import (
	"crypto"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/secrets"
)

const jwtBearerGrant = "urn:ietf:params:oauth:grant-type:jwt-bearer"

func TestJWTBearer(t *testing.T) {
	t.Parallel()
	rsaKey, rsaText := newRSA(t)
	ecKey, ecText := newEC(t)
	tests := []struct {
		name   string
		key    crypto.Signer
		secret string // TOKEN stands for the token endpoint
		fields string
		header map[string]any
		claims map[string]any // nil: absent
		form   map[string]string
	}{
		{"PEM", rsaKey, rsaText, "token_url: $URL, client_id: app, key_id: k1, scopes: [a, b]",
			map[string]any{"alg": "RS256", "kid": "k1", "typ": "JWT"},
			map[string]any{"iss": "app", "sub": "app", "scope": nil},
			map[string]string{"scope": "a b", "client_id": "app", "client_secret": ""}},
		{"EC key, another's name, a claim of its own", ecKey, ecText, "token_url: $URL, client_id: app, algorithm: ES256, claims: {sub: ada@acme.example, admin: true}, lifetime: 1m",
			map[string]any{"alg": "ES256", "kid": nil},
			map[string]any{"iss": "app", "sub": "ada@acme.example", "admin": true},
			map[string]string{"client_id": "app"}},
		{"PS512, no client_id", rsaKey, rsaText, "token_url: $URL, algorithm: PS512, claims: {iss: me}",
			map[string]any{"alg": "PS512"},
			map[string]any{"iss": "me", "sub": "me"},
			map[string]string{"client_id": ""}},
		{"service account", rsaKey, serviceAccount(t, rsaText, "TOKEN"), "scopes: [a, b]",
			map[string]any{"alg": "RS256", "kid": "kid-of-json"},
			map[string]any{"iss": "robot@acme.iam.gserviceaccount.com", "sub": nil, "scope": "a b"},
			map[string]string{"scope": "", "client_id": ""}},
		{"service account, for another", rsaKey, serviceAccount(t, rsaText, "https://unreachable.invalid/"), "token_url: $URL, key_id: k2, claims: {iss: other, sub: ada@acme.example}",
			map[string]any{"kid": "k2"},
			map[string]any{"iss": "other", "sub": "ada@acme.example", "scope": nil},
			map[string]string{"scope": ""}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newAssertionServer(t, tt.key.Public(), "assertion", jwtBearerGrant)
			c := build(t, newEnv(t, nil), "{type: oauth2_jwt_bearer, key: $S, "+tt.fields+"}",
				map[string]string{"URL": a.URL + "/token", "S": secretFile(t, strings.Replace(tt.secret, "TOKEN", a.URL+"/token", 1))})[0]
			used := wantAuthorization(t, c, "Bearer access-1")
			header, claims, form := a.last(t)
			for name, want := range tt.header {
				if header[name] != want {
					t.Errorf("header %s is %v, want %v", name, header[name], want)
				}
			}
			for name, want := range tt.claims {
				if claims[name] != want {
					t.Errorf("claim %s is %v, want %v", name, claims[name], want)
				}
			}
			for name, want := range tt.form {
				if got := form.Get(name); got != want {
					t.Errorf("parameter %s is %q, want %q", name, got, want)
				}
			}
			if claims["aud"] != a.URL+"/token" {
				t.Errorf("aud is %v, want the token endpoint", claims["aud"])
			}
			refuse(c, used) // the upstream answered 401: another token, and another assertion for it
			wantAuthorization(t, c, "Bearer access-2")
		})
	}
}

func TestJWTBearerAgainstPyJWT(t *testing.T) {
	t.Parallel()
	key, text := newEC(t)
	a := newAssertionServer(t, key.Public(), "assertion", jwtBearerGrant)
	c := build(t, newEnv(t, nil), "{type: oauth2_jwt_bearer, key: $S, token_url: $URL, algorithm: ES256, claims: {iss: me}}",
		map[string]string{"URL": a.URL + "/token", "S": secretFile(t, text)})[0]
	wantAuthorization(t, c, "Bearer access-1")
	_, _, form := a.last(t)
	claims := pyVerify(t, form.Get("assertion"), a.URL+"/token", "ES256", key)
	begin, _ := claims["iat"].(float64)
	end, _ := claims["exp"].(float64)
	if claims["iss"] != "me" || end-begin != 300 {
		t.Errorf("iss %v, exp - iat = %v, want me and 300", claims["iss"], end-begin)
	}
}

// TestEachTryHasAnAssertionOfItsOwn: a server that fails has taken the assertion all the same.
func TestEachTryHasAnAssertionOfItsOwn(t *testing.T) {
	t.Parallel()
	key, text := newRSA(t)
	a := newAssertionServer(t, key.Public(), "assertion", jwtBearerGrant)
	a.again = 2
	c := build(t, newEnv(t, nil), "{type: oauth2_jwt_bearer, key: $S, token_url: $URL, client_id: app}",
		map[string]string{"URL": a.URL + "/token", "S": secretFile(t, text)})[0]
	wantAuthorization(t, c, "Bearer access-1")
	if len(a.tokens) != 3 || a.wrong != "" {
		t.Errorf("%d good assertions, refused with %q, want 3 and none", len(a.tokens), a.wrong)
	}
}

func TestJWTBearerRefused(t *testing.T) {
	t.Parallel()
	key, text := newRSA(t)
	_, other := newRSA(t)
	_, ecText := newEC(t)
	tests := []struct {
		name, secret, fields, slug, want, hint string
	}{
		{"a key that the server does not know", other, "token_url: $URL, client_id: app", "token_refresh_failed", "invalid_grant", "the server knows the key file:"},
		{"another audience", text, "token_url: $URL, client_id: app, claims: {aud: other}", "token_refresh_failed", "invalid_grant", "claims"},
		{"a key of another kind", ecText, "token_url: $URL, client_id: app", "secret_invalid", "an RSA key is wanted", "JSON of a Google service account"},
		{"no token endpoint", text, "client_id: app", "token_refresh_failed", "no token_url", "token_url"},
		{"JSON of another kind", `{"type":"authorized_user","private_key":"sk-0123456789"}`, "token_url: $URL", "secret_invalid", "not service_account", "JSON of a Google service account"},
		{"damaged JSON", `{"type":"service_account","private_key":"sk-0123456789`, "token_url: $URL", "secret_invalid", "begins like JSON", "put a new value"},
		{"JSON without an address", `{"type":"service_account","private_key":"sk-0123456789"}`, "token_url: $URL", "secret_invalid", "lacks", "put a new value"},
		{"JSON with a token endpoint over http", serviceAccount(t, text, "http://oauth2.example.com/token"), "scopes: [a]", "secret_invalid", "token_uri", "put a new value"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newAssertionServer(t, key.Public(), "assertion", jwtBearerGrant)
			c := build(t, newEnv(t, nil), "{type: oauth2_jwt_bearer, key: $S, "+tt.fields+"}", map[string]string{"URL": a.URL + "/token", "S": secretFile(t, tt.secret)})[0]
			got, used, err := authorization(t.Context(), c)
			if err == nil {
				t.Fatalf("got %q, want an error", got)
			}
			slug, hint := failure(t, err)
			if slug != tt.slug || !strings.Contains(err.Error(), tt.want) || !strings.Contains(hint, tt.hint) {
				t.Errorf("%s: %v; hint %q, want %s, %q and a hint with %q", slug, err, hint, tt.slug, tt.want, tt.hint)
			}
			if got != "Bearer dummy" || used != nil {
				t.Errorf("the request was changed to %q all the same", got)
			}
			for _, form := range a.forms {
				if strings.Contains(err.Error()+hint, form.Get("assertion")) || strings.Contains(err.Error()+hint, "sk-0123") {
					t.Errorf("%v gives a secret away", err)
				}
			}
		})
	}
}

// TestJWTBearerNewKeyHelpsAtOnce: after a refusal the key is read again, and a replaced one is used without delay.
func TestJWTBearerNewKeyHelpsAtOnce(t *testing.T) {
	t.Parallel()
	key, text := newRSA(t)
	_, stale := newRSA(t)
	a := newAssertionServer(t, key.Public(), "assertion", jwtBearerGrant)
	state := t.TempDir()
	store := openStore(t, state)
	if err := store.Set(t.Context(), "robot", secrets.NewValue(stale)); err != nil {
		t.Fatal(err)
	}
	c := build(t, newEnv(t, store), "{type: oauth2_jwt_bearer, key: keyring:robot, token_url: $URL, client_id: app}", map[string]string{"URL": a.URL + "/token"})[0]
	for range 3 {
		if got, _, err := authorization(t.Context(), c); err == nil {
			t.Fatalf("got %q with a key that the server does not know", got)
		}
	}
	if len(a.forms) != 1 {
		t.Errorf("the server was asked %d times, want 1", len(a.forms))
	}
	if err := openStore(t, state).Set(t.Context(), "robot", secrets.NewValue(text)); err != nil {
		t.Fatal(err)
	}
	wantAuthorization(t, c, "Bearer access-1")
}

func TestJWTBearerRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	_, text := newRSA(t)
	followed := false
	mux := http.NewServeMux()
	mux.Handle("/token", http.RedirectHandler("/elsewhere", http.StatusPermanentRedirect))
	mux.HandleFunc("/elsewhere", func(http.ResponseWriter, *http.Request) { followed = true })
	srv := httptest.NewServer(mux)
	defer srv.Close()
	c := build(t, newEnv(t, nil), "{type: oauth2_jwt_bearer, key: $S, token_url: $URL, client_id: app}", map[string]string{"URL": srv.URL + "/token", "S": secretFile(t, text)})[0]
	if got, _, err := authorization(t.Context(), c); err == nil || followed {
		t.Errorf("got %q, followed %v, want an error", got, followed)
	}
}
