package inject_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestIssuer has the token endpoint found through the issuer's metadata (RFC 8414 section 3).
func TestIssuer(t *testing.T) {
	t.Parallel()
	const rfc, oidc = "/.well-known/oauth-authorization-server/tenant", "/tenant/.well-known/openid-configuration"
	good := `{"issuer":"URL/tenant","token_endpoint":"TOKEN"}`
	tests := []struct {
		name, path, answer string
		want               string // part of the error; empty: it works
	}{
		{"RFC 8414", rfc, good, ""},
		{"OpenID Connect", oidc, good, ""},
		{"another issuer", rfc, `{"issuer":"URL/tenant/","token_endpoint":"TOKEN"}`, "another issuer"},
		{"plain http", rfc, `{"issuer":"URL/tenant","token_endpoint":"http://login.example.com/token"}`, "no token_endpoint"},
		{"a host that turns the line around", rfc, `{"issuer":"URL/tenant","token_endpoint":"https://\u202elogin.example.com/token"}`, "no token_endpoint"},
		{"no token endpoint", rfc, `{"issuer":"URL/tenant"}`, "no token_endpoint"},
		{"not JSON", rfc, "<p>", "not a JSON object"},
		{"too large", rfc, `{"issuer":"URL/tenant","x":"` + strings.Repeat("x", 1<<17) + `"}`, "larger than 64 KiB"},
		{"nowhere", "/elsewhere", good, "not there"},
		{"redirect", rfc, "", "not there"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newAuthServer(t, false)
			asked := 0
			mux := http.NewServeMux()
			srv := httptest.NewServer(mux)
			defer srv.Close()
			mux.HandleFunc(tt.path, func(w http.ResponseWriter, r *http.Request) {
				asked++
				if tt.answer == "" {
					http.Redirect(w, r, "/elsewhere", http.StatusFound)
					return
				}
				_, _ = io.WriteString(w, strings.NewReplacer("URL", srv.URL, "TOKEN", a.URL).Replace(tt.answer))
			})
			c := build(t, newEnv(t, nil), "{type: oauth2_client_credentials, issuer: $URL, client_id: app, client_secret: $S}",
				map[string]string{"URL": srv.URL + "/tenant", "S": secretFile(t, "client-secret")})[0]
			if tt.want == "" {
				refuse(c, wantAuthorization(t, c, "Bearer access-1"))
				wantAuthorization(t, c, "Bearer access-2")
				if asked != 1 {
					t.Errorf("the issuer was asked %d times, want 1", asked)
				}
				return
			}
			got, _, err := authorization(t.Context(), c)
			if err == nil || !strings.Contains(err.Error(), tt.want) || a.asked.Load() != 0 {
				t.Fatalf("got %q and error %v, want %q and no token request", got, err, tt.want)
			}
			if slug, hint := failure(t, err); slug != "token_refresh_failed" || !strings.Contains(hint, "issuer in the rules file") {
				t.Errorf("slug %s, hint %q", slug, hint)
			}
		})
	}
}
