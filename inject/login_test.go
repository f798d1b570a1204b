package inject_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
)

const signInRule = "{type: oauth2_authorization_code, auth_url: 'https://login.test/', token_url: $URL, client_id: app, refresh_token: $REF, scopes: [a, b]}"

// newSignIn is a credential of rule spotify, for which nobody has signed in so far, and a store as another process has it.
func newSignIn(t *testing.T, a *authServer, ref string) (c inject.Credential, other *secrets.Store, state string) {
	t.Helper()
	state = t.TempDir()
	env := newEnv(t, openStore(t, state))
	env.Rule = "spotify"
	c = build(t, env, signInRule, map[string]string{"URL": a.URL, "REF": ref})[0]
	return c, openStore(t, state), state
}

// storeSignIn stores what a sign-in with a refresh token leaves.
func storeSignIn(t *testing.T, store *secrets.Store, c inject.Credential, id, refresh string) {
	t.Helper()
	s := oauth.SignIn{ID: id, Refresh: secrets.NewValue(refresh)}
	if _, err := store.PutRef(t.Context(), inject.LoginOf(c).Kept, s.Value()); err != nil {
		t.Fatal(err)
	}
}

func wantSignIn(t *testing.T, c inject.Credential, slug string) {
	t.Helper()
	got, _, err := authorization(t.Context(), c)
	if err == nil {
		t.Fatalf("got %q, want %s", got, slug)
	}
	if s, hint := failure(t, err); s != slug || hint != "credproxy login spotify" {
		t.Errorf("got %s, %q (%v), want %s and how to sign in", s, hint, err, slug)
	}
}

func TestSignIn(t *testing.T) {
	t.Parallel()
	for _, ref := range []string{"keyring:me", "keyring:all#me"} {
		t.Run(ref, func(t *testing.T) {
			t.Parallel()
			a := newAuthServer(t, true)
			c, store, state := newSignIn(t, a, ref)
			if _, err := store.PutRef(t.Context(), secrets.Ref{Scheme: "keyring", Name: "all", Field: "other"}, secrets.NewValue("stays")); err != nil {
				t.Fatal(err)
			}
			wantSignIn(t, c, "secret_missing")
			storeSignIn(t, store, c, "first", "refresh-token-0")
			for range 3 { // a rotation is no new sign-in
				wantAuthorization(t, c, "Bearer access-1")
			}
			whole := stored(t, state, strings.TrimSuffix(strings.TrimPrefix(ref, "keyring:"), "#me"))
			if !strings.Contains(whole, "refresh-token-1") || !strings.Contains(whole, "first") || strings.Contains(ref, "#") && !strings.Contains(whole, `"other":"stays"`) {
				t.Errorf("stored %s", whole)
			}

			// Another person signs in: the old access token is good, but not theirs.
			storeSignIn(t, store, c, "second", "refresh-token-1")
			used := wantAuthorization(t, c, "Bearer access-2")
			refuse(c, used)
			wantAuthorization(t, c, "Bearer access-3")

			if err := store.RemoveRef(t.Context(), inject.LoginOf(c).Kept); err != nil {
				t.Fatal(err)
			}
			wantSignIn(t, c, "secret_missing")
			if n := a.asked.Load(); n != 3 {
				t.Errorf("the server was asked %d times, want 3", n)
			}
			// What was dropped does not come back with the same sign-in.
			storeSignIn(t, store, c, "second", "refresh-token-3")
			wantAuthorization(t, c, "Bearer access-4")
		})
	}
}

// A person may have granted fewer scopes than the rule asks for, so they are asked for once only.
func TestSignInRenewsWithoutScopes(t *testing.T) {
	t.Parallel()
	a := newAuthServer(t, false)
	a.answers(func(w http.ResponseWriter, r *http.Request) {
		if r.PostForm.Has("scope") {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":"invalid_scope"}`)
			return
		}
		_, _ = io.WriteString(w, `{"access_token":"fewer"}`)
	})
	c, store, _ := newSignIn(t, a, "keyring:me")
	storeSignIn(t, store, c, "first", "refresh-token-0")
	wantAuthorization(t, c, "Bearer fewer")
}

func TestSignInEnds(t *testing.T) {
	t.Parallel()
	a := newAuthServer(t, true)
	c, store, state := newSignIn(t, a, "keyring:me")
	storeSignIn(t, store, c, "first", "dead-token")
	before := stored(t, state, "me")
	wantSignIn(t, c, "token_expired")
	if n := a.asked.Load(); n != 1 {
		t.Errorf("the server was asked %d times, want once: the keyring has nothing new", n)
	}
	if got := stored(t, state, "me"); got != before {
		t.Errorf("stored %q, want what was there", got)
	}
	// The server takes no more until somebody signs in again.
	a.mu.Lock()
	a.refresh = "refresh-token-0"
	a.mu.Unlock()
	storeSignIn(t, store, c, "second", "refresh-token-0")
	wantAuthorization(t, c, "Bearer access-1")
}

// foreign is a store over the keyring of state by a program that knows nothing of state's locks.
func foreign(t *testing.T, state string) *secrets.Store {
	t.Helper()
	own := t.TempDir()
	entries, err := os.ReadDir(state)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		from, to := filepath.Join(state, e.Name()), filepath.Join(own, e.Name())
		switch {
		case e.Name() == "keyring":
			err = os.Symlink(from, to)
		case e.Type().IsRegular():
			var data []byte
			if data, err = os.ReadFile(from); err == nil {
				err = os.WriteFile(to, data, 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return openStore(t, own)
}

// TestKeyringIsReadOnceMore: while a refresh token is on its way, somebody without our lock rotates it.
func TestKeyringIsReadOnceMore(t *testing.T) {
	t.Parallel()
	for _, typ := range []string{"oauth2_authorization_code", "oauth2_refresh_token"} {
		t.Run(typ, func(t *testing.T) {
			t.Parallel()
			a := newAuthServer(t, false)
			c, store, state := newSignIn(t, a, "keyring:me")
			if typ == "oauth2_refresh_token" {
				c = build(t, newEnv(t, openStore(t, state)), "{type: oauth2_refresh_token, token_url: $URL, client_id: app, refresh_token: keyring:me}",
					map[string]string{"URL": a.URL})[0]
			}
			if err := store.Set(t.Context(), "me", secrets.NewValue("refresh-token-0")); err != nil {
				t.Fatal(err)
			}
			other := foreign(t, state)
			var sent []string
			a.answers(func(w http.ResponseWriter, r *http.Request) {
				sent = append(sent, r.PostForm.Get("refresh_token"))
				if len(sent) == 1 {
					if err := other.Set(r.Context(), "me", secrets.NewValue("refresh-token-9")); err != nil {
						t.Error(err)
					}
					w.WriteHeader(http.StatusBadRequest)
					_, _ = io.WriteString(w, `{"error":"invalid_grant"}`)
					return
				}
				_, _ = io.WriteString(w, `{"access_token":"the-others"}`)
			})
			wantAuthorization(t, c, "Bearer the-others")
			if got := strings.Join(sent, " "); got != "refresh-token-0 refresh-token-9" {
				t.Errorf("sent %s", got)
			}
		})
	}
}

// A server that gives no refresh token: the access token serves until it ends or is refused.
func TestSignInWithoutRefreshToken(t *testing.T) {
	t.Parallel()
	a := newAuthServer(t, true)
	c, store, _ := newSignIn(t, a, "keyring:me")
	put := func(id, access string, expiry time.Time) {
		t.Helper()
		s := oauth.SignIn{ID: id, Token: oauth.Token{Access: secrets.NewValue(access), Expiry: expiry}}
		if _, err := store.PutRef(t.Context(), inject.LoginOf(c).Kept, s.Value()); err != nil {
			t.Fatal(err)
		}
	}
	put("first", "forever", time.Time{})
	used := wantAuthorization(t, c, "Bearer forever")
	if !refuse(c, used) {
		t.Error("a 401 is worth no second look")
	}
	wantSignIn(t, c, "token_expired")
	put("second", "a-while", time.Now().Add(time.Hour))
	wantAuthorization(t, c, "Bearer a-while")
	put("third", "over", time.Now().Add(-time.Second))
	wantSignIn(t, c, "token_expired")
	if n := a.asked.Load(); n != 0 {
		t.Errorf("the server was asked %d times, want never", n)
	}
}

// Where the endpoints come from, and that a rule's own go before those of the issuer.
func TestLoginEndpoints(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	at := httptest.NewServer(mux)
	defer at.Close()
	srv := at.URL
	mux.HandleFunc("/.well-known/oauth-authorization-server", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.ReplaceAll(`{"issuer":"URL","token_endpoint":"URL/token","authorization_endpoint":"URL/authorize",
			"device_authorization_endpoint":"http://login.example.com/device","revocation_endpoint":"URL/revoke","authorization_response_iss_parameter_supported":true}`, "URL", srv))
	})
	c := build(t, newEnv(t, openStore(t, t.TempDir())), "{type: oauth2_authorization_code, issuer: $URL, client_id: app, refresh_token: keyring:me, revocation_url: 'https://other.test/revoke'}",
		map[string]string{"URL": srv})[0]
	client, _, server, err := inject.LoginOf(c).Client(t.Context())
	want := oauth.Server{Issuer: srv, AuthorizationURL: srv + "/authorize", TokenURL: srv + "/token", RevocationURL: "https://other.test/revoke", SaysIssuer: true}
	if err != nil || server != want || client.TokenURL != srv+"/token" {
		t.Errorf("got %+v, %v\nwant %+v", server, err, want)
	}
	if l := inject.LoginOf(build(t, newEnv(t, nil), "{type: bearer, token: env:X}", nil)[0]); l != nil {
		t.Error("bearer has a login")
	}
}

func BenchmarkApplySignIn(b *testing.B) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"access_token":"a","expires_in":86400}`)
	}))
	defer srv.Close()
	store, err := secrets.OpenStore(secrets.StoreConfig{State: b.TempDir(), Backend: "file"})
	if err != nil {
		b.Fatal(err)
	}
	env := newEnv(b, store)
	c := build(b, env, signInRule, map[string]string{"URL": srv.URL, "REF": "keyring:me"})[0]
	s := oauth.SignIn{ID: "first", Refresh: secrets.NewValue("refresh-token-0")}
	if _, err := store.PutRef(b.Context(), inject.LoginOf(c).Kept, s.Value()); err != nil {
		b.Fatal(err)
	}
	req := httptest.NewRequest(http.MethodGet, "https://api.example.com/", nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Apply(req); err != nil {
			b.Fatal(err)
		}
	}
}
