package inject_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/internal/testneed"
)

// An arrival is what an upstream received.
type arrival struct {
	Method  string            `json:"method"`
	URI     string            `json:"uri"`
	Headers map[string]string `json:"headers"`
	Body    []byte            `json:"body"`
}

// A signedRequest is an arrival with what a server needs to verify it.
type signedRequest struct {
	arrival

	ConsumerKey    string `json:"consumer_key"`
	ConsumerSecret string `json:"consumer_secret"`
	Token          string `json:"token"`
	TokenSecret    string `json:"token_secret"`
	PublicKey      string `json:"public_key"`

	about    string
	broken   bool   // changed on the way
	wantHash string // right or absent
}

// received is r as it came, put together from the wire and not from what its sender had in mind.
func received(t *testing.T, r *http.Request) arrival {
	t.Helper()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	if r.ContentLength >= 0 && r.ContentLength != int64(len(body)) {
		t.Errorf("Content-Length %d, and %d bytes came", r.ContentLength, len(body))
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	out := arrival{Method: r.Method, URI: scheme + "://" + r.Host + r.RequestURI, Headers: map[string]string{}, Body: body}
	for name, values := range r.Header {
		out.Headers[name] = strings.Join(values, ", ")
	}
	return out
}

// verify asks oauthlib about each of sent.
func verify(t *testing.T, sent []signedRequest) {
	t.Helper()
	python := testneed.PythonModule(t, "oauthlib.oauth1, cryptography, jwt")
	var in bytes.Buffer
	for _, s := range sent {
		if err := json.NewEncoder(&in).Encode(s); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), python, "testdata/oauth1_verify.py")
	cmd.Stdin = &in
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the verifier: %v\n%s", err, &stderr)
	}
	verdicts, nonces := json.NewDecoder(bytes.NewReader(out)), map[string]bool{}
	for _, s := range sent {
		var v struct {
			Valid              bool
			Nonce, Hash, Error string
		}
		if err := verdicts.Decode(&v); err != nil {
			t.Fatalf("%s: no verdict: %v", s.about, err)
		}
		if v.Valid == s.broken || !s.broken && (v.Hash != s.wantHash || nonces[v.Nonce]) {
			t.Errorf("%s\nvalid %v, want %v; oauth_body_hash %s, want %s; nonce seen before: %v %s\n%s %s\n%v\n%q",
				s.about, v.Valid, !s.broken, v.Hash, s.wantHash, nonces[v.Nonce], v.Error, s.Method, s.URI, s.Headers, s.Body)
		}
		nonces[v.Nonce] = true
	}
}

// pick is one of choices.
func pick[T any](r *mathrand.Rand, choices ...T) T { return choices[r.IntN(len(choices))] }

// someForm is a query or form that oauthlib takes: it refuses bytes that should have been encoded.
func someForm(r *mathrand.Rand) string {
	pieces := []string{
		"a=1", "a=1", "a=2", "a=10", "a=", "a", "b=x+y", "b=x%20y", "c%40=", "%61=3", "e=%C3%BC", "%E2%82%AC=%e2%82%ac", "f=1;g=2", "", "=", "=h",
		"i=j=k", "l=%26%3D%2B%25", "m=-._~", "n=%2d%2E%5f%7E", "o=!*'()", "p=a/b?c:d@e$f,g", "z=%00", "y=%0D%0A", "A=1", "a%5B%5D=1", "a%5B%5D=2",
	}
	var items []string
	for range r.IntN(8) {
		items = append(items, pick(r, pieces...))
	}
	return strings.Join(items, "&")
}

func rsaPair(t testing.TB, bits int) (private, public string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// A generated is a credential with what its server knows of it.
type generated struct {
	method, placement string
	cred              inject.Credential
	knows             signedRequest
}

// someOAuth1 is a credential of the given kind, with secrets that need encoding now and then.
func someOAuth1(t *testing.T, r *mathrand.Rand, env inject.Env, method, placement, private, public string) generated {
	t.Helper()
	g := generated{method: method, placement: placement}
	g.knows = signedRequest{
		ConsumerKey: pick(r, "key", "a key/ü+&="), ConsumerSecret: pick(r, "secret", "s é%&=+~", "x"),
		Token: pick(r, "token", "t/o k&e=n"), TokenSecret: pick(r, "hush", "h u&sh%"), PublicKey: public,
	}
	if method == "PLAINTEXT" && placement != "header" {
		// oauthlib decodes the parameters of a query or form twice, which only matters where the signature has a %.
		g.knows.ConsumerSecret, g.knows.TokenSecret = "secret", "hush"
	}
	text := fmt.Sprintf("type: oauth1, consumer_key: %q, signature_method: %s, placement: %s", g.knows.ConsumerKey, method, placement)
	switch {
	case method == "RSA-SHA1":
		text += fmt.Sprintf(", private_key: %q, token: %q", secretFile(t, private), g.knows.Token)
	case pick(r, true, false):
		text += fmt.Sprintf(", consumer_secret: %q, token: %q, token_secret: %q",
			secretFile(t, g.knows.ConsumerSecret), secretFile(t, g.knows.Token), secretFile(t, g.knows.TokenSecret))
	default:
		g.knows.Token, g.knows.TokenSecret = "", ""
		text += fmt.Sprintf(", consumer_secret: %q", secretFile(t, g.knows.ConsumerSecret))
	}
	if placement == "header" {
		text += ", realm: http://example.com/a b"
	}
	g.cred = build(t, env, "{"+text+"}", nil)[0]
	return g
}

// request is some request for a server at url. wantHash says what oauth_body_hash must be.
func (g generated) request(t *testing.T, r *mathrand.Rand, url string) (req *http.Request, wantHash string) {
	t.Helper()
	target := url + pick(r, "", "/", "/a/b", "/%7Ea/b%2Fc", "/x;y=1/z", "/%C3%BC", "//double//")
	if query := someForm(r); query != "" || pick(r, true, false) {
		target += "?" + query
	}
	kind, body, wantHash := pick(r, "application/x-www-form-urlencoded", "application/x-www-form-urlencoded; charset=UTF-8"), someForm(r), "absent"
	if g.placement != "body" && pick(r, true, false) {
		kind, body = pick(r, "application/json", "text/plain", ""), pick(r, `{"a":1}`, "a=1&b=2", "\x00\xff", "")
		if body != "" && g.method != "PLAINTEXT" {
			wantHash = "right"
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), pick(r, "GET", "POST", "PUT", "DELETE", "PATCH"), target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" && pick(r, true, false) {
		req.ContentLength = -1 // chunked
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	if host := pick(r, "", "API.Example.com", "api.example.com:80", "api.example.com:443", "api.example.com:8080"); host != "" {
		req.Host = host
	}
	if pick(r, true, false, false) { // an app that signs with placeholders
		req.Header.Set("Authorization", `OAuth oauth_consumer_key="placeholder", oauth_signature="x"`)
		req.URL.RawQuery += "&oauth_nonce=placeholder&%6fauth_signature=x"
	}
	return req, wantHash
}

// changed is s as if it had been changed on the way. Without such the verifier may be one that takes everything.
func changed(r *mathrand.Rand, method string, s signedRequest) signedRequest {
	s.about, s.broken = s.about+", changed", true
	switch {
	case method == "PLAINTEXT": // it signs nothing
		s.ConsumerSecret += "x"
	case pick(r, true, false):
		s.Method = "TRACE"
	default:
		s.URI = strings.Replace(s.URI, "://", "://x", 1)
	}
	return s
}

// TestOAuth1AgainstOAuthlib sends generated requests to a real server and has oauthlib verify what arrived.
func TestOAuth1AgainstOAuthlib(t *testing.T) {
	t.Parallel()
	testneed.PythonModule(t, "oauthlib.oauth1, cryptography, jwt")
	arrived := make(chan arrival, 1)
	handler := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { arrived <- received(t, r) })
	servers := []*httptest.Server{httptest.NewServer(handler), httptest.NewTLSServer(handler)}
	for _, s := range servers {
		t.Cleanup(s.Close)
	}
	private, public := rsaPair(t, 2048)
	env, r := newEnv(t, nil), mathrand.New(mathrand.NewPCG(1, 2))
	var sent []signedRequest
	for _, method := range []string{"HMAC-SHA1", "HMAC-SHA256", "RSA-SHA1", "PLAINTEXT"} {
		for _, placement := range []string{"header", "query", "body"} {
			g := someOAuth1(t, r, env, method, placement, private, public)
			for i := range 60 {
				server, about := pick(r, servers...), fmt.Sprintf("%s in the %s, request %d", method, placement, i)
				req, wantHash := g.request(t, r, server.URL)
				if _, err := g.cred.Apply(req); err != nil {
					t.Fatalf("%s: %v", about, err)
				}
				resp, err := server.Client().Transport.RoundTrip(req)
				if err != nil {
					t.Fatalf("%s: %v", about, err)
				}
				_ = resp.Body.Close()
				s := g.knows
				s.arrival, s.about, s.wantHash = <-arrived, about, wantHash
				sent = append(sent, s)
				if i%10 == 0 {
					sent = append(sent, changed(r, method, s))
				}
			}
		}
	}
	verify(t, sent)
}
