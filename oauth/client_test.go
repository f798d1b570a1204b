package oauth_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
)

const (
	clientSecret = "s3cret/+ &="
	oldRefresh   = "old-refresh-token-0001"
	newRefresh   = "new-refresh-token-0002"
)

func answering(status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func answeringJSON(status int, body string) http.HandlerFunc {
	return answering(status, "application/json", body)
}

func clientFor(t *testing.T, h http.Handler) *oauth.Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return &oauth.Client{HTTP: srv.Client(), TokenURL: srv.URL + "/token", ID: "my client", Auth: oauth.AuthBasic}
}

func TestTokenRequest(t *testing.T) {
	t.Parallel()
	refresh := func(c *oauth.Client, ctx context.Context) error {
		_, _, err := c.Refresh(ctx, secrets.NewValue(clientSecret), secrets.NewValue(oldRefresh))
		return err
	}
	credentials := func(c *oauth.Client, ctx context.Context) error {
		_, err := c.ClientCredentials(ctx, secrets.NewValue(clientSecret))
		return err
	}
	public := func(c *oauth.Client, ctx context.Context) error {
		_, _, err := c.Refresh(ctx, secrets.Value{}, secrets.NewValue(oldRefresh))
		return err
	}
	// RFC 6749 section 2.3.1 and appendix B: both parts are form-urlencoded before Basic.
	const basic = "Basic bXkrY2xpZW50OnMzY3JldCUyRiUyQislMjYlM0Q="
	tests := []struct {
		name     string
		change   func(*oauth.Client)
		call     func(*oauth.Client, context.Context) error
		wantAuth string
		wantForm url.Values
	}{
		{"client credentials, basic", func(*oauth.Client) {}, credentials, basic,
			url.Values{"grant_type": {"client_credentials"}}},
		{"client credentials, post", func(c *oauth.Client) { c.Auth = oauth.AuthPost }, credentials, "",
			url.Values{"grant_type": {"client_credentials"}, "client_id": {"my client"}, "client_secret": {clientSecret}}},
		{"scopes, audience, extra", func(c *oauth.Client) {
			c.Scopes, c.Audience, c.Extra = []string{"a.read", "b"}, "https://api.example.com", map[string]string{"resource": "urn:x"}
		}, credentials, basic,
			url.Values{"grant_type": {"client_credentials"}, "scope": {"a.read b"}, "audience": {"https://api.example.com"}, "resource": {"urn:x"}}},
		{"refresh, basic", func(*oauth.Client) {}, refresh, basic,
			url.Values{"grant_type": {"refresh_token"}, "refresh_token": {oldRefresh}}},
		{"refresh, public client", func(c *oauth.Client) { c.Auth = oauth.AuthNone }, public, "",
			url.Values{"grant_type": {"refresh_token"}, "refresh_token": {oldRefresh}, "client_id": {"my client"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got *http.Request
			c := clientFor(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_ = r.ParseForm()
				got = r
				answeringJSON(200, `{"access_token":"abc","token_type":"Bearer","expires_in":60}`)(w, r)
			}))
			tt.change(c)
			if err := tt.call(c, t.Context()); err != nil {
				t.Fatal(err)
			}
			if a := got.Header.Get("Authorization"); a != tt.wantAuth {
				t.Errorf("Authorization %q, want %q", a, tt.wantAuth)
			}
			if f := got.PostForm.Encode(); f != tt.wantForm.Encode() {
				t.Errorf("form %s, want %s", f, tt.wantForm.Encode())
			}
			if got.Method != "POST" || got.URL.String() != "/token" {
				t.Errorf("request %s %s, want POST /token", got.Method, got.URL)
			}
			if a := got.Header.Get("Accept"); a != "application/json" {
				t.Errorf("Accept %q, want application/json", a)
			}
		})
	}
}

func TestTokenAnswers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		answer   http.HandlerFunc
		lifetime time.Duration // 0: no expiry
		next     string
	}{
		{"plain", answeringJSON(200, `{"access_token":"abc","token_type":"Bearer","expires_in":3600}`), time.Hour, ""},
		{"rotated", answeringJSON(200, `{"access_token":"abc","token_type":"bearer","expires_in":3600,"refresh_token":"`+newRefresh+`"}`), time.Hour, newRefresh},
		{"same refresh token", answeringJSON(200, `{"access_token":"abc","token_type":"bearer","refresh_token":"`+oldRefresh+`"}`), 0, ""},
		{"expires_in as a string", answeringJSON(200, `{"access_token":"abc","token_type":"BEARER","expires_in":"3600"}`), time.Hour, ""},
		{"expires_in with a fraction", answeringJSON(200, `{"access_token":"abc","token_type":"Bearer","expires_in":3.6e3}`), time.Hour, ""},
		{"expires_in null", answeringJSON(200, `{"access_token":"abc","token_type":"Bearer","expires_in":null}`), 0, ""},
		{"expires_in absent", answeringJSON(200, `{"access_token":"abc","token_type":"Bearer"}`), 0, ""},
		{"expires_in huge", answeringJSON(200, `{"access_token":"abc","token_type":"Bearer","expires_in":1e400}`), 24 * time.Hour, ""},
		{"expires_in negative", answeringJSON(200, `{"access_token":"abc","token_type":"Bearer","expires_in":-5}`), time.Second, ""},
		{"no token_type", answeringJSON(200, `{"access_token":"abc","expires_in":3600}`), time.Hour, ""},
		{"JSON called text", answering(200, "text/plain", `{"access_token":"abc","token_type":"Bearer","expires_in":3600}`), time.Hour, ""},
		{"unknown fields of any type", answeringJSON(201, `{"access_token":"abc","token_type":"Bearer","expires_in":3600,"scope":["a"],"x":{}}`), time.Hour, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := clientFor(t, tt.answer)
			now := time.Now()
			c.Now = func() time.Time { return now }
			tok, next, err := c.Refresh(t.Context(), secrets.NewValue(clientSecret), secrets.NewValue(oldRefresh))
			if err != nil {
				t.Fatal(err)
			}
			want := oauth.Token{Type: "Bearer"}
			if tt.lifetime > 0 {
				want.Expiry = now.Round(0).Add(tt.lifetime)
			}
			// == on times also compares the monotonic reading, which a token must not have.
			if tok.Access.Reveal() != "abc" || tok.Type != want.Type || tok.Expiry != want.Expiry {
				t.Errorf("got token %q, type %q, expiry %v, want abc, Bearer, %v", tok.Access.Reveal(), tok.Type, tok.Expiry, want.Expiry)
			}
			if next.Reveal() != tt.next {
				t.Errorf("next refresh token %q, want %q", next.Reveal(), tt.next)
			}
		})
	}
}

func TestTokenFailures(t *testing.T) {
	t.Parallel()
	redirect := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/token" {
				t.Errorf("the redirect to %s was followed", r.URL.Path)
			}
			http.Redirect(w, r, "/elsewhere", status)
		}
	}
	ok := func(fields string) http.HandlerFunc {
		return answeringJSON(200, `{"access_token":"abc","token_type":"Bearer",`+fields+`}`)
	}
	tests := []struct {
		name     string
		answer   http.HandlerFunc
		wantSlug string
		wantCode string
		wantText string // part of the error
		wantAsks int
		wantNext string // the refresh token that survives all the same
	}{
		{"status 500", answering(500, "text/html", "<h1>oops</h1>"), "token_refresh_failed", "", "HTTP status 500", 3, ""},
		{"status 503 with JSON", answeringJSON(503, `{"error":"temporarily_unavailable"}`), "token_refresh_failed", "temporarily_unavailable", "503", 3, ""},
		{"status 404", answering(404, "text/plain", "no"), "token_refresh_failed", "", "HTTP status 404", 1, ""},
		{"status 429", answeringJSON(429, `{"error":"slow_down"}`), "token_refresh_failed", "slow_down", "429", 1, ""},
		{"invalid_grant", answeringJSON(400, `{"error":"invalid_grant","error_description":"Token has been revoked."}`), "token_expired", "invalid_grant", "Token has been revoked.", 1, ""},
		{"GitHub's word for it, with 200", answeringJSON(200, `{"error":"bad_refresh_token"}`), "token_expired", "bad_refresh_token", "bad_refresh_token", 1, ""},
		{"invalid_client", answeringJSON(401, `{"error":"invalid_client"}`), "token_refresh_failed", "invalid_client", "invalid_client", 1, ""},
		{"error is an object", answeringJSON(400, `{"error":{"message":"no"}}`), "token_refresh_failed", "error", "400", 1, ""},
		{"redirect 301", redirect(301), "token_refresh_failed", "", "redirect", 1, ""},
		{"redirect 302", redirect(302), "token_refresh_failed", "", "redirect", 1, ""},
		{"redirect 307", redirect(307), "token_refresh_failed", "", "redirect", 1, ""},
		{"redirect 308", redirect(308), "token_refresh_failed", "", "redirect", 1, ""},
		{"HTML", answering(200, "text/html", "<html>sign in</html>"), "token_refresh_failed", "", "not a JSON object", 1, ""},
		{"a form", answering(200, "application/x-www-form-urlencoded", "access_token=abc&token_type=bearer"), "token_refresh_failed", "", "not a JSON object", 1, ""},
		{"a JSON list", answeringJSON(200, `["abc"]`), "token_refresh_failed", "", "not a JSON object", 1, ""},
		{"empty", answeringJSON(200, ``), "token_refresh_failed", "", "not a JSON object", 1, ""},
		{"huge", answeringJSON(200, `{"access_token":"abc","x":"`+strings.Repeat("x", 64<<10)+`"}`), "token_refresh_failed", "", "larger than 64 KiB", 1, ""},
		{"endless", func(w http.ResponseWriter, _ *http.Request) {
			for line, err := strings.Repeat(" ", 1<<10), error(nil); err == nil; {
				_, err = io.WriteString(w, line)
			}
		}, "token_refresh_failed", "", "larger than 64 KiB", 1, ""},
		{"no access_token", answeringJSON(200, `{"token_type":"Bearer","refresh_token":"`+newRefresh+`"}`), "token_refresh_failed", "", "no access_token", 1, newRefresh},
		{"access_token is a number", answeringJSON(200, `{"access_token":12,"token_type":"Bearer"}`), "token_refresh_failed", "", "access_token is not a string", 1, ""},
		{"access_token with CRLF", answeringJSON(200, `{"access_token":"a\r\nX: y","token_type":"Bearer","refresh_token":"`+newRefresh+`"}`), "token_refresh_failed", "", "access_token has characters", 1, newRefresh},
		{"access_token with a space", answeringJSON(200, `{"access_token":"a b","token_type":"Bearer"}`), "token_refresh_failed", "", "access_token has characters", 1, ""},
		{"access_token too long", answeringJSON(200, `{"access_token":"`+strings.Repeat("a", 17<<10)+`","token_type":"Bearer"}`), "token_refresh_failed", "", "larger than 16 KiB", 1, ""},
		{"token_type mac", answeringJSON(200, `{"access_token":"abc","token_type":"mac","refresh_token":"`+newRefresh+`"}`), "token_refresh_failed", "", "token_type is not Bearer", 1, newRefresh},
		{"expires_in junk", ok(`"expires_in":"soon","refresh_token":"` + newRefresh + `"`), "token_refresh_failed", "", "expires_in is not a number", 1, newRefresh},
		{"expires_in is NaN", ok(`"expires_in":"NaN"`), "token_refresh_failed", "", "expires_in is not a number", 1, ""},
		{"expires_in is an object", ok(`"expires_in":{}`), "token_refresh_failed", "", "expires_in is not a number", 1, ""},
		{"refresh_token with LF", ok(`"refresh_token":"a\nb"`), "token_refresh_failed", "", "refresh_token has characters", 1, ""},
		{"connection cut", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "token_refresh_failed", "", "EOF", 3, ""},
		{"body cut", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"access_token":"abc"`)
		}, "token_refresh_failed", "", "unexpected EOF", 3, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var asks atomic.Int64
			c := clientFor(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asks.Add(1)
				tt.answer(w, r)
			}))
			tok, next, err := c.Refresh(t.Context(), secrets.NewValue(clientSecret), secrets.NewValue(oldRefresh))
			if err == nil {
				t.Fatal("got a token, want an error")
			}
			if !tok.Access.IsZero() {
				t.Error("a token came with the error")
			}
			if got := slug(t, err); got != tt.wantSlug {
				t.Errorf("slug %q, want %q", got, tt.wantSlug)
			}
			if e, ok := errors.AsType[*oauth.Error](err); !ok || e.Code != tt.wantCode {
				t.Errorf("error %v, want code %q", err, tt.wantCode)
			}
			if !strings.Contains(err.Error(), tt.wantText) || !strings.Contains(err.Error(), "token endpoint 127.0.0.1:") {
				t.Errorf("error %q, want it to name the endpoint and contain %q", err, tt.wantText)
			}
			if got := int(asks.Load()); got != tt.wantAsks {
				t.Errorf("the server was asked %d times, want %d", got, tt.wantAsks)
			}
			if next.Reveal() != tt.wantNext {
				t.Errorf("next refresh token %q, want %q", next.Reveal(), tt.wantNext)
			}
		})
	}
}

func TestTokenRequestRecovers(t *testing.T) {
	t.Parallel()
	var asks atomic.Int64
	c := clientFor(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asks.Add(1) < 3 {
			answering(502, "text/html", "bad gateway")(w, r)
			return
		}
		answeringJSON(200, `{"access_token":"abc","token_type":"Bearer"}`)(w, r)
	}))
	tok, err := c.ClientCredentials(t.Context(), secrets.NewValue(clientSecret))
	if err != nil || tok.Access.Reveal() != "abc" {
		t.Errorf("got %v, want abc at the third try", err)
	}
}

func TestTokenEndpointSlow(t *testing.T) {
	t.Parallel()
	c := clientFor(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // so that the server notices the client's leaving
		<-r.Context().Done()
	}))
	c.HTTP.Timeout = 50 * time.Millisecond
	_, err := c.ClientCredentials(t.Context(), secrets.NewValue(clientSecret))
	if got := slug(t, err); got != "token_timeout" {
		t.Errorf("slug %q (%v), want token_timeout", got, err)
	}
}

// It does not run beside others: their servers could get the port on which this one no longer listens.
func TestTokenEndpointDown(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	c := &oauth.Client{HTTP: srv.Client(), TokenURL: srv.URL, ID: "id", Auth: oauth.AuthNone}
	srv.Close()
	_, err := c.ClientCredentials(t.Context(), secrets.Value{})
	if got := slug(t, err); got != "token_refresh_failed" || !strings.Contains(err.Error(), "refused") {
		t.Errorf("slug %q (%v), want token_refresh_failed and the reason", got, err)
	}
}

func TestErrorsGiveNoSecretAway(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, body string }{
		{"echoed in the description", `{"error":"invalid_grant","error_description":"unknown token %s"}`},
		{"a part of it", `{"error":"invalid_grant","error_description":"unknown token %.12s..."}`},
		{"as the code", `{"error":"%s"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := clientFor(t, answeringJSON(400, fmt.Sprintf(tt.body, oldRefresh)))
			_, _, err := c.Refresh(t.Context(), secrets.NewValue(clientSecret), secrets.NewValue(oldRefresh))
			if err == nil || strings.Contains(err.Error(), oldRefresh[:8]) {
				t.Errorf("error %q gives the refresh token away", err)
			}
		})
	}
	echoes := map[string]func(header, form, secret string) string{
		"the Basic header":      func(header, _, _ string) string { return header },
		"a part of that":        func(header, _, _ string) string { return header[len(header)-20:] },
		"the form":              func(_, form, _ string) string { return form },
		"base64":                func(_, _, secret string) string { return base64.StdEncoding.EncodeToString([]byte(secret)) },
		"base64 for URLs":       func(_, _, secret string) string { return base64.RawURLEncoding.EncodeToString([]byte("x" + secret)) },
		"hex":                   func(_, _, secret string) string { return hex.EncodeToString([]byte(secret)) },
		"hex in capitals":       func(_, _, secret string) string { return strings.ToUpper(hex.EncodeToString([]byte(secret))) },
		"another case":          func(_, _, secret string) string { return strings.ToUpper(secret) },
		"with everything in it": func(header, form, secret string) string { return header + form + secret },
	}
	for name, echo := range echoes {
		t.Run("echo of "+name, func(t *testing.T) {
			t.Parallel()
			c := clientFor(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				form, err := io.ReadAll(r.Body)
				if err != nil {
					t.Errorf("reading the form: %v", err)
				}
				body, err := json.Marshal(map[string]string{"error": "invalid_client", "error_description": echo(r.Header.Get("Authorization"), string(form), oldRefresh)})
				if err != nil {
					t.Errorf("encoding the answer: %v", err)
				}
				w.WriteHeader(http.StatusUnauthorized)
				_, _ = w.Write(body)
			}))
			_, _, err := c.Refresh(t.Context(), secrets.NewValue(clientSecret), secrets.NewValue(oldRefresh))
			if e, ok := errors.AsType[*oauth.Error](err); !ok || e.Code != "invalid_client" || e.Description != "" {
				t.Errorf("got %q, want no description", err)
			}
		})
	}
	t.Run("control characters and length", func(t *testing.T) {
		t.Parallel()
		c := clientFor(t, answeringJSON(400, `{"error":"invalid_request","error_description":"a\nb\u001b[31m`+strings.Repeat("x", 5000)+`"}`))
		_, err := c.ClientCredentials(t.Context(), secrets.NewValue(clientSecret))
		if e, ok := errors.AsType[*oauth.Error](err); !ok || len(e.Description) != 200 || !strings.HasPrefix(e.Description, "a?b?[31mxx") {
			t.Errorf("got %q, want 200 printable characters", err)
		}
	})
}

func TestCheckURL(t *testing.T) {
	t.Parallel()
	tests := []struct {
		url string
		ok  bool
	}{
		{"https://login.example.com/oauth/token", true},
		{"https://login.example.com/token?p=policy", true},
		{"http://127.0.0.1:8080/token", true},
		{"http://[::1]/token", true},
		{"http://localhost:1234/", true},
		{"http://auth.localhost/", true},
		{"http://login.example.com/token", false},
		{"http://localhost.example.com/", false},
		{"http://10.0.0.1/", false},
		{"ftp://login.example.com/", false},
		{"https://user:pass@login.example.com/", false},
		{"https://login.example.com/#x", false},
		{"https://login.example.com/#", false},
		{"https:///token", false},
		{"https:login.example.com", false},
		{"/token", false},
		{"login.example.com/token", false},
		{"", false},
		{"https://exa mple.com/", false},
	}
	for _, tt := range tests {
		err := oauth.CheckURL(tt.url)
		if (err == nil) != tt.ok {
			t.Errorf("CheckURL(%q) = %v, want ok %v", tt.url, err, tt.ok)
		}
		if err != nil && strings.Contains(err.Error(), "pass@") {
			t.Errorf("CheckURL(%q): the error repeats the password", tt.url)
		}
	}
}

func TestReservedCoversWhatAClientSends(t *testing.T) {
	t.Parallel()
	var form url.Values
	c := clientFor(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		form = r.PostForm
		answeringJSON(200, `{"access_token":"abc"}`)(w, r)
	}))
	c.Auth, c.Scopes, c.Audience = oauth.AuthPost, []string{"s"}, "a"
	if _, _, err := c.Refresh(t.Context(), secrets.NewValue("x"), secrets.NewValue("y")); err != nil {
		t.Fatal(err)
	}
	for name := range form {
		if !slices.Contains(oauth.Reserved(), name) {
			t.Errorf("parameter %s can be overwritten by Extra", name)
		}
	}
	if len(form) != 6 {
		t.Errorf("form has %d parameters, want 6", len(form))
	}
}
