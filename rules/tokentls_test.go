package rules

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
)

// A rule's ca holds for the token endpoint of its credential too, and for no other rule's.
func TestTokenEndpointBehindThePrivateCA(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"fresh","token_type":"Bearer","expires_in":3600}`)
	}))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	srv.StartTLS()
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	put(t, filepath.Join(dir, "ca.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))
	put(t, filepath.Join(dir, "secret"), "client secret")

	resolver := secrets.NewResolver(secrets.Config{})
	t.Cleanup(resolver.Close)
	tokens := oauth.NewCache()
	t.Cleanup(tokens.Close)
	env := inject.Env{Secrets: resolver, Tokens: tokens, HTTP: &http.Client{Transport: &http.Transport{}}}
	rule := `  - name: %[1]s
    match: {host: %[1]s.test}
    inject: {type: oauth2_client_credentials, token_url: %[2]q, client_id: %[1]s, client_secret: %[3]q}
`
	login := `  - name: %[1]s
    match: {host: %[1]s.test}
    inject: {type: session, login: {url: %[2]q, form: {user: %[1]s, password: %[3]q}}, keep: {pointer: /access_token}}
`
	secret := "file:" + filepath.Join(dir, "secret")
	text := "version: 1\nrules:\n" + fmt.Sprintf(rule, "private", srv.URL, secret) + "    tls: {ca: ca.pem}\n" + fmt.Sprintf(rule, "public", srv.URL, secret) +
		fmt.Sprintf(login, "private-site", srv.URL, secret) + "    tls: {ca: ca.pem}\n" + fmt.Sprintf(login, "public-site", srv.URL, secret)
	set, err := Parse(filepath.Join(dir, "rules.yaml"), []byte(text), env)
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{"private.test": "Bearer fresh", "public.test": "", "private-site.test": "Bearer fresh", "public-site.test": ""} {
		req := request(t, "GET", "https://"+host+"/")
		_, err := set.Decide("", req).Inject[0].Apply(req)
		if got := req.Header.Get("Authorization"); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: got %q, %v; want %q", host, got, err, want)
		}
	}
}

// The ca adds to the roots that token endpoints are believed by already; it does not take their place.
func TestTokenEndpointBesideThePrivateCA(t *testing.T) {
	t.Parallel()
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"fresh","token_type":"Bearer","expires_in":3600}`)
	}))
	t.Cleanup(srv.Close)
	dir := t.TempDir()
	other, _ := certificate(t, "other.test")
	put(t, filepath.Join(dir, "ca.pem"), other)
	put(t, filepath.Join(dir, "secret"), "client secret")
	resolver := secrets.NewResolver(secrets.Config{})
	t.Cleanup(resolver.Close)
	tokens := oauth.NewCache()
	t.Cleanup(tokens.Close)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	before := roots.Clone()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	text := fmt.Sprintf(`version: 1
rules:
  - name: a
    match: {host: a.test}
    inject: {type: oauth2_client_credentials, token_url: %q, client_id: c, client_secret: %q}
    tls: {ca: ca.pem}
`, srv.URL, "file:"+filepath.Join(dir, "secret"))
	set, err := Parse(filepath.Join(dir, "rules.yaml"), []byte(text), inject.Env{Secrets: resolver, Tokens: tokens, HTTP: client})
	if err != nil {
		t.Fatal(err)
	}
	req := request(t, "GET", "https://a.test/")
	if _, err := set.Decide("", req).Inject[0].Apply(req); err != nil || req.Header.Get("Authorization") != "Bearer fresh" {
		t.Errorf("got %q, %v", req.Header.Get("Authorization"), err)
	}
	if !roots.Equal(before) {
		t.Error("the ca was added to the roots of all rules")
	}
}
