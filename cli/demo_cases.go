package cli

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/credproxy/credproxy/secrets"
)

// A demoCase is one line of the demo's first table: a host of the sample API, the rule for it, and what comes of a
// request. A new credential type is one more.
type demoCase struct {
	title   string // empty: not in the table, it plays a part later
	host    string // below .localhost; the rule's name too
	inject  string // the rule's field as YAML; empty: no rule
	accepts func(*http.Request) bool
	asks    string // what the API says with a 401; empty: for a bearer token

	method string   // empty: GET
	path   string   // with the query; empty: /
	header []string // that the client sends, as "Name: value"
	deny   string   // reason of a rule that denies method
	later  bool     // the rule gets its inject only while the proxy runs

	proxied int    // expected status through the proxy; 0: 200
	answer  string // if not empty: the proxy answers by itself, with this in its text
	repeats bool   // the API sends back what it got in Authorization
	note    string // what else the line shows
}

// Hosts that play a part beyond the first table.
const (
	editedHost  = "edited"
	refreshHost = "refresh-token"
	revokedHost = "revoked"
)

// Clients of the login server that people have signed in with. Their refresh tokens have the same names in the keyring.
const (
	refreshClient = "demo-refresh"
	revokedClient = "demo-revoked"
)

func (c demoCase) tunnelled() bool { return c.inject == "" }

// demoCases is the table. s makes the secrets, and knows where the token endpoint is.
func demoCases(s *sample) []demoCase {
	return []demoCase{
		{title: "api_key, in a header", host: "header",
			inject:  "{type: api_key, in: header, name: X-API-Key, value: keyring:demo-header}",
			accepts: header("X-API-Key", s.secret("demo-header"))},
		{title: "api_key, Authorization with a prefix", host: "prefix",
			inject:  `{type: api_key, name: Authorization, prefix: "ApiKey ", value: keyring:demo-prefix}`,
			accepts: header("Authorization", s.prefixed("ApiKey ", s.secret("demo-prefix"))),
			header:  []string{"Authorization: Bearer placeholder"}, note: "in place of the client's placeholder"},
		{title: "api_key, in the query", host: "query",
			inject:  "{type: api_key, in: query, name: key, value: keyring:demo-query}",
			accepts: query("q=a%20b&empty=&", "key", s.secret("demo-query")),
			path:    "/search?q=a%20b&key=placeholder&empty=", note: "the rest of the query byte for byte"},
		{title: "api_key, in a cookie", host: "cookie",
			inject:  "{type: api_key, in: cookie, name: session, value: keyring:demo-cookie}",
			accepts: cookies("theme=dark; session=", s.secret("demo-cookie")),
			header:  []string{"Cookie: theme=dark"}, note: "beside the client's own"},
		{title: "aws_sigv4", host: "aws",
			inject:  "{type: aws_sigv4, access_key_id: keyring:demo-aws-id, secret_access_key: keyring:demo-aws-key}",
			accepts: sigV4("eu-central-1", s.secret("demo-aws-id"), s.secret("demo-aws-key")),
			path:    "/bucket/a%20b?list-type=2&prefix=x%2Fy",
			header: []string{"Authorization: AWS4-HMAC-SHA256 Credential=placeholder/20260101/eu-central-1/s3/aws4_request, SignedHeaders=host, Signature=" +
				strings.Repeat("0", 64)}, note: "in place of the client's, made with a placeholder"},
		{title: "basic", host: "basic",
			inject:  "{type: basic, username: ada, password: keyring:demo-basic}",
			accepts: header("Authorization", s.basic("ada", s.secret("demo-basic")))},
		{title: "bearer", host: "bearer",
			inject:  "{type: bearer, token: keyring:demo-bearer}",
			accepts: header("Authorization", s.prefixed("Bearer ", s.secret("demo-bearer")))},
		{title: "digest, SHA-256", host: "digest",
			inject:  "{type: digest, username: ada, password: keyring:demo-digest}",
			accepts: digest("ada", s.secret("demo-digest")), asks: `Digest realm="sample", nonce="` + digestNonce + `", algorithm=SHA-256, qop="auth"`,
			note: "the password stays here"},
		{title: "github_app", host: "github",
			inject:  s.githubApp("678"),
			accepts: s.token("678"), note: "the token of an app's installation"},
		{title: "hmac, SHA-256", host: "hmac",
			inject:  `{type: hmac, key: keyring:demo-hmac, algorithm: SHA-256, message: "{timestamp}{method}{target}", name: X-Signature, headers: {X-Timestamp: "{timestamp}"}}`,
			accepts: signedNow(s.secret("demo-hmac")),
			path:    "/orders?side=buy&note=a%20b", note: "over the time, the method and the target"},
		{title: "jwt, HS256", host: "jwt",
			inject:  "{type: jwt, algorithm: HS256, key: keyring:demo-jwt, claims: {aud: sample}}",
			accepts: s.jwt("sample", s.secret("demo-jwt")), note: "minted and signed by the proxy"},
		{title: "ntlm, NTLMv2", host: "ntlm",
			inject:  "{type: ntlm, domain: CORP, username: ada, password: keyring:demo-ntlm}",
			accepts: ntlm("CORP", "ada", s.secret("demo-ntlm")), asks: "NTLM " + base64.StdEncoding.EncodeToString(ntlmChallenge()),
			note: "on a connection of its own"},
		{title: "oauth1, HMAC-SHA1", host: "oauth1",
			inject:  "{type: oauth1, consumer_key: demo-app, consumer_secret: keyring:demo-oauth1-app, token: ada, token_secret: keyring:demo-oauth1-user}",
			accepts: oauth1("demo-app", "ada", s.secret("demo-oauth1-app"), s.secret("demo-oauth1-user")),
			path:    "/photos?tag=b+c&tag=a%20b&size=&tag=a%20b", note: "with every parameter of the query"},
		{title: "oauth2_authorization_code, PKCE", host: "browser",
			inject:  s.person("demo-browser", false),
			accepts: s.token("demo-browser"), note: "signed in by the demo's own person"},
		{title: "oauth2_client_credentials, basic", host: "client-basic",
			inject:  s.clientCredentials("demo-client-basic", "basic", "reports.read"),
			accepts: s.token("demo-client-basic")},
		{title: "oauth2_client_credentials, post", host: "client-post",
			inject:  s.clientCredentials("demo-client-post", "post", "reports.read"),
			accepts: s.token("demo-client-post")},
		{title: "oauth2_device_code", host: "device",
			inject:  s.person("demo-device", true),
			accepts: s.token("demo-device"), note: "signed in likewise, with a code"},
		{title: "private_key_jwt, client credentials", host: "client-key",
			inject:  s.privateKeyJWT("demo-client-key"),
			accepts: s.token("demo-client-key"), note: "in place of a client secret"},
		{title: "oauth2_jwt_bearer, EdDSA", host: "jwt-bearer",
			inject:  s.jwtBearer("demo-robot"),
			accepts: s.token("demo-robot"), note: "for an assertion that the proxy signs"},
		{title: "oauth2_password", host: "password",
			inject:  s.password("demo-password"),
			accepts: s.token("demo-password"), note: "for a server that has nothing else"},
		{title: "oauth2_refresh_token", host: refreshHost,
			inject:  s.refreshToken(refreshClient, 2*time.Second),
			accepts: s.token(refreshClient)},
		{title: "oauth2_token_exchange", host: "exchange",
			inject:  s.tokenExchange("demo-exchange"),
			accepts: s.token("demo-exchange"), note: "for another token"},
		{title: "placeholder, in the path and in Basic", host: "placeholder",
			inject:  "{type: placeholder, placeholder: __demo__, value: keyring:demo-placeholder, in: [basic, path]}",
			accepts: both(target("/hooks/", s.secret("demo-placeholder"), "/send?text=__demo__"), header("Authorization", s.basic("ada", s.last()))),
			path:    "/hooks/__demo__/send?text=__demo__", header: []string{"Authorization: Basic YWRhOl9fZGVtb19f"}, note: "the marker in the query stays"},
		{title: "session, a form and its cookie", host: "session",
			inject:  s.session("demo-session"),
			accepts: s.signedIn("demo-session"),
			header:  []string{"Cookie: theme=dark"}, note: "signed in by the proxy"},
		{title: "two credentials on one request", host: "two",
			inject: `
      - {type: api_key, name: DD-API-KEY, value: keyring:demo-two-a}
      - {type: api_key, name: DD-APPLICATION-KEY, value: keyring:demo-two-b}`,
			accepts: both(header("DD-API-KEY", s.secret("demo-two-a")), header("DD-APPLICATION-KEY", s.secret("demo-two-b")))},
		{title: "an API that repeats what it was sent", host: "repeats", repeats: true,
			inject:  "{type: bearer, token: keyring:demo-repeats}",
			accepts: header("Authorization", s.prefixed("Bearer ", s.secret("demo-repeats"))), note: "the client gets to read asterisks"},
		{title: "a deny rule: DELETE", host: "deny", method: http.MethodDelete,
			inject:  "{type: bearer, token: keyring:demo-deny}",
			accepts: header("Authorization", s.prefixed("Bearer ", s.secret("demo-deny"))),
			deny:    "deleting needs a person", answer: "deleting needs a person", proxied: http.StatusForbidden, note: "never sent"},
		{title: "a secret that is not in the keyring", host: "missing",
			inject:  "{type: bearer, token: keyring:demo-missing}",
			accepts: never, answer: "credproxy secret set demo-missing", proxied: http.StatusBadGateway, note: "never sent bare"},
		{title: "no rule: tunnelled untouched", host: "no-rule",
			accepts: never, proxied: http.StatusUnauthorized, note: "the server's own certificate"},
		{host: editedHost, later: true,
			inject:  "{type: bearer, token: keyring:demo-edited}",
			accepts: header("Authorization", s.prefixed("Bearer ", s.secret("demo-edited")))},
		{host: revokedHost,
			inject:  s.refreshToken(revokedClient, time.Minute),
			accepts: s.token(revokedClient)},
	}
}

// clientCredentials registers a client with the login server.
func (s *sample) clientCredentials(name, auth, scope string) (inject string) {
	secret := s.secret(name)
	s.login.register(name, loginClient{secret: secret, auth: auth, scope: scope, life: time.Minute})
	s.basic(name, secret)
	return fmt.Sprintf("{type: oauth2_client_credentials, token_url: %q, client_id: %s, client_secret: keyring:%s, client_auth: %s, scopes: [%s]}",
		s.login.tokenURL(), name, name, auth, scope)
}

// refreshToken registers a client that a person has signed in with, and that gets access tokens for life.
func (s *sample) refreshToken(name string, life time.Duration) (inject string) {
	s.login.register(name, loginClient{auth: "none", refresh: s.secret(name), life: life})
	return fmt.Sprintf("{type: oauth2_refresh_token, token_url: %q, client_id: %s, refresh_token: keyring:%s}",
		s.login.tokenURL(), name, name)
}

// privateKeyJWT registers a client that says who it is with assertions.
func (s *sample) privateKeyJWT(name string) (inject string) {
	s.login.register(name, loginClient{auth: "private_key_jwt", key: s.privateKey(name), life: time.Minute})
	return fmt.Sprintf("{type: oauth2_client_credentials, token_url: %q, client_id: %s, client_auth: private_key_jwt, key: keyring:%s, algorithm: EdDSA}",
		s.login.tokenURL(), name, name)
}

// jwtBearer registers a client that gets access tokens for assertions.
func (s *sample) jwtBearer(name string) (inject string) {
	s.login.register(name, loginClient{auth: "none", key: s.privateKey(name), life: time.Minute})
	return fmt.Sprintf("{type: oauth2_jwt_bearer, token_url: %q, client_id: %s, key: keyring:%s, algorithm: EdDSA}", s.login.tokenURL(), name, name)
}

// tokenExchange registers a client that has another server's token.
func (s *sample) tokenExchange(name string) (inject string) {
	s.login.register(name, loginClient{auth: "none", subject: s.secret(name), life: time.Minute})
	return fmt.Sprintf("{type: oauth2_token_exchange, token_url: %q, client_id: %s, subject_token: keyring:%s, subject_token_type: jwt}",
		s.login.tokenURL(), name, name)
}

// password registers a client that a person gives name and password to.
func (s *sample) password(name string) (inject string) {
	s.login.register(name, loginClient{auth: "none", user: "ada", pass: s.secret(name), life: time.Minute})
	return fmt.Sprintf("{type: oauth2_password, token_url: %q, client_id: %s, username: ada, password: keyring:%s}", s.login.tokenURL(), name, name)
}

// githubApp registers an app whose one installation has the same number.
func (s *sample) githubApp(id string) (inject string) {
	s.login.register(id, loginClient{app: s.rsaKey("demo-github"), life: time.Minute})
	return fmt.Sprintf("{type: github_app, api_url: %q, app_id: %s, installation_id: %s, private_key: keyring:demo-github}",
		"https://"+s.login.server.address, id, id)
}

// token accepts access tokens that the login server has given to client.
func (s *sample) token(client string) func(*http.Request) bool {
	return func(r *http.Request) bool {
		token, ok := strings.CutPrefix(strings.Join(r.Header["Authorization"], ", "), "Bearer ")
		return ok && s.login.accepts(client, token)
	}
}

// The checks are exact: nothing missing, nothing twice.

func header(name string, want secrets.Value) func(*http.Request) bool {
	return func(r *http.Request) bool {
		values := r.Header.Values(name)
		return len(values) == 1 && want.Equal(secrets.NewValue(values[0]))
	}
}

func query(rest, name string, want secrets.Value) func(*http.Request) bool {
	return func(r *http.Request) bool {
		value, ok := strings.CutPrefix(r.URL.RawQuery, rest+name+"=")
		return ok && want.Equal(secrets.NewValue(value))
	}
}

func target(before string, want secrets.Value, after string) func(*http.Request) bool {
	return func(r *http.Request) bool {
		return want.Equal(secrets.NewValue(strings.TrimSuffix(strings.TrimPrefix(r.RequestURI, before), after)))
	}
}

func cookies(before string, want secrets.Value) func(*http.Request) bool {
	return func(r *http.Request) bool {
		return header("Cookie", secrets.NewValue(before+want.Reveal()))(r)
	}
}

func both(a, b func(*http.Request) bool) func(*http.Request) bool {
	return func(r *http.Request) bool { return a(r) && b(r) }
}

func never(*http.Request) bool { return false }

// prefixed is v as it stands in a header.
func (s *sample) prefixed(prefix string, v secrets.Value) secrets.Value {
	return secrets.NewValue(prefix + v.Reveal())
}

// basic is RFC 7617. Its encoded form counts as a secret too.
func (s *sample) basic(user string, password secrets.Value) secrets.Value {
	pair := base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(user) + ":" + password.Reveal()))
	s.note(pair)
	return secrets.NewValue("Basic " + pair)
}

// demoRules is the rules file. The rules that come later pass requests unchanged until edited is set.
func demoRules(cases []demoCase, port string, edited bool) []byte {
	var b bytes.Buffer
	b.WriteString("version: 1\ndefault: allow\nrules:\n")
	for _, c := range cases {
		if !c.tunnelled() {
			b.WriteString(demoRule(c, port, !c.later || edited))
		}
	}
	return b.Bytes()
}

// demoRule is the rule for c, and before it the one that denies.
func demoRule(c demoCase, port string, inject bool) string {
	var b strings.Builder
	match := fmt.Sprintf("host: %s.localhost, port: %s", c.host, port)
	if c.deny != "" {
		fmt.Fprintf(&b, "  - name: no-%s\n    match: {%s, methods: [%s]}\n    deny: %s\n", c.host, match, c.method, c.deny)
	}
	fmt.Fprintf(&b, "  - name: %s\n    match: {%s}\n", c.host, match)
	if inject {
		fmt.Fprintf(&b, "    inject: %s\n", c.inject)
	}
	fmt.Fprintf(&b, "    tls: {ca: %s/ca.pem}\n", sampleFolder)
	return b.String()
}
