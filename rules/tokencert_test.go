package rules

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/internal/testoidc"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
)

// selfSigned puts name.pem and name.key into dir, and returns the certificate.
func selfSigned(t *testing.T, dir, name string) *x509.Certificate {
	t.Helper()
	text, key := certificate(t, name)
	put(t, filepath.Join(dir, name+".pem"), text)
	put(t, filepath.Join(dir, name+".key"), key)
	block, _ := pem.Decode([]byte(text))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// A client that shows its certificate to the token endpoint gets a token that is bound to it (RFC 8705).
func TestProviderKnowsTheCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mine := selfSigned(t, dir, "mine")
	selfSigned(t, dir, "other")
	point, err := mine.PublicKey.(*ecdsa.PublicKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	robot := func(id string, more map[string]any) map[string]any {
		client := map[string]any{
			"client_id": id, "grant_types": []string{"client_credentials"}, "redirect_uris": []string{}, "response_types": []string{},
			"tls_client_certificate_bound_access_tokens": true,
		}
		for name, value := range more {
			client[name] = value
		}
		return client
	}
	s := testoidc.Provider(t, testoidc.Config{TLS: true, TrustClients: true, Clients: []map[string]any{
		{"client_id": "api", "client_secret": "api-secret", "grant_types": []string{"client_credentials"}, "redirect_uris": []string{}, "response_types": []string{}},
		robot("self-signed", map[string]any{"token_endpoint_auth_method": "self_signed_tls_client_auth", "jwks": map[string]any{"keys": []any{map[string]any{
			"kty": "EC", "crv": "P-256", "x": encode(point[1:33]), "y": encode(point[33:]), "x5c": []string{base64.StdEncoding.EncodeToString(mine.Raw)},
		}}}}),
		robot("by-name", map[string]any{"token_endpoint_auth_method": "tls_client_auth", "tls_client_auth_subject_dn": "CN=mine"}),
	}})
	put(t, filepath.Join(dir, "ca.pem"), s.CA)
	tests := []struct {
		name, client, cert, key string
		code                    string // of the failure; empty: there is a token
		slug, hint              string
	}{
		{"a certificate that the server knows", "self-signed", "mine", "mine", "", "", ""},
		{"a name that the server knows", "by-name", "mine", "mine", "", "", ""},
		{"another certificate", "self-signed", "other", "other", "invalid_client", "token_refresh_failed", "check client_id and tls.cert"},
		{"another name", "by-name", "other", "other", "invalid_client", "token_refresh_failed", "check client_id and tls.cert"},
		{"no key", "self-signed", "mine", "none", "", "secret_missing", ""},
		{"a key that does not fit", "self-signed", "mine", "other", "", "token_refresh_failed", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			resolver := secrets.NewResolver(secrets.Config{})
			t.Cleanup(resolver.Close)
			tokens := oauth.NewCache()
			t.Cleanup(tokens.Close)
			env := inject.Env{Secrets: resolver, Tokens: tokens, HTTP: &http.Client{Transport: &http.Transport{}}}
			text := fmt.Sprintf(`version: 1
rules:
  - name: bank
    match: {host: bank.test}
    inject: {type: oauth2_client_credentials, issuer: %q, client_id: %s, client_auth: tls}
    tls: {ca: ca.pem, cert: %s.pem, key: %q}
`, s.Issuer, tt.client, tt.cert, "file:"+filepath.Join(dir, tt.key+".key"))
			set, err := Parse(filepath.Join(dir, "rules.yaml"), []byte(text), env)
			if err != nil {
				t.Fatal(err)
			}
			req := request(t, "GET", "https://bank.test/")
			_, err = set.Decide("", req).Inject[0].Apply(req)
			if tt.slug != "" {
				known, ok := errors.AsType[interface {
					error
					Slug() string
					Hint() string
				}](err)
				if !ok || known.Slug() != tt.slug || !strings.Contains(known.Hint(), tt.hint) || !strings.Contains(known.Error(), tt.code) {
					t.Fatalf("got %v, want %s with %q and the hint %q", err, tt.slug, tt.code, tt.hint)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := boundTo(t, s, req.Header.Get("Authorization")); got != thumbprint(mine) {
				t.Errorf("the token is bound to %q, want the client's certificate", got)
			}
		})
	}
}

func thumbprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// boundTo asks the server which certificate the token belongs to (RFC 8705 section 3.2).
func boundTo(t *testing.T, s *testoidc.Server, authorization string) string {
	t.Helper()
	token, _ := strings.CutPrefix(authorization, "Bearer ")
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
	var answer struct {
		Active bool `json:"active"`
		Cnf    struct {
			Thumbprint string `json:"x5t#S256"`
		} `json:"cnf"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || !answer.Active {
		t.Fatalf("the token is not active: %+v, %v", answer, err)
	}
	return answer.Cnf.Thumbprint
}

// TestPersonOfACertifiedClient: where a person signs in, the client shows its certificate to every endpoint that it asks.
func TestPersonOfACertifiedClient(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mine := selfSigned(t, dir, "mine")
	s := testoidc.Provider(t, testoidc.Config{TLS: true, TrustClients: true, Clients: []map[string]any{{
		"client_id": "app", "token_endpoint_auth_method": "tls_client_auth", "tls_client_auth_subject_dn": "CN=mine", "application_type": "native",
		"tls_client_certificate_bound_access_tokens": true, "redirect_uris": []string{"http://127.0.0.1/callback"},
		"grant_types": []string{"authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"},
	}, {"client_id": "api", "client_secret": "api-secret", "grant_types": []string{"client_credentials"}, "redirect_uris": []string{}, "response_types": []string{}}}})
	put(t, filepath.Join(dir, "ca.pem"), s.CA)
	resolver := secrets.NewResolver(secrets.Config{})
	t.Cleanup(resolver.Close)
	tokens := oauth.NewCache()
	t.Cleanup(tokens.Close)
	text := fmt.Sprintf(`version: 1
rules:
  - name: bank
    match: {host: bank.test}
    inject: {type: oauth2_authorization_code, issuer: %q, client_id: app, client_auth: tls, refresh_token: keyring:bank, scopes: [openid, offline_access], auth_extra: {prompt: consent}}
    tls: {ca: ca.pem, cert: mine.pem, key: %q}
`, s.Issuer, "file:"+filepath.Join(dir, "mine.key"))
	set, err := Parse(filepath.Join(dir, "rules.yaml"), []byte(text), inject.Env{Secrets: resolver, Tokens: tokens, HTTP: &http.Client{Transport: &http.Transport{}}})
	if err != nil {
		t.Fatal(err)
	}
	l := inject.LoginOf(set.Credentials(0)[0])
	client, secret, server, err := l.Client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.StartDevice(t.Context(), server.DeviceURL, secret, l.Extra); err != nil {
		t.Errorf("by device: %v", err)
	}
	a, err := client.Authorize(server, "http://127.0.0.1:4000/callback", l.Extra)
	if err != nil {
		t.Fatal(err)
	}
	left, said, err := testoidc.Person{Name: "ada", Client: s.Client}.Visit(a.URL)
	if err != nil {
		t.Fatalf("stopped at %s, %v", said, err)
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
	token, next, err := client.Refresh(t.Context(), secret, sign.Refresh)
	if err != nil {
		t.Fatal(err)
	}
	if got := boundTo(t, s, "Bearer "+token.Access.Reveal()); got != thumbprint(mine) {
		t.Errorf("the token is bound to %q, want the client's certificate", got)
	}
	sign.Refresh = next
	if err := client.Revoke(t.Context(), server.RevocationURL, secret, sign); err != nil {
		t.Errorf("revoking: %v", err)
	}
}
