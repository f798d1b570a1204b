package testoidc_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/url"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/internal/testoidc"
)

// A person signs in by the authorization code grant, and the code is worth one token.
func TestPersonSignsIn(t *testing.T) {
	t.Parallel()
	s := testoidc.Provider(t, testoidc.Config{TLS: true, Clients: []map[string]any{{
		"client_id": "app", "token_endpoint_auth_method": "none", "application_type": "native",
		"redirect_uris": []string{"http://127.0.0.1/callback"}, "grant_types": []string{"authorization_code", "refresh_token"},
	}}})
	const verifier = "0123456789012345678901234567890123456789012"
	sum := sha256.Sum256([]byte(verifier))
	ask := url.Values{
		"client_id": {"app"}, "response_type": {"code"}, "redirect_uri": {"http://127.0.0.1:4000/callback"}, "state": {"xyz"},
		"scope": {"openid offline_access"}, "prompt": {"consent"}, "code_challenge_method": {"S256"},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])},
	}
	person := testoidc.Person{Name: "ada", Client: s.Client}
	left, text, err := person.Visit(s.Issuer + "/auth?" + ask.Encode())
	if err != nil || left == "" {
		t.Fatalf("stopped at %q, %v", text, err)
	}
	back, err := url.Parse(left)
	if err != nil || back.Host != "127.0.0.1:4000" || back.Query().Get("state") != "xyz" || back.Query().Get("iss") != s.Issuer {
		t.Fatalf("left for %q, %v", left, err)
	}
	resp, err := s.Client.PostForm(s.Issuer+"/token", url.Values{
		"grant_type": {"authorization_code"}, "client_id": {"app"}, "code": {back.Query().Get("code")},
		"code_verifier": {verifier}, "redirect_uri": {"http://127.0.0.1:4000/callback"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	var token struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	if err != nil || json.Unmarshal(body, &token) != nil || token.Access == "" || token.Refresh == "" {
		t.Fatalf("token answer %s, %v", body, err)
	}

	person.Refuses = true
	left, _, err = person.Visit(s.Issuer + "/auth?" + ask.Encode())
	if err != nil || !strings.Contains(left, "error=access_denied") {
		t.Errorf("who refuses leaves for %q, %v", left, err)
	}
}

func TestMockAnswersAsTold(t *testing.T) {
	t.Parallel()
	s := testoidc.Mock(t)
	s.Next(t, testoidc.Answer{Status: 400, Set: map[string]any{"error": "invalid_grant"}, Unset: []string{"access_token"}})
	for _, want := range []int{400, 200} {
		resp, err := s.Client.PostForm(s.Issuer+"/token", url.Values{"grant_type": {"client_credentials"}, "scope": {"a"}})
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("status %d, want %d", resp.StatusCode, want)
		}
	}
	if e := s.Await(t, "token", 2); len(e) != 2 || strings.Join(e[0].Form, " ") != "grant_type scope" {
		t.Errorf("events %v", e)
	}
}
