package inject_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/internal/strict"
)

// hmacOf is HMAC-SHA256 in hex, with the key "a shared secret".
func hmacOf(message string) string {
	mac := hmac.New(sha256.New, []byte("a shared secret"))
	mac.Write([]byte(message))
	return hex.EncodeToString(mac.Sum(nil))
}

func TestHMACOnTheWire(t *testing.T) {
	t.Parallel()
	base64Of := func(message string) string {
		sum, err := hex.DecodeString(hmacOf(message))
		if err != nil {
			t.Fatal(err)
		}
		return base64.StdEncoding.EncodeToString(sum)
	}
	const settings = "{type: hmac, key: $S, algorithm: SHA-256, "
	checkShapes(t, []shape{
		{name: "header", secret: "a shared secret", inject: settings + "message: '{method} {target}', name: X-Sig}", target: "/a%2fb?q=a%20b&&c",
			want: []string{"X-Sig: " + hmacOf("GET /a%2fb?q=a%20b&&c")}},
		{name: "in place of the client's", secret: "a shared secret", inject: settings + "message: '{path}{{}}', name: X-Sig, prefix: 'v1 '}",
			header: http.Header{"X-Sig": {"mine", "too"}, "X_sig": {"also"}}, want: []string{"X-Sig: v1 " + hmacOf("/{}")}},
		{name: "with a suffix", secret: "a shared secret", inject: settings + `message: '{path}', name: Authorization, prefix: 'Signature keyId="a",signature="', suffix: '"'}`,
			want: []string{`Authorization: Signature keyId="a",signature="` + hmacOf("/") + `"`}},
		{name: "query", secret: "a shared secret", inject: settings + "message: '{query}', encoding: base64, in: query, name: s, query: {z: a+b, y: 'é'}}", target: "/?s=old&a=%2f&z=1&",
			wantTarget: "/?a=%2f&&y=%C3%A9&z=a%2Bb&s=" + strings.NewReplacer("+", "%2B", "/", "%2F", "=", "%3D").Replace(base64Of("a=%2f&&y=%C3%A9&z=a%2Bb"))},
		{name: "headers", secret: "a shared secret", inject: settings + "message: '{header:x-a}|{header:X-B}|{header:X-C}', name: X-Sig, headers: {X-A: '{method}-1', X-Key-Id: k7}}",
			header: http.Header{"X-A": {"client's"}, "X-B": {"1", "2"}}, want: []string{"X-A: GET-1", "X-B: 1", "X-B: 2", "X-Key-Id: k7", "X-Sig: " + hmacOf("GET-1|1, 2|")}},
		{name: "after another entry", secret: "a shared secret",
			inject: "- {type: api_key, name: X-Id, value: $S}\n- {type: api_key, in: query, name: k, value: $S}\n- " + settings + "message: '{header:X-ID}{query}', name: X-Sig}",
			header: http.Header{"X-Id": {"client's"}}, wantTarget: "/?k=a%20shared%20secret",
			want: []string{"X-Id: a shared secret", "X-Sig: " + hmacOf("a shared secretk=a%20shared%20secret")}},
	})
}

// TestHMACPerRequest: many requests at once have a nonce each, the same in every template.
func TestHMACPerRequest(t *testing.T) {
	t.Parallel()
	c := build(t, newEnv(t, nil), "{type: hmac, key: $S, algorithm: SHA-256, message: '{nonce}{timestamp_ms}{body}', name: X-Sig, headers: {X-Nonce: '{nonce}', X-Time: '{timestamp_ms}'}}",
		map[string]string{"S": secretFile(t, "a shared secret")})[0]
	var mu sync.Mutex
	seen := map[string]bool{}
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), "POST", "http://api.example.com/", strings.NewReader("body"))
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := c.Apply(req); err != nil {
				t.Error(err)
				return
			}
			nonce, at := req.Header.Get("X-Nonce"), req.Header.Get("X-Time")
			if got := req.Header["X-Sig"]; len(got) != 1 || got[0] != hmacOf(nonce+at+"body") {
				t.Errorf("X-Sig %q for nonce %q and time %q", got, nonce, at)
			}
			mu.Lock()
			defer mu.Unlock()
			seen[nonce] = true
		})
	}
	all.Wait()
	if len(seen) != 50 || seen[""] {
		t.Errorf("%d nonces in 50 requests", len(seen))
	}
}

func TestHMACRefuses(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", 1<<20)
	tests := []struct {
		name, message, fields, secret, body string
		length                              int64
		want                                string // slug; empty: it is sent, body and all
	}{
		{"the largest body", "{body}", "", "secret", large, 1 << 20, ""},
		{"a larger body", "{body}", "", "secret", large + "x", 1<<20 + 1, "body_too_large"},
		{"a larger body of unknown length", "{body_sha256_hex}", "", "secret", large + "x", -1, "body_too_large"},
		{"a larger body, for a header", "{header:Digest}", ", headers: {Digest: 'SHA-256={body_sha256_base64}'}", "secret", large + "x", -1, "body_too_large"},
		{"a larger body that is not signed", "{target}", "", "secret", large + "x", -1, ""},
		{"a key with a line break", "{target}", "", "Zq9\nret", "", 0, "secret_invalid"},
		{"a key that is PEM", "{target}", "", "-----BEGIN PUBLIC KEY-----Zq9", "", 0, "secret_invalid"},
		{"a key that is no base64", "{target}", ", key_encoding: base64", "Zq9*ret*", "", 0, "secret_invalid"},
		{"a key that is no hex", "{target}", ", key_encoding: hex", "Zq9xyz", "", 0, "secret_invalid"},
		{"a key of no bytes", "{target}", ", key_encoding: base64", "=", "", 0, "secret_invalid"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := build(t, newEnv(t, nil), "{type: hmac, key: $S, algorithm: SHA-256, name: X-Sig, message: '"+tt.message+"'"+tt.fields+"}", map[string]string{"S": secretFile(t, tt.secret)})[0]
			req, err := http.NewRequestWithContext(t.Context(), "POST", "http://api.example.com/?a", io.NopCloser(strings.NewReader(tt.body)))
			if err != nil {
				t.Fatal(err)
			}
			req.ContentLength = tt.length
			used, err := c.Apply(req)
			if tt.want == "" {
				body, readErr := io.ReadAll(req.Body)
				if err != nil || readErr != nil || string(body) != tt.body || req.Header["X-Sig"] == nil {
					t.Errorf("Apply: %v; body of %d bytes, %v; header %v", err, len(body), readErr, req.Header)
				}
				return
			}
			if err == nil || used != nil || len(req.Header) != 0 || req.URL.RawQuery != "a" {
				t.Fatalf("Apply: %v, header %v, query %q; want an error and nothing changed", err, req.Header, req.URL.RawQuery)
			}
			if slug, hint := failure(t, err); slug != tt.want || hint == "" || strings.Contains(err.Error()+hint, "Zq9") {
				t.Errorf("slug %q, want %q; hint %q; error %q", slug, tt.want, hint, err)
			}
		})
	}
}

func TestHMACUsedAndRejected(t *testing.T) {
	t.Parallel()
	ref := secretFile(t, "before")
	c := build(t, newEnv(t, nil), "{type: hmac, key: $S, algorithm: SHA-256, name: X-Sig, message: '{path}'}", map[string]string{"S": ref})[0]
	sign := func(want string) {
		t.Helper()
		req := newGet(t)
		used, err := c.Apply(req)
		if err != nil || len(used) != 1 || used[0].Reveal() != want {
			t.Fatalf("Apply: %v; %d values, want one: %q", err, len(used), want)
		}
		mac := hmac.New(sha256.New, []byte(want))
		mac.Write([]byte("/"))
		if got := req.Header["X-Sig"]; len(got) != 1 || got[0] != hex.EncodeToString(mac.Sum(nil)) {
			t.Errorf("X-Sig %q is not signed with %q", got, want)
		}
		refuse(c, used)
	}
	sign("before")
	if err := os.WriteFile(strings.TrimPrefix(ref, "file:"), []byte("after"), 0o600); err != nil {
		t.Fatal(err)
	}
	sign("after")
}

func TestHMACTargets(t *testing.T) {
	t.Parallel()
	c := build(t, newEnv(t, nil), "{type: hmac, key: keyring:a, algorithm: SHA-512, message: '{path}', name: X-Sig, prefix: 't={timestamp},v1=', headers: {X-B: b, X-A: '{nonce}'}, query: {q: '1'}}", nil)[0]
	want := []inject.Target{{In: "header", Name: "X-Sig", Shows: "t={timestamp},v1=<HMAC-SHA-512 with <keyring:a>>"}, {In: "header", Name: "X-A", Shows: "{nonce}"},
		{In: "header", Name: "X-B", Shows: "b"}, {In: "query", Name: "q", Shows: "1"}}
	if got := c.Targets(); !slices.Equal(got, want) {
		t.Errorf("targets %v, want %v", got, want)
	}
	if refs := c.Refs(); len(refs) != 1 || refs[0].String() != "keyring:a" {
		t.Errorf("refs %v", refs)
	}
}

func TestHMACMistakes(t *testing.T) {
	t.Parallel()
	const known = "(known: body, body_md5_base64, body_md5_hex, body_sha1_base64, body_sha1_hex, body_sha256_base64, body_sha256_hex, body_sha512_base64, body_sha512_hex, " +
		"host, method, nonce, path, query, target, timestamp, timestamp_http, timestamp_ms, timestamp_rfc3339, timestamp_rfc3339_ms, header:NAME)"
	const good = "{type: hmac, key: keyring:a, algorithm: SHA-256, name: X-Sig, message: '{path}'"
	tests := []struct {
		name, inject string
		want         []string
	}{
		{"nothing but the type", "{type: hmac}", []string{`1:1: missing field "key"`, `1:1: missing field "algorithm"`, `1:1: missing field "message"`, `1:1: missing field "name"`}},
		{"algorithm", "{type: hmac, key: keyring:a, algorithm: SHA256, name: X-Sig, message: '{path}'}", []string{
			`1:41: algorithm must be "SHA-1", "SHA-256" or "SHA-512" (did you mean "SHA-256"?)`}},
		{"no quotes", "{type: hmac, key: keyring:a, algorithm: SHA-256, name: X-Sig, message: {path}}", []string{"1:72: message: want a string, not a mapping"}},
		{"misspelt", "{type: hmac, key: keyring:a, algorithm: SHA-256, name: X-Sig, message: 'é{{{path}{timestmp}{body_sha256}'}", []string{
			"1:72: message: character 10: unknown placeholder {timestmp} (did you mean {timestamp}?)", "1:72: message: character 20: unknown placeholder {body_sha256} " + known}},
		{"unknown", "{type: hmac, key: keyring:a, algorithm: SHA-256, name: X-Sig, message: '{Sk-live-0123}{}'}", []string{
			"1:72: message: character 1: unknown placeholder " + known, "1:72: message: character 15: unknown placeholder " + known}},
		{"braces", "{type: hmac, key: keyring:a, algorithm: SHA-256, name: X-Sig, message: 'a}{path}{b{path}{'}", []string{
			"1:72: message: character 2: a } without its {; for a brace itself write }}", "1:72: message: character 9: a { without its }; for a brace itself write {{",
			"1:72: message: character 17: a { without its }; for a brace itself write {{"}},
		{"nothing is signed", "{type: hmac, key: keyring:a, algorithm: SHA-256, name: X-Sig, message: '{{path}}'}", []string{
			"1:72: message: has no placeholder, so nothing of the request would be signed"}},
		{"headers in the message", "{type: hmac, key: keyring:a, algorithm: SHA-256, name: X-Sig, message: '{header:}{header:Host}{header:A b}'}", []string{
			"1:72: message: character 1: the name after header: is not a header name (RFC 9110 section 5.1)", "1:72: message: character 10: the name after header: is a header that the proxy itself writes",
			"1:72: message: character 23: the name after header: is not a header name (RFC 9110 section 5.1)"}},
		{"its own header", "{type: hmac, key: keyring:a, algorithm: SHA-256, name: X-Sig, message: '{path}{header:x_sig}'}", []string{
			"1:72: message: signs the header that the signature goes into"}},
		{"name", "{type: hmac, key: keyring:a, algorithm: SHA-256, name: Host, message: '{path}'}", []string{"1:56: name: is a header that the proxy itself writes"}},
		{"in", good + ", in: cookie}", []string{`1:86: in must be "header" or "query"`}},
		{"body in a header", good + ", prefix: '{body}', suffix: '{query}{header:X}', headers: {X: '{target}'}}", []string{
			"1:90: prefix: character 1: {body} can stand in a message only", "1:108: suffix: character 1: {query} can stand in a message only",
			"1:108: suffix: character 8: {header:…} can stand in a message only", "1:142: headers: character 1: {target} can stand in a message only"}},
		{"what a header cannot carry", good + `, prefix: "a\n", suffix: "é", headers: {X: "a\r\nb", Y: " a", TE: a, 'a b': c}}`, []string{
			"1:90: prefix: has characters that a header cannot carry", "1:105: suffix: has characters that a header cannot carry",
			"1:123: headers: it contains a line break or another control character", "1:136: headers: it begins or ends with a space",
			"1:146: headers: the name is a header that the proxy itself writes", "1:156: headers: the name is not a header name (RFC 9110 section 5.1)"}},
		{"prefix without its space", "{type: hmac, key: keyring:a, algorithm: SHA-256, name: Authorization, message: '{path}', prefix: HMAC }", []string{
			`1:98: prefix: a space is missing between it and the value; write it in quotes: "… "`}},
		{"a reference among plain text", good + ", headers: {X-Key: keyring:b}, query: {k: 'env:A'}}", []string{
			"1:99: headers: is plain text here; for a secret write an entry of type api_key before this one",
			"1:122: query: is plain text here; for a secret write an entry of type api_key before this one"}},
		{"the same place twice", good + ", headers: {x_sig: a, Y-1: b, y_1: c}}", []string{
			"1:99: headers: writes what the signature or another of them writes too", "1:115: headers: writes what the signature or another of them writes too"}},
		{"a change after the signature", "- {type: hmac, key: keyring:a, algorithm: SHA-256, name: X-Sig, message: '{target}{header:X-B}{header:Cookie}'}\n- {type: api_key, name: X_b, value: keyring:a}\n" +
			"- {type: api_key, in: query, name: x, value: keyring:a}\n- {type: api_key, in: cookie, name: c, value: keyring:a}\n- {type: api_key, name: X-C, value: keyring:a}", []string{
			"2:3: changes the header, which the entry on line 1 has signed by then; write it before that",
			"3:3: changes the query, which the entry on line 1 has signed by then; write it before that",
			"4:3: changes the cookie, which the entry on line 1 has signed by then; write it before that"}},
		{"a change of the body", "- {type: hmac, key: keyring:a, algorithm: SHA-256, name: X-Sig, message: '{path}', headers: {X: '{body_md5_hex}'}}\n" +
			"- {type: oauth1, consumer_key: a, consumer_secret: keyring:a, placement: body, signature_method: PLAINTEXT}",
			[]string{"2:3: changes the body, which the entry on line 1 has signed by then; write it before that"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			creds, err := parse(tt.inject, inject.Env{})
			errs, ok := errors.AsType[strict.Errors](err)
			if !ok || creds != nil {
				t.Fatalf("New gave %d credentials and error %v, want a strict.Errors", len(creds), err)
			}
			var got []string
			for _, e := range errs {
				got = append(got, e.Error())
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("mistakes\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

func TestHMACMistakesRepeatNoSecret(t *testing.T) {
	t.Parallel()
	const secret = "sk-Live-0123456789abcdef"
	for _, text := range []string{
		"{type: hmac, key: $, key_encoding: $, algorithm: $, message: [$], encoding: $, in: $, name: '$ x', prefix: '{$}', suffix: '}$', headers: $, query: $}",
		"{type: hmac, key: keyring:a, algorithm: SHA-1, name: '$ x', message: '{$}{header:$ x}$', headers: {'$ x': '$ ', X: '{$}'}, query: {\"\\n$\": '{$', y: 'env:$'}}",
	} {
		_, err := parse(strings.ReplaceAll(text, "$", secret), inject.Env{})
		if err == nil {
			t.Errorf("%s: no error", text)
		} else if strings.Contains(err.Error(), secret[3:12]) {
			t.Errorf("%s: the error repeats the secret: %v", text, err)
		}
	}
}

// BenchmarkHMAC is the cost of a signature, without a body and with one of 4 KiB.
func BenchmarkHMAC(b *testing.B) {
	body := strings.Repeat("x", 4096)
	for _, bb := range []struct{ name, fields, body string }{
		{"target", "message: '{timestamp}{method}{target}', headers: {X-Timestamp: '{timestamp}'}", ""},
		{"body", "message: '{timestamp}{method}{target}{body}', headers: {X-Timestamp: '{timestamp}'}", body},
		{"digest", "message: '{timestamp}{method}{target}{body_sha256_hex}', headers: {X-Timestamp: '{timestamp}'}", body},
	} {
		b.Run(bb.name, func(b *testing.B) {
			c := build(b, newEnv(b, nil), "{type: hmac, key: $S, algorithm: SHA-256, name: X-Sig, "+bb.fields+"}", map[string]string{"S": secretFile(b, thirtyTwo)})[0]
			req := newGet(b)
			b.ReportAllocs()
			for b.Loop() {
				req.Body, req.ContentLength = io.NopCloser(strings.NewReader(bb.body)), int64(len(bb.body))
				if _, err := c.Apply(req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
