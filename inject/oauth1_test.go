package inject_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/credproxy/credproxy/inject"
)

const formType = "application/x-www-form-urlencoded"

// masked hides what differs from request to request.
func masked(s string) string {
	s = regexp.MustCompile(`oauth_timestamp="?\d{10}`).ReplaceAllString(s, "oauth_timestamp=T")
	s = regexp.MustCompile(`oauth_nonce="?[A-Z2-7]{26}`).ReplaceAllString(s, "oauth_nonce=N")
	return regexp.MustCompile(`oauth_signature="?[\w%.~-]+`).ReplaceAllString(s, "oauth_signature=S")
}

func TestOAuth1Placement(t *testing.T) {
	t.Parallel()
	const (
		settings = "type: oauth1, consumer_key: me, consumer_secret: $S"
		protocol = "oauth_consumer_key=me&oauth_signature_method=HMAC-SHA1&oauth_timestamp=T&oauth_nonce=N&oauth_version=1.0"
		signed   = protocol + "&oauth_signature=S"
		header   = `OAuth oauth_consumer_key="me", oauth_signature_method="HMAC-SHA1", oauth_timestamp=T", oauth_nonce=N", oauth_version="1.0"`
	)
	tests := []struct {
		name, inject        string
		query, kind, body   string
		authorization       string // that the client sends
		wantQuery, wantBody string
		wantAuthorization   string
	}{
		{name: "header", inject: settings, query: "a=1&a=1&&b", kind: formType, body: "c=d+e",
			wantQuery: "a=1&a=1&&b", wantBody: "c=d+e", wantAuthorization: header + `, oauth_signature=S"`},
		{name: "header with a realm", inject: settings + ", realm: my photos", wantAuthorization: `OAuth realm="my photos", ` + header[len("OAuth "):] + `, oauth_signature=S"`},
		{name: "query", inject: settings + ", placement: query", query: "a=1&&b=%2f", kind: formType, body: "c",
			wantQuery: "a=1&&b=%2f&" + signed, wantBody: "c"},
		{name: "query, alone", inject: settings + ", placement: query", wantQuery: signed},
		{name: "body", inject: settings + ", placement: body", query: "a=1", kind: formType + "; charset=utf-8", body: "c=d+e&", wantQuery: "a=1", wantBody: "c=d+e&&" + signed},
		{name: "an empty form", inject: settings + ", placement: body", kind: formType, wantBody: signed},
		{name: "body hash", inject: settings, kind: "application/json", body: "Hello World!",
			wantBody: "Hello World!", wantAuthorization: header + `, oauth_body_hash="Lve95gjOVATpfV8EL5X4nxwjKHE%3D", oauth_signature=S"`},
		{name: "body hash, HMAC-SHA256", inject: settings + ", signature_method: HMAC-SHA256", kind: "application/json", body: "Hello World!", wantBody: "Hello World!",
			wantAuthorization: strings.Replace(header, "SHA1", "SHA256", 1) + `, oauth_body_hash="f4OxZX%2Fx%2FFO5LcGBSKHWXfwtSx%2Bj1ncoSt3SABJtkGk%3D", oauth_signature=S"`},
		{name: "no body hash", inject: settings + ", body_hash: false", kind: "application/json", body: "{}", wantBody: "{}", wantAuthorization: header + `, oauth_signature=S"`},
		{name: "a form under another name", inject: settings + ", body_hash: false", kind: formType + "x", body: "oauth_nonce=1", wantBody: "oauth_nonce=1",
			wantAuthorization: header + `, oauth_signature=S"`},
		{name: "PLAINTEXT", inject: settings + ", signature_method: PLAINTEXT", kind: "application/json", body: "{}", wantBody: "{}",
			wantAuthorization: strings.Replace(header, "HMAC-SHA1", "PLAINTEXT", 1) + `, oauth_signature=S"`},
		{name: "the client's own parameters go", inject: settings, query: "oauth_token=x&a=1&oauth_nonce=y&%6Fauth_signature=z&oauth_verifier=v", kind: formType,
			body: "oauth_version=1.0&c=d&oauth_callback=oob", authorization: `OAuth oauth_token="x"`,
			wantQuery: "a=1&oauth_verifier=v", wantBody: "c=d&oauth_callback=oob", wantAuthorization: header + `, oauth_signature=S"`},
		{name: "and its header, with another placement", inject: settings + ", placement: query", authorization: `oauth oauth_token="x"`, wantQuery: signed},
		{name: "but no other header", inject: settings + ", placement: query", authorization: "Basic eDp5", wantQuery: signed, wantAuthorization: "Basic eDp5"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := build(t, newEnv(t, nil), "{"+tt.inject+"}", map[string]string{"S": secretFile(t, "hush")})[0]
			req, err := http.NewRequestWithContext(t.Context(), "POST", "http://api.example.com/?"+tt.query, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if tt.kind != "" {
				req.Header.Set("Content-Type", tt.kind)
			}
			if tt.authorization != "" {
				req.Header.Set("Authorization", tt.authorization)
			}
			if _, err := c.Apply(req); err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(req.Body)
			if err != nil {
				t.Fatal(err)
			}
			if got := masked(req.URL.RawQuery); got != tt.wantQuery {
				t.Errorf("query\n%s, want\n%s", got, tt.wantQuery)
			}
			if got := masked(string(body)); got != tt.wantBody || req.ContentLength != int64(len(body)) {
				t.Errorf("body of %d bytes (%d announced)\n%s, want\n%s", len(body), req.ContentLength, got, tt.wantBody)
			}
			if got := masked(req.Header.Get("Authorization")); got != tt.wantAuthorization {
				t.Errorf("Authorization\n%s, want\n%s", got, tt.wantAuthorization)
			}
		})
	}
}

func TestOAuth1Refuses(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("a=1&", 1<<18) + "b" // one byte more than 1 MiB
	tests := []struct {
		name, inject, kind string
		body               io.Reader
		length             int64
		want               string // slug; empty: it is sent, body and all
		hint               string
	}{
		{"the largest form", "", formType, strings.NewReader(large[1:]), int64(len(large) - 1), "", ""},
		{"a larger form", "", formType, strings.NewReader(large), int64(len(large)), "body_too_large", "send less"},
		{"a larger form of unknown length", "", formType, strings.NewReader(large), -1, "body_too_large", "send less"},
		{"a larger body", "", "text/plain", strings.NewReader(large), -1, "body_too_large", "body_hash: false"},
		{"a larger body, without its hash", ", body_hash: false", "text/plain", strings.NewReader(large), -1, "", ""},
		{"a larger form, PLAINTEXT", ", signature_method: PLAINTEXT", formType, strings.NewReader(large), -1, "", ""},
		{"no form to stand in", ", placement: body", "application/json", strings.NewReader("{}"), 2, "bad_body", "placement"},
		{"no body to stand in", ", placement: body", "", nil, 0, "bad_body", "placement"},
		{"a body that breaks off", "", formType, io.MultiReader(strings.NewReader("a=1"), iotest.ErrReader(errors.New("gone"))), 10, "client_gone", "again"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := build(t, newEnv(t, nil), "{type: oauth1, consumer_key: me, consumer_secret: $S"+tt.inject+"}", map[string]string{"S": secretFile(t, "hush")})[0]
			req, err := http.NewRequestWithContext(t.Context(), "POST", "http://api.example.com/?a=b", tt.body)
			if err != nil {
				t.Fatal(err)
			}
			req.ContentLength = tt.length
			if tt.kind != "" {
				req.Header.Set("Content-Type", tt.kind)
			}
			used, err := c.Apply(req)
			if tt.want == "" {
				body, readErr := io.ReadAll(req.Body)
				if err != nil || readErr != nil || len(body) < 1<<20 || !strings.HasPrefix(large, string(body[:10])) && !strings.HasPrefix(large[1:], string(body[:10])) {
					t.Errorf("Apply: %v; %d bytes of the body, %v", err, len(body), readErr)
				}
				return
			}
			if err == nil {
				t.Fatal("no error")
			}
			if slug, hint := failure(t, err); slug != tt.want || !strings.Contains(hint, tt.hint) || used != nil || len(req.Header["Authorization"]) > 0 {
				t.Errorf("got %s, hint %q, used %v, want %s, hint with %q and nothing used", slug, hint, used, tt.want, tt.hint)
			}
		})
	}
}

// ecKey is an EC key in the given form of PEM.
func ecKey(t *testing.T, curve elliptic.Curve) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

func TestOAuth1Secrets(t *testing.T) {
	t.Parallel()
	const hmac, rsa = "consumer_secret: $S", "signature_method: RSA-SHA1, private_key: $S"
	good, public := rsaPair(t, 2048)
	small, _ := rsaPair(t, 1024)
	tests := []struct{ name, inject, secret, want string }{
		{"a line break", hmac, "abcd\nef", "line break"},
		{"not UTF-8", hmac, "abcd\xff", "not UTF-8"},
		{"a space at the end", hmac, "abcd ", "ends with a space"},
		{"a token with a line break", "consumer_secret: $OK, token: $S", "abcd\nef", "line break"},
		{"a small RSA key", rsa, small, "less than 2048 bits"},
		{"an EC key", rsa, ecKey(t, elliptic.P256()), "it is an EC key on P-256"},
		{"a public key", rsa, public, "it is public"},
		{"no PEM", rsa, "abcdefgh", "not a private key in PEM form"},
		{"a damaged key", rsa, strings.Replace(good, "MII", "MIJ", 1), "damaged"},
		{"an encrypted key", rsa, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n", "encrypted"},
		{"a good key", rsa, good, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := build(t, newEnv(t, nil), "{type: oauth1, consumer_key: me, "+tt.inject+"}", map[string]string{"S": secretFile(t, tt.secret), "OK": secretFile(t, "ok")})[0]
			req, err := http.NewRequestWithContext(t.Context(), "GET", "http://api.example.com/", nil)
			if err != nil {
				t.Fatal(err)
			}
			used, err := c.Apply(req)
			if tt.want == "" {
				if err != nil || len(used) != 1 {
					t.Errorf("Apply: %d values used, %v", len(used), err)
				}
				return
			}
			if err == nil {
				t.Fatal("no error")
			}
			slug, hint := failure(t, err)
			if slug != "secret_invalid" || hint == "" || !strings.Contains(err.Error(), tt.want) || used != nil || len(req.Header) > 0 {
				t.Errorf("got %s, hint %q: %v, want secret_invalid with %q and an unchanged request", slug, hint, err, tt.want)
			}
			if strings.Contains(err.Error()+hint, "abcd") {
				t.Errorf("%q gives the secret away", err)
			}
		})
	}
}

func TestOAuth1UsedAndRejected(t *testing.T) {
	t.Parallel()
	path := func(value string) string { return strings.TrimPrefix(secretFile(t, value), "file:") }
	paths := []string{path("c&s"), path("ts"), path("ck"), path("tok")}
	text := "{type: oauth1, consumer_secret: $0, token_secret: $1, consumer_key: $2, token: $3, signature_method: PLAINTEXT}"
	for i, p := range paths {
		text = strings.ReplaceAll(text, "$"+strconv.Itoa(i), "{exec: [cat, "+strconv.Quote(p)+"]}")
	}
	c := build(t, newEnv(t, nil), text, nil)[0]
	apply := func() (got []string) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://api.example.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		used, err := c.Apply(req)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range used {
			got = append(got, v.Reveal())
		}
		refuse(c, used)
		return got
	}
	if got, want := apply(), []string{"c&s", "ts", "ck", "tok", "c%26s&ts", "c%2526s%26ts"}; !slices.Equal(got, want) {
		t.Errorf("used %q, want %q", got, want)
	}
	for _, p := range paths {
		if err := os.WriteFile(p, []byte("new"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The first was rejected before the files changed, and is asked for again; what comes then is new.
	if got, want := apply(), []string{"new", "new", "new", "new", "new&new", "new%26new"}; !slices.Equal(got, want) {
		t.Errorf("after Reject: used %q, want %q", got, want)
	}
}

func TestOAuth1InTheBodyIsPresent(t *testing.T) {
	t.Parallel()
	c := build(t, newEnv(t, nil), "{type: oauth1, consumer_key: me, consumer_secret: $S, placement: body}", map[string]string{"S": secretFile(t, "hush")})[0]
	tests := []struct {
		name, kind, body string
		want             bool
	}{
		{"signed by the client", formType, "a=1&oauth%5Fnonce=2", true},
		{"not signed", formType, "a=oauth_nonce&oauth_verifier=1", false},
		{"no form", "text/plain", "oauth_nonce=1", false},
		{"too large to look into", formType, strings.Repeat("oauth_nonce=1&", 80_000), false},
	}
	for _, tt := range tests {
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://api.example.com/", bytes.NewReader([]byte(tt.body)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", tt.kind)
		if got := slices.ContainsFunc(c.Targets(), func(target inject.Target) bool { return target.Present(req) }); got != tt.want {
			t.Errorf("%s: present is %v, want %v", tt.name, got, tt.want)
		}
		if body, err := io.ReadAll(req.Body); err != nil || string(body) != tt.body {
			t.Errorf("%s: the body is not what it was: %d bytes, %v", tt.name, len(body), err)
		}
	}
}
