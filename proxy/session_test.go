package proxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// A site is an app that people sign in to. It knows who they are by the cookie sid, or by a token.
type site struct {
	t    *testing.T
	page string // what it does for whoever is not signed in: 401, 403 or 302 to /login

	mu     sync.Mutex
	n      int
	valid  map[string]bool
	logins int
	seen   []string // Cookie and Authorization of requests for /data
}

// open makes a session.
func (s *site) open() string {
	s.n++
	id := fmt.Sprintf("SESSION-%d-7f1c9e", s.n)
	s.valid[id] = true
	return id
}

// drop ends all sessions.
func (s *site) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.valid)
}

func (s *site) counts() (logins int, seen []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logins, append([]string(nil), s.seen...)
}

func (s *site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.URL.Path {
	case "/login":
		s.logins++
		if r.Method != http.MethodPost || r.FormValue("username") != "ada" || r.FormValue("password") != canary {
			fmt.Fprint(w, "wrong password, try again")
			return
		}
		w.Header().Add("Set-Cookie", "theme=dark; Path=/")
		w.Header().Add("Set-Cookie", "sid="+s.open()+"; Path=/; HttpOnly")
		http.Redirect(w, r, "/home", http.StatusFound)
		return
	case "/api/login":
		s.logins++
		var in struct {
			User struct{ Name, Password string }
			Keep bool
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil || r.Header.Get("Content-Type") != "application/json" || in.User.Name != "ada" || in.User.Password != canary || !in.Keep {
			http.Error(w, `{"error": "no"}`, http.StatusForbidden)
			return
		}
		fmt.Fprintf(w, `{"data": [{"token": %q}]}`, s.open())
		return
	}
	s.seen = append(s.seen, fmt.Sprint(r.Header["Cookie"], r.Header["Authorization"]))
	id, token := strings.CutPrefix(r.Header.Get("Authorization"), "Token ")
	if c, err := r.Cookie("sid"); err == nil && !token {
		id = c.Value
	}
	if !s.valid[id] {
		if !token {
			w.Header().Add("Set-Cookie", "sid=anonymous; Path=/")
		}
		switch s.page {
		case "302":
			http.Redirect(w, r, "https://"+r.Host+"/login/?next=/", http.StatusFound)
		case "403":
			w.WriteHeader(http.StatusForbidden)
		default:
			w.WriteHeader(http.StatusUnauthorized)
		}
		return
	}
	w.Header().Add("Set-Cookie", "theme=light")
	switch r.URL.Path {
	case "/slide":
		delete(s.valid, id)
		w.Header().Add("Set-Cookie", " sid = "+s.open()+" ;Max-Age=60")
	case "/logout":
		delete(s.valid, id)
		w.Header().Add("Set-Cookie", "sid=; Max-Age=0")
	case "/switch":
		w.Header().Add("Set-Cookie", "sid="+s.open())
	case "/copy":
		w.Header().Add("Set-Cookie", "other="+id)
	case "/early":
		w.Header().Add("Set-Cookie", "sid="+id)
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Trailer", "Set-Cookie, X-Sum")
		fmt.Fprint(w, "hello")
		w.Header().Set("Set-Cookie", "sid="+id)
		w.Header().Set("X-Sum", "42")
		return
	}
	fmt.Fprint(w, "hello")
}

type siteProxy struct {
	*site
	p        *testProxy
	up       *upstream
	c        *http.Client
	password string // its file
}

func startSite(t *testing.T, h2 bool, page, inject string) siteProxy {
	t.Helper()
	ca := newTestCA(t, "upstream")
	s := &site{t: t, page: page, valid: map[string]bool{}}
	up := startUpstream(t, ca, h2, s.ServeHTTP)
	ref := secretFile(t, canary)
	inject = strings.NewReplacer("$LOGIN", "https://localhost:"+up.port, "$PASSWORD", ref).Replace(inject)
	p := startProxy(t, ca, "  - name: site\n    match: {host: app.localhost, port: "+up.port+"}\n    inject: "+inject+"\n")
	t.Cleanup(func() {
		if strings.Contains(p.logged.String(), "SESSION-") {
			t.Errorf("a session is in the log or the audit log:\n%s", p.logged)
		}
	})
	return siteProxy{s, p, up, p.client(t, h2), strings.TrimPrefix(ref, "file:")}
}

// get fetches path and checks that the answer does not show the session.
func (s siteProxy) get(t *testing.T, path string) (status int, cookies []string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", s.up.url("app.localhost", path), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Cookie", "mine=1; sid=mine")
	resp, err := s.c.Do(req)
	if err != nil {
		t.Error(err)
		return 0, nil
	}
	body, err := readAll(resp)
	if all := fmt.Sprint(resp.Header, resp.Trailer, body); err != nil || strings.Contains(all, "SESSION-") || strings.Contains(all, "sid") {
		t.Errorf("%s: the client got %s, %v", path, all, err)
	}
	if resp.StatusCode >= 500 {
		t.Errorf("%s: %s", path, body)
	}
	return resp.StatusCode, resp.Header["Set-Cookie"]
}

const formLogin = `{type: session, login: {url: "$LOGIN/login", form: {username: ada, password: "$PASSWORD"}}, keep: {cookie: sid}, expired: {status: 403}}`

// One login serves all; when the session is over there is one more, whatever the site says then.
func TestSession(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		for _, page := range []string{"401", "403", "302"} {
			s := startSite(t, h2, page, formLogin)
			for range 2 {
				if status, cookies := s.get(t, "/data"); status != 200 || fmt.Sprint(cookies) != "[theme=light]" {
					t.Errorf("%s: got %d, Set-Cookie %q", page, status, cookies)
				}
			}
			s.drop()
			var all sync.WaitGroup
			for range 10 {
				all.Go(func() {
					if status, _ := s.get(t, "/data"); status != 200 {
						t.Errorf("%s: after the session's end: got %d", page, status)
					}
				})
			}
			all.Wait()
			logins, seen := s.counts()
			if logins != 2 {
				t.Errorf("%s: %d logins, want 2", page, logins)
			}
			for _, got := range seen {
				if !strings.HasPrefix(got, "[mine=1; sid=SESSION-") || strings.Count(got, "sid") != 1 {
					t.Errorf("%s: the site got the cookies %s", page, got)
				}
			}
		}
	})
}

// A token from a JSON answer goes where the rule says.
func TestSessionToken(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		s := startSite(t, h2, "401", `{type: session, login: {url: "$LOGIN/api/login", json: {user: {name: ada, password: "$PASSWORD"}, keep: true}},`+
			` keep: {pointer: /data/0/token}, prefix: "Token "}`)
		for range 2 {
			if status, _ := s.get(t, "/data"); status != 200 {
				t.Errorf("got %d", status)
			}
		}
		s.drop()
		if status, _ := s.get(t, "/data"); status != 200 {
			t.Errorf("after the session's end: got %d", status)
		}
		if logins, seen := s.counts(); logins != 2 || seen[0] != "[mine=1; sid=mine] [Token SESSION-1-7f1c9e]" {
			t.Errorf("%d logins, want 2; the site got %s", logins, seen[0])
		}
	})
}

// What the site says of the cookie is for the proxy.
func TestSessionIsRenewedByTheSite(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		s := startSite(t, h2, "401", formLogin)
		for _, path := range []string{"/slide", "/data", "/slide", "/copy", "/data"} {
			if status, cookies := s.get(t, path); status != 200 || fmt.Sprint(cookies) != "[theme=light]" {
				t.Errorf("%s: got %d, Set-Cookie %q", path, status, cookies)
			}
		}
		if logins, seen := s.counts(); logins != 1 || !strings.Contains(seen[1], "SESSION-2-") || !strings.Contains(seen[4], "SESSION-3-") {
			t.Errorf("%d logins, want 1; the site got %s", logins, seen)
		}
		if status, _ := s.get(t, "/logout"); status != 200 {
			t.Errorf("logout: got %d", status)
		}
		if status, _ := s.get(t, "/data"); status != 200 {
			t.Errorf("after a logout: got %d", status)
		}
		if logins, _ := s.counts(); logins != 2 {
			t.Errorf("%d logins after a logout, want 2", logins)
		}
	})
}

// A client that signs in to the site by itself does not put all others into its own session.
func TestSessionIsNotTakenOver(t *testing.T) {
	t.Parallel()
	s := startSite(t, false, "401", strings.Replace(formLogin, "/login\"", "/login?who=ada\"", 1))
	if status, _ := s.get(t, "/data"); status != 200 {
		t.Errorf("got %d", status)
	}
	for _, tt := range []struct{ method, path string }{{"POST", "/switch"}, {"PUT", "/switch"}, {"POST", "/login?who=eve"}, {"GET", "/login?username=ada&password=" + canary}} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, s.up.url("app.localhost", tt.path), strings.NewReader("username=ada&password="+canary))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := s.c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := readAll(resp); err != nil || resp.StatusCode >= 400 || strings.Contains(fmt.Sprint(resp.Header), "SESSION-") {
			t.Errorf("%s %s: got %s %v, %v", tt.method, tt.path, resp.Status, resp.Header, err)
		}
		if status, _ := s.get(t, "/data"); status != 200 {
			t.Errorf("after %s %s: got %d", tt.method, tt.path, status)
		}
		if _, seen := s.counts(); !strings.Contains(seen[len(seen)-1], "SESSION-1-") {
			t.Errorf("after %s %s: the site got %s", tt.method, tt.path, seen[len(seen)-1])
		}
	}
}

// Neither an interim answer nor a trailer shows the session.
func TestSessionBesideTheHead(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		s := startSite(t, h2, "401", formLogin)
		var early []string
		req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(status int, header textproto.MIMEHeader) error {
				early = append(early, fmt.Sprint(status, header))
				return nil
			},
		}), "GET", s.up.url("app.localhost", "/early"), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := readAll(resp)
		if err != nil || body != "hello" || resp.Trailer.Get("X-Sum") != "42" || len(early) != 1 {
			t.Errorf("got %q, %v, trailers %v, interim %q", body, err, resp.Trailer, early)
		}
		if all := fmt.Sprint(early, resp.Header, resp.Trailer); strings.Contains(all, "SESSION-") {
			t.Errorf("the session is in %s", all)
		}
	})
}

// A password that the site refuses is offered once, until there is another.
func TestSessionRefused(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, inject string }{
		{"form", formLogin},
		{"JSON", `{type: session, login: {url: "$LOGIN/api/login", json: {user: {name: ada, password: "$PASSWORD"}, keep: true}}, keep: {pointer: /data/0/token}, prefix: "Token "}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := startSite(t, false, "401", tt.inject)
			write := func(password string) {
				if err := os.WriteFile(s.password, []byte(password), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write("wrong")
			for range 5 {
				resp, err := s.c.Get(s.up.url("app.localhost", "/data"))
				if err != nil {
					t.Fatal(err)
				}
				p := refused(t, resp, 502, "token_refresh_failed")
				if !strings.Contains(p.Detail, "login at localhost") || strings.Contains(p.Detail, "try again") {
					t.Errorf("detail %q", p.Detail)
				}
			}
			if logins, seen := s.counts(); logins != 1 || len(seen) > 0 {
				t.Errorf("%d logins, want 1; the site got %q", logins, seen)
			}
			write(canary)
			for end := time.Now().Add(patience); ; { // a good value is used for a moment without a look at its file
				if resp, _ := mustGet(t, s.c, s.up.url("app.localhost", "/data")); resp.StatusCode == 200 {
					break
				} else if time.Now().After(end) {
					t.Fatalf("with the right password: got %s", resp.Status)
				}
			}
			if logins, _ := s.counts(); logins != 2 {
				t.Errorf("%d logins, want 2", logins)
			}
		})
	}
}
