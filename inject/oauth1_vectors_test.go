package inject

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/secrets"
)

func TestOAuth1BaseString(t *testing.T) {
	t.Parallel()
	rfc := []param{
		{"oauth_consumer_key", "9djdj82h48djs9d2"}, {"oauth_token", "kkk9d7dh3k39sjv7"}, {"oauth_signature_method", "HMAC-SHA1"},
		{"oauth_timestamp", "137131201"}, {"oauth_nonce", "7d8f3e4a"},
	}
	tests := []struct {
		name, method, url, form string
		params                  []param
		want                    string
	}{
		{"RFC 5849 section 3.4.1.1", "POST", "http://example.com/request?b5=%3D%253D&a3=a&c%40=&a2=r%20b", "c2&a3=2+q", rfc,
			"POST&http%3A%2F%2Fexample.com%2Frequest&a2%3Dr%2520b%26a3%3D2%2520q%26a3%3Da%26b5%3D%253D%25253D%26c%2540%3D%26c2%3D%26oauth_consumer_key%3D9djdj82h48djs9d2%26" +
				"oauth_nonce%3D7d8f3e4a%26oauth_signature_method%3DHMAC-SHA1%26oauth_timestamp%3D137131201%26oauth_token%3Dkkk9d7dh3k39sjv7"},
		{"RFC 5849 section 3.4.1.2, http", "GET", "http://EXAMPLE.COM:80/r%20v/X?id=123", "", nil, "GET&http%3A%2F%2Fexample.com%2Fr%2520v%2FX&id%3D123"},
		{"RFC 5849 section 3.4.1.2, https", "GET", "https://www.example.net:8080/?q=1", "", nil, "GET&https%3A%2F%2Fwww.example.net%3A8080%2F&q%3D1"},
		{"default port of https", "GET", "https://example.com:443/", "", nil, "GET&https%3A%2F%2Fexample.com%2F&"},
		{"port 443 over http", "GET", "http://example.com:443/", "", nil, "GET&http%3A%2F%2Fexample.com%3A443%2F&"},
		{"IPv6", "GET", "http://[2001:DB8::1]:80/", "", nil, "GET&http%3A%2F%2F%5B2001%3Adb8%3A%3A1%5D%2F&"},
		{"no path", "GET", "http://example.com", "", nil, "GET&http%3A%2F%2Fexample.com%2F&"},
		{"an encoded path", "GET", "http://example.com/a%2Fb;c/%C3%BC/../d", "", nil, "GET&http%3A%2F%2Fexample.com%2Fa%252Fb%3Bc%2F%25C3%25BC%2F..%2Fd&"},
		{"repeated, the same", "GET", "http://example.com/?a=1&a=1", "", nil, "GET&http%3A%2F%2Fexample.com%2F&a%3D1%26a%3D1"},
		{"repeated, in order of value", "GET", "http://example.com/?a=2&a=10&a=1&a=", "", nil, "GET&http%3A%2F%2Fexample.com%2F&a%3D%26a%3D1%26a%3D10%26a%3D2"},
		{"order by encoded name", "GET", "http://example.com/?%C3%BC=1&z=1&a_b=1&a%20b=1&ab=1", "", nil,
			"GET&http%3A%2F%2Fexample.com%2F&%25C3%25BC%3D1%26a%2520b%3D1%26a_b%3D1%26ab%3D1%26z%3D1"},
		{"a space either way", "GET", "http://example.com/?a=x+y&b=x%20y&c=x%2By", "", nil, "GET&http%3A%2F%2Fexample.com%2F&a%3Dx%2520y%26b%3Dx%2520y%26c%3Dx%252By"},
		{"a semicolon is no separator", "GET", "http://example.com/?a=1;b=2", "", nil, "GET&http%3A%2F%2Fexample.com%2F&a%3D1%253Bb%253D2"},
		{"empty items", "GET", "http://example.com/?&&a&=&b=&", "", nil, "GET&http%3A%2F%2Fexample.com%2F&%3D%26a%3D%26b%3D"},
		{"no escapes", "GET", "http://example.com/?a=%&b=%zz&c=%4", "", nil, "GET&http%3A%2F%2Fexample.com%2F&a%3D%2525%26b%3D%2525zz%26c%3D%25254"},
		{"unreserved characters stay, lower-case escapes do not", "GET", "http://example.com/?a=-._~%2d%7e%3a", "", nil, "GET&http%3A%2F%2Fexample.com%2F&a%3D-._~-~%253A"},
		{"bytes that are not UTF-8", "GET", "http://example.com/?a=%ff", "", nil, "GET&http%3A%2F%2Fexample.com%2F&a%3D%25FF"},
		{"method in upper case", "patch", "http://example.com/", "", nil, "PATCH&http%3A%2F%2Fexample.com%2F&"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			req, err := http.NewRequestWithContext(t.Context(), tt.method, tt.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			params := slices.Concat(parseForm(req.URL.RawQuery), parseForm(tt.form), tt.params)
			if got := baseString(req.Method, baseURI(req), params); got != tt.want {
				t.Errorf("got\n%s, want\n%s", got, tt.want)
			}
		})
	}
}

// The RFC's request has no oauth_version, which Apply always sends.
func TestOAuth1SignatureOfTheRFC(t *testing.T) {
	t.Parallel()
	base := baseString("GET", "http://photos.example.net/photos", []param{
		{"file", "vacation.jpg"}, {"size", "original"}, {"oauth_consumer_key", "dpf43f3p2l4k3l03"}, {"oauth_token", "nnch734d00sl2jdk"},
		{"oauth_signature_method", "HMAC-SHA1"}, {"oauth_timestamp", "137131202"}, {"oauth_nonce", "chapoH"},
	})
	keys := oauth1Keys{consumerSecret: "kd94hf93k423kf44", tokenSecret: "pfkkdhi9sl3r4s00"}
	got, err := keys.sign(hmacSHA1, base)
	if want := "MdpQcU8iPSUjWoN/UDMsK2sui9I="; err != nil || got != want {
		t.Errorf("RFC 5849 section 1.2: got %s, %v, want %s", got, err, want)
	}
	// RFC 5849 section 3.4.4, and the request for temporary credentials of section 1.2.
	if got, err := (oauth1Keys{consumerSecret: "kd94hf93k423kf44"}).sign(plaintext, ""); err != nil || got != "kd94hf93k423kf44&" {
		t.Errorf("PLAINTEXT: got %s, %v", got, err)
	}
	if got, err := (oauth1Keys{consumerSecret: "a&b %", tokenSecret: "c+ü"}).sign(plaintext, ""); err != nil || got != "a%26b%20%25&c%2B%C3%BC" {
		t.Errorf("PLAINTEXT, encoded: got %s, %v", got, err)
	}
}

// fixedOAuth1 is the oauth1 of an inject field whose clock stands still.
func fixedOAuth1(t *testing.T, text string, at int64, nonce string, vars map[string]string) *credential {
	t.Helper()
	for name, value := range vars {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		text = strings.ReplaceAll(text, "$"+name, "'file:"+path+"'")
	}
	n, err := strict.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	env := Env{Secrets: secrets.NewResolver(secrets.Config{})}
	t.Cleanup(env.Secrets.Close)
	creds, err := New(n, env)
	if err != nil {
		t.Fatal(err)
	}
	c := creds[0].(*credential)
	o := c.method.(*oauth1)
	o.now, o.nonce = func() time.Time { return time.Unix(at, 0) }, func() string { return nonce }
	return c
}

func TestOAuth1PublishedRequests(t *testing.T) {
	t.Parallel()
	const form = "application/x-www-form-urlencoded"
	tests := []struct {
		name, inject, nonce string
		at                  int64
		secrets             map[string]string
		method, url         string
		contentType, body   string
		want                string
	}{
		{"OAuth Core 1.0 appendix A", "{type: oauth1, consumer_key: dpf43f3p2l4k3l03, consumer_secret: $C, token: nnch734d00sl2jdk, token_secret: $T, realm: 'http://photos.example.net/'}",
			"kllo9940pd9333jh", 1191242096, map[string]string{"C": "kd94hf93k423kf44", "T": "pfkkdhi9sl3r4s00"},
			"GET", "http://photos.example.net/photos?file=vacation.jpg&size=original", "", "",
			`OAuth realm="http://photos.example.net/", oauth_consumer_key="dpf43f3p2l4k3l03", oauth_token="nnch734d00sl2jdk", oauth_signature_method="HMAC-SHA1", ` +
				`oauth_timestamp="1191242096", oauth_nonce="kllo9940pd9333jh", oauth_version="1.0", oauth_signature="tR3%2BTy81lMeYAr%2FFid0kMTYa%2FWM%3D"`},
		{"Twitter", "{type: oauth1, consumer_key: xvz1evFS4wEEPTGEFPHBog, consumer_secret: $C, token: $T, token_secret: $S}",
			"kYjzVBB8Y0ZFabxSWbWovY3uYSQ2pTgmZeNu2VS4cg", 1318622958, map[string]string{
				"C": "kAcSOqF21Fu85e7zjz7ZN2U4ZRhfV3WpwPAoE3Z7kBw", "S": "LswwdoUaIvS8ltyTt5jkRh4J50vUPVVHtR2YPi5kE",
				"T": "370773112-GmHxMAgYyLbNEtIKZeRNFsMKPR9EyMZeS9weJAEb"},
			"POST", "https://api.twitter.com/1.1/statuses/update.json?include_entities=true", form, "status=Hello%20Ladies%20%2b%20Gentlemen%2c%20a%20signed%20OAuth%20request%21",
			`OAuth oauth_consumer_key="xvz1evFS4wEEPTGEFPHBog", oauth_token="370773112-GmHxMAgYyLbNEtIKZeRNFsMKPR9EyMZeS9weJAEb", oauth_signature_method="HMAC-SHA1", ` +
				`oauth_timestamp="1318622958", oauth_nonce="kYjzVBB8Y0ZFabxSWbWovY3uYSQ2pTgmZeNu2VS4cg", oauth_version="1.0", oauth_signature="hCtSmYh%2BiHYCEqBWrE7C7hYmtUk%3D"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := fixedOAuth1(t, tt.inject, tt.at, tt.nonce, tt.secrets)
			req, err := http.NewRequestWithContext(t.Context(), tt.method, tt.url, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if tt.contentType != "" {
				req.Header.Set("Content-Type", tt.contentType)
			}
			query := req.URL.RawQuery
			if _, err := c.Apply(req); err != nil {
				t.Fatal(err)
			}
			if got := req.Header.Get("Authorization"); got != tt.want {
				t.Errorf("got\n%s, want\n%s", got, tt.want)
			}
			body, err := io.ReadAll(req.Body)
			if err != nil || string(body) != tt.body || req.ContentLength != int64(len(tt.body)) || req.URL.RawQuery != query {
				t.Errorf("the request is changed: body %q of %d bytes, %v, query %q", body, req.ContentLength, err, req.URL.RawQuery)
			}
		})
	}
}
