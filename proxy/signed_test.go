package proxy

import (
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A credential that writes into the body does so on the body that is sent, with its length, and again on the one that is
// sent again after a 401.
func TestCredentialInTheBody(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		type seen struct {
			form   string // without the credential
			secret string
			whole  bool
		}
		requests := make(chan seen, 8)
		value := filepath.Join(t.TempDir(), "value")
		write := func(s string) {
			if err := os.WriteFile(value, []byte(s), 0o600); err != nil {
				t.Error(err)
			}
		}
		write("stale")
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			form, credential, _ := strings.Cut(string(body), "&oauth_consumer_key=me&")
			q, parseErr := url.ParseQuery(credential)
			requests <- seen{form, q.Get("oauth_signature"), err == nil && parseErr == nil && (r.ContentLength < 0 || r.ContentLength == int64(len(body)))}
			if q.Get("oauth_signature") != "fresh&" {
				write("fresh")
				w.WriteHeader(http.StatusUnauthorized)
			}
		})
		p := startProxy(t, ca, fmt.Sprintf("  - name: api\n    match: {host: api.localhost, port: %s}\n    on_existing: fail\n"+
			"    inject: {type: oauth1, consumer_key: me, signature_method: PLAINTEXT, placement: body, consumer_secret: {exec: [cat, %q], ttl: 1h}}\n", up.port, value))
		const form = "application/x-www-form-urlencoded"
		post := func(kind string, body io.Reader) *http.Response {
			t.Helper()
			resp, err := p.client(t, h2).Post(up.url("api.localhost", "/"), kind, body)
			if err != nil {
				t.Fatal(err)
			}
			return resp
		}
		for _, body := range []io.Reader{strings.NewReader("a=1&a=2"), io.MultiReader(strings.NewReader("a=1&a=2"))} {
			resp := post(form, body)
			if _, err := readAll(resp); err != nil || resp.StatusCode != 200 {
				t.Errorf("got %s, %v", resp.Status, err)
			}
		}
		for i, want := range []seen{{"a=1&a=2", "stale&", true}, {"a=1&a=2", "fresh&", true}, {"a=1&a=2", "fresh&", true}} {
			if got := <-requests; got != want {
				t.Errorf("request %d: the upstream got %+v, want %+v", i, got, want)
			}
		}
		refused(t, post("application/json", strings.NewReader("{}")), 400, "bad_body")
		refused(t, post(form, strings.NewReader("a=1&oauth_nonce=mine")), 403, "credential_exists")
		refused(t, post(form, io.MultiReader(strings.NewReader(strings.Repeat("a=1&", 300_000)))), 413, "body_too_large")
		if len(requests) > 0 {
			t.Errorf("one request too many: %+v", <-requests)
		}
	})
}

// What is hashed is what arrives.
func TestBodyHash(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
			h := sha1.New()
			if _, err := io.Copy(h, r.Body); err != nil {
				t.Error(err)
			}
			want := `oauth_body_hash="` + url.QueryEscape(base64.StdEncoding.EncodeToString(h.Sum(nil))) + `"`
			fmt.Fprint(w, strings.Contains(r.Header.Get("Authorization"), want), r.Trailer.Get("Sum"))
		})
		p := startProxy(t, ca, fmt.Sprintf("  - name: api\n    match: {host: api.localhost, port: %s}\n"+
			"    inject: {type: oauth1, consumer_key: me, consumer_secret: %q}\n", up.port, secretFile(t, canary)))
		for _, size := range []int64{1, 1000, 64 << 10, 1 << 20} {
			for _, length := range []int64{size, -1} {
				req, err := http.NewRequestWithContext(t.Context(), "PUT", up.url("api.localhost", "/"), io.LimitReader(zeros{}, size))
				if err != nil {
					t.Fatal(err)
				}
				want := "true"
				if req.ContentLength = length; length < 0 {
					req.Trailer, want = http.Header{"Sum": {"42"}}, "true42"
				}
				resp, err := p.client(t, h2).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				if body, err := readAll(resp); err != nil || body != want {
					t.Errorf("%d bytes, %d announced: got %q, %v, want %q", size, length, body, err, want)
				}
			}
		}
	})
}
