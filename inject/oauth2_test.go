package inject_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
)

// An authServer is an authorization server that rotates refresh tokens and, as RFC 9700 section 4.14.2 wants it,
// revokes everything when one is used twice.
type authServer struct {
	*httptest.Server
	asked   atomic.Int64
	instead atomic.Pointer[http.HandlerFunc] // answers in its place
	gate    atomic.Pointer[chan struct{}]    // requests wait for it
	rotate  bool
	expiry  int

	mu      sync.Mutex
	refresh string // the one that is valid; empty: revoked
	issued  int
}

func newAuthServer(t *testing.T, rotate bool) *authServer {
	t.Helper()
	a := &authServer{rotate: rotate, expiry: 3600, refresh: "refresh-token-0"}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *authServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.asked.Add(1)
	_ = r.ParseForm()
	if gate := a.gate.Load(); gate != nil {
		<-*gate
	}
	if h := a.instead.Load(); h != nil {
		(*h)(w, r)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	extra := ""
	switch r.PostForm.Get("grant_type") {
	case "refresh_token":
		if a.refresh == "" || r.PostForm.Get("refresh_token") != a.refresh {
			a.refresh = ""
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"error":"invalid_grant"}`)
			return
		}
		if a.rotate {
			a.refresh = fmt.Sprint("refresh-token-", a.issued+1)
			extra = `,"refresh_token":"` + a.refresh + `"`
		}
	case "client_credentials":
		if id, secret, ok := r.BasicAuth(); !ok || id != "app" || secret != "client-secret" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error":"invalid_client"}`)
			return
		}
	}
	a.issued++
	_, _ = fmt.Fprintf(w, `{"access_token":"access-%d","token_type":"Bearer","expires_in":%d%s}`, a.issued, a.expiry, extra)
}

// valid is the refresh token that the server takes.
func (a *authServer) valid() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.refresh
}

func (a *authServer) answers(h http.HandlerFunc) {
	if h == nil {
		a.instead.Store(nil)
		return
	}
	a.instead.Store(&h)
}

func (a *authServer) hold() (release func()) {
	gate := make(chan struct{})
	a.gate.Store(&gate)
	return sync.OnceFunc(func() {
		a.gate.Store(nil)
		close(gate)
	})
}

func openStore(t *testing.T, state string) *secrets.Store {
	t.Helper()
	store, err := secrets.OpenStore(secrets.StoreConfig{State: state, Backend: "file"})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// stored reads name as another process would.
func stored(t *testing.T, state, name string) string {
	t.Helper()
	r := secrets.NewResolver(secrets.Config{Store: openStore(t, state)})
	defer r.Close()
	v, err := r.Resolve(context.Background(), secrets.Ref{Scheme: "keyring", Name: name})
	if err != nil {
		t.Errorf("reading %s from a second store: %v", name, err)
	}
	return v.Reveal()
}

// newRefresher is a credential of type oauth2_refresh_token whose refresh token is in a keyring of its own.
func newRefresher(t *testing.T, a *authServer) (c inject.Credential, env inject.Env, state string) {
	t.Helper()
	state = t.TempDir()
	store := openStore(t, state)
	if err := store.Set(t.Context(), "rt", secrets.NewValue("refresh-token-0")); err != nil {
		t.Fatal(err)
	}
	env = newEnv(t, store)
	return refresher(t, env, a), env, state
}

func refresher(t *testing.T, env inject.Env, a *authServer) inject.Credential {
	t.Helper()
	return build(t, env, "{type: oauth2_refresh_token, token_url: $URL, client_id: app, refresh_token: keyring:rt}", map[string]string{"URL": a.URL})[0]
}

func newClient(t *testing.T, env inject.Env, a *authServer, secret string) inject.Credential {
	t.Helper()
	return build(t, env, "{type: oauth2_client_credentials, token_url: $URL, client_id: app, client_secret: $S}",
		map[string]string{"URL": a.URL, "S": secret})[0]
}

// authorization applies c to a new request and returns what it put there.
func authorization(ctx context.Context, c inject.Credential) (string, []secrets.Value, error) {
	req, err := http.NewRequestWithContext(ctx, "GET", "http://api.example.com/", nil)
	if err != nil {
		return "", nil, err
	}
	req.Header.Set("Authorization", "Bearer dummy")
	used, err := c.Apply(req)
	return req.Header.Get("Authorization"), used, err
}

func wantAuthorization(t *testing.T, c inject.Credential, want string) []secrets.Value {
	t.Helper()
	got, used, err := authorization(t.Context(), c)
	if err != nil {
		t.Fatalf("Apply: %v", err)
	}
	if got != want {
		t.Errorf("Authorization %q, want %q", got, want)
	}
	return used
}

func TestClientCredentialsOnTheWire(t *testing.T) {
	t.Parallel()
	a := newAuthServer(t, false)
	c := newClient(t, newEnv(t, nil), a, secretFile(t, "client-secret"))
	w := newWire(t)
	for range 2 {
		_, lines := w.send(t, []inject.Credential{c}, "/", http.Header{"authorization": {"Bearer dummy"}})
		if len(lines) != 1 || lines[0] != "Authorization: Bearer access-1" {
			t.Errorf("header %q, want the access token alone", lines)
		}
	}
	if n := a.asked.Load(); n != 1 {
		t.Errorf("the server was asked %d times, want 1", n)
	}
	used := wantAuthorization(t, c, "Bearer access-1")
	if len(used) != 1 || used[0].Reveal() != "access-1" {
		t.Errorf("used is not the access token")
	}
	refuse(c, used)
	wantAuthorization(t, c, "Bearer access-2")
}

func TestManyRequestsOneTokenRequest(t *testing.T) {
	t.Parallel()
	a := newAuthServer(t, true)
	c, env, _ := newRefresher(t, a)
	release := a.hold()
	defer release()
	again := refresher(t, env, a) // the same rule after a reload
	var arrived, done sync.WaitGroup
	got := make(chan string, 500)
	for i := range 500 {
		arrived.Add(1)
		done.Go(func() {
			arrived.Done()
			which := c
			if i%2 == 1 {
				which = again
			}
			h, _, err := authorization(t.Context(), which)
			if err != nil {
				h = err.Error()
			}
			got <- h
		})
	}
	arrived.Wait()
	release()
	done.Wait()
	close(got)
	for h := range got {
		if h != "Bearer access-1" {
			t.Fatalf("a request got %q, want Bearer access-1", h)
		}
	}
	if n := a.asked.Load(); n != 1 {
		t.Errorf("the server was asked %d times, want 1", n)
	}
}

func TestClientThatLeavesDoesNotStopTheRenewal(t *testing.T) {
	t.Parallel()
	a := newAuthServer(t, true)
	c, _, state := newRefresher(t, a)
	release := a.hold()
	defer release()
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { _, _, err := authorization(ctx, c); left <- err }()
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the client that left got %v, want context.Canceled", err)
	}
	release()
	wantAuthorization(t, c, "Bearer access-1")
	if n := a.asked.Load(); n != 1 {
		t.Errorf("the server was asked %d times, want 1", n)
	}
	if got := stored(t, state, "rt"); got != "refresh-token-1" {
		t.Errorf("stored %q, want refresh-token-1", got)
	}
}

// byteByByte keeps an answer going for as long as anyone listens.
func byteByByte(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, "{")
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		_ = http.NewResponseController(w).Flush()
		select {
		case <-tick.C:
			_, _ = io.WriteString(w, " ")
		case <-r.Context().Done():
			return
		}
	}
}

// newBomb is an answer of 64 MiB in 64 KiB.
func newBomb(t *testing.T) http.HandlerFunc {
	t.Helper()
	var small bytes.Buffer
	z := gzip.NewWriter(&small)
	if _, err := z.Write(make([]byte, 64<<20)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(small.Bytes())
	}
}

// TestRotationIsStoredBeforeUse looks at the keyring at the moment when the upstream first sees the access token.
func TestRotationIsStoredBeforeUse(t *testing.T) {
	t.Parallel()
	a := newAuthServer(t, true)
	c, _, state := newRefresher(t, a)
	requests := 0
	upstream := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		requests++
		if got, want := stored(t, state, "rt"), a.valid(); got != want {
			t.Errorf("%s is in use while the keyring holds %q, want %q", r.Header.Get("Authorization"), got, want)
		}
	}))
	defer upstream.Close()
	for i := 1; i <= 3; i++ {
		req, err := http.NewRequestWithContext(t.Context(), "GET", upstream.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		used, err := c.Apply(req)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := upstream.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if i == 1 {
			refuse(c, used)
		}
	}
	if requests != 3 || a.valid() != "refresh-token-2" {
		t.Errorf("%d requests, refresh token %q, want 3 and refresh-token-2", requests, a.valid())
	}
}

// TestTwoProxiesShareOneRefreshToken has two processes' worth of caches over one keyring. The server revokes
// everything if either uses a spent token.
func TestTwoProxiesShareOneRefreshToken(t *testing.T) {
	t.Parallel()
	a := newAuthServer(t, true)
	one, _, state := newRefresher(t, a)
	two := refresher(t, newEnv(t, openStore(t, state)), a)
	wantAuthorization(t, one, "Bearer access-1")
	used := wantAuthorization(t, two, "Bearer access-2")
	refuse(two, used)
	wantAuthorization(t, two, "Bearer access-3")
	refuse(one, []secrets.Value{secrets.NewValue("access-1")})
	wantAuthorization(t, one, "Bearer access-4")
	if got := stored(t, state, "rt"); got != "refresh-token-4" || a.valid() != got {
		t.Errorf("stored %q, valid %q, want refresh-token-4", got, a.valid())
	}
}

func TestServerKeepsTheRefreshToken(t *testing.T) {
	t.Parallel()
	a := newAuthServer(t, false)
	c, _, state := newRefresher(t, a)
	refuse(c, wantAuthorization(t, c, "Bearer access-1"))
	wantAuthorization(t, c, "Bearer access-2")
	if got := stored(t, state, "rt"); got != "refresh-token-0" {
		t.Errorf("stored %q, want refresh-token-0", got)
	}
}

func TestRefreshTokenFromAFile(t *testing.T) {
	t.Parallel()
	a := newAuthServer(t, true)
	state := t.TempDir()
	ref := secretFile(t, "refresh-token-0")
	make := func() inject.Credential {
		return build(t, newEnv(t, openStore(t, state)), "{type: oauth2_refresh_token, token_url: $URL, client_id: app, refresh_token: $RT}",
			map[string]string{"URL": a.URL, "RT": ref})[0]
	}
	wantAuthorization(t, make(), "Bearer access-1")
	wantAuthorization(t, make(), "Bearer access-2") // another process: the file still has the first token
}

// TestBadTokenEndpoints goes through what a token endpoint can do. Whatever it does, the refresh token in the keyring
// is the one that works, and the next request after it has recovered gets a token.
func TestBadTokenEndpoints(t *testing.T) {
	t.Parallel()
	text := func(status int, contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	json := func(body string) http.HandlerFunc { return text(200, "application/json", body) }
	redirect := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", status) }
	}
	tests := []struct {
		name   string
		answer http.HandlerFunc
		slug   string
		stored string
		hint   string // part of it
	}{
		{"down", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "token_refresh_failed", "refresh-token-0", "reachable"},
		{"slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "token_timeout", "refresh-token-0", "reachable"},
		{"byte by byte without end", byteByByte, "token_timeout", "refresh-token-0", "reachable"},
		{"gzip bomb", newBomb(t), "token_refresh_failed", "refresh-token-0", "check token_url"},
		{"redirect 308", redirect(308), "token_refresh_failed", "refresh-token-0", "check token_url"},
		{"500", text(500, "text/plain", "oops"), "token_refresh_failed", "refresh-token-0", "again by itself"},
		{"not JSON", text(200, "text/html", "<p>sign in"), "token_refresh_failed", "refresh-token-0", "check token_url"},
		{"invalid_grant", text(400, "application/json", `{"error":"invalid_grant"}`), "token_expired", "refresh-token-0", "credproxy secret set rt"},
		{"redirect 302", redirect(302), "token_refresh_failed", "refresh-token-0", "check token_url"},
		{"redirect 307", redirect(307), "token_refresh_failed", "refresh-token-0", "check token_url"},
		{"huge body", json(`{"access_token":"a","refresh_token":"rt-9","x":"` + strings.Repeat("x", 1<<20) + `"}`), "token_refresh_failed", "refresh-token-0", "check token_url"},
		{"empty refresh token", json(`{"access_token":"","refresh_token":""}`), "token_refresh_failed", "refresh-token-0", "check token_url"},
		{"refresh token with CR LF", json(`{"access_token":"a","refresh_token":"a\r\nb"}`), "token_refresh_failed", "refresh-token-0", "check token_url"},
		{"404", text(404, "text/html", "not found"), "token_refresh_failed", "refresh-token-0", "check token_url"},
		{"429", text(429, "text/plain", "slow down"), "token_refresh_failed", "refresh-token-0", "again by itself"},
		{"401", text(401, "text/plain", "who are you?"), "token_refresh_failed", "refresh-token-0", "check client_id"},
		{"invalid_scope", text(400, "application/json", `{"error":"invalid_scope"}`), "token_refresh_failed", "refresh-token-0", "check client_id"},
		// These have rotated the token: the old one is spent, so the new one is kept.
		{"token with CR LF", json(`{"access_token":"a\r\nX: y","refresh_token":"rt-9"}`), "token_refresh_failed", "rt-9", "check token_url"},
		{"token_type mac", json(`{"access_token":"a","token_type":"mac","refresh_token":"rt-9"}`), "token_refresh_failed", "rt-9", "check token_url"},
		{"expires_in junk", json(`{"access_token":"a","expires_in":"soon","refresh_token":"rt-9"}`), "token_refresh_failed", "rt-9", "check token_url"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := newAuthServer(t, true)
			c, env, state := newRefresher(t, a)
			env.HTTP.Timeout = 10 * time.Second
			if tt.slug == "token_timeout" {
				env.HTTP.Timeout = 500 * time.Millisecond
			}
			a.answers(tt.answer)
			h, used, err := authorization(t.Context(), c)
			if err == nil {
				t.Fatalf("got %q, want an error", h)
			}
			if s, hint := failure(t, err); s != tt.slug {
				t.Errorf("slug %q (%v), want %q", s, err, tt.slug)
			} else if !strings.Contains(hint, tt.hint) {
				t.Errorf("hint %q, want it to say %q", hint, tt.hint)
			}
			if h != "Bearer dummy" || used != nil {
				t.Errorf("the request was changed to %q all the same", h)
			}
			if got := stored(t, state, "rt"); got != tt.stored {
				t.Errorf("stored %q, want %q", got, tt.stored)
			}
			a.answers(nil)
			a.mu.Lock()
			a.refresh = tt.stored
			a.mu.Unlock()
			wantAuthorization(t, refresher(t, newEnv(t, openStore(t, state)), a), "Bearer access-1")
		})
	}
}

// It does not run beside others: their servers could get the port on which this one no longer listens.
func TestServerDownWhileTheTokenIsValid(t *testing.T) {
	a := newAuthServer(t, true)
	c, _, _ := newRefresher(t, a)
	used := wantAuthorization(t, c, "Bearer access-1")
	a.Close()
	wantAuthorization(t, c, "Bearer access-1")
	refuse(c, used) // an upstream's 401 does not make the token worthless either
	wantAuthorization(t, c, "Bearer access-1")
}

// TestNewSecretHelpsAtOnce: after a refusal requests fail fast, until the secret is replaced.
func TestNewSecretHelpsAtOnce(t *testing.T) {
	t.Parallel()
	t.Run("refresh token", func(t *testing.T) {
		t.Parallel()
		a := newAuthServer(t, true)
		c, _, state := newRefresher(t, a)
		other := openStore(t, state)
		if err := other.Set(t.Context(), "rt", secrets.NewValue("stale")); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			_, _, err := authorization(t.Context(), c)
			if err == nil {
				t.Fatal("no error with a stale refresh token")
			}
			if s, _ := failure(t, err); s != "token_expired" {
				t.Errorf("slug %q, want token_expired", s)
			}
		}
		if n := a.asked.Load(); n != 1 {
			t.Errorf("the server was asked %d times, want 1", n)
		}
		a.mu.Lock()
		a.refresh = "fresh"
		a.mu.Unlock()
		if err := other.Set(t.Context(), "rt", secrets.NewValue("fresh")); err != nil {
			t.Fatal(err)
		}
		wantAuthorization(t, c, "Bearer access-1")
	})
	t.Run("client secret", func(t *testing.T) {
		t.Parallel()
		a := newAuthServer(t, false)
		state := t.TempDir()
		store := openStore(t, state)
		if err := store.Set(t.Context(), "cs", secrets.NewValue("wrong")); err != nil {
			t.Fatal(err)
		}
		c := newClient(t, newEnv(t, store), a, "keyring:cs")
		_, _, err := authorization(t.Context(), c)
		if err == nil {
			t.Fatal("no error with a wrong client secret")
		}
		if s, hint := failure(t, err); s != "token_refresh_failed" || !strings.HasPrefix(hint, "credproxy secret set cs") {
			t.Errorf("slug %q, hint %q, want token_refresh_failed and the command that helps", s, hint)
		}
		if err := openStore(t, state).Set(t.Context(), "cs", secrets.NewValue("client-secret")); err != nil {
			t.Fatal(err)
		}
		wantAuthorization(t, c, "Bearer access-1")
	})
}

// TestStopDoesNotLoseARotation: the proxy stops while the server has the request.
func TestStopDoesNotLoseARotation(t *testing.T) {
	t.Parallel()
	a := newAuthServer(t, true)
	c, env, state := newRefresher(t, a)
	held, release := make(chan struct{}), make(chan struct{})
	a.answers(func(w http.ResponseWriter, r *http.Request) {
		a.answers(nil)
		close(held)
		<-release
		a.ServeHTTP(w, r)
	})
	got := make(chan error, 1)
	go func() { _, _, err := authorization(t.Context(), c); got <- err }()
	<-held
	// A second renewal tells when Close has cancelled what it may cancel.
	started, canceled := make(chan struct{}), make(chan struct{})
	go func() {
		_, _ = env.Tokens.Token(t.Context(), "witness", func(ctx context.Context) (oauth.Token, error) {
			close(started)
			<-ctx.Done()
			close(canceled)
			return oauth.Token{}, ctx.Err()
		})
	}()
	<-started
	closed := make(chan struct{})
	go func() { env.Tokens.Close(); close(closed) }()
	<-canceled
	close(release)
	<-closed
	if err := <-got; err != nil {
		t.Errorf("the request got %v, want its token", err)
	}
	if got := stored(t, state, "rt"); got != "refresh-token-1" {
		t.Errorf("stored %q, want refresh-token-1", got)
	}
}

func TestTokensAreSharedByEqualSettings(t *testing.T) {
	t.Parallel()
	a := newAuthServer(t, false)
	env, secret := newEnv(t, nil), secretFile(t, "client-secret")
	base := "{type: oauth2_client_credentials, token_url: $URL, client_id: app, client_secret: $S"
	vars := map[string]string{"URL": a.URL, "S": secret}
	for i, fields := range []string{"", ", scopes: [a]", ", scopes: [a, b]", ", scopes: [b, a]", ", audience: a", ", resource: ['urn:a']", ", extra: {a: b}", ", extra: {a: c}"} {
		want := fmt.Sprint("Bearer access-", i+1)
		for range 2 {
			wantAuthorization(t, build(t, env, base+fields+"}", vars)[0], want)
		}
	}
}

func BenchmarkApplyOAuth(b *testing.B) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"access_token":"abc","token_type":"Bearer","expires_in":3600}`)
	}))
	defer srv.Close()
	c := build(b, newEnv(b, nil), "{type: oauth2_client_credentials, token_url: $URL, client_id: app, client_secret: $S}",
		map[string]string{"URL": srv.URL, "S": secretFile(b, "client-secret")})[0]
	req, err := http.NewRequestWithContext(b.Context(), "GET", "http://api.example.com/", nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Apply(req); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExpiredToken has 500 requests need a token at once. The slowest hundredth should wait little longer than the
// token endpoint takes for one client.
func BenchmarkExpiredToken(b *testing.B) {
	const latency, clients = 50 * time.Millisecond, 500
	var asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		time.Sleep(latency) // what is measured against
		_, _ = io.WriteString(w, `{"access_token":"abc","token_type":"Bearer","expires_in":3600}`)
	}))
	defer srv.Close()
	text, vars := "{type: oauth2_client_credentials, token_url: $URL, client_id: app, client_secret: $S}", map[string]string{"URL": srv.URL, "S": secretFile(b, "client-secret")}
	var alone, slowest time.Duration
	rounds := 0
	for b.Loop() {
		rounds++
		for _, n := range []int{1, clients} {
			c := build(b, newEnv(b, nil), text, vars)[0]
			before := asked.Load()
			waits := waitsFor(b, c, n)
			if got := asked.Load() - before; got != 1 {
				b.Fatalf("%d token requests for %d clients, want 1", got, n)
			}
			if n == 1 {
				alone += waits[0]
			} else {
				slowest += waits[n*99/100]
			}
		}
	}
	b.ReportMetric(float64(alone.Milliseconds())/float64(rounds), "ms-alone")
	b.ReportMetric(float64(slowest.Milliseconds())/float64(rounds), "ms-p99")
	b.ReportMetric(float64(slowest)/float64(alone), "p99/alone")
}

// waitsFor is how long each of n requests waits for c, in order of length.
func waitsFor(b *testing.B, c inject.Credential, n int) []time.Duration {
	waits := make([]time.Duration, n)
	var all sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		req, err := http.NewRequestWithContext(b.Context(), "GET", "http://api.example.com/", nil)
		if err != nil {
			b.Fatal(err)
		}
		all.Go(func() {
			<-start
			begun := time.Now()
			if _, err := c.Apply(req); err != nil {
				b.Error(err)
			}
			waits[i] = time.Since(begun)
		})
	}
	close(start)
	all.Wait()
	slices.Sort(waits)
	return waits
}
