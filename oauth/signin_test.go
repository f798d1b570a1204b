package oauth_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
)

const loopbackRedirect = "http://127.0.0.1:4000/callback"

func authorize(t *testing.T, c *oauth.Client, server oauth.Server, extra map[string]string) (*oauth.Authorization, url.Values) {
	t.Helper()
	a, err := c.Authorize(server, loopbackRedirect, extra)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(a.URL)
	if err != nil {
		t.Fatal(err)
	}
	return a, u.Query()
}

func TestAuthorizationRequest(t *testing.T) {
	t.Parallel()
	asked := make(chan url.Values, 1)
	c := clientFor(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		asked <- r.PostForm
		answeringJSON(200, `{"access_token":"a","refresh_token":"r","expires_in":3600}`)(w, r)
	}))
	c.Auth, c.Scopes, c.Audience, c.Resource = oauth.AuthNone, []string{"openid", "b"}, "https://api.test", []string{"urn:x", "urn:y"}
	server := oauth.Server{AuthorizationURL: "https://login.test/authorize?tenant=acme&state=fixed"}
	a, q := authorize(t, c, server, map[string]string{"prompt": "consent"})
	want := url.Values{
		"tenant": {"acme"}, "prompt": {"consent"}, "response_type": {"code"}, "client_id": {"my client"}, "redirect_uri": {loopbackRedirect},
		"scope": {"openid b"}, "audience": {"https://api.test"}, "resource": {"urn:x", "urn:y"}, "code_challenge_method": {"S256"},
	}
	state, challenge := q.Get("state"), q.Get("code_challenge")
	q.Del("state")
	q.Del("code_challenge")
	if q.Encode() != want.Encode() {
		t.Errorf("got  %s\nwant %s", q.Encode(), want.Encode())
	}
	_, other := authorize(t, c, server, nil)
	if state == "fixed" || len(state) < 26 || other.Get("state") == state || other.Get("code_challenge") == challenge {
		t.Errorf("state %q and %q, challenge %q and %q", state, other.Get("state"), challenge, other.Get("code_challenge"))
	}
	got, err := a.Exchange(t.Context(), secrets.Value{}, secrets.NewValue("the-code"))
	if err != nil || got.Refresh.Reveal() != "r" || !got.Token.Access.IsZero() || got.ID == "" {
		t.Errorf("got %v, %v", got.ID, err)
	}
	form := <-asked
	sum := sha256.Sum256([]byte(form.Get("code_verifier")))
	if base64.RawURLEncoding.EncodeToString(sum[:]) != challenge {
		t.Errorf("the challenge is not that of the verifier")
	}
	form.Del("code_verifier")
	if want := (url.Values{"grant_type": {"authorization_code"}, "code": {"the-code"}, "redirect_uri": {loopbackRedirect},
		"client_id": {"my client"}, "resource": {"urn:x", "urn:y"}}); form.Encode() != want.Encode() {
		t.Errorf("token request\ngot  %s\nwant %s", form.Encode(), want.Encode())
	}
}

func TestRedirectIsChecked(t *testing.T) {
	t.Parallel()
	const issuer = "https://login.test"
	tests := []struct {
		name   string
		server oauth.Server
		params string // STATE is the right one
		want   string // part of the error; empty: a code
	}{
		{"fine", oauth.Server{}, "state=STATE&code=c", ""},
		{"its issuer", oauth.Server{Issuer: issuer, SaysIssuer: true}, "state=STATE&code=c&iss=https://login.test", ""},
		{"no state", oauth.Server{}, "code=c", "wrong state"},
		{"another state", oauth.Server{}, "state=STATEx&code=c", "wrong state"},
		{"empty state", oauth.Server{}, "state=&code=c", "wrong state"},
		{"two states", oauth.Server{}, "state=STATE&state=x&code=c", "state twice"},
		{"two codes", oauth.Server{}, "state=STATE&code=c&code=d", "code twice"},
		{"another issuer", oauth.Server{Issuer: issuer}, "state=STATE&code=c&iss=https://evil.test", "another server"},
		{"no issuer where there always is one", oauth.Server{Issuer: issuer, SaysIssuer: true}, "state=STATE&code=c", "does not say from which server"},
		{"an error from another issuer", oauth.Server{Issuer: issuer}, "state=STATE&error=access_denied&iss=https://evil.test", "another server"},
		{"refused", oauth.Server{}, "state=STATE&error=access_denied&error_description=no%0away%1b[31m", "access_denied: no?way?[31m: the sign-in was refused"},
		{"an error without state", oauth.Server{}, "error=access_denied", "wrong state"},
		{"an error that is no word", oauth.Server{}, "state=STATE&error=%1b]0%3bx%07", "error"},
		{"an empty error beside a code", oauth.Server{}, "state=STATE&error=&code=c", "error"},
		{"no code", oauth.Server{}, "state=STATE", "no code"},
		{"a code with a line break", oauth.Server{}, "state=STATE&code=a%0ab", "RFC 6749 does not allow"},
		{"a long code", oauth.Server{}, "state=STATE&code=" + strings.Repeat("c", 9000), "RFC 6749 does not allow"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.server.AuthorizationURL = issuer + "/authorize"
			a, q := authorize(t, &oauth.Client{ID: "app"}, tt.server, nil)
			params, err := url.ParseQuery(strings.ReplaceAll(tt.params, "STATE", q.Get("state")))
			if err != nil {
				t.Fatal(err)
			}
			code, err := a.Code(params)
			if tt.want == "" {
				if err != nil || code.Reveal() != "c" {
					t.Errorf("got an error: %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.ContainsAny(err.Error(), "\x1b\n\x07") || !code.IsZero() {
				t.Errorf("got %q, want %q", err, tt.want)
			}
		})
	}
}

// A code works once, and at some servers a second try ends what the first has brought.
func TestCodeIsSentOnce(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	c := clientFor(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		answeringJSON(503, `{}`)(w, r)
	}))
	a, _ := authorize(t, c, oauth.Server{AuthorizationURL: "https://login.test/"}, nil)
	if _, err := a.Exchange(t.Context(), secrets.NewValue("s"), secrets.NewValue("the-code")); err == nil {
		t.Error("no error")
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
}

// A token that nothing but a person can renew is kept as long as the server says, and not for a day.
func TestSignInWithoutRefreshToken(t *testing.T) {
	t.Parallel()
	c := clientFor(t, answeringJSON(200, `{"access_token":"a-token","token_type":"bearer","expires_in":5184000}`))
	a, _ := authorize(t, c, oauth.Server{AuthorizationURL: "https://login.test/"}, nil)
	got, err := a.Exchange(t.Context(), secrets.NewValue("s"), secrets.NewValue("the-code"))
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(got.Token.Expiry); left < 59*24*time.Hour || left > 60*24*time.Hour {
		t.Errorf("%s left, want 60 days", left)
	}
	back := oauth.ReadSignIn(got.Value())
	if back.ID != got.ID || back.Token.Access.Reveal() != "a-token" || !back.Token.Expiry.Equal(got.Token.Expiry) || !back.Refresh.IsZero() {
		t.Error("it is not what was stored")
	}
}

func TestReadSignIn(t *testing.T) {
	t.Parallel()
	for _, stored := range []string{"a-token", "{", `{"refresh_token":"r"}`, `{"signed_in":"now"}`, `{"signed_in":1,"refresh_token":"r"}`, ""} {
		s := oauth.ReadSignIn(secrets.NewValue(stored))
		if s.ID != "" || s.Refresh.Reveal() != stored || s.Value().Reveal() != stored {
			t.Errorf("%q is not taken for a refresh token", stored)
		}
	}
	s := oauth.ReadSignIn(secrets.NewValue(`{"refresh_token":"r","signed_in":"then"}`))
	if s.ID != "then" || s.Refresh.Reveal() != "r" {
		t.Error("a sign-in is not read")
	}
	s.Refresh = secrets.NewValue("r2")
	if got, want := s.Value().Reveal(), `{"refresh_token":"r2","signed_in":"then"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A pipe is a network of its own, so that a server and its client can live by a clock that is not real.
type pipe struct{ conns chan net.Conn }

func (p pipe) Accept() (net.Conn, error) {
	if c, ok := <-p.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (p pipe) Close() error   { return nil }
func (p pipe) Addr() net.Addr { return &net.TCPAddr{} }

// inPipe serves h, and returns a client for it. stop ends both.
func inPipe(h http.Handler) (c *oauth.Client, stop func()) {
	p := pipe{make(chan net.Conn)}
	srv, served := &http.Server{Handler: h}, make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(p)
	}()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		near, far := net.Pipe()
		p.conns <- far
		return near, nil
	}}
	c = &oauth.Client{HTTP: &http.Client{Transport: transport}, TokenURL: "http://localhost/token", ID: "tv", Auth: oauth.AuthNone}
	return c, func() {
		close(p.conns)
		_ = srv.Close()
		<-served
	}
}

const deviceAnswer = `{"device_code":"dc","user_code":"WDJB-MJHT","verification_uri":"https://login.test/device","expires_in":600}`

// TestDevicePolling: how often a server is asked (RFC 8628 section 3.5).
func TestDevicePolling(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var asked []time.Duration
		answers := []string{`400 {"error":"authorization_pending"}`, `400 {"error":"slow_down"}`, `200 {"error":"authorization_pending"}`, `503 {}`,
			`400 {"error":"slow_down"}`, `200 {"access_token":"a","refresh_token":"r","expires_in":60}`}
		c, stop := inPipe(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = r.ParseForm()
			if r.URL.Path == "/device" {
				if got := r.PostForm.Encode(); got != "client_id=tv&scope=a+b&x=y" {
					t.Errorf("device request %s", got)
				}
				answeringJSON(200, deviceAnswer)(w, r)
				return
			}
			if got := r.PostForm.Encode(); got != "client_id=tv&device_code=dc&grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code" {
				t.Errorf("token request %s", got)
			}
			var status int
			var body string
			_, _ = fmt.Sscanf(answers[len(asked)], "%d %s", &status, &body)
			asked = append(asked, time.Since(began))
			answeringJSON(status, body)(w, r)
		}))
		defer stop()
		c.Scopes = []string{"a", "b"}
		d, err := c.StartDevice(t.Context(), "http://localhost/device", secrets.Value{}, map[string]string{"x": "y"})
		if err != nil || d.UserCode != "WDJB-MJHT" || d.URI != "https://login.test/device" || d.Life != 10*time.Minute {
			t.Fatalf("got %v, %v", d, err)
		}
		got, err := d.Wait(t.Context(), secrets.Value{})
		if err != nil || got.Refresh.Reveal() != "r" {
			t.Errorf("got %v", err)
		}
		// 5 s, 5 s, after slow_down 10 s, 10 s, after 503 20 s, after another slow_down 25 s.
		want := []time.Duration{5, 10, 20, 30, 50, 75}
		for i := range want {
			want[i] *= time.Second
		}
		if !slices.Equal(asked, want) {
			t.Errorf("asked at %v, want %v", asked, want)
		}
	})
}

func TestDeviceEnds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ answer, want string }{
		{`{"error":"access_denied"}`, "the sign-in was refused"},
		{`{"error":"expired_token"}`, "not entered in time"},
		{`{"error":"invalid_grant"}`, "invalid_grant"},
		{`{"error":"authorization_pending"}`, "nobody has signed in"},
	} {
		synctest.Test(t, func(t *testing.T) {
			c, stop := inPipe(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/device" {
					answeringJSON(200, deviceAnswer)(w, r)
				} else {
					answeringJSON(400, tt.answer)(w, r)
				}
			}))
			defer stop()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			d, err := c.StartDevice(ctx, "http://localhost/device", secrets.Value{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err = d.Wait(ctx, secrets.Value{}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: got %v, want %s", tt.answer, err, tt.want)
			}
			if late := errors.Is(err, context.DeadlineExceeded); late != strings.Contains(tt.answer, "pending") {
				t.Errorf("%s: an end of the time is %v", tt.answer, late)
			}
		})
	}
}

func TestDeviceAnswers(t *testing.T) {
	t.Parallel()
	answer := func(code, user, uri, more string) string {
		return fmt.Sprintf(`{"device_code":%q,"user_code":%q,"verification_uri":%q,"expires_in":60%s}`, code, user, uri, more)
	}
	const page = "https://login.test/device"
	tests := []struct{ name, answer, want string }{
		{"fine", answer("dc", "A", page, ""), ""},
		{"Google's word", `{"device_code":"dc","user_code":"A","verification_url":"https://login.test/device","expires_in":"60"}`, ""},
		{"to loopback", answer("dc", "A", "http://127.0.0.1:1/device", ""), ""},
		{"javascript", answer("dc", "A", "javascript:alert(1)", ""), "no verification_uri with https"},
		{"a file", answer("dc", "A", "file:///etc/passwd", ""), "no verification_uri with https"},
		{"plain http", answer("dc", "A", "http://login.test/device", ""), "no verification_uri with https"},
		{"escape sequences in the address", `{"device_code":"dc","user_code":"A","verification_uri":"https://x.test/\u001b[2J","expires_in":60}`, "no verification_uri"},
		{"escape sequences in the code", `{"device_code":"dc","user_code":"\u001b]0;x\u0007","verification_uri":"https://x.test/","expires_in":60}`, "no user_code that can be shown"},
		{"a long address", answer("dc", "A", page+"?"+strings.Repeat("x", 3000), ""), "no verification_uri"},
		{"a long code", answer("dc", strings.Repeat("A", 100), page, ""), "no user_code"},
		{"no device_code", answer("", "A", page, ""), "no usable device_code"},
		{"no life", `{"device_code":"dc","user_code":"A","verification_uri":"https://x.test/"}`, "no expires_in"},
		{"not JSON", "<p>", "not what RFC 8628 says"},
		{"too large", strings.Repeat(" ", 1<<17), "larger than 64 KiB"},
		{"an error", `{"error":"invalid_scope","error_description":"no \u001b[1m"}`, "invalid_scope: no ?[1m"},
		{"a bad address for later", answer("dc", "A", page, `,"verification_uri_complete":"javascript:alert(1)"`), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := clientFor(t, answeringJSON(200, tt.answer))
			d, err := c.StartDevice(t.Context(), c.TokenURL, secrets.NewValue(clientSecret), nil)
			switch {
			case tt.want == "" && (err != nil || d.UserCode != "A" || d.Complete != ""):
				t.Errorf("got %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %s", err, tt.want)
			case err != nil && strings.Contains(err.Error(), "\x1b"):
				t.Errorf("escape sequences in %q", err)
			}
		})
	}
}

// TestRevoke: what goes to a revocation endpoint (RFC 7009 section 2.1), by each way to say who the client is.
func TestRevoke(t *testing.T) {
	t.Parallel()
	refresh := oauth.SignIn{Refresh: secrets.NewValue(oldRefresh)}
	access := oauth.SignIn{ID: "x", Token: oauth.Token{Access: secrets.NewValue("an-access-token")}}
	tests := []struct {
		name, auth string
		sign       oauth.SignIn
		wantAuth   string
		want       url.Values
	}{
		{"public", oauth.AuthNone, refresh, "", url.Values{"token": {oldRefresh}, "token_type_hint": {"refresh_token"}, "client_id": {"my client"}}},
		{"access token", oauth.AuthNone, access, "", url.Values{"token": {"an-access-token"}, "token_type_hint": {"access_token"}, "client_id": {"my client"}}},
		{"basic", oauth.AuthBasic, refresh, "Basic bXkrY2xpZW50OnMzY3JldCUyRiUyQislMjYlM0Q=", url.Values{"token": {oldRefresh}, "token_type_hint": {"refresh_token"}}},
		{"post", oauth.AuthPost, refresh, "", url.Values{"token": {oldRefresh}, "token_type_hint": {"refresh_token"}, "client_id": {"my client"}, "client_secret": {clientSecret}}},
		{"private_key_jwt", oauth.AuthPrivateKeyJWT, refresh, "", url.Values{"token": {oldRefresh}, "token_type_hint": {"refresh_token"}, "client_id": {"my client"},
			"client_assertion": {"signed"}, "client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var auth string
			var form url.Values
			c := clientFor(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				_ = r.ParseForm()
				auth, form = r.Header.Get("Authorization"), r.PostForm
			}))
			c.Auth = tt.auth
			c.Assertion = func() (secrets.Value, error) { return secrets.NewValue("signed"), nil }
			if err := c.Revoke(t.Context(), c.TokenURL, secrets.NewValue(clientSecret), tt.sign); err != nil {
				t.Fatal(err)
			}
			if auth != tt.wantAuth || form.Encode() != tt.want.Encode() {
				t.Errorf("got %q, %s\nwant %q, %s", auth, form.Encode(), tt.wantAuth, tt.want.Encode())
			}
		})
	}
}

func TestRevokeFailures(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	defer elsewhere.Close()
	tests := []struct {
		name string
		h    http.HandlerFunc
		want string
	}{
		{"refused", answeringJSON(400, `{"error":"unsupported_token_type"}`), "unsupported_token_type"},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, "redirect, which is never followed"},
		{"no reason", answering(500, "text/html", "<p>"), "HTTP status 500: refused without a reason"},
		{"the token echoed", answeringJSON(400, `{"error":"invalid_request","error_description":"unknown `+oldRefresh+`"}`), "invalid_request"},
		{"broken off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "{")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, "HTTP status 200: the answer broke off"},
	}
	for _, tt := range tests {
		c := clientFor(t, tt.h)
		err := c.Revoke(t.Context(), c.TokenURL, secrets.NewValue(clientSecret), oauth.SignIn{Refresh: secrets.NewValue(oldRefresh)})
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "revocation endpoint 127.0.0.1:") {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		} else if strings.Contains(err.Error(), oldRefresh) {
			t.Errorf("%s: the token is in %v", tt.name, err)
		}
	}
}
