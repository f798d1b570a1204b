package inject

import (
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/internal/testneed"
)

// What curl answers to a challenge is what we would answer with its cnonce.
func TestDigestAsCurl(t *testing.T) {
	t.Parallel()
	curl := testneed.Program(t, "curl")
	const user, password = `Mü"f\asa`, `Circle: of Life£`
	tests := []struct{ name, challenge string }{
		{"RFC 2069", `Digest realm="a", nonce="b"`},
		{"MD5", `Digest realm="a b", nonce="b/+==", algorithm=MD5, qop="auth", opaque=""`},
		{"MD5-sess", `Digest realm="a", nonce="b", algorithm=MD5-sess, qop="auth-int,auth", opaque="x"`},
		{"SHA-256", `Digest realm="a", nonce="b", algorithm=SHA-256, qop="auth"`},
		{"SHA-256-sess", `Digest realm="a\"b\\", nonce="b", algorithm=SHA-256-SESS, qop="auth"`},
		{"userhash", `Digest realm="a", nonce="b", algorithm=SHA-256, qop="auth", userhash=true`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			answers := make(chan string, 4)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header["Authorization"] == nil {
					w.Header().Set("WWW-Authenticate", tt.challenge)
					w.WriteHeader(http.StatusUnauthorized)
					return
				}
				answers <- r.Header.Get("Authorization")
			}))
			t.Cleanup(srv.Close)
			out, err := exec.CommandContext(t.Context(), curl, "-sS", "-q", "--noproxy", "*", "--digest", "-u", user+":"+password, "-X", "PUT", srv.URL+"/a/b?c=%22d").CombinedOutput()
			if err != nil {
				t.Fatalf("curl: %v\n%s", err, out)
			}
			p := challengeParser{rest: <-answers}
			want, ok := p.next()
			if !ok || want.params["response"] == "" {
				t.Fatalf("cannot read curl's answer: %v", want)
			}
			req, err := http.NewRequestWithContext(t.Context(), "PUT", srv.URL+"/a/b?c=%22d", nil)
			if err != nil {
				t.Fatal(err)
			}
			nc, err := strconv.ParseUint("0"+want.params["nc"], 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			offer := strongestDigest(challengesIn(http.Header{"Www-Authenticate": {tt.challenge}}))
			header, err := digestTurn{offer, uint32(nc), want.params["cnonce"], ""}.authorize(req, user, password)
			if err != nil {
				t.Fatal(err)
			}
			p = challengeParser{rest: header}
			got, _ := p.next()
			for name, value := range want.params {
				if strings.EqualFold(got.params[name], value) {
					delete(got.params, name)
				} else {
					t.Errorf("%s is %q, curl's %q", name, got.params[name], value)
				}
			}
			for name, value := range got.params {
				t.Errorf("%s=%q, which curl does not send", name, value)
			}
		})
	}
}
