package inject_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/credproxy/credproxy/oauth"
)

// What is posted: every reference resolved, everything else as the rule says it.
func TestSessionPosts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, login, want string }{
		{"form", `form: {user name: "a&b=c", password: $S, n: 1, empty: ""}, headers: {X-Requested-With: XMLHttpRequest, X-Key: $S}`,
			`application/x-www-form-urlencoded [XMLHttpRequest s3/cret] empty=&n=1&password=s3%2Fcret&user+name=a%26b%3Dc`},
		{"JSON", `json: {user: {name: "a\"b", password: $S}, n: 1, on: true, off: null, f: 1.5, list: [$S, x], "2": "2"}`,
			`application/json [ ] {"2":"2","f":1.5,"list":["s3/cret","x"],"n":1,"off":null,"on":true,"user":{"name":"a\"b","password":"s3/cret"}}`},
		{"JSON, a list", `json: [$S]`, `application/json [ ] ["s3/cret"]`},
		{"JSON, a text", `json: $S`, `application/json [ ] "s3/cret"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := make(chan string, 1)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var body strings.Builder
				if _, err := fmt.Fprint(&body, r.Header.Get("Content-Type"), " [", r.Header.Get("X-Requested-With"), " ", r.Header.Get("X-Key"), "] "); err != nil {
					t.Error(err)
				}
				buf := make([]byte, r.ContentLength)
				n, _ := r.Body.Read(buf)
				got <- body.String() + string(buf[:n])
				w.Header().Set("Set-Cookie", "sid=abc")
			}))
			defer srv.Close()
			c := build(t, newEnv(t, nil), "{type: session, login: {url: $URL, "+tt.login+"}, keep: {cookie: sid}}", map[string]string{"S": secretFile(t, "s3/cret"), "URL": srv.URL})[0]
			req, err := http.NewRequestWithContext(t.Context(), "GET", "http://api.example.com/", nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Apply(req); err != nil || req.Header.Get("Cookie") != "sid=abc" {
				t.Errorf("Cookie %q, %v", req.Header.Get("Cookie"), err)
			}
			if got := <-got; got != tt.want {
				t.Errorf("posted\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// Where a site sends those who have no session.
func TestSessionIsOver(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		url, expired string
		status       int
		location     string
		want         bool
	}{
		{"/login?next=/", "", 302, "/login", true},
		{"/login", "", 303, "https://x.test/login/?next=%2Fa", true},
		{"/login", "", 302, "/logins", false},
		{"/login", "", 302, "/", false},
		{"/login", "", 200, "/login", false},
		{"/login", "", 403, "", false},
		{"/login", "", 401, "", true},
		{"/login", "", 302, "%zz", false},
		{"/", "", 302, "/", false},
		{"", "", 302, "/a", false},
		{"/api/auth", ", expired: {location: /signin/, status: [403, 419]}", 302, "/signin", true},
		{"/api/auth", ", expired: {location: /signin/, status: [403, 419]}", 302, "/api/auth", false},
		{"/api/auth", ", expired: {location: /signin/, status: [403, 419]}", 419, "", true},
	} {
		c := build(t, newEnv(t, nil), "{type: session, login: {url: 'https://x.test"+tt.url+"', form: {password: keyring:a}}, keep: {cookie: sid}"+tt.expired+"}", nil)[0]
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://x.test/a", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp := &http.Response{StatusCode: tt.status, Header: http.Header{"Location": {tt.location}}, Request: req}
		if got := c.Answer(resp, nil, 1); got != tt.want {
			t.Errorf("login at %q%s, %d %s: over is %v, want %v", tt.url, tt.expired, tt.status, tt.location, got, tt.want)
		}
	}
}

// A site that sets a cookie for a wrong password too, as many do, gets no endless logins.
func TestSessionThatIsNeverGood(t *testing.T) {
	t.Parallel()
	logins := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		logins++
		w.Header().Set("Set-Cookie", fmt.Sprint("sid=", logins))
	}))
	defer srv.Close()
	password := secretFile(t, "wrong")
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	env := newEnv(t, nil)
	env.Tokens = oauth.NewCacheAt(func() time.Time { return now })
	defer env.Tokens.Close()
	c := build(t, env, "{type: session, login: {url: $URL, form: {password: $S}}, keep: {cookie: sid}}", map[string]string{"S": password, "URL": srv.URL})[0]
	ask := func(status int) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://api.example.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		used, err := c.Apply(req)
		if err != nil {
			t.Fatal(err)
		}
		c.Answer(&http.Response{StatusCode: status, Header: http.Header{}, Request: req}, used, 1)
		now = now.Add(time.Minute)
	}
	for range 50 {
		ask(401)
	}
	if logins != 3 {
		t.Errorf("%d logins within an hour, want 3", logins)
	}
	now = now.Add(time.Hour)
	ask(401)
	ask(200)
	if logins != 4 {
		t.Errorf("%d logins after an hour, want 4", logins)
	}
	now = now.Add(time.Hour)
	ask(200)
	for range 5 { // each is the end of a session that was good
		ask(401)
		ask(200)
	}
	if logins != 9 {
		t.Errorf("%d logins after sessions that were good, want 9", logins)
	}
	for range 50 {
		ask(401)
	}
	before := logins
	if err := os.WriteFile(strings.TrimPrefix(password, "file:"), []byte("right"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		ask(401)
	}
	if logins == before {
		t.Error("no login with the new password")
	}
}

// BenchmarkSession is a request in a session that there is; compare BenchmarkApply/bearer.
func BenchmarkSession(b *testing.B) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Set-Cookie", "sid=abc")
		fmt.Fprint(w, `{"token": "abc"}`)
	}))
	defer srv.Close()
	for _, bb := range []struct{ name, keep string }{{"cookie", "{cookie: sid}"}, {"token", "{pointer: /token}"}} {
		b.Run(bb.name, func(b *testing.B) {
			c := build(b, newEnv(b, nil), "{type: session, login: {url: $URL, form: {password: $S}}, keep: "+bb.keep+"}", map[string]string{"S": secretFile(b, "s3cret"), "URL": srv.URL})[0]
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
		})
	}
}
