package inject_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/credproxy/credproxy/internal/testneed"
)

const thirtyTwo = "0123456789abcdefghijklmnopqrstuv"

// pemPair is a key as people store it, and what its server knows.
func pemPair(t *testing.T, key crypto.Signer) (private, public string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub}))
}

// TestJWTAgainstPyJWT has another implementation verify a token of every algorithm.
func TestJWTAgainstPyJWT(t *testing.T) {
	t.Parallel()
	python := testneed.PythonModule(t, "jwt, cryptography")
	type pair struct{ private, public string }
	made := func(key crypto.Signer, err error) pair {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		private, public := pemPair(t, key)
		return pair{private, public}
	}
	ec := func(curve elliptic.Curve) pair { return made(ecdsa.GenerateKey(curve, rand.Reader)) }
	rsaKey := made(rsa.GenerateKey(rand.Reader, 2048))
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	mac := func(size int) pair { s := strings.Repeat("k", size); return pair{s, s} }
	keys := map[string]pair{
		"HS256": mac(32), "HS384": mac(48), "HS512": mac(64), "RS256": rsaKey, "RS384": rsaKey, "RS512": rsaKey, "PS256": rsaKey, "PS384": rsaKey,
		"PS512": rsaKey, "ES256": ec(elliptic.P256()), "ES384": ec(elliptic.P384()), "ES512": ec(elliptic.P521()), "EdDSA": made(edKey, err),
	}
	env := newEnv(t, nil)
	var in bytes.Buffer
	var order []string
	for algorithm, key := range keys {
		c := build(t, env, "{type: jwt, algorithm: "+algorithm+", key: $S, key_id: k1, generate: [iat, exp, nbf, jti], claims: {iss: me, aud: [api, other], admin: true}}",
			map[string]string{"S": secretFile(t, key.private)})[0]
		req := newGet(t)
		if _, err := c.Apply(req); err != nil {
			t.Fatalf("%s: %v", algorithm, err)
		}
		line := map[string]string{"token": strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "), "key": key.public, "algorithm": algorithm}
		changed := map[string]string{"token": strings.Replace(line["token"], ".", ".e", 1), "key": key.public, "algorithm": algorithm}
		for _, l := range []map[string]string{line, changed} {
			if err := json.NewEncoder(&in).Encode(l); err != nil {
				t.Fatal(err)
			}
		}
		order = append(order, algorithm)
	}
	cmd := exec.CommandContext(t.Context(), python, "testdata/jwt_verify.py")
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = &in, &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the verifier: %v\n%s", err, &stderr)
	}
	verdicts := json.NewDecoder(bytes.NewReader(out))
	for _, algorithm := range order {
		var good, changed struct {
			Claims map[string]any
			Header map[string]any
			Error  string
		}
		if err := verdicts.Decode(&good); err != nil {
			t.Fatal(err)
		}
		if err := verdicts.Decode(&changed); err != nil {
			t.Fatal(err)
		}
		if good.Error != "" || good.Claims["iss"] != "me" || good.Claims["admin"] != true || good.Header["kid"] != "k1" || good.Header["alg"] != algorithm || good.Header["typ"] != "JWT" {
			t.Errorf("%s: got %+v", algorithm, good)
		}
		if changed.Error == "" {
			t.Errorf("%s: a token that was changed is taken for good", algorithm)
		}
	}
}

func newGet(t testing.TB) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://api.example.com/?token=old&a=b", nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// claimsOf is the payload of a token.
func claimsOf(t *testing.T, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts in a token, want 3", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func TestJWTClaims(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, inject string
		want         map[string]any // a number for iat, exp and nbf is relative to now
	}{
		{"nothing said", "", map[string]any{"iat": -10.0, "exp": 290.0}},
		{"lifetime and clock skew", ", lifetime: 1h, clock_skew: 60s", map[string]any{"iat": -60.0, "exp": 3540.0}},
		{"a short lifetime", ", lifetime: 20s", map[string]any{"iat": -2.0, "exp": 18.0}},
		{"no skew", ", clock_skew: 0s", map[string]any{"iat": 0.0, "exp": 300.0}},
		{"nbf", ", generate: [nbf, exp]", map[string]any{"nbf": -10.0, "exp": 290.0}},
		{"fixed claims only", ", generate: [], claims: {iss: me, jti: fixed}", map[string]any{"iss": "me", "jti": "fixed"}},
		{"of every kind", ", generate: [], claims: {sub: '1', aud: [a, b], n: 1, f: 1.5, 'https://example.com/x': {deep: [true, null, {}]}}",
			map[string]any{"sub": "1", "aud": []any{"a", "b"}, "n": 1.0, "f": 1.5, "https://example.com/x": map[string]any{"deep": []any{true, nil, map[string]any{}}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := build(t, newEnv(t, nil), "{type: jwt, algorithm: HS256, key: $S"+tt.inject+"}", map[string]string{"S": secretFile(t, thirtyTwo)})[0]
			req := newGet(t)
			from := float64(time.Now().Unix())
			if _, err := c.Apply(req); err != nil {
				t.Fatal(err)
			}
			to := float64(time.Now().Unix())
			got := claimsOf(t, strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "))
			for _, name := range []string{"iat", "exp", "nbf"} {
				offset, want := tt.want[name].(float64)
				if at, ok := got[name].(float64); ok != want || ok && (at < from+offset || at > to+offset) {
					t.Errorf("%s is %v, want %v after %v", name, got[name], tt.want[name], from)
				}
				delete(got, name)
				delete(tt.want, name)
			}
			if fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("claims %v, want %v", got, tt.want)
			}
		})
	}
}

func TestJWTPlaces(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, inject, header, query string }{
		{"Authorization", "", "Authorization: Bearer <token>", "token=old&a=b"},
		{"another scheme", ", prefix: 'JWT '", "Authorization: JWT <token>", "token=old&a=b"},
		{"no scheme", ", prefix: ''", "Authorization: <token>", "token=old&a=b"},
		{"another header", ", name: X-Token", "X-Token: <token>", "token=old&a=b"},
		{"another header with a prefix", ", name: X-Token, prefix: 'v1 '", "X-Token: v1 <token>", "token=old&a=b"},
		{"query", ", in: query, name: token", "", "a=b&token=<token>"},
		{"cookie", ", in: cookie, name: session", "Cookie: session=<token>", "token=old&a=b"},
	}
	for _, tt := range tests {
		c := build(t, newEnv(t, nil), "{type: jwt, algorithm: HS256, key: $S"+tt.inject+"}", map[string]string{"S": secretFile(t, thirtyTwo)})[0]
		req := newGet(t)
		used, err := c.Apply(req)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		var header []string
		for name, values := range req.Header {
			header = append(header, name+": "+strings.Join(values, "|"))
		}
		hide := func(s string) string { return strings.ReplaceAll(s, used[0].Reveal(), "<token>") }
		if got := hide(strings.Join(header, "\n")); got != tt.header {
			t.Errorf("%s: header %q, want %q", tt.name, got, tt.header)
		}
		if got := hide(req.URL.RawQuery); got != tt.query {
			t.Errorf("%s: query %q, want %q", tt.name, got, tt.query)
		}
	}
}

func TestJWTWithAnIDIsForOneRequest(t *testing.T) {
	t.Parallel()
	c := build(t, newEnv(t, nil), "{type: jwt, algorithm: HS256, key: $S, generate: [exp, jti]}", map[string]string{"S": secretFile(t, thirtyTwo)})[0]
	seen := map[any]bool{}
	for range 3 {
		req := newGet(t)
		if _, err := c.Apply(req); err != nil {
			t.Fatal(err)
		}
		id, ok := claimsOf(t, strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "))["jti"].(string)
		if !ok || len(id) < 22 || seen[id] {
			t.Errorf("jti %q is short, or was seen before", id)
		}
		seen[id] = true
	}
}

func TestJWTKeys(t *testing.T) {
	t.Parallel()
	rsaGood, rsaPublic := rsaPair(t, 2048)
	rsaSmall, _ := rsaPair(t, 1024)
	p256 := ecKey(t, elliptic.P256())
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, _ := pemPair(t, edKey)
	raw := []byte(thirtyTwo)
	raw[0], raw[1] = 0xfb, 0xff // so that the two alphabets of base64 differ
	tests := []struct{ name, settings, key, want string }{
		{"text", "HS256", thirtyTwo, ""},
		{"base64", "HS256, key_encoding: base64", base64.StdEncoding.EncodeToString(raw), ""},
		{"base64url without padding", "HS256, key_encoding: base64", base64.RawURLEncoding.EncodeToString(raw), ""},
		{"hex", "HS256, key_encoding: hex", hex.EncodeToString(raw), ""},
		{"EC in its older form, after its parameters", "ES256", "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + p256, ""},
		{"short", "HS256", thirtyTwo[1:], "less than 32 bytes"},
		{"short for HS384", "HS384", thirtyTwo, "less than 48 bytes"},
		{"short for HS512", "HS512", thirtyTwo, "less than 64 bytes"},
		{"short once decoded", "HS256, key_encoding: hex", hex.EncodeToString(raw[1:]), "less than 32 bytes"},
		{"not base64", "HS256, key_encoding: base64", "%%%" + thirtyTwo, "not base64"},
		{"not hex", "HS256, key_encoding: hex", thirtyTwo, "not hex"},
		{"a line break", "HS256", thirtyTwo + "\n\n", "line break"},
		{"a public key as a shared secret", "HS256", rsaPublic, "it is PEM"},
		{"a public key", "RS256", rsaPublic, "it is public"},
		{"a small RSA key", "PS256", rsaSmall, "less than 2048 bits"},
		{"EC for RSA", "RS256", p256, "it is an EC key on P-256, and an RSA key is wanted"},
		{"RSA for EC", "ES256", rsaGood, "it is an RSA key, and an EC key on P-256 is wanted"},
		{"another curve", "ES384", p256, "it is an EC key on P-256, and an EC key on P-384 is wanted"},
		{"Ed25519 for EC", "ES256", ed, "it is an Ed25519 key, and an EC key on P-256 is wanted"},
		{"EC for Ed25519", "EdDSA", p256, "it is an EC key on P-256, and an Ed25519 key is wanted"},
		{"text for RSA", "RS512", thirtyTwo, "not a private key in PEM form"},
		{"a damaged key", "EdDSA", strings.Replace(ed, "MC4", "MC5", 1), "damaged"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := build(t, newEnv(t, nil), "{type: jwt, algorithm: "+tt.settings+", key: $S}", map[string]string{"S": secretFile(t, tt.key)})[0]
			req := newGet(t)
			used, err := c.Apply(req)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				t.Fatal("no error")
			}
			slug, hint := failure(t, err)
			if slug != "secret_invalid" || !strings.Contains(hint, "(a") || !strings.Contains(err.Error(), tt.want) || used != nil || len(req.Header) > 0 {
				t.Errorf("got %s, hint %q: %v, want secret_invalid with %q and what to store", slug, hint, err, tt.want)
			}
			for _, line := range strings.Split(tt.key, "\n") {
				if !strings.HasPrefix(line, "-----") && len(line) > 8 && strings.Contains(err.Error()+hint, line[:8]) {
					t.Errorf("%q gives the key away", err)
				}
			}
		})
	}
}

// BenchmarkJWT is the cost of a token that is used again, and of one for each request.
func BenchmarkJWT(b *testing.B) {
	for _, bb := range []struct{ name, inject string }{{"kept", ""}, {"minted", ", generate: [iat, exp, jti]"}} {
		b.Run(bb.name, func(b *testing.B) {
			c := build(b, newEnv(b, nil), "{type: jwt, algorithm: HS256, claims: {iss: me}, key: $S"+bb.inject+"}", map[string]string{"S": secretFile(b, thirtyTwo)})[0]
			req := newGet(b)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Apply(req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
