package proxy

import (
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// A digestServer is an upstream that verifies each digest by itself, and takes each count of a nonce once.
type digestServer struct {
	t         testing.TB
	hash      func() hash.Hash
	challenge string // without the nonce
	password  func() string
	life      int  // uses of a nonce before it is stale; 0: no end
	next      bool // hand out the next nonce with each answer

	mu     sync.Mutex
	nonces map[string]map[string]bool // counts that were seen
	asked  []string                   // requests without a digest: method, size of the body, cookies
	taken  int
	wrong  int
}

func newDigestServer(t testing.TB, challenge string) *digestServer {
	return &digestServer{t: t, hash: md5.New, challenge: challenge, password: func() string { return canary }, nonces: map[string]map[string]bool{}}
}

var digestParam = regexp.MustCompile(`(\w+\*?)=(?:"((?:[^"\\]|\\.)*)"|([^",\s]+))`)

func (s *digestServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client left
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	params, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Digest ")
	if !ok {
		s.asked = append(s.asked, fmt.Sprintf("%s %s %d %s", r.Method, r.RequestURI, len(body), r.Header.Get("Cookie")))
		s.refuse(w, false)
		return
	}
	p := map[string]string{}
	for _, m := range digestParam.FindAllStringSubmatch(params, -1) {
		p[m[1]] = strings.ReplaceAll(m[2], `\"`, `"`) + m[3]
	}
	if p["uri"] != r.RequestURI || p["username"] != "ada" {
		s.t.Errorf("a digest of %q by %q, for %s", p["uri"], p["username"], r.RequestURI)
	}
	seen := s.nonces[p["nonce"]]
	switch right := s.response(p, r.Method, string(body)) == p["response"]; {
	case right && (seen == nil || s.life > 0 && len(seen) >= s.life):
		s.refuse(w, true)
	case right && p["qop"] != "" && seen[p["nc"]]:
		s.t.Errorf("count %s a second time", p["nc"])
		w.WriteHeader(http.StatusBadRequest)
	case right:
		seen[p["nc"]] = true
		s.taken++
		if s.next {
			w.Header().Set("Authentication-Info", `qop=auth, nextnonce="`+s.nonce()+`"`)
		}
		fmt.Fprintf(w, "%s %d %s", r.Method, len(body), p["username"])
	default:
		s.wrong++
		s.refuse(w, false)
	}
}

func (s *digestServer) response(p map[string]string, method, body string) string {
	sum := func(parts ...string) string {
		h := s.hash()
		_, _ = io.WriteString(h, strings.Join(parts, ":"))
		return hex.EncodeToString(h.Sum(nil))
	}
	a1 := sum(p["username"], p["realm"], s.password())
	if strings.HasSuffix(p["algorithm"], "-sess") {
		a1 = sum(a1, p["nonce"], p["cnonce"])
	}
	switch p["qop"] {
	case "":
		return sum(a1, p["nonce"], sum(method, p["uri"]))
	case "auth-int":
		return sum(a1, p["nonce"], p["nc"], p["cnonce"], "auth-int", sum(method, p["uri"], sum(body)))
	}
	return sum(a1, p["nonce"], p["nc"], p["cnonce"], "auth", sum(method, p["uri"]))
}

func (s *digestServer) nonce() string {
	n := `"` + rand.Text()
	s.nonces[n] = map[string]bool{}
	return strings.ReplaceAll(n, `"`, `\"`)
}

func (s *digestServer) refuse(w http.ResponseWriter, stale bool) {
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Basic realm="x", Digest realm="a \"b", %s, nonce="%s", stale=%v`, s.challenge, s.nonce(), stale))
	w.WriteHeader(http.StatusUnauthorized)
}

// counts returns how many requests were taken, how many were wrong, and what came without a digest.
func (s *digestServer) counts() (taken, wrong int, asked []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken, s.wrong, s.asked
}

func digestRule(t testing.TB, host, port string) string {
	return fmt.Sprintf("  - name: %s\n    match: {host: %s, port: %s}\n    inject: {type: digest, username: ada, password: %q}\n",
		strings.ReplaceAll(host, ".", "-"), host, port, secretFile(t, canary))
}

// The server is asked once, by a HEAD without anything of the client. Then each request goes out once, whatever its size.
func TestDigest(t *testing.T) {
	t.Parallel()
	sha512256 := func() hash.Hash { return sha512.New512_256() }
	for _, tt := range []struct {
		name, challenge string
		hash            func() hash.Hash
	}{
		{"MD5", `qop="auth,auth-int"`, md5.New},
		{"SHA-256-sess", `algorithm=SHA-256-sess, qop="auth"`, sha256.New},
		{"SHA-512-256", `algorithm=SHA-512-256, qop=auth, opaque="a\"b"`, sha512256},
	} {
		t.Run(tt.name, func(t *testing.T) {
			overBoth(t, func(t *testing.T, h2 bool) {
				ca := newTestCA(t, "upstream")
				s := newDigestServer(t, tt.challenge)
				s.hash = tt.hash
				up := startUpstream(t, ca, h2, s.ServeHTTP)
				p := startProxy(t, ca, digestRule(t, "api.localhost", up.port))
				c := p.client(t, h2)
				for i := range 3 {
					req, err := http.NewRequestWithContext(t.Context(), "PUT", up.url("api.localhost", "/a%2Fb?c=d"), io.LimitReader(zeros{}, 2<<20))
					if err != nil {
						t.Fatal(err)
					}
					req.Header = http.Header{"Cookie": {"a=b"}, "Authorization": {`Digest username="mine"`}}
					resp, err := c.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					if body, err := readAll(resp); err != nil || resp.StatusCode != 200 || body != "PUT 2097152 ada" {
						t.Errorf("request %d: got %s, %q, %v", i, resp.Status, body, err)
					}
				}
				if taken, wrong, asked := s.counts(); taken != 3 || wrong != 0 || len(asked) != 1 || asked[0] != "HEAD /a%2Fb?c=d 0 " {
					t.Errorf("%d requests were taken, %d were wrong, and without a digest came %q", taken, wrong, asked)
				}
				for _, e := range p.events.wait(t, 3) {
					if e.Decision != "inject" || len(e.Inject) != 1 || e.Inject[0] != "digest" || e.Status != 200 {
						t.Errorf("audit: %+v", e)
					}
				}
			})
		})
	}
}

// Many requests at once count one nonce, each count once.
func TestDigestManyAtOnce(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		s := newDigestServer(t, `algorithm=SHA-256, qop="auth"`)
		s.hash = sha256.New
		up := startUpstream(t, ca, h2, s.ServeHTTP)
		p := startProxy(t, ca, digestRule(t, "api.localhost", up.port))
		c := p.client(t, h2)
		mustGet(t, c, up.url("api.localhost", "/"))
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				resp, err := c.Get(up.url("api.localhost", fmt.Sprintf("/%d", i)))
				if err != nil {
					t.Error(err)
					return
				}
				if body, err := readAll(resp); err != nil || body != "GET 0 ada" {
					t.Errorf("got %s %q, %v", resp.Status, body, err)
				}
			})
		}
		all.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.taken != 101 || len(s.asked) != 1 || len(s.nonces) != 1 {
			t.Errorf("%d requests were taken, %d came without a digest, and there are %d nonces", s.taken, len(s.asked), len(s.nonces))
		}
	})
}

// Nonces that grow stale, that come with the answer, and that many requests at once use up.
func TestDigestRenewsNonces(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, qop string
		life      int
		next      bool
		most      int // refusals with stale=true
	}{
		{"stale after three", `qop="auth"`, 3, false, 3},
		{"a nonce for each request", `qop="auth"`, 1, true, 0},
		{"a session, whose nonce stays", `algorithm=MD5-sess, qop="auth"`, 5, true, 1},
		{"auth-int", `qop="auth-int"`, 3, false, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ca := newTestCA(t, "upstream")
			s := newDigestServer(t, tt.qop)
			s.life, s.next = tt.life, tt.next
			sends := 0
			up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) { sends++; s.ServeHTTP(w, r) })
			p := startProxy(t, ca, digestRule(t, "api.localhost", up.port))
			c := p.client(t, false)
			for i := range 10 {
				resp, err := c.Post(up.url("api.localhost", "/"), "text/plain", strings.NewReader("hello"))
				if err != nil {
					t.Fatal(err)
				}
				if body, err := readAll(resp); err != nil || body != "POST 5 ada" || resp.Header["Authentication-Info"] != nil {
					t.Errorf("request %d: got %s %q %v, %v", i, resp.Status, body, resp.Header, err)
				}
			}
			if sends != 11+tt.most {
				t.Errorf("%d requests came, want %d", sends, 11+tt.most)
			}
		})
	}
}

// A wrong password is tried once, and the server's own answer reaches the client. If another one is stored by then, that is
// tried too.
func TestDigestWrongPassword(t *testing.T) {
	t.Parallel()
	for _, qop := range []string{`qop="auth"`, "opaque=x"} {
		ca := newTestCA(t, "upstream")
		s := newDigestServer(t, qop)
		stored := strings.TrimPrefix(secretFile(t, "not yet"), "file:")
		up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/set" && r.Header["Authorization"] != nil {
				if err := os.WriteFile(stored, []byte(canary), 0o600); err != nil {
					t.Error(err)
				}
			}
			s.ServeHTTP(w, r)
		})
		rule := "  - name: %s\n    match: {host: %[1]s.localhost, port: %s}\n    inject: {type: digest, username: ada, password: %s}\n"
		p := startProxy(t, ca, fmt.Sprintf(rule, "wrong", up.port, secretFile(t, "wrong"))+fmt.Sprintf(rule, "stored", up.port, fmt.Sprintf("{exec: [cat, %q], ttl: 1h}", stored)))
		for _, tt := range []struct {
			host, path        string
			want, wrong, asks int // so far
		}{
			{"wrong.localhost", "/", 401, 1, 1},
			{"wrong.localhost", "/", 401, 2, 1},
			{"stored.localhost", "/set", 200, 3, 2},
			{"stored.localhost", "/", 200, 3, 2},
		} {
			resp, _ := mustGet(t, p.client(t, false), up.url(tt.host, tt.path))
			if _, wrong, asked := s.counts(); resp.StatusCode != tt.want || wrong != tt.wrong || len(asked) != tt.asks {
				t.Errorf("%s, %s: got %s after %d wrong attempts and %d questions, want %+v", qop, tt.host, resp.Status, wrong, len(asked), tt)
			}
		}
	}
}

// What the server does not protect goes out as it is, without the client's own credential. Once the server asks, it is
// sent again with a digest.
func TestDigestOfAPublicResource(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	s := newDigestServer(t, `qop="auth"`)
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/public", r.Method == http.MethodHead && r.URL.Path == "/write":
			fmt.Fprintf(w, "public %q", r.Header["Authorization"])
		case r.URL.Path == "/moved":
			http.Redirect(w, r, "/public", http.StatusFound)
		case r.URL.Path == "/nohead" && r.Method == http.MethodHead:
			w.WriteHeader(http.StatusMethodNotAllowed)
		default:
			s.ServeHTTP(w, r)
		}
	})
	p := startProxy(t, ca, digestRule(t, "a.localhost", up.port)+digestRule(t, "b.localhost", up.port)+digestRule(t, "c.localhost", up.port))
	c := p.client(t, false)
	for i, tt := range []struct {
		method, host, path, body string
		status                   int
		want, decision           string
	}{
		{"GET", "a.localhost", "/public", "", 200, "public []", "pass"},
		{"GET", "a.localhost", "/moved", "", 302, "", "pass"},
		{"PUT", "a.localhost", "/write", "hello", 200, "PUT 5 ada", "inject"},
		{"PUT", "b.localhost", "/write", strings.Repeat("x", 100_000), 401, "", "pass"}, // too large to be kept
		{"PUT", "b.localhost", "/write", strings.Repeat("x", 100_000), 200, "PUT 100000 ada", "inject"},
		{"GET", "c.localhost", "/nohead", "", 200, "GET 0 ada", "inject"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, up.url(tt.host, tt.path), strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer mine")
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := readAll(resp)
		if err != nil || resp.StatusCode != tt.status || tt.want != "" && body != tt.want {
			t.Errorf("%s %s: got %s %q, %v", tt.method, tt.path, resp.Status, body, err)
		}
		if e := p.events.wait(t, i+1)[i]; e.Decision != tt.decision {
			t.Errorf("%s %s: decision %q, want %q", tt.method, tt.path, e.Decision, tt.decision)
		}
	}
}

// What a server can ask for that gets an error, and nothing of the client's request.
func TestDigestHostileServers(t *testing.T) {
	t.Parallel()
	many := strings.Repeat(", a=b", 5000)
	for _, tt := range []struct {
		name   string
		status int
		header http.Header
		slug   string // empty: the request is passed on as it is
	}{
		{"Basic", 401, http.Header{"Www-Authenticate": {`Basic realm="x"`}}, "challenge_unsupported"},
		{"nothing", 401, nil, "challenge_unsupported"},
		{"an algorithm that nobody knows", 401, http.Header{"Www-Authenticate": {`Digest realm="x", nonce="y", algorithm=ROT13`}}, "challenge_unsupported"},
		{"no nonce", 401, http.Header{"Www-Authenticate": {`Digest realm="x"`}}, "challenge_unsupported"},
		{"a huge realm", 401, http.Header{"Www-Authenticate": {`Digest nonce="y", realm="` + strings.Repeat("x", 100_000) + `"`}}, "challenge_unsupported"},
		{"thousands of parameters", 401, http.Header{"Www-Authenticate": {`Digest realm="x", nonce="y"` + many}}, "challenge_unsupported"},
		{"no end of the quotes", 401, http.Header{"Www-Authenticate": {`Digest realm="x, nonce=y`}}, "challenge_unsupported"},
		{"for a proxy", 407, http.Header{"Proxy-Authenticate": {`Digest realm="x", nonce="y"`}}, ""},
		{"in another answer", 200, http.Header{"Www-Authenticate": {`Digest realm="x", nonce="y"`}}, ""},
		{"down", 503, nil, "upstream_protocol"},
		{"neither HEAD nor GET", 405, nil, "upstream_protocol"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ca := newTestCA(t, "upstream")
			got := make(chan string, 8)
			up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) {
				got <- r.Method + strings.Join(r.Header["Authorization"], "") + r.Header.Get("Cookie")
				for name, values := range tt.header {
					w.Header()[name] = values
				}
				w.WriteHeader(tt.status)
			})
			p := startProxy(t, ca, digestRule(t, "api.localhost", up.port))
			req, err := http.NewRequestWithContext(t.Context(), "POST", up.url("api.localhost", "/"), strings.NewReader("hello"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header = http.Header{"Cookie": {"a=b"}, "Authorization": {"Bearer mine"}}
			resp, err := p.client(t, false).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]bool{"HEAD": true, "GET": true}
			if tt.slug == "" {
				want["POSTa=b"] = true
				if _, err := readAll(resp); err != nil || resp.StatusCode != tt.status {
					t.Errorf("got %s, %v", resp.Status, err)
				}
			} else {
				refused(t, resp, 502, tt.slug)
			}
			for close(got); len(got) > 0; {
				if r := <-got; !want[r] {
					t.Errorf("the server got %q", r)
				}
			}
		})
	}
}

// A server that never has enough gets the request three times, no more.
func TestDigestLoopEnds(t *testing.T) {
	t.Parallel()
	for _, stale := range []string{"true", "false"} {
		ca := newTestCA(t, "upstream")
		var sends []string
		up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) {
			sends = append(sends, r.Method)
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Digest realm="%s", qop="auth", nonce="%s", stale=%s`, rand.Text(), rand.Text(), stale))
			w.WriteHeader(http.StatusUnauthorized)
		})
		p := startProxy(t, ca, digestRule(t, "api.localhost", up.port))
		if resp, _ := mustGet(t, p.client(t, false), up.url("api.localhost", "/")); resp.StatusCode != 401 || strings.Join(sends, " ") != "HEAD GET GET GET" {
			t.Errorf("stale=%s: got %s after %q", stale, resp.Status, sends)
		}
	}
}

// Two realms of one origin, each under its own path, do not forget each other.
func TestDigestRealms(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	requests := 0
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) {
		requests++
		realm := strings.Split(r.URL.Path, "/")[1]
		if !strings.Contains(r.Header.Get("Authorization"), `realm="`+realm+`"`) {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Digest realm="%s", qop="auth", nonce="n", domain="/%s/ https://other.example/"`, realm, realm))
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	p := startProxy(t, ca, digestRule(t, "api.localhost", up.port))
	c := p.client(t, false)
	for range 5 {
		for _, path := range []string{"/a/1", "/b/1", "/a/c/2"} {
			if resp, _ := mustGet(t, c, up.url("api.localhost", path)); resp.StatusCode != 200 {
				t.Errorf("%s: %s", path, resp.Status)
			}
		}
	}
	if requests != 15+2 { // a HEAD, and one refusal for the second realm
		t.Errorf("%d requests", requests)
	}
}
