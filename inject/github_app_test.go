package inject_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/secrets"
)

// A github answers for an app's installation as GitHub's documentation says.
type github struct {
	*httptest.Server
	requests chan githubRequest
	refuse   string // "status body" in place of a token
}

type githubRequest struct {
	path, jwt, accept, body string
}

func newGitHub(t *testing.T) *github {
	t.Helper()
	g := &github{requests: make(chan githubRequest, 8)}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("reading the request: %v", err)
		}
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		g.requests <- githubRequest{r.Method + " " + r.URL.Path, token, r.Header.Get("Accept"), string(body)}
		w.Header().Set("Content-Type", "application/json")
		if status, text, ok := strings.Cut(g.refuse, " "); ok {
			code := 0
			if _, err := fmt.Sscan(status, &code); err != nil {
				t.Error(err)
			}
			w.WriteHeader(code)
			_, _ = io.WriteString(w, text)
			return
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = fmt.Fprintf(w, `{"token":"ghs_%d","expires_at":%q,"permissions":{"contents":"read"},"repository_selection":"selected"}`,
			len(g.requests), time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	t.Cleanup(g.Close)
	return g
}

func TestGitHubApp(t *testing.T) {
	t.Parallel()
	key, text := newRSA(t)
	file := secretFile(t, text)
	tests := []struct{ name, settings, body, want string }{
		{"all that it has", "", `{}`, "Bearer ghs_1"},
		{"less", ", repositories: [site, docs], permissions: {contents: read, issues: write}", `{"repositories":["site","docs"],"permissions":{"contents":"read","issues":"write"}}`, "Bearer ghs_1"},
		{"for git", ", scheme: basic", `{}`, "Basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:ghs_1"))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGitHub(t)
			c := build(t, newEnv(t, nil), "{type: github_app, app_id: 12345, installation_id: 678, private_key: $S, api_url: $U"+tt.settings+"}",
				map[string]string{"S": file, "U": g.URL + "/api/v3/"})[0]
			for range 2 { // the second is kept
				wantAuthorization(t, c, tt.want)
			}
			if len(g.requests) != 1 {
				t.Fatalf("asked %d times, want once", len(g.requests))
			}
			got := <-g.requests
			if got.path != "POST /api/v3/app/installations/678/access_tokens" || got.body != tt.body || got.accept != "application/json" {
				t.Errorf("got %s %s with Accept %q, want %s", got.path, got.body, got.accept, tt.body)
			}
			claims := pyVerify(t, got.jwt, "", "RS256", key)
			if claims["iss"] != "12345" || claims["aud"] != nil {
				t.Errorf("claims %v, want iss 12345 and no aud", claims)
			}
			begin, _ := claims["iat"].(float64)
			end, _ := claims["exp"].(float64)
			if now := float64(time.Now().Unix()); begin > now || end-now > 600 || end < now {
				t.Errorf("good from %v to %v, now is %v; GitHub wants a time in the past, and an end within ten minutes", begin, end, now)
			}
		})
	}
}

func TestGitHubAppRefused(t *testing.T) {
	t.Parallel()
	_, text := newRSA(t)
	tests := []struct{ name, answer, want, hint string }{
		{"unknown key", `401 {"message":"A JSON web token could not be decoded"}`, "A JSON web token could not be decoded", "check app_id in the rules file, this computer's clock"},
		{"not installed", `404 {"message":"Not Found"}`, "Not Found", "installation_id"},
		{"suspended", `403 {"message":"This installation has been suspended"}`, "suspended", "repositories and permissions"},
		{"more than it has", `422 {"message":"The permissions requested are not granted to this installation."}`, "not granted", "repositories and permissions"},
		{"no token", `201 {"expires_at":"2026-11-01T12:00:00Z"}`, "no access_token", ""},
		{"no JSON", `201 <html>`, "not a JSON object", ""},
		{"a redirect", `307 {"token":"ghs_1"}`, "redirect", ""},
		{"too much", `201 {"token":"` + strings.Repeat("a", 70<<10) + `"}`, "larger than 64 KiB", ""},
		{"a line break", `201 {"token":"a\r\nb"}`, "cannot carry", ""},
		{"a bad time", `201 {"token":"a","expires_at":"soon"}`, "expires_at is no time", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			g := newGitHub(t)
			g.refuse = tt.answer
			c := build(t, newEnv(t, nil), "{type: github_app, app_id: Iv1.abc, installation_id: 678, private_key: $S, api_url: $U}",
				map[string]string{"S": secretFile(t, text), "U": g.URL})[0]
			_, _, err := authorization(t.Context(), c)
			if err == nil {
				t.Fatal("got a token")
			}
			slug, hint := failure(t, err)
			if slug != "token_refresh_failed" || !strings.Contains(err.Error(), tt.want) || !strings.Contains(hint, tt.hint) {
				t.Errorf("%s: %v; hint %q; want %q with %q", slug, err, hint, tt.want, tt.hint)
			}
			if sent := (<-g.requests).jwt; sent == "" || strings.Contains(err.Error(), sent[:20]) {
				t.Error("the error shows the app's token, or there was none")
			}
		})
	}
}

func TestPasswordGrant(t *testing.T) {
	t.Parallel()
	a := newAuthServer(t, false)
	forms := make(chan string, 8)
	a.answers(func(w http.ResponseWriter, r *http.Request) {
		id, secret, _ := r.BasicAuth()
		forms <- strings.Join([]string{id, secret, r.PostForm.Get("grant_type"), r.PostForm.Get("username"), r.PostForm.Get("password"), r.PostForm.Get("scope")}, "|")
		w.Header().Set("Content-Type", "application/json")
		if r.PostForm.Get("password") != "correct horse" {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":"invalid_grant","error_description":"Invalid user credentials"}`)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "access-1", "refresh_token": "unused", "expires_in": "3600"})
	})
	state := t.TempDir()
	store := openStore(t, state)
	set := func(password string) {
		t.Helper()
		if err := store.Set(t.Context(), "ada", secrets.NewValue(password)); err != nil {
			t.Fatal(err)
		}
	}
	set("wrong")
	c := build(t, newEnv(t, store), "{type: oauth2_password, token_url: $URL, client_id: app, client_secret: $S, username: ada, password: keyring:ada, scopes: [a, b]}",
		map[string]string{"URL": a.URL, "S": secretFile(t, "client-secret")})[0]
	for range 3 { // the server is asked once: others lock an account after a few
		_, _, err := authorization(t.Context(), c)
		if err == nil {
			t.Fatal("got a token for a wrong password")
		}
		if slug, hint := failure(t, err); slug != "token_expired" || !strings.Contains(hint, "credproxy secret set ada, or check username") {
			t.Errorf("%s: %v; hint %q", slug, err, hint)
		}
	}
	if got := <-forms; got != "app|client-secret|password|ada|wrong|a b" || len(forms) != 0 {
		t.Errorf("the server got %q and %d more, want one request", got, len(forms))
	}
	set("correct horse")
	wantAuthorization(t, c, "Bearer access-1")
	if got := <-forms; got != "app|client-secret|password|ada|correct horse|a b" {
		t.Errorf("the server got %q", got)
	}
	if !inject.AsksServer(c) {
		t.Error("it does not say that it asks a server")
	}
}
