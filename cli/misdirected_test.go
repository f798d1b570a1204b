package cli

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/rules"
	"github.com/credproxy/credproxy/secrets"
)

// A transport that is never to be used.
type unused struct{ t *testing.T }

func (u unused) RoundTrip(req *http.Request) (*http.Response, error) {
	u.t.Errorf("a request went to %s", req.URL.Host)
	return nil, errors.New("no network")
}

var (
	otherRef = regexp.MustCompile(`(?:env|file):[A-Za-z0-9_/~.-]+`)
	execRef  = regexp.MustCompile(`\{exec: [^}]*\}`)
)

// Each type there is refuses a secret that may not go where the request goes: all of rules.example.yaml, with secrets that
// are bound to another host. No server is asked either.
func TestEveryTypeRefusesMisdirectedSecrets(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "rules.example.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	bindable := func(string) string { n++; return fmt.Sprintf("keyring:bound-%d", n) }
	yaml := execRef.ReplaceAllStringFunc(otherRef.ReplaceAllStringFunc(string(text), bindable), bindable)
	yaml = regexp.MustCompile(`issuer: https://`).ReplaceAllString(yaml, "token_url: https://")
	yaml = strings.Replace(yaml, "{type: negotiate}", "{type: negotiate, principal: job@CORP.EXAMPLE.NET, keytab: keyring:job-keytab}", 1)
	store, err := secrets.OpenStore(secrets.StoreConfig{State: t.TempDir(), Backend: "file"})
	if err != nil {
		t.Fatal(err)
	}
	resolver := secrets.NewResolver(secrets.Config{Store: store, Recheck: recheck})
	t.Cleanup(resolver.Close)
	tokens := oauth.NewCache()
	t.Cleanup(tokens.Close)
	set, err := rules.Parse("../rules.example.yaml", []byte(yaml), inject.Env{
		Secrets: resolver, Tokens: tokens, HTTP: &http.Client{Transport: unused{t}},
	})
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]map[string]string{}
	for _, ref := range set.Refs() {
		if values[ref.Name] == nil {
			values[ref.Name] = map[string]string{}
		}
		if ref.Field != "" {
			values[ref.Name][ref.Field] = "x"
		}
	}
	for name, fields := range values {
		value := "x"
		if len(fields) > 0 {
			var b strings.Builder
			if err := writeJSON(&b, fields); err != nil {
				t.Fatal(err)
			}
			value = b.String()
		}
		if _, err := store.Bind(t.Context(), name, secrets.NewValue(value), []string{"elsewhere.test"}); err != nil {
			t.Fatal(err)
		}
	}
	var types []string
	for i, rule := range set.Rules() {
		for _, c := range set.Credentials(i) {
			host := strings.ReplaceAll(rule.Hosts[0], "*", "any")
			target := &url.URL{Scheme: "https", Host: host, Path: "/"}
			req := &http.Request{Method: http.MethodGet, URL: target, Host: host, Header: http.Header{}, Body: http.NoBody}
			if marker, ok := inject.MarkerOf(c); ok {
				marker.Example(req)
			}
			before := fmt.Sprint(req.URL, req.Header)
			req = req.WithContext(secrets.For(t.Context(), host))
			_, err := c.Apply(req)
			if asker, ok := c.(inject.Asker); ok {
				_, err = asker.ApplyAsking(req, func() (*http.Response, error) {
					return &http.Response{StatusCode: 401, Request: req, Body: http.NoBody,
						Header: http.Header{"Www-Authenticate": {`Digest realm="r", nonce="n", qop="auth"`}}}, nil
				})
			}
			known, ok := errors.AsType[slugged](err)
			if !ok || known.Slug() != "secret_misdirected" {
				t.Errorf("rule %s, type %s: got %v", rule.Name, c.Type(), err)
			}
			if _, marked := inject.MarkerOf(c); !marked && fmt.Sprint(req.URL, req.Header) != before {
				t.Errorf("rule %s, type %s: the request has become %v %v", rule.Name, c.Type(), req.URL, req.Header)
			}
			types = append(types, c.Type())
		}
	}
	for _, typ := range inject.Types() {
		if !slices.Contains(types, typ) {
			t.Errorf("type %s was not tried", typ)
		}
	}
}

// What a secret is exchanged for may go where the secret may, and so may the secret to the token endpoint.
func TestTokenOfABoundSecret(t *testing.T) {
	t.Parallel()
	asked := 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"t0ken","token_type":"Bearer","expires_in":3600}`)
	}))
	t.Cleanup(server.Close)
	store, err := secrets.OpenStore(secrets.StoreConfig{State: t.TempDir(), Backend: "file"})
	if err != nil {
		t.Fatal(err)
	}
	resolver := secrets.NewResolver(secrets.Config{Store: store, Recheck: recheck})
	t.Cleanup(resolver.Close)
	tokens := oauth.NewCache()
	t.Cleanup(tokens.Close)
	inner := func(name string) string {
		return fmt.Sprintf("{type: oauth2_client_credentials, token_url: %s/token, client_id: me, client_secret: keyring:%s}", server.URL, name)
	}
	text := "version: 1\nrules:\n"
	for _, host := range []string{"good.test", "evil.test"} {
		text += fmt.Sprintf("  - {name: %s, match: {host: %s}, inject: %s}\n", host, host, inner("app"))
	}
	text += fmt.Sprintf("  - {name: tokens, match: {host: api.test}, inject: %s}\n", inner("api-only"))
	text += fmt.Sprintf("  - {name: rotates, match: {host: evil2.test}, inject: {type: oauth2_refresh_token, token_url: %s/token, client_id: me, refresh_token: keyring:refresh}}\n", server.URL)
	set, err := rules.Parse("rules.yaml", []byte(text), inject.Env{Secrets: resolver, Tokens: tokens, HTTP: server.Client()})
	if err != nil {
		t.Fatal(err)
	}
	for name, hosts := range map[string][]string{
		"app": {"127.0.0.1", "good.test"}, "api-only": {"api.test"}, "refresh": {"127.0.0.1", "good.test"},
	} {
		if _, err := store.Bind(t.Context(), name, secrets.NewValue("s3cret"), hosts); err != nil {
			t.Fatal(err)
		}
	}
	apply := func(i int, host string) (string, error) {
		req := httptest.NewRequest(http.MethodGet, "https://"+host+"/", nil)
		_, err := set.Credentials(i)[0].Apply(req.WithContext(secrets.For(t.Context(), host)))
		return req.Header.Get("Authorization"), err
	}
	refused := func(i int, host, why string) {
		t.Helper()
		if got, err := apply(i, host); !errors.Is(err, secrets.ErrMisdirected) || got != "" || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: got %q, %v", host, got, err)
		}
	}
	refused(1, "evil.test", "not to evil.test") // before there is a token
	if got, err := apply(0, "good.test"); err != nil || got != "Bearer t0ken" {
		t.Errorf("got %q, %v", got, err)
	}
	refused(1, "evil.test", "not to evil.test") // the token is in the cache, under the same key
	before := asked
	refused(2, "api.test", "not to 127.0.0.1") // the client's secret may not go to the token endpoint
	if asked != before {
		t.Error("the token endpoint was asked")
	}
	refused(3, "evil2.test", "not to evil2.test")
}
