package oauth

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/credproxy/credproxy/secrets"
)

const loginSecret = "hunter2-7f1c9e"

// signIn has l sign in to a site that answers with page and login.
func signIn(t *testing.T, l Login, page, login http.HandlerFunc) (got Token, requests []string, err error) {
	t.Helper()
	var seen []string
	mux := http.NewServeMux()
	note := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			seen = append(seen, fmt.Sprint(r.Method, " ", r.URL.Path, " ", r.Header["Cookie"], " ", string(body)))
			h(w, r)
		}
	}
	mux.HandleFunc("GET /login", note(page))
	mux.HandleFunc("POST /login", note(login))
	mux.HandleFunc("/", note(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	srv := httptest.NewServer(mux)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	defer func() { srv.Close(); requests = seen }()
	l.HTTP, l.URL, l.Page, l.Kind = srv.Client(), srv.URL+"/login", srv.URL+"/login", "application/x-www-form-urlencoded"
	token, err := l.Session(t.Context(), func(hidden string) (secrets.Value, error) {
		return secrets.NewValue("password=" + loginSecret + "&hidden=" + hidden), nil
	})
	return token, nil, err // Close waits for the requests
}

func answers(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Add(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestLogin(t *testing.T) {
	t.Parallel()
	cookie, pointer := Login{Cookie: "sid"}, Login{Token: "/data/token"}
	away := Login{Cookie: "sid", Away: func(location string) bool { return strings.HasPrefix(location, "/login") }}
	strictly := Login{Cookie: "sid", Success: []int{302}}
	tests := []struct {
		name   string
		login  Login
		answer http.HandlerFunc
		want   string // the token
		fails  string // a part of the error
		again  bool   // the site may be asked again soon
	}{
		{name: "cookie", login: cookie, answer: answers(200, "", "Set-Cookie", "sid=abc; Path=/"), want: "abc"},
		{name: "cookie of a redirect", login: cookie, answer: answers(302, "", "Set-Cookie", "sid=abc; Path=/", "Location", "/home"), want: "abc"},
		{name: "the last one counts", login: cookie, answer: answers(303, "", "Set-Cookie", "sid=old", "Set-Cookie", "a=b", "Set-Cookie", ` sid = "a+b/c=" ; HttpOnly`), want: `"a+b/c="`},
		{name: "token", login: pointer, answer: answers(201, `{"data": {"token": "abc"}}`), want: "abc"},
		{name: "no cookie", login: cookie, answer: answers(200, "wrong password"), fails: "sets no cookie of that name"},
		{name: "another cookie", login: cookie, answer: answers(200, "", "Set-Cookie", "SID=abc", "Set-Cookie", "sid2=abc"), fails: "sets no cookie of that name"},
		{name: "cookie taken away", login: cookie, answer: answers(302, "", "Set-Cookie", "sid=abc", "Set-Cookie", "sid=; Max-Age=0"), fails: "takes the cookie away"},
		{name: "cookie that is over", login: cookie, answer: answers(302, "", "Set-Cookie", "sid=abc; Expires=Thu, 01 Jan 1970 00:00:00 GMT"), fails: "takes the cookie away"},
		{name: "cookie with a control character", login: cookie, answer: answers(200, "", "Set-Cookie", "sid=a\tb"), fails: "characters that a header cannot carry"},
		{name: "cookie with a space", login: cookie, answer: answers(200, "", "Set-Cookie", "sid=a b"), fails: "characters that a header cannot carry"},
		{name: "long cookie", login: cookie, answer: answers(200, "", "Set-Cookie", "sid="+strings.Repeat("a", 20<<10)), fails: "larger than 16 KiB"},
		{name: "redirect with a token", login: pointer, answer: answers(302, `{"data": {"token": "abc"}}`, "Location", "/home"), fails: "refused"},
		{name: "back to the login page", login: away, answer: answers(302, "", "Set-Cookie", "sid=anonymous", "Location", "/login?error=1"), fails: "leads to the login page again"},
		{name: "not back to the login page", login: away, answer: answers(302, "", "Set-Cookie", "sid=abc", "Location", "/home"), want: "abc"},
		{name: "another status than success", login: strictly, answer: answers(200, "", "Set-Cookie", "sid=anonymous"), fails: "none of those that mean success"},
		{name: "success", login: strictly, answer: answers(302, "", "Set-Cookie", "sid=abc"), want: "abc"},
		{name: "403", login: cookie, answer: answers(403, "", "Set-Cookie", "sid=abc"), fails: "HTTP status 403: the login was refused"},
		{name: "429", login: cookie, answer: answers(429, "", "Set-Cookie", "sid=abc"), fails: "refused", again: true},
		{name: "503", login: pointer, answer: answers(503, `{"data": {"token": "abc"}}`), fails: "refused", again: true},
		{name: "HTML for JSON", login: pointer, answer: answers(200, "<html>"), fails: "not JSON"},
		{name: "no such field", login: pointer, answer: answers(200, `{"data": {}}`), fails: "no text where the rule's pointer points"},
		{name: "a number", login: pointer, answer: answers(200, `{"data": {"token": 1}}`), fails: "no text where the rule's pointer points"},
		{name: "two of a field", login: pointer, answer: answers(200, `{"data": {"token": "abc", "token": "def"}}`), fails: "no text where the rule's pointer points"},
		{name: "two of a field above", login: pointer, answer: answers(200, `{"data": {"token": "abc"}, "data": {"token": "def"}}`), fails: "no text where the rule's pointer points"},
		{name: "token with a line break", login: pointer, answer: answers(200, `{"data": {"token": "abc\r\nX-Evil: 1"}}`), fails: "characters that a header cannot carry"},
		{name: "long token", login: pointer, answer: answers(200, `{"data": {"token": "`+strings.Repeat("a", 20<<10)+`"}}`), fails: "larger than 16 KiB"},
		{name: "long answer", login: pointer, answer: answers(200, strings.Repeat(" ", 1<<20)+`{"data": {"token": "abc"}}`), fails: "larger than 64 KiB"},
		{name: "gzip bomb", login: pointer, answer: bomb, fails: "larger than 64 KiB"},
		{name: "a cookie, and then no end", login: cookie, answer: answers(200, strings.Repeat(" ", 1<<20), "Set-Cookie", "sid=abc"), want: "abc"},
		{name: "a cookie, and a body that breaks off", login: cookie, answer: answers(200, "x", "Set-Cookie", "sid=abc", "Content-Length", "10"), want: "abc"},
		{name: "a token that breaks off", login: pointer, answer: answers(200, `{"data"`, "Content-Length", "100"), fails: "broke off", again: true},
		{name: "no answer", login: cookie, answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, fails: "EOF", again: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, requests, err := signIn(t, tt.login, nil, tt.answer)
			if len(requests) != 1 || requests[0] != "POST /login [] password="+loginSecret+"&hidden=" {
				t.Errorf("the site got %q", requests)
			}
			checkLogin(t, got, err, tt.want, tt.fails, tt.again)
		})
	}
}

func checkLogin(t *testing.T, got Token, err error, want, fails string, again bool) {
	t.Helper()
	if fails == "" {
		if err != nil || got.Access.Reveal() != want {
			t.Errorf("got %q, %v, want %q", got.Access.Reveal(), err, want)
		}
		return
	}
	e, ok := errors.AsType[*Error](err)
	if !ok || !strings.Contains(e.Error(), fails) || !strings.HasPrefix(e.Error(), "login at 127.0.0.1:") || !got.Access.IsZero() {
		t.Fatalf("got %v, want an *Error with %q", err, fails)
	}
	if e.lockout == again || e.Slug() != "token_refresh_failed" {
		t.Errorf("lockout %v, slug %s", e.lockout, e.Slug())
	}
	for _, secret := range []string{"abc", "hunter2", "anonymous"} {
		if strings.Contains(e.Error(), secret) {
			t.Errorf("the error repeats %s: %v", secret, e)
		}
	}
}

// bomb is 100 MiB that are small on the wire.
func bomb(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Encoding", "gzip")
	z := gzip.NewWriter(w)
	defer z.Close()
	for range 100 {
		if _, err := z.Write(make([]byte, 1<<20)); err != nil {
			return
		}
	}
}

func TestLoginPage(t *testing.T) {
	t.Parallel()
	login := Login{Cookie: "sid", Hidden: "csrf"}
	after := Login{Cookie: "sid", Hidden: "csrf", Success: []int{200}}
	const form = `<!-- <input name="csrf" value="no"> --><form><INPUT type=hidden NAME='csrf' value="a&amp;b"/><input name="csrf" value="no">`
	set := answers(302, "", "Set-Cookie", "sid=abc")
	tests := []struct {
		name         string
		login        Login
		page, answer http.HandlerFunc
		posted       string // what was posted, with the cookies before it
		want, fails  string
	}{
		{name: "input", login: login, page: answers(200, form, "Set-Cookie", "csrftoken=x; Path=/", "Set-Cookie", "a=; Max-Age=0"), answer: set,
			posted: "[csrftoken=x] password=" + loginSecret + "&hidden=a&b", want: "abc"},
		{name: "meta", login: login, page: answers(200, `<meta name="csrf" content="t0ken">`), answer: set, posted: "[] password=" + loginSecret + "&hidden=t0ken", want: "abc"},
		{name: "a session from before, and a redirect", login: login, page: answers(200, form, "Set-Cookie", "sid=before"), answer: answers(302, ""),
			posted: "[sid=before] password=" + loginSecret + "&hidden=a&b", want: "before"},
		{name: "a session from before, and the page again", login: login, page: answers(200, form, "Set-Cookie", "sid=before"), answer: answers(200, form),
			posted: "[sid=before] password=" + loginSecret + "&hidden=a&b", fails: "sets no cookie of that name"},
		{name: "a session from before, and what means success", login: after, page: answers(200, form, "Set-Cookie", "sid=before"), answer: answers(200, "hello"),
			posted: "[sid=before] password=" + loginSecret + "&hidden=a&b", want: "before"},
		{name: "no field", login: login, page: answers(200, `<input name="crsf" value="x"><script>'<input name="csrf" value="x">'</script>`), answer: set, fails: "no field of that name"},
		{name: "no page", login: login, page: answers(404, form), answer: set, fails: "HTTP status 404: the login page is not there"},
		{name: "page elsewhere", login: login, page: answers(302, form, "Location", "/other"), answer: set, fails: "the login page is not there"},
		{name: "long page", login: login, page: answers(200, strings.Repeat(" ", 1<<20)+form), answer: set, fails: "larger than 512 KiB"},
		{name: "gzip bomb", login: login, page: bomb, answer: set, fails: "larger than 512 KiB"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, requests, err := signIn(t, tt.login, tt.page, tt.answer)
			want := []string{"GET /login [] "}
			if tt.posted != "" {
				want = append(want, "POST /login "+tt.posted)
			}
			if !slices.Equal(requests, want) {
				t.Errorf("the site got %q, want %q", requests, want)
			}
			checkLogin(t, got, err, tt.want, tt.fails, tt.posted == "")
		})
	}
}

func TestLoginLife(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	in := func(d time.Duration) time.Time { return now.Add(d) }
	for _, tt := range []struct {
		name, attributes string
		lifetime         time.Duration
		want             time.Time
	}{
		{"none", "", 0, time.Time{}},
		{"Max-Age", "; max-age=60", 0, in(time.Minute)},
		{"Expires", "; Expires=Fri, 02 Jan 2026 04:04:05 GMT", 0, in(time.Hour)},
		{"Max-Age wins", "; Expires=Fri, 02 Jan 2026 04:04:05 GMT; Max-Age=60", 0, in(time.Minute)},
		{"no number", "; Max-Age=soon", 0, time.Time{}},
		{"longer than anybody believes", "; Max-Age=999999999999", 0, in(400 * 24 * time.Hour)},
		{"the rule's", "", time.Hour, in(time.Hour)},
		{"the rule's is shorter", "; Max-Age=7200", time.Hour, in(time.Hour)},
		{"the rule's is longer", "; Max-Age=60", time.Hour, in(time.Minute)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := Login{Cookie: "sid", Lifetime: tt.lifetime, Now: func() time.Time { return now }}
			got, _, err := signIn(t, l, nil, answers(200, "", "Set-Cookie", "sid=abc"+tt.attributes))
			if err != nil || !got.Expiry.Equal(tt.want) {
				t.Errorf("expires %v, %v, want %v", got.Expiry, err, tt.want)
			}
		})
	}
}

// A login ends with those who wait for it, and what makes its body may fail.
func TestLoginEnds(t *testing.T) {
	t.Parallel()
	asked, never := make(chan struct{}), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-never
	}))
	defer srv.Close()
	defer close(never)
	l := Login{HTTP: srv.Client(), URL: srv.URL, Cookie: "sid"}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	_, err := l.Session(ctx, func(string) (secrets.Value, error) { return secrets.NewValue("a=b"), nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want it to be interrupted", err)
	}
	broken := errors.New("broken")
	if _, err := l.Session(t.Context(), func(string) (secrets.Value, error) { return secrets.Value{}, broken }); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

func TestCacheReplace(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := NewCacheAt(func() time.Time { return now })
	defer c.Close()
	renewed := 0
	get := func() string {
		t.Helper()
		got, err := c.Token(t.Context(), "k", func(context.Context) (Token, error) {
			renewed++
			return Token{Access: secrets.NewValue(fmt.Sprint("login", renewed)), Expiry: now.Add(time.Hour)}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return got.Access.Reveal()
	}
	c.Replace("k", secrets.NewValue(""), Token{Access: secrets.NewValue("early")})
	if got := get(); got != "login1" {
		t.Errorf("got %s", got)
	}
	c.Replace("k", secrets.NewValue("other"), Token{Access: secrets.NewValue("late")})
	c.Replace("k", secrets.NewValue("login1"), Token{})
	c.Replace("none", secrets.NewValue("login1"), Token{Access: secrets.NewValue("x")})
	if got := get(); got != "login1" {
		t.Errorf("after others' answers: got %s", got)
	}
	c.Replace("k", secrets.NewValue("login1"), Token{Access: secrets.NewValue("slid"), Expiry: now.Add(2 * time.Hour)})
	if now = now.Add(90 * time.Minute); get() != "slid" {
		t.Errorf("got %s", get())
	}
	c.Reject("k", secrets.NewValue("slid"))
	c.Replace("k", secrets.NewValue("slid"), Token{Access: secrets.NewValue("anonymous")})
	if got := get(); got != "login2" {
		t.Errorf("after a 401: got %s", got)
	}
}
