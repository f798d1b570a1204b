package inject

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/credproxy/credproxy/internal/testneed"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

// docExample is the inject field that the section of docs/credentials.md called title shows.
func docExample(t *testing.T, title string) string {
	t.Helper()
	doc, err := os.ReadFile("../docs/credentials.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(doc), "\n### "+title+"\n")
	section, _, _ = strings.Cut(section, "\n#")
	example := regexp.MustCompile(`(?m)^    inject:\n(    .*\n)+`).FindString(section)
	if !found || example == "" {
		t.Fatalf("docs/credentials.md has no example under %q", title)
	}
	return strings.ReplaceAll("\n"+example, "\n    ", "\n")
}

// fixedHMAC is the credentials of an inject field, in which every reference of the kind keyring: is to one of values. The
// clock stands still.
func fixedHMAC(t *testing.T, text string, at time.Time, values map[string]string) []Credential {
	t.Helper()
	text = regexp.MustCompile(`keyring:[a-z#-]+`).ReplaceAllStringFunc(text, func(ref string) string {
		value, ok := values[ref]
		if !ok {
			t.Fatalf("no value for %s", ref)
		}
		path := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		return "'file:" + path + "'"
	})
	var doc struct{ Inject yaml.Node }
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		t.Fatal(err)
	}
	env := Env{Secrets: secrets.NewResolver(secrets.Config{})}
	t.Cleanup(env.Secrets.Close)
	creds, err := New(&doc.Inject, env)
	if err != nil {
		t.Fatal(err)
	}
	last := creds[len(creds)-1].(*credential).method.(*macSigner)
	last.now, last.nonce = func() time.Time { return at }, func() string { return "NONCE" }
	return creds
}

// apply puts creds on a request, and checks that its body is still there.
func apply(t *testing.T, creds []Credential, req *http.Request, body string) {
	t.Helper()
	for _, c := range creds {
		if _, err := c.Apply(req); err != nil {
			t.Fatal(err)
		}
	}
	got, err := io.ReadAll(req.Body)
	if err != nil || string(got) != body || req.ContentLength != int64(len(body)) {
		t.Errorf("body %q of %d bytes, %v; want %q", got, req.ContentLength, err, body)
	}
}

// The secret and body that Slack's page computes with.
const (
	slackSecret = "8f742231b10e8888abcd99yyyzzz85a5"
	slackBody   = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&" +
		"user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F" +
		"96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
)

// TestHMACPublished has the examples of our page sign what the APIs' own pages sign.
func TestHMACPublished(t *testing.T) {
	t.Parallel()
	binance := map[string]string{"keyring:binance#key": "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A",
		"keyring:binance#secret": "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j"}
	const order = "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1&recvWindow=5000"
	const orderSigned = order + "&timestamp=1499827319559&signature=c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71"
	tests := []struct {
		name, title string
		values      map[string]string
		ms          int64
		query, body string
		wantQuery   string
		want        map[string]string
	}{
		{"GitHub", "hmac for GitHub's webhooks", map[string]string{"keyring:webhook": "It's a Secret to Everybody"}, 0, "", "Hello, World!", "",
			map[string]string{"X-Hub-Signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"}},
		{"Slack", "hmac for Slack's requests", map[string]string{"keyring:slack-signing": slackSecret}, 1531420618_000, "", slackBody, "",
			map[string]string{"X-Slack-Request-Timestamp": "1531420618", "X-Slack-Signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"}},
		{"Binance", "hmac for Binance", binance, 1499827319559, order, "", orderSigned,
			map[string]string{"X-MBX-APIKEY": binance["keyring:binance#key"]}},
		{"Binance, with what the client signed", "hmac for Binance", binance, 1499827319559, "signature=0&time%73tamp=1&" + order + "&%73ignature=1", "", orderSigned,
			map[string]string{"X-MBX-APIKEY": binance["keyring:binance#key"]}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			creds := fixedHMAC(t, docExample(t, tt.title), time.UnixMilli(tt.ms), tt.values)
			req, err := http.NewRequestWithContext(t.Context(), "POST", "https://api.example.com/v3/order?"+tt.query, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			apply(t, creds, req, tt.body)
			if req.URL.RawQuery != tt.wantQuery {
				t.Errorf("query\n%s, want\n%s", req.URL.RawQuery, tt.wantQuery)
			}
			checkFields(t, req, tt.want)
		})
	}
}

// checkFields fails if req has any other header fields than want.
func checkFields(t *testing.T, req *http.Request, want map[string]string) {
	t.Helper()
	if len(req.Header) != len(want) {
		t.Errorf("%d header fields, want %d", len(req.Header), len(want))
	}
	for name, value := range want {
		if got := req.Header[name]; len(got) != 1 || got[0] != value {
			t.Errorf("%s: %q, want %q", name, got, value)
		}
	}
}

// everyPlaceholder is a rule with all of them.
const everyPlaceholder = `
inject:
  type: hmac
  key: keyring:k
  key_encoding: $KEY_ENCODING
  algorithm: $ALGORITHM
  encoding: $ENCODING
  message: "{method}\n{host}\n{path}\n{query}\n{target}\n{header:x-note}\n{header:X-None}\n{body}\n{body_md5_hex}\n{body_md5_base64}\n{body_sha1_hex}\n\
    {body_sha1_base64}\n{body_sha256_hex}\n{body_sha256_base64}\n{body_sha512_hex}\n{body_sha512_base64}\n{timestamp}\n{timestamp_ms}\n{timestamp_rfc3339}\n\
    {timestamp_rfc3339_ms}\n{timestamp_http}\n{nonce}\n{{é}}"
  name: X-Signature
  prefix: "<{nonce}|"
  suffix: "|{method}>"
`

// A pythonSigning is what testdata/hmac_sign.py is told of a request.
type pythonSigning struct {
	Scheme      string `json:"scheme"`
	Key         string `json:"key"`
	MS          int64  `json:"ms"`
	Method      string `json:"method"`
	Host        string `json:"host"`
	Path        string `json:"path"`
	Query       string `json:"query"`
	Body        string `json:"body"`
	Header      string `json:"header"`
	ID          string `json:"id"`
	Nonce       string `json:"nonce"`
	KeyEncoding string `json:"key_encoding"`
	Algorithm   string `json:"algorithm"`
	Encoding    string `json:"encoding"`
}

func (p pythonSigning) values() map[string]string {
	return map[string]string{"keyring:webhook": p.Key, "keyring:coinbase#key": "id", "keyring:coinbase#passphrase": "pass", "keyring:coinbase#secret": p.Key,
		"keyring:bybit#key": p.ID, "keyring:bybit#secret": p.Key, "keyring:k": p.Key}
}

// wants is what Python's hmac has the request carry.
func (p pythonSigning) wants(t *testing.T, python string) (want map[string]string) {
	t.Helper()
	in, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, "testdata/hmac_sign.py")
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the signer: %v\n%s", err, &stderr)
	}
	if err := json.Unmarshal(out, &want); err != nil {
		t.Fatal(err)
	}
	return want
}

// TestHMACAgainstPython has another implementation sign the same requests: those of our page's examples, and one with every
// placeholder under every algorithm and encoding.
func TestHMACAgainstPython(t *testing.T) {
	t.Parallel()
	python := testneed.Program(t, "python3")
	const ms = 1700000000_007
	const order = `{"size":"0.01","note":"ü \n"}`
	every := pythonSigning{Scheme: "everything", Key: "c2VjcmV0IGtleQ==", MS: ms, Method: "PUT", Host: "api.example.com:8443", Path: "/a%2Fb/%C3%BC", Query: "b=2&a=%20&&a=+",
		Body: order, Header: "one, two", Nonce: "NONCE", KeyEncoding: "base64", Algorithm: "SHA-256", Encoding: "base64"}
	bare := pythonSigning{Method: "GET", Host: "api.example.com", Path: "/", MS: ms}
	tests := []struct {
		name, title string
		request     func() pythonSigning
	}{
		{"Stripe", "hmac for Stripe's webhooks", func() pythonSigning {
			p := bare
			p.Scheme, p.Key, p.Method, p.Body = "stripe", "whsec_test", "POST", order
			return p
		}},
		{"Coinbase, an order", "hmac for Coinbase Exchange", func() pythonSigning {
			p := bare
			p.Scheme, p.Key, p.Method, p.Path, p.Body = "coinbase", "c2VjcmV0IGtleQ==", "POST", "/orders", order
			return p
		}},
		{"Coinbase, a list", "hmac for Coinbase Exchange", func() pythonSigning {
			p := bare
			p.Scheme, p.Key, p.Path, p.Query = "coinbase", "++//c2VjcmV0", "/orders", "limit=2&status=all"
			return p
		}},
		{"Bybit, an order", "hmac for Bybit", func() pythonSigning {
			p := bare
			p.Scheme, p.Key, p.ID, p.Method, p.Path, p.Body = "bybit", "secret", "the-id", "POST", "/v5/order/create", order
			return p
		}},
		{"Bybit, a list", "hmac for Bybit", func() pythonSigning {
			p := bare
			p.Scheme, p.Key, p.ID, p.Path, p.Query = "bybit", "secret", "the-id", "/v5/order/realtime", "category=option&symbol=BTC-29JUL22-25000-C"
			return p
		}},
		{"everything", "", func() pythonSigning { return every }},
		{"everything, SHA-1 and hex", "", func() pythonSigning {
			p := every
			p.Algorithm, p.Encoding, p.KeyEncoding, p.Key = "SHA-1", "hex", "hex", "00ff1020"
			return p
		}},
		{"everything, SHA-512 and text, no body", "", func() pythonSigning {
			p := every
			p.Algorithm, p.KeyEncoding, p.Body, p.Key = "SHA-512", "text", "", "a key"
			return p
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := tt.request()
			text := strings.NewReplacer("$KEY_ENCODING", p.KeyEncoding, "$ALGORITHM", p.Algorithm, "$ENCODING", p.Encoding).Replace(everyPlaceholder)
			if tt.title != "" {
				text = docExample(t, tt.title)
			}
			url := "https://" + p.Host + p.Path
			if p.Query != "" {
				url += "?" + p.Query
			}
			req, err := http.NewRequestWithContext(t.Context(), p.Method, url, strings.NewReader(p.Body))
			if err != nil {
				t.Fatal(err)
			}
			want := p.wants(t, python)
			switch p.Scheme {
			case "everything":
				req.Header["X-Note"], want["X-Note"] = []string{"one", "two"}, "one, two"
			case "coinbase":
				want["CB-ACCESS-KEY"], want["CB-ACCESS-PASSPHRASE"] = "id", "pass"
			case "bybit":
				want["X-BAPI-API-KEY"] = p.ID
			}
			apply(t, fixedHMAC(t, text, time.UnixMilli(p.MS), p.values()), req, p.Body)
			if p.Scheme == "everything" {
				req.Header["X-Note"] = []string{strings.Join(req.Header["X-Note"], ", ")}
			}
			checkFields(t, req, want)
			if req.URL.RawQuery != p.Query {
				t.Errorf("query %q, want it as it was", req.URL.RawQuery)
			}
		})
	}
}

// FuzzTemplate: a template is read without a panic, and one without mistakes says the same again after escaping.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"", "{method}", "{{{method}}}", "a{b", "}", "{header:X}", "{{}}", "{timestmp}", "é}{"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, source string) {
		tmpl, bad := parseTemplate(source, true)
		if len(bad) > 0 {
			return
		}
		escaped := strings.NewReplacer("{", "{{", "}", "}}").Replace(source)
		again, bad := parseTemplate(escaped, true)
		if len(bad) > 0 || !again.fixed() || again.sample() != source {
			t.Errorf("%q escaped is %q, which says %q (%v)", source, escaped, again.sample(), bad)
		}
		if tmpl.fixed() && len(tmpl.sample()) > len(source) {
			t.Errorf("%q says more than it has: %q", source, tmpl.sample())
		}
	})
}
