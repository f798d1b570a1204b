package inject_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/internal/testoidc"
	"github.com/credproxy/credproxy/secrets"
)

// An oddSecret has what must be encoded in a Basic header and in a form.
const oddSecret = "a:b+c %/&=~\"<"

// resourceServer is the client that asks the provider whose a token is.
var resourceServer = map[string]any{
	"client_id": "api", "client_secret": "api-secret", "grant_types": []string{"client_credentials"}, "redirect_uris": []string{}, "response_types": []string{},
}

func robot(id, auth string, more map[string]any) map[string]any {
	client := map[string]any{
		"client_id": id, "token_endpoint_auth_method": auth, "grant_types": []string{"client_credentials"},
		"redirect_uris": []string{}, "response_types": []string{},
	}
	for name, value := range more {
		client[name] = value
	}
	return client
}

// jwk is the public key of key as RFC 7517 has it.
func jwk(t *testing.T, key crypto.Signer) map[string]any {
	t.Helper()
	encode := base64.RawURLEncoding.EncodeToString
	switch k := key.Public().(type) {
	case *rsa.PublicKey:
		return map[string]any{"kty": "RSA", "n": encode(k.N.Bytes()), "e": encode(big.NewInt(int64(k.E)).Bytes())}
	case *ecdsa.PublicKey:
		point, err := k.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return map[string]any{"kty": "EC", "crv": "P-256", "x": encode(point[1:33]), "y": encode(point[33:])}
	case ed25519.PublicKey:
		return map[string]any{"kty": "OKP", "crv": "Ed25519", "x": encode(k)}
	}
	t.Fatalf("no JWK for %T", key.Public())
	return nil
}

// introspect asks the provider about the token that c puts on a request, as an API would (RFC 7662).
func introspect(t *testing.T, s *testoidc.Server, c inject.Credential) (map[string]any, []secrets.Value) {
	t.Helper()
	got, used, err := authorization(t.Context(), c)
	if err != nil {
		t.Fatalf("Apply: %v", err)
	}
	token, ok := strings.CutPrefix(got, "Bearer ")
	if !ok {
		t.Fatal("no Bearer token")
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.Issuer+"/token/introspection", strings.NewReader(url.Values{"token": {token}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("api", "api-secret")
	resp, err := s.Client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var claims map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&claims); err != nil {
		t.Fatal(err)
	}
	return claims, used
}

func TestProviderKnowsTheClient(t *testing.T) {
	t.Parallel()
	rsaKey, rsaText := newRSA(t)
	ecKey, ecText := newEC(t)
	_, edKey, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(edKey)
	if err != nil {
		t.Fatal(err)
	}
	edText := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	keys := func(k crypto.Signer, alg string) map[string]any {
		return map[string]any{"jwks": map[string]any{"keys": []any{jwk(t, k)}}, "token_endpoint_auth_signing_alg": alg}
	}
	s := testoidc.Provider(t, testoidc.Config{Scopes: []string{"read", "write"}, Clients: []map[string]any{
		resourceServer,
		robot("basic:+%", "client_secret_basic", map[string]any{"client_secret": oddSecret}),
		robot("post", "client_secret_post", map[string]any{"client_secret": oddSecret}),
		robot("rs256", "private_key_jwt", keys(rsaKey, "RS256")),
		robot("ps256", "private_key_jwt", keys(rsaKey, "PS256")),
		robot("es256", "private_key_jwt", keys(ecKey, "ES256")),
		robot("eddsa", "private_key_jwt", keys(edKey, "EdDSA")),
	}})
	tests := []struct{ client, settings, secret string }{
		{"basic:+%", "client_secret: $S", oddSecret},
		{"post", "client_auth: post, client_secret: $S", oddSecret},
		{"rs256", "client_auth: private_key_jwt, key: $S", rsaText},
		{"rs256", "client_auth: private_key_jwt, key: $S, assertion_audience: " + s.Issuer, rsaText},
		{"ps256", "client_auth: private_key_jwt, key: $S, algorithm: PS256", rsaText},
		{"es256", "client_auth: private_key_jwt, key: $S, algorithm: ES256", ecText},
		{"eddsa", "client_auth: private_key_jwt, key: $S, algorithm: EdDSA", edText},
	}
	for i, tt := range tests {
		t.Run(fmt.Sprint(i, " ", tt.client), func(t *testing.T) {
			t.Parallel()
			for _, place := range []string{"issuer: " + s.Issuer, "token_url: " + s.Issuer + "/token"} {
				c := build(t, newEnv(t, nil), "{type: oauth2_client_credentials, client_id: $ID, scopes: [read], resource: ['urn:api'], "+place+", "+tt.settings+"}",
					map[string]string{"ID": tt.client, "S": secretFile(t, tt.secret)})[0]
				claims, used := introspect(t, s, c)
				if claims["active"] != true || claims["client_id"] != tt.client || claims["scope"] != "read" || claims["aud"] != "urn:api" {
					t.Errorf("%s: the provider says %v", place, claims)
				}
				refuse(c, used)
				if _, again := introspect(t, s, c); again[0].Equal(used[0]) {
					t.Errorf("%s: the same token after a 401", place)
				}
			}
		})
	}
	t.Run("an assertion for another", func(t *testing.T) {
		t.Parallel()
		c := build(t, newEnv(t, nil), "{type: oauth2_client_credentials, client_id: rs256, client_auth: private_key_jwt, key: $S, issuer: $I, assertion_audience: 'https://other.example'}",
			map[string]string{"I": s.Issuer, "S": secretFile(t, rsaText)})[0]
		_, _, err := authorization(t.Context(), c)
		if err == nil || !strings.Contains(err.Error(), "invalid_client") {
			t.Errorf("got %v, want invalid_client", err)
		}
	})
	t.Run("a wrong secret", func(t *testing.T) {
		t.Parallel()
		c := build(t, newEnv(t, nil), "{type: oauth2_client_credentials, client_id: post, client_auth: post, client_secret: $S, issuer: $I}",
			map[string]string{"I": s.Issuer, "S": secretFile(t, "wrong")})[0]
		_, _, err := authorization(t.Context(), c)
		if err == nil || !strings.Contains(err.Error(), "invalid_client") {
			t.Errorf("got %v, want invalid_client", err)
		}
	})
}

// signIn has a person sign in with the public client app, and returns the refresh token.
func signIn(t *testing.T, s *testoidc.Server) string {
	t.Helper()
	const verifier, redirect = "0123456789012345678901234567890123456789012", "http://127.0.0.1:4000/callback"
	sum := sha256.Sum256([]byte(verifier))
	left, text, err := testoidc.Person{Name: "ada", Client: s.Client}.Visit(s.Issuer + "/auth?" + url.Values{
		"client_id": {"app"}, "response_type": {"code"}, "redirect_uri": {redirect}, "prompt": {"consent"}, "scope": {"openid offline_access"},
		"code_challenge_method": {"S256"}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])},
	}.Encode())
	if err != nil || left == "" {
		t.Fatalf("signing in stopped at %q, %v", text, err)
	}
	back, err := url.Parse(left)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Client.PostForm(s.Issuer+"/token", url.Values{
		"grant_type": {"authorization_code"}, "client_id": {"app"}, "code": {back.Query().Get("code")}, "code_verifier": {verifier}, "redirect_uri": {redirect},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	var answer struct {
		Refresh string `json:"refresh_token"`
	}
	if err != nil || json.Unmarshal(body, &answer) != nil || answer.Refresh == "" {
		t.Fatalf("no refresh token: %s, %v", body, err)
	}
	return answer.Refresh
}

// The provider rotates refresh tokens, and takes a second use of one for theft: then nothing works any more.
func TestProviderRotatesRefreshTokens(t *testing.T) {
	t.Parallel()
	s := testoidc.Provider(t, testoidc.Config{Clients: []map[string]any{resourceServer, {
		"client_id": "app", "token_endpoint_auth_method": "none", "application_type": "native",
		"redirect_uris": []string{"http://127.0.0.1/callback"}, "grant_types": []string{"authorization_code", "refresh_token"},
	}}})
	state := t.TempDir()
	store := openStore(t, state)
	first := signIn(t, s)
	if err := store.Set(t.Context(), "rt", secrets.NewValue(first)); err != nil {
		t.Fatal(err)
	}
	refresher := func() inject.Credential {
		return build(t, newEnv(t, openStore(t, state)), "{type: oauth2_refresh_token, client_id: app, refresh_token: keyring:rt, issuer: $I}",
			map[string]string{"I": s.Issuer})[0]
	}
	two := []inject.Credential{refresher(), refresher()} // as two proxies would have it
	seen := map[string]bool{first: true}
	for round := range 2 { // a third renewal after a 401 would have to wait
		for _, c := range two {
			claims, used := introspect(t, s, c)
			if claims["active"] != true || claims["client_id"] != "app" {
				t.Fatalf("the provider says %v", claims)
			}
			refuse(c, used)
			now := stored(t, state, "rt")
			if seen[now] {
				t.Fatalf("round %d: a refresh token is stored again", round)
			}
			seen[now] = true
		}
	}
	if n := len(s.Events("grant.error")); n != 0 {
		t.Fatalf("%d token requests were refused", n)
	}
	last := stored(t, state, "rt")
	if err := store.Set(t.Context(), "rt", secrets.NewValue(first)); err != nil {
		t.Fatal(err)
	}
	for _, replay := range []string{first, last} { // the second because of the first
		if err := store.Set(t.Context(), "rt", secrets.NewValue(replay)); err != nil {
			t.Fatal(err)
		}
		_, _, err := authorization(t.Context(), refresher())
		if err == nil {
			t.Fatal("the provider took a refresh token twice")
		}
		if slug, _ := failure(t, err); slug != "token_expired" {
			t.Errorf("%s: %v, want token_expired", slug, err)
		}
		if got := stored(t, state, "rt"); got != replay {
			t.Error("the refresh token is no longer stored")
		}
	}
	if len(s.Await(t, "grant.revoked", 1)) == 0 {
		t.Error("the provider noticed nothing")
	}
}

// Servers differ in what they say of a token's life, and in how they refuse.
func TestMockServer(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		answer testoidc.Answer
		slug   string // empty: there is a token
	}{
		{"as it is", testoidc.Answer{}, ""},
		{"expires_in as a string", testoidc.Answer{Set: map[string]any{"expires_in": "3600"}}, ""},
		{"no expires_in", testoidc.Answer{Unset: []string{"expires_in"}}, ""},
		{"expires_in null", testoidc.Answer{Set: map[string]any{"expires_in": nil}}, ""},
		{"no token_type", testoidc.Answer{Unset: []string{"token_type"}}, ""},
		{"expires_in is no number", testoidc.Answer{Set: map[string]any{"expires_in": "soon"}}, "token_refresh_failed"},
		{"token_type MAC", testoidc.Answer{Set: map[string]any{"token_type": "mac"}}, "token_refresh_failed"},
		{"no access_token", testoidc.Answer{Unset: []string{"access_token"}}, "token_refresh_failed"},
		{"a line break in the token", testoidc.Answer{Set: map[string]any{"access_token": "a\r\nX: y"}}, "token_refresh_failed"},
		{"a token of 1 MiB", testoidc.Answer{Set: map[string]any{"access_token": strings.Repeat("a", 1<<20)}}, "token_refresh_failed"},
		{"invalid_client", testoidc.Answer{Status: 401, Set: map[string]any{"error": "invalid_client"}, Unset: []string{"access_token"}}, "token_refresh_failed"},
		{"error with status 200", testoidc.Answer{Set: map[string]any{"error": "invalid_scope"}}, "token_refresh_failed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := testoidc.Mock(t)
			s.Next(t, tt.answer)
			c := build(t, newEnv(t, nil), "{type: oauth2_client_credentials, client_id: app, client_secret: $S, issuer: $I, scopes: [a]}",
				map[string]string{"I": s.Issuer, "S": secretFile(t, "client-secret")})[0]
			got, _, err := authorization(t.Context(), c)
			if tt.slug == "" {
				if err != nil || strings.Count(got, ".") != 2 {
					t.Errorf("got a token: %v, %v; want one", got != "", err)
				}
				return
			}
			if err == nil {
				t.Fatal("got a token, want an error")
			}
			if slug, _ := failure(t, err); slug != tt.slug {
				t.Errorf("%s: %v, want %s", slug, err, tt.slug)
			}
		})
	}
}
