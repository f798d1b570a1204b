package inject_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
)

func TestMain(m *testing.M) {
	if code, ok := secrets.RunHelper(); ok {
		os.Exit(code)
	}
	// The race detector makes each process, the keyring's helpers too, sleep for a second at its end.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// newEnv is an Env with a real resolver, over store if it is not nil.
func newEnv(t testing.TB, store *secrets.Store) inject.Env {
	t.Helper()
	env := inject.Env{
		Secrets: secrets.NewResolver(secrets.Config{Store: store}),
		Tokens:  oauth.NewCache(),
		HTTP:    &http.Client{Transport: &http.Transport{}},
	}
	t.Cleanup(func() {
		env.Tokens.Close()
		env.Secrets.Close()
		env.HTTP.CloseIdleConnections()
	})
	return env
}

// secretFile is a reference to a new file that holds value.
func secretFile(t testing.TB, value string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
	return "file:" + path
}

// build makes the credentials of an inject field, in which $NAME is replaced by the YAML form of vars["NAME"].
func build(t testing.TB, env inject.Env, text string, vars map[string]string) []inject.Credential {
	t.Helper()
	for name, value := range vars {
		text = strings.ReplaceAll(text, "$"+name, strconv.Quote(value))
	}
	creds, err := parse(text, env)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return creds
}

func parse(text string, env inject.Env) ([]inject.Credential, error) {
	n, err := strict.Parse([]byte(text))
	if err != nil {
		return nil, err
	}
	return inject.New(n, env)
}

// A wire is an HTTP/1.1 upstream that keeps each request's head as it came, byte for byte.
type wire struct {
	url   string
	heads chan string
}

func newWire(t testing.TB) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{url: "http://" + l.Addr().String(), heads: make(chan string, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			w.serve(conn)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return w
}

func (w *wire) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	var head strings.Builder
	for r := bufio.NewReader(conn); ; {
		line, err := r.ReadString('\n')
		if err != nil || line == "\r\n" {
			break
		}
		head.WriteString(line)
	}
	w.heads <- head.String()
	_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
}

// send applies creds to a request for target with header and returns what the upstream saw: the request target and
// the header lines, sorted, without those that Go's client adds.
func (w *wire) send(t testing.TB, creds []inject.Credential, target string, header http.Header) (string, []string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", w.url+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		req.Header = header.Clone()
	}
	for _, c := range creds {
		if _, err := c.Apply(req); err != nil {
			t.Fatalf("Apply: %v", err)
		}
	}
	tr := &http.Transport{DisableCompression: true, DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	lines := strings.Split(strings.TrimSuffix(<-w.heads, "\r\n"), "\r\n")
	first := strings.Split(lines[0], " ")
	lines = slices.DeleteFunc(lines[1:], func(l string) bool {
		name, _, _ := strings.Cut(l, ":")
		return name == "Host" || name == "Connection" || l == "User-Agent: Go-http-client/1.1"
	})
	slices.Sort(lines)
	return first[1], lines
}

// A shape is one row of the tables below: what a client sends, and what the upstream gets.
type shape struct {
	name       string
	inject     string // $S is a reference to secret, $USER and $PASS to its fields
	secret     string
	target     string // "/" if empty
	header     http.Header
	wantTarget string // as target if empty
	want       []string
}

func checkShapes(t *testing.T, tests []shape) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ref := secretFile(t, tt.secret)
			creds := build(t, newEnv(t, nil), tt.inject, map[string]string{"S": ref, "USER": ref + "#user", "PASS": ref + "#pass"})
			target := tt.target
			if target == "" {
				target = "/"
			}
			want := tt.wantTarget
			if want == "" {
				want = target
			}
			got, lines := newWire(t).send(t, creds, target, tt.header)
			if got != want {
				t.Errorf("target %q\nwant   %q", got, want)
			}
			if !slices.Equal(lines, tt.want) {
				t.Errorf("header %q\nwant   %q", lines, tt.want)
			}
		})
	}
}

func failure(t *testing.T, err error) (slug, hint string) {
	t.Helper()
	var f interface {
		Slug() string
		Hint() string
	}
	if !errors.As(err, &f) {
		t.Fatalf("error %v has no slug", err)
	}
	return f.Slug(), f.Hint()
}

func TestSecretsThatDoNotFit(t *testing.T) {
	t.Parallel()
	const (
		header = "{type: api_key, name: X-Key, value: $S}"
		query  = "{type: api_key, in: query, name: key, value: $S}"
		cookie = "{type: api_key, in: cookie, name: key, value: $S}"
		bearer = "{type: bearer, token: $S}"
		basic  = "{type: basic, username: me, password: $S}"
		user   = "{type: basic, username: $S}"
	)
	all := []string{header, query, cookie, bearer, basic, user}
	tests := []struct {
		name, secret string
		refused      []string
	}{
		{"CR LF", "abc\r\nX-Evil: 1", all},
		{"LF", "abc\ndef", all},
		{"NUL", "abc\x00def", all},
		{"escape", "abc\x1bdef", all},
		{"DEL", "abc\x7fdef", all},
		{"tab", "abc\tdef", all},
		{"space at the end", "abcdef ", []string{header, query, cookie, bearer}},
		{"space in front", " abcdef", []string{header, query, cookie, bearer}},
		{"not ASCII", "abcdéf", []string{header, cookie, bearer}},
		{"not UTF-8", "abcd\xff", all},
		{"space inside", "abc def", []string{cookie}},
		{"semicolon", "abc;def", []string{cookie}},
		{"comma", "abc,def", []string{cookie}},
		{"quote inside", `abc"def`, []string{cookie}},
		{"backslash", `abc\def`, []string{cookie}},
		{"colon", "abc:def", []string{user}},
		{"plain", "abcdef", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ref, env := secretFile(t, tt.secret), newEnv(t, nil)
			for _, text := range all {
				c := build(t, env, text, map[string]string{"S": ref})[0]
				req, err := http.NewRequestWithContext(t.Context(), "GET", "http://api.example.com/?a=b", nil)
				if err != nil {
					t.Fatal(err)
				}
				used, err := c.Apply(req)
				if !slices.Contains(tt.refused, text) {
					if err != nil {
						t.Errorf("%s: %v, want it to fit", text, err)
					}
					continue
				}
				if err == nil {
					t.Errorf("%s: put on the request, want an error", text)
					continue
				}
				if s, hint := failure(t, err); s != "secret_invalid" || hint == "" {
					t.Errorf("%s: slug %q, hint %q, want secret_invalid and a hint", text, s, hint)
				}
				if strings.Contains(err.Error(), "abc") {
					t.Errorf("%s: error %q gives the secret away", text, err)
				}
				if len(req.Header) != 0 || req.URL.RawQuery != "a=b" || used != nil {
					t.Errorf("%s: the request was changed all the same", text)
				}
			}
		})
	}
}

func TestMissingSecret(t *testing.T) {
	t.Parallel()
	env := newEnv(t, nil)
	missing := "file:" + filepath.Join(t.TempDir(), "none")
	for _, text := range []string{
		"{type: api_key, name: X-Key, value: $S}",
		"{type: bearer, token: $S}",
		"{type: basic, username: me, password: $S}",
		"{type: basic, username: $S}",
		"{type: oauth2_client_credentials, token_url: 'https://x.test/', client_id: a, client_secret: $S}",
		"{type: session, login: {url: 'https://x.test/', form: {a: $S}}, keep: {cookie: a}}",
		"{type: session, login: {url: 'https://x.test/', json: [$S]}, keep: {pointer: /a}}",
		"{type: jwt, algorithm: HS256, key: $S}",
		"{type: oauth1, consumer_key: a, consumer_secret: $S}",
		"{type: oauth1, consumer_key: a, signature_method: RSA-SHA1, private_key: $S}",
		"{type: aws_sigv4, access_key_id: $S, secret_access_key: $S}",
		"{type: aws_sigv4, credentials: $S}",
	} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://api.example.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = build(t, env, text, map[string]string{"S": missing})[0].Apply(req)
		if err == nil {
			t.Errorf("%s: no error", text)
			continue
		}
		if s, _ := failure(t, err); s != "secret_missing" {
			t.Errorf("%s: slug %q, want secret_missing", text, s)
		}
	}
}

// TestRejectReadsTheSecretAgain uses a command, whose output is otherwise kept for minutes.
func TestRejectReadsTheSecretAgain(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, inject, before, after string }{
		{"api_key", "{type: api_key, name: Authorization, prefix: 'Key ', value: $S}", "Key old", "Key new"},
		{"api_key in the query", "{type: api_key, in: query, name: k, value: $S}", "k=old", "k=new"},
		{"bearer", "{type: bearer, token: $S}", "Bearer old", "Bearer new"},
		{"basic password", "{type: basic, username: a, password: $S}", "Basic YTpvbGQ=", "Basic YTpuZXc="},
		{"basic username", "{type: basic, username: $S}", "Basic b2xkOg==", "Basic bmV3Og=="},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := strings.TrimPrefix(secretFile(t, "old"), "file:")
			text := strings.ReplaceAll(tt.inject, "$S", "{exec: [cat, "+strconv.Quote(path)+"]}")
			c := build(t, newEnv(t, nil), text, nil)[0]
			apply := func() (string, []secrets.Value) {
				req, err := http.NewRequestWithContext(t.Context(), "GET", "http://api.example.com/", nil)
				if err != nil {
					t.Fatal(err)
				}
				used, err := c.Apply(req)
				if err != nil {
					t.Fatal(err)
				}
				return req.Header.Get("Authorization") + req.URL.RawQuery, used
			}
			got, used := apply()
			if got != tt.before {
				t.Errorf("first: %q, want %q", got, tt.before)
			}
			if err := os.WriteFile(path, []byte("new"), 0o600); err != nil {
				t.Fatal(err)
			}
			if got, _ := apply(); got != tt.before {
				t.Errorf("before Reject: %q, want %q", got, tt.before)
			}
			refuse(c, used)
			if got, _ := apply(); got != tt.after {
				t.Errorf("after Reject: %q, want %q", got, tt.after)
			}
		})
	}
}

func TestUsedIsWhatToScrub(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, inject, secret string
		want                 []string
	}{
		{"header", "{type: api_key, name: X-Key, prefix: 'Key ', value: $S}", "s3cret", []string{"s3cret"}},
		{"query, plain", "{type: api_key, in: query, name: k, value: $S}", "s3cret", []string{"s3cret"}},
		{"query, encoded", "{type: api_key, in: query, name: k, value: $S}", "s3/cr+et", []string{"s3/cr+et", "s3%2Fcr%2Bet"}},
		{"cookie", "{type: api_key, in: cookie, name: k, value: $S}", "s3cret", []string{"s3cret"}},
		{"bearer", "{type: bearer, token: $S}", "s3cret", []string{"s3cret"}},
		{"basic", "{type: basic, username: me, password: $S}", "s3cret", []string{"s3cret", "bWU6czNjcmV0"}},
		{"basic, key as user", "{type: basic, username: $S}", "s3cret", []string{"s3cret", "czNjcmV0Og=="}},
		{"aws_sigv4", "{type: aws_sigv4, access_key_id: $S, secret_access_key: $S, session_token: $S, region: a, service: b}", "s3cret", []string{"s3cret", "s3cret", "s3cret"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := build(t, newEnv(t, nil), tt.inject, map[string]string{"S": secretFile(t, tt.secret)})[0]
			req, err := http.NewRequestWithContext(t.Context(), "GET", "http://api.example.com/", nil)
			if err != nil {
				t.Fatal(err)
			}
			used, err := c.Apply(req)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, v := range used {
				got = append(got, v.Reveal())
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("used %q, want %q", got, tt.want)
			}
		})
	}
}

func TestTargets(t *testing.T) {
	t.Parallel()
	tests := []struct {
		inject string
		want   inject.Target
		refs   []string
	}{
		{"{type: api_key, name: X-Key, value: keyring:a}", inject.Target{In: "header", Name: "X-Key", Shows: "<keyring:a>"}, []string{"keyring:a"}},
		{"{type: api_key, name: Authorization, prefix: 'ApiKey ', value: keyring:a#b}", inject.Target{In: "header", Name: "Authorization", Shows: "ApiKey <keyring:a#b>"}, []string{"keyring:a#b"}},
		{"{type: api_key, in: query, name: k, value: env:A}", inject.Target{In: "query", Name: "k", Shows: "<env:A>"}, []string{"env:A"}},
		{"{type: api_key, in: cookie, name: k, value: {exec: [op, read, x]}}", inject.Target{In: "cookie", Name: "k", Shows: "<exec:op>"}, []string{"exec:op"}},
		{"{type: bearer, token: keyring:a}", inject.Target{In: "header", Name: "Authorization", Shows: "Bearer <keyring:a>"}, []string{"keyring:a"}},
		{"{type: basic, username: me, password: keyring:a}", inject.Target{In: "header", Name: "Authorization", Shows: "Basic base64(me:<keyring:a>)"}, []string{"keyring:a"}},
		{"{type: basic, username: keyring:a#u, password: keyring:a#p}", inject.Target{In: "header", Name: "Authorization", Shows: "Basic base64(<keyring:a#u>:<keyring:a#p>)"}, []string{"keyring:a#u", "keyring:a#p"}},
		{"{type: basic, username: keyring:a}", inject.Target{In: "header", Name: "Authorization", Shows: "Basic base64(<keyring:a>:)"}, []string{"keyring:a"}},
		{"{type: jwt, algorithm: ES256, key: keyring:a}", inject.Target{In: "header", Name: "Authorization", Shows: "Bearer <ES256 token signed with <keyring:a>>"}, []string{"keyring:a"}},
		{"{type: oauth1, consumer_key: me, consumer_secret: keyring:a, token: keyring:b, token_secret: keyring:c}",
			inject.Target{In: "header", Name: "Authorization", Shows: "OAuth <HMAC-SHA1 signature for me, with <keyring:a> and <keyring:c>>"}, []string{"keyring:a", "keyring:b", "keyring:c"}},
		{"{type: oauth2_client_credentials, token_url: 'https://x.test/t', client_id: c, client_secret: keyring:a}",
			inject.Target{In: "header", Name: "Authorization", Shows: "Bearer <access token from x.test>"}, []string{"keyring:a"}},
		{"{type: session, login: {url: 'https://x.test/t', form: {b: keyring:b, a: keyring:a, c: c}, headers: {X-A: keyring:c}}, keep: {cookie: sid}}",
			inject.Target{In: "cookie", Name: "sid", Shows: "<session from x.test>"}, []string{"keyring:a", "keyring:b", "keyring:c"}},
		{"{type: session, login: {url: 'https://x.test/t', json: {b: [{exec: [cat, x]}], c: c}}, keep: {pointer: /a}}",
			inject.Target{In: "header", Name: "Authorization", Shows: "Bearer <token from x.test>"}, []string{"exec:cat"}},
		{"{type: placeholder, placeholder: __slack__, value: keyring:a, in: path}", inject.Target{In: "path marker", Name: "__slack__", Shows: "<keyring:a>"}, []string{"keyring:a"}},
		{"{type: oauth2_refresh_token, token_url: 'https://x.test/t', client_id: c, client_secret: keyring:a, refresh_token: keyring:b}",
			inject.Target{In: "header", Name: "Authorization", Shows: "Bearer <access token from x.test>"}, []string{"keyring:a", "keyring:b"}},
	}
	for _, tt := range tests {
		c := build(t, newEnv(t, nil), tt.inject, nil)[0]
		if got := c.Targets(); len(got) != 1 || got[0] != tt.want {
			t.Errorf("%s\n targets %v\n want    %v", tt.inject, got, tt.want)
		}
		var refs []string
		for _, r := range c.Refs() {
			refs = append(refs, r.String())
		}
		if !slices.Equal(refs, tt.refs) {
			t.Errorf("%s\n refs %v, want %v", tt.inject, refs, tt.refs)
		}
		if !strings.Contains(tt.inject, "type: "+c.Type()+",") {
			t.Errorf("%s\n type %q", tt.inject, c.Type())
		}
	}
}

func TestPresent(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		target inject.Target
		url    string
		header http.Header
		want   bool
	}{
		{"header", inject.Target{In: "header", Name: "X-Api-Key"}, "/", http.Header{"X-Api-Key": {"a"}}, true},
		{"header, other spelling", inject.Target{In: "header", Name: "X-Api-Key"}, "/", http.Header{"x_api_KEY": {"a"}}, true},
		{"header absent", inject.Target{In: "header", Name: "X-Api-Key"}, "/", http.Header{"X-Api-Keys": {"a"}}, false},
		{"header without values", inject.Target{In: "header", Name: "X-Api-Key"}, "/", http.Header{"X-Api-Key": nil}, false},
		{"query", inject.Target{In: "query", Name: "key"}, "/?a&key", nil, true},
		{"query, encoded", inject.Target{In: "query", Name: "api_key"}, "/?api%5Fkey=1", nil, true},
		{"query absent", inject.Target{In: "query", Name: "key"}, "/?keys=1&Key=2&a=key", nil, false},
		{"cookie", inject.Target{In: "cookie", Name: "k"}, "/", http.Header{"Cookie": {"a=b", "c=d;  k=e"}}, true},
		{"cookie absent", inject.Target{In: "cookie", Name: "k"}, "/", http.Header{"Cookie": {"kk=1; K=2"}}, false},
		{"nowhere", inject.Target{In: "body", Name: "k"}, "/?k=1", http.Header{"K": {"1"}}, false},
	}
	for _, tt := range tests {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://api.example.com"+tt.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tt.header != nil {
			req.Header = tt.header
		}
		if got := tt.target.Present(req); got != tt.want {
			t.Errorf("%s: Present is %v, want %v", tt.name, got, tt.want)
		}
	}
}

// BenchmarkApply is what each type costs a request without body, and how often the cost of bearer, in the same run.
func BenchmarkApply(b *testing.B) {
	env := newEnv(b, nil)
	var bearer float64 // nanoseconds
	for _, bb := range []struct{ name, inject string }{
		{"bearer", "{type: bearer, token: $S}"},
		{"header", "{type: api_key, name: X-Api-Key, value: $S}"},
		{"query", "{type: api_key, in: query, name: key, value: $S}"},
		{"cookie", "{type: api_key, in: cookie, name: key, value: $S}"},
		{"basic", "{type: basic, username: me, password: $S}"},
		{"placeholder", "{type: placeholder, placeholder: __dummy_, value: $S, in: header}"},
		{"hmac", "{type: hmac, key: $S, algorithm: SHA-256, name: X-Sig, message: '{timestamp}{method}{target}', headers: {X-Timestamp: '{timestamp}'}}"},
		{"jwt, kept", "{type: jwt, algorithm: HS256, claims: {iss: me}, key: $S}"},
		{"jwt, minted", "{type: jwt, algorithm: HS256, claims: {iss: me}, key: $S, generate: [iat, exp, jti]}"},
		{"oauth1", "{type: oauth1, consumer_key: me, consumer_secret: $S, token: $S, token_secret: $S}"},
		{"aws_sigv4", "{type: aws_sigv4, access_key_id: $S, secret_access_key: $S, session_token: $S, region: eu-west-1, service: execute-api}"},
	} {
		b.Run(bb.name, func(b *testing.B) {
			text := strings.ReplaceAll(bb.inject, "$S", "{exec: [cat, "+strconv.Quote(strings.TrimPrefix(secretFile(b, thirtyTwo), "file:"))+"]}")
			c := build(b, env, text, nil)[0]
			req, err := http.NewRequestWithContext(b.Context(), "GET", "http://api.example.com/v1/things?page=2&sort=name&key=old", nil)
			if err != nil {
				b.Fatal(err)
			}
			marked := []string{""}
			req.Header = http.Header{"Accept": {"*/*"}, "User-Agent": {"x"}, "Cookie": {"a=b; c=d"}, "X-Api-Key": {"dummy"}, "X-Mark": marked}
			b.ReportAllocs()
			for b.Loop() {
				marked[0] = "__dummy_"
				if _, err := c.Apply(req); err != nil {
					b.Fatal(err)
				}
			}
			each := float64(b.Elapsed().Nanoseconds()) / float64(b.N)
			if bb.name == "bearer" {
				bearer = each
			}
			b.ReportMetric(each/bearer, "x-bearer")
		})
	}
}
