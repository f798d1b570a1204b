package inject_test

import (
	"cmp"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
)

// An exchangeServer gives an access token for the subject token that is good.
type exchangeServer struct {
	*httptest.Server
	code  string // of a refusal; empty: invalid_request (RFC 8693 section 2.2.2)
	good  string
	kind  string // token_type; empty: Bearer
	forms []url.Values
}

func newExchangeServer(t *testing.T) *exchangeServer {
	t.Helper()
	s := &exchangeServer{good: "subject-token-1"}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *exchangeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	s.forms = append(s.forms, r.PostForm)
	w.Header().Set("Content-Type", "application/json")
	if r.PostForm.Get("subject_token") != s.good {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"`+cmp.Or(s.code, "invalid_request")+`"}`)
		return
	}
	_, _ = io.WriteString(w, `{"access_token":"access-1","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"`+
		cmp.Or(s.kind, "Bearer")+`","expires_in":60}`)
}

func TestTokenExchange(t *testing.T) {
	t.Parallel()
	const types = "urn:ietf:params:oauth:token-type:"
	tests := []struct {
		name, fields string
		want         url.Values
	}{
		{"the least", "subject_token_type: id_token",
			url.Values{"subject_token_type": {types + "id_token"}}},
		{"everything", "client_id: app, client_secret: $C, client_auth: post, subject_token_type: 'urn:acme:badge', actor_token: $A, actor_token_type: jwt, " +
			"requested_token_type: access_token, audience: https://api.example.com, scopes: [a, b], resource: [https://one.example.com/, 'urn:two'], extra: {x: y}",
			url.Values{"client_id": {"app"}, "client_secret": {"client-secret"}, "subject_token_type": {"urn:acme:badge"}, "actor_token": {"actor-token-1"}, "actor_token_type": {types + "jwt"},
				"requested_token_type": {types + "access_token"}, "audience": {"https://api.example.com"}, "scope": {"a b"},
				"resource": {"https://one.example.com/", "urn:two"}, "x": {"y"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newExchangeServer(t)
			c := build(t, newEnv(t, nil), "{type: oauth2_token_exchange, token_url: $URL, subject_token: $S, "+tt.fields+"}",
				map[string]string{"URL": s.URL, "S": secretFile(t, "subject-token-1"), "A": secretFile(t, "actor-token-1"), "C": secretFile(t, "client-secret")})[0]
			for range 2 {
				wantAuthorization(t, c, "Bearer access-1")
			}
			tt.want["grant_type"] = []string{"urn:ietf:params:oauth:grant-type:token-exchange"}
			tt.want["subject_token"] = []string{"subject-token-1"}
			if len(s.forms) != 1 || s.forms[0].Encode() != tt.want.Encode() {
				t.Errorf("the server got\n%v, want once\n%v", s.forms, tt.want)
			}
		})
	}
}

// TestTokenExchangeReadsTheSubjectAgain: a subject token that something else renews is read again when it is refused.
func TestTokenExchangeReadsTheSubjectAgain(t *testing.T) {
	t.Parallel()
	s := newExchangeServer(t)
	ref := secretFile(t, "subject-token-1")
	c := build(t, newEnv(t, nil), "{type: oauth2_token_exchange, token_url: $URL, subject_token: $S, subject_token_type: jwt}", map[string]string{"URL": s.URL, "S": ref})[0]
	used := wantAuthorization(t, c, "Bearer access-1")
	s.good = "subject-token-2"
	if err := os.WriteFile(strings.TrimPrefix(ref, "file:"), []byte(s.good), 0o600); err != nil {
		t.Fatal(err)
	}
	refuse(c, used)
	wantAuthorization(t, c, "Bearer access-1")
	if last := s.forms[len(s.forms)-1].Get("subject_token"); last != s.good {
		t.Errorf("asked with %q at last, want %q", last, s.good)
	}
}

func TestTokenExchangeRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, code, kind, secret, slug, hint string
	}{
		{"as RFC 8693 has it", "", "", "stale", "token_refresh_failed", "subject_token_type"},
		{"as others have it", "invalid_grant", "", "stale", "token_expired", "put a new value"},
		{"a resource that is not there", "invalid_target", "", "stale", "token_refresh_failed", "audience"},
		{"no bearer token", "", "N_A", "subject-token-1", "token_refresh_failed", "check token_url"},
		{"a line break in the token", "", "", "a\nb", "secret_invalid", "put a new value"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newExchangeServer(t)
			s.code, s.kind = tt.code, tt.kind
			c := build(t, newEnv(t, nil), "{type: oauth2_token_exchange, token_url: $URL, subject_token: $S, subject_token_type: jwt}",
				map[string]string{"URL": s.URL, "S": secretFile(t, tt.secret)})[0]
			got, used, err := authorization(t.Context(), c)
			if err == nil {
				t.Fatalf("got %q, want an error", got)
			}
			if slug, hint := failure(t, err); slug != tt.slug || !strings.Contains(hint, tt.hint) {
				t.Errorf("%s: %v; hint %q, want %s and a hint with %q", slug, err, hint, tt.slug, tt.hint)
			}
			if got != "Bearer dummy" || used != nil {
				t.Errorf("the request was changed to %q all the same", got)
			}
		})
	}
}

// TestResource: RFC 8707 section 2, for all types.
func TestResource(t *testing.T) {
	t.Parallel()
	s := newExchangeServer(t)
	s.good = "" // client credentials have no subject
	c := build(t, newEnv(t, nil), "{type: oauth2_client_credentials, token_url: $URL, client_id: app, client_secret: $S, resource: ['urn:a', 'urn:b']}",
		map[string]string{"URL": s.URL, "S": secretFile(t, "client-secret")})[0]
	wantAuthorization(t, c, "Bearer access-1")
	if got := s.forms[0]["resource"]; !slices.Equal(got, []string{"urn:a", "urn:b"}) {
		t.Errorf("resource %q, want both", got)
	}
}
