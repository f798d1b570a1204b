package inject_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/inject"
)

// Without a server to ask, there is an error about the request, and the request stays as it is.
func TestDigestWithoutAServer(t *testing.T) {
	t.Parallel()
	c := build(t, newEnv(t, nil), "{type: digest, username: ada, password: $S}", map[string]string{"S": secretFile(t, "x")})[0]
	req := newGet(t)
	req.Header.Set("Authorization", "Bearer mine")
	used, err := c.Apply(req)
	if err == nil || used != nil || req.Header.Get("Authorization") != "Bearer mine" {
		t.Fatalf("Apply: %v, header %v", err, req.Header)
	}
	if slug, hint := failure(t, err); slug != "challenge_unsupported" || hint == "" {
		t.Errorf("slug %q, hint %q", slug, hint)
	}
}

// What cannot be a user name or a password is found before the server is asked.
func TestDigestRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, inject, secret string }{
		{"a line break", "{type: digest, username: ada, password: $S}", "Zq9\nret"},
		{"a colon in the user name", "{type: digest, username: $S, password: $S}", "Zq9:ret"},
	} {
		c := build(t, newEnv(t, nil), tt.inject, map[string]string{"S": secretFile(t, tt.secret)})[0].(inject.Asker)
		used, err := c.ApplyAsking(newGet(t), func() (*http.Response, error) {
			t.Errorf("%s: the server was asked", tt.name)
			return nil, http.ErrAbortHandler
		})
		if err == nil || used != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if slug, hint := failure(t, err); slug != "secret_invalid" || hint == "" || strings.Contains(err.Error()+hint, "Zq9") {
			t.Errorf("%s: slug %q, hint %q, error %q", tt.name, slug, hint, err)
		}
	}
}

// BenchmarkDigest is the cost of an answer where the nonce is known.
func BenchmarkDigest(b *testing.B) {
	secret := "{exec: [cat, " + strconv.Quote(strings.TrimPrefix(secretFile(b, "s3cret"), "file:")) + "]}"
	for _, algorithm := range []string{"MD5", "SHA-256", "SHA-512-256"} {
		b.Run(algorithm, func(b *testing.B) {
			c := build(b, newEnv(b, nil), "{type: digest, username: ada, password: "+secret+"}", nil)[0].(inject.Asker)
			req, err := http.NewRequestWithContext(b.Context(), "GET", "http://api.example.com/v1/things?page=2&sort=name", nil)
			if err != nil {
				b.Fatal(err)
			}
			asked := &http.Response{StatusCode: 401, Header: http.Header{"Www-Authenticate": {`Digest realm="things", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", qop="auth", algorithm=` + algorithm}}}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.ApplyAsking(req, func() (*http.Response, error) { return asked, nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
