package inject_test

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/inject"
)

// A delivery is what a real server got of a request.
type delivery struct {
	target, body string
	header       http.Header
	length       int64
}

// deliver applies creds to a request and sends it to a real server.
func deliver(t testing.TB, creds []inject.Credential, target string, header http.Header, body io.Reader) (delivery, error) {
	t.Helper()
	got := make(chan delivery, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- delivery{r.RequestURI, string(all), r.Header, r.ContentLength}
	}))
	defer srv.Close()
	req, err := http.NewRequestWithContext(t.Context(), "POST", srv.URL+target, body)
	if err != nil {
		t.Fatal(err)
	}
	if _, known := body.(*strings.Reader); body != nil && !known {
		req.ContentLength = -1
	}
	req.Header = header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	for _, c := range creds {
		if _, err := c.Apply(req); err != nil {
			return delivery{}, err
		}
	}
	resp, err := srv.Client().Transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("the server answered %s", resp.Status)
	}
	return <-got, nil
}

func basicOf(pair string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(pair))
}

const everywhere = "{type: placeholder, placeholder: __slack__, value: $S, in: [header, basic, path, query, body]}"

// nasty means something else in every place if it is not encoded.
const nasty = `a/b?c#d%41&e=f;g"h\i+j k:l@m<n>`

func TestPlaceholderInTheHead(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, inject, secret string
		target               string // "/" if empty
		header               http.Header
		wantTarget           string // as target if empty
		want                 http.Header
	}{
		{name: "header", inject: everywhere, secret: "s3cret",
			header: http.Header{"Authorization": {"Bearer __slack__"}, "X-Two": {"a", "__slack__, __slack__"}, "X-Other": {"slack"}},
			want:   http.Header{"Authorization": {"Bearer s3cret"}, "X-Two": {"a", "s3cret, s3cret"}, "X-Other": {"slack"}}},
		{name: "names and other spellings stay", inject: everywhere, secret: "s3cret",
			header: http.Header{"X-A__slack__b": {"1"}, "X-B": {"__SLACK__"}, "X-C": {"__slack_"}, "X-D": {"%5F%5Fslack%5F%5F"}},
			want:   http.Header{"X-A__slack__b": {"1"}, "X-B": {"__SLACK__"}, "X-C": {"__slack_"}, "X-D": {"%5F%5Fslack%5F%5F"}}},
		{name: "what says how the body is meant stays", inject: everywhere, secret: "s3cret",
			header: http.Header{"Content-Type": {"image/__slack__"}, "content_encoding": {"__slack__"}, "Proxy-X": {"__slack__"}},
			want:   http.Header{"Content-Type": {"image/__slack__"}, "Content_encoding": {"__slack__"}, "Proxy-X": {"__slack__"}}},
		{name: "named headers only", inject: "{type: placeholder, placeholder: __slack__, value: $S, in: header, headers: [X-Token, x_key]}", secret: "s3cret",
			target: "/__slack__?q=__slack__",
			header: http.Header{"X-Token": {"__slack__"}, "X-Key": {"__slack__"}, "Authorization": {"Bearer __slack__"}, "User-Agent": {"__slack__"}},
			want:   http.Header{"X-Token": {"s3cret"}, "X-Key": {"s3cret"}, "Authorization": {"Bearer __slack__"}, "User-Agent": {"__slack__"}}},
		{name: "inside of Basic, as password and as user", inject: "{type: placeholder, placeholder: __slack__, value: $S, in: basic}", secret: "s3/cret:",
			header: http.Header{"Authorization": {basicOf("me:__slack__"), "basic " + strings.TrimPrefix(basicOf("me:x__slack__y"), "Basic ")}, "X-Key": {"__slack__", basicOf("me:__slack__")}},
			want:   http.Header{"Authorization": {basicOf("me:s3/cret:"), "basic " + strings.TrimPrefix(basicOf("me:xs3/cret:y"), "Basic ")}, "X-Key": {"__slack__", basicOf("me:__slack__")}}},
		{name: "inside of Basic, as user", inject: "{type: placeholder, placeholder: __slack__, value: $S, in: basic}", secret: "s3cret",
			header: http.Header{"Authorization": {basicOf("__slack__:")}},
			want:   http.Header{"Authorization": {basicOf("s3cret:")}}},
		{name: "no Basic", inject: "{type: placeholder, placeholder: __slack__, value: $S, in: basic}", secret: "s3cret",
			header: http.Header{"Authorization": {"Bearer __slack__", "Basic __slack__", basicOf("__slack__:x") + "!", basicOf(basicOf("__slack__:x"))}},
			want:   http.Header{"Authorization": {"Bearer __slack__", "Basic __slack__", basicOf("__slack__:x") + "!", basicOf(basicOf("__slack__:x"))}}},
		{name: "Basic, header only", inject: "{type: placeholder, placeholder: __slack__, value: $S, in: header}", secret: "s3cret",
			header: http.Header{"Authorization": {basicOf("me:__slack__")}}, want: http.Header{"Authorization": {basicOf("me:__slack__")}}},
		{name: "path", inject: "{type: placeholder, placeholder: __slack__, value: $S, in: path}", secret: nasty,
			target: "/a%2Fb/bot__slack__/x?q=__slack__", wantTarget: "/a%2Fb/bota%2Fb%3Fc%23d%2541%26e%3Df%3Bg%22h%5Ci%2Bj%20k:l@m%3Cn%3E/x?q=__slack__",
			header: http.Header{"X-A": {"__slack__"}}, want: http.Header{"X-A": {"__slack__"}}},
		{name: "path, encoded markers and halves stay", inject: everywhere, secret: "s3cret", target: "/%5F%5Fslack%5F%5F/__slack/__"},
		{name: "query", inject: "{type: placeholder, placeholder: __slack__, value: $S, in: query}", secret: nasty,
			target:     "/__slack__?a=b&token=__slack__&&__slack__=1&__slack__&c=x__slack__y;d=__slack__&e=%5F_slack__",
			wantTarget: "/__slack__?a=b&token=" + encodedNasty + "&&__slack__=1&__slack__&c=x" + encodedNasty + "y;d=" + encodedNasty + "&e=%5F_slack__"},
		{name: "the digits of an escape are no part of a marker", inject: "{type: placeholder, placeholder: 41__beef, value: $S, in: [path, query]}", secret: "s3cret",
			target:     "/%41__beef/%4141__beef?a=%41__beef&b=%%41__beef&c=%441__beef&d=%zz41__beef&e=41__beef",
			wantTarget: "/%41__beef/%41s3cret?a=%41__beef&b=%%41__beef&c=%441__beef&d=%zzs3cret&e=s3cret"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			creds := build(t, newEnv(t, nil), tt.inject, map[string]string{"S": secretFile(t, tt.secret)})
			if tt.target == "" {
				tt.target = "/"
			}
			if tt.wantTarget == "" {
				tt.wantTarget = tt.target
			}
			got, err := deliver(t, creds, tt.target, tt.header, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got.target != tt.wantTarget {
				t.Errorf("target %q\nwant   %q", got.target, tt.wantTarget)
			}
			for name, want := range tt.want {
				if fmt.Sprint(got.header[name]) != fmt.Sprint(want) {
					t.Errorf("%s: %q, want %q", name, got.header[name], want)
				}
			}
		})
	}
}

const encodedNasty = "a%2Fb%3Fc%23d%2541%26e%3Df%3Bg%22h%5Ci%2Bj%20k%3Al%40m%3Cn%3E"

func TestPlaceholderInTheBody(t *testing.T) {
	t.Parallel()
	const onlyBody = "{type: placeholder, placeholder: __slack__, value: $S, in: body}"
	tests := []struct {
		name, inject, secret, kind, body, want string // want as body if empty
	}{
		{name: "JSON", secret: nasty + "ü", kind: "application/json; charset=utf-8",
			body: `{"__slack__": "__slack__", "a": ["x__slack__y__slack__", {"b" : "\"__slack__\\"}], "__slack__" : 1} `,
			want: `{"__slack__": "` + jsonNasty + `", "a": ["x` + jsonNasty + `y` + jsonNasty + `", {"b" : "\"` + jsonNasty + `\\"}], "__slack__" : 1} `},
		{name: "JSON of another type", secret: "s3cret", kind: "application/vnd.api+JSON", body: `["__slack__"]`, want: `["s3cret"]`},
		{name: "JSON that is one string", secret: `"`, kind: "application/json", body: `"__slack__"`, want: `"\""`},
		{name: "JSON, surrogates around it", secret: "s3cret", kind: "application/json", body: `"\ud83d__slack__\ude00"`, want: `"\ud83ds3cret\ude00"`},
		{name: "JSON, an escaped marker stays", secret: "s3cret", kind: "application/json", body: `["\u005f_slack__", "_\u005fslack__", "\\__slack__"]`, want: `["\u005f_slack__", "_\u005fslack__", "\\s3cret"]`},
		{name: "JSON, what is escaped is no part of a marker", inject: "{type: placeholder, placeholder: b5f__slack, value: $S, in: body}", secret: "s3cret", kind: "application/json",
			body: `["\b5f__slack", "\u0b5f__slack", "b5f__slack"]`, want: `["\b5f__slack", "\u0b5f__slack", "s3cret"]`},
		{name: "JSON without a marker may be anything", secret: "s3cret", kind: "application/json", body: `{`},
		{name: "JSON in UTF-16 has no marker", secret: "s3cret", kind: "application/json", body: "\xff\xfe\"\x00_\x00_\x00s\x00l\x00a\x00c\x00k\x00_\x00_\x00\"\x00"},
		{name: "form", secret: nasty, kind: "application/x-www-form-urlencoded", body: "a=1&token=__slack__&__slack__=x&b=%5F_slack__+__slack__",
			want: "a=1&token=" + encodedNasty + "&__slack__=x&b=%5F_slack__+" + encodedNasty},
		{name: "JSON inside of a form", secret: "s3/cret", kind: "Application/X-WWW-Form-Urlencoded", body: "payload=%7B%22t%22%3A%22__slack__%22%7D", want: "payload=%7B%22t%22%3A%22s3%2Fcret%22%7D"},
		{name: "XML", secret: "xoxb-1.2~3+4/5=", kind: "text/xml", body: "<a b='__slack__'>__slack__</a>", want: "<a b='xoxb-1.2~3+4/5='>xoxb-1.2~3+4/5=</a>"},
		{name: "no type", secret: "s3cret", body: "a __slack__ b", want: "a s3cret b"},
		{name: "multipart", secret: "s3cret", kind: "multipart/form-data; boundary=x", body: "--x\r\n\r\n__slack__\r\n--x--", want: "--x\r\n\r\ns3cret\r\n--x--"},
		{name: "an image is not looked at", secret: "s3cret", kind: "image/png", body: "__slack__"},
		{name: "nor is a large one", secret: "s3cret", kind: "application/octet-stream", body: strings.Repeat("x", 2<<20)},
		{name: "identity", secret: "s3cret", kind: "text/plain!identity", body: "__slack__", want: "s3cret"},
		{name: "as large as can be", secret: "s3cret", kind: "text/plain", body: strings.Repeat("x", 1<<20-9) + "__slack__", want: strings.Repeat("x", 1<<20-9) + "s3cret"},
		{name: "in another place only", inject: "{type: placeholder, placeholder: __slack__, value: $S, in: [header, query]}", secret: "s3cret", kind: "application/json", body: `"__slack__"`},
	}
	for _, tt := range tests {
		for _, announced := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, length announced %v", tt.name, announced), func(t *testing.T) {
				t.Parallel()
				text := tt.inject
				if text == "" {
					text = onlyBody
				}
				want := tt.want
				if want == "" {
					want = tt.body
				}
				creds := build(t, newEnv(t, nil), text, map[string]string{"S": secretFile(t, tt.secret)})
				var body io.Reader = strings.NewReader(tt.body)
				if !announced {
					body = io.MultiReader(body)
				}
				header := http.Header{"X-A": {"__slack__"}}
				if kind, coding, _ := strings.Cut(tt.kind, "!"); kind != "" {
					header.Set("Content-Type", kind)
					if coding != "" {
						header.Set("Content-Encoding", coding)
					}
				}
				got, err := deliver(t, creds, "/__slack__?a=__slack__", header, body)
				if err != nil {
					t.Fatal(err)
				}
				if got.body != want {
					t.Errorf("body %.200q\nwant %.200q", got.body, want)
				}
				if length := int64(len(want)); got.length != length && announced || got.length != -1 && !announced {
					t.Errorf("length %d, want %d if announced", got.length, length)
				}
				if tt.inject == "" && (got.target != "/__slack__?a=__slack__" || got.header.Get("X-A") != "__slack__") {
					t.Errorf("the marker was replaced elsewhere: %q, %q", got.target, got.header)
				}
			})
		}
	}
}

const jsonNasty = `a/b?c#d%41&e=f;g\"h\\i+j k:l@m<n>ü`

func TestPlaceholderRefuses(t *testing.T) {
	t.Parallel()
	in := func(place string) string {
		return "{type: placeholder, placeholder: __slack__, value: $S, in: " + place + "}"
	}
	marker := http.Header{"X-A": {"__slack__"}}
	kind := func(kind string, more ...string) http.Header {
		h := http.Header{"Content-Type": {kind}}
		for i := 0; i+1 < len(more); i += 2 {
			h.Add(more[i], more[i+1])
		}
		return h
	}
	tests := []struct {
		name, inject, secret string
		target               string
		header               http.Header
		body, want           string
	}{
		{name: "line break in a header", inject: in("header"), secret: "s3\r\nX-Evil: 1", header: marker, want: "secret_invalid"},
		{name: "not ASCII in a header", inject: in("header"), secret: "s3ü", header: marker, want: "secret_invalid"},
		{name: "semicolon in a cookie", inject: in("header"), secret: "s3;a=b", header: http.Header{"Cookie": {"k=__slack__"}}, want: "secret_invalid"},
		{name: "line break in Basic", inject: in("basic"), secret: "s3\ncret", header: http.Header{"Authorization": {basicOf("a:__slack__")}}, want: "secret_invalid"},
		{name: "colon in the user name of Basic", inject: in("basic"), secret: "a:b", header: http.Header{"Authorization": {basicOf("__slack__:x")}}, want: "secret_invalid"},
		{name: "line break in the query", inject: in("query"), secret: "s3\ncret", target: "/?a=__slack__", want: "secret_invalid"},
		{name: "line break in the path", inject: in("path"), secret: "s3\ncret", target: "/__slack__", want: "secret_invalid"},
		{name: "line break in JSON", inject: in("body"), secret: "s3\ncret", header: kind("application/json"), body: `"__slack__"`, want: "secret_invalid"},
		{name: "the marker itself", inject: in("header"), secret: "__slack__", header: marker, want: "secret_invalid"},
		{name: "one dot", inject: in("path"), secret: ".", target: "/a/__slack__/b", want: "bad_path"},
		{name: "two dots", inject: in("path"), secret: "..", target: "/a/__slack__", want: "bad_path"},
		{name: "two dots, one of them the client's", inject: in("path"), secret: ".", target: "/a/.__slack__/b", want: "bad_path"},
		{name: "two dots, one of them encoded", inject: in("path"), secret: ".", target: "/a/%2E__slack__", want: "bad_path"},
		{name: "dots for a server that decodes", inject: in("path"), secret: "x/../../admin", target: "/a/__slack__", want: "bad_path"},
		{name: "dots for a server that knows backslashes", inject: in("path"), secret: `x\..`, target: "/a/__slack__", want: "bad_path"},
		{name: "dots for a server that cuts parameters off", inject: in("path"), secret: "..;x", target: "/a/__slack__", want: "bad_path"},
		{name: "many in a header", inject: in("header"), secret: "s3cret", header: http.Header{"X-A": {strings.Repeat("__slack__", 2000)}}, want: "header_too_large"},
		{name: "many headers", inject: in("header"), secret: "s3cret", header: http.Header{"X-A": strings.Split(strings.Repeat("__slack__ ", 2000), " ")}, want: "header_too_large"},
		{name: "many Authorization headers", inject: in("basic"), secret: "s", header: http.Header{"Authorization": manyBasic(2000)}, want: "header_too_large"},
		{name: "a long one in the query", inject: in("query"), secret: strings.Repeat("s", 60<<10), target: "/?a=__slack__&b=__slack__&c=__slack__", want: "header_too_large"},
		{name: "many in the path", inject: in("path"), secret: "s3cret", target: "/" + strings.Repeat("__slack__", 2000), want: "header_too_large"},
		{name: "JSON that is none", inject: in("body"), secret: "s3cret", header: kind("application/json"), body: `{"a": "__slack__"`, want: "bad_body"},
		{name: "JSON that is two", inject: in("body"), secret: "s3cret", header: kind("application/json"), body: `"__slack__" "`, want: "bad_body"},
		{name: "a form that says it is JSON", inject: in("body"), secret: "s3cret", header: kind("application/json"), body: `a=__slack__`, want: "bad_body"},
		{name: "compressed", inject: in("body"), secret: "s3cret", header: kind("application/json", "Content-Encoding", "gzip"), body: "xxx", want: "bad_body"},
		{name: "compressed twice", inject: in("body"), secret: "s3cret", header: kind("text/plain", "Content-Encoding", "identity", "Content-Encoding", "br"), body: "xxx", want: "bad_body"},
		{name: "another character set", inject: in("body"), secret: "s3cret", header: kind("text/plain; charset=utf-16"), body: "xxx", want: "bad_body"},
		{name: "two types", inject: in("body"), secret: "s3cret", header: kind("text/plain", "Content-Type", "application/json"), body: "xxx", want: "bad_body"},
		{name: "a broken type", inject: in("body"), secret: "s3cret", header: kind("application/json; charset"), body: "xxx", want: "bad_body"},
		{name: "markup in text", inject: in("body"), secret: "a<b", header: kind("text/xml"), body: "__slack__", want: "secret_invalid"},
		{name: "too large", inject: in("body"), secret: "s3cret", header: kind("application/json"), body: strings.Repeat("x", 1<<20+1), want: "body_too_large"},
		{name: "growing", inject: in("body"), secret: strings.Repeat("s", 60<<10), header: kind("text/plain"), body: strings.Repeat("__slack__", 100_000), want: "body_too_large"},
		{name: "growing by its encoding", inject: in("body"), secret: strings.Repeat("ü", 20<<10), header: kind("application/x-www-form-urlencoded"), body: strings.Repeat("a=__slack__&", 20), want: "body_too_large"},
		{name: "growing in JSON", inject: in("body"), secret: strings.Repeat(`"`, 60<<10), header: kind("application/json"), body: "[" + strings.Repeat(`"__slack__",`, 20) + "0]", want: "body_too_large"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			creds := build(t, newEnv(t, nil), tt.inject, map[string]string{"S": secretFile(t, tt.secret)})
			target := tt.target
			if target == "" {
				target = "/"
			}
			got, err := deliver(t, creds, target, tt.header, strings.NewReader(tt.body))
			if err == nil {
				t.Fatalf("sent %.100q %.100q %.100q, want %s", got.target, got.header, got.body, tt.want)
			}
			if slug, hint := failure(t, err); slug != tt.want || hint == "" {
				t.Errorf("slug %q, hint %q, want %s and a hint", slug, hint, tt.want)
			}
			if strings.Contains(err.Error(), "s3") || strings.Contains(err.Error(), "ssss") {
				t.Errorf("error %q gives the secret away", err)
			}
		})
	}
}

// manyBasic is n headers that are all different.
func manyBasic(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = basicOf(fmt.Sprintf("%d:__slack__", i))
	}
	return list
}

// Without a marker nothing is used, and a secret that cannot be had stops nobody.
func TestPlaceholderWithoutMarker(t *testing.T) {
	t.Parallel()
	c := build(t, newEnv(t, nil), everywhere, map[string]string{"S": "file:/nowhere/at/all"})[0]
	for _, marker := range []string{"", "__slack__"} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://api.example.com/a/b?q="+marker, strings.NewReader(`{"a": 1}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		used, err := c.Apply(req)
		switch {
		case marker == "" && (used != nil || err != nil):
			t.Errorf("no marker: used %d values, %v", len(used), err)
		case marker != "" && err == nil:
			t.Error("a marker: no error without its secret")
		case marker != "":
			if slug, _ := failure(t, err); slug != "secret_missing" {
				t.Errorf("slug %s, want secret_missing", slug)
			}
		}
	}
}

// What was used is the value first, so that a 401 makes it be read again, and then how it stood on the wire.
func TestPlaceholderUsed(t *testing.T) {
	t.Parallel()
	c := build(t, newEnv(t, nil), everywhere, map[string]string{"S": secretFile(t, `s"/t`)})[0]
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://api.example.com/__slack__?a=__slack__", strings.NewReader(`"__slack__"`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Content-Type": {"application/json"}, "Authorization": {basicOf("a:__slack__")}, "X-A": {"__slack__"}}
	used, err := c.Apply(req)
	var got []string
	for _, v := range used {
		got = append(got, v.Reveal())
	}
	want := []string{`s"/t`, strings.TrimPrefix(basicOf(`a:s"/t`), "Basic "), "s%22%2Ft", `s\"/t`}
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("used %q, %v, want %q", got, err, want)
	}
}

func TestMarkerOf(t *testing.T) {
	t.Parallel()
	env := newEnv(t, nil)
	creds := build(t, env, "- {type: bearer, token: keyring:a}\n- {type: placeholder, placeholder: sk__openai, value: keyring:a, in: [header, body, basic, path, query], headers: [X-Key], env: OPENAI_API_KEY}", nil)
	if m, ok := inject.MarkerOf(creds[0]); ok {
		t.Errorf("a bearer has the marker %v", m)
	}
	m, ok := inject.MarkerOf(creds[1])
	if !ok || m.Text != "sk__openai" || m.Env != "OPENAI_API_KEY" || fmt.Sprint(m.In) != "[header basic path query body]" {
		t.Errorf("marker %+v, %v", m, ok)
	}
	// The example has the marker in each place where it counts.
	c := build(t, env, "{type: placeholder, placeholder: sk__openai, value: $S, in: [header, body, basic, path, query]}", map[string]string{"S": secretFile(t, "s3/cret")})[0]
	m, _ = inject.MarkerOf(c)
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://api.example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	m.Example(req)
	if _, err := c.Apply(req); err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(req.Body)
	got := []string{req.URL.RequestURI(), req.Header.Get("X-Example"), req.Header.Get("Authorization"), string(body)}
	want := []string{"/s3%2Fcret?x=s3%2Fcret", "s3/cret", basicOf("x:s3/cret"), `"s3/cret"`}
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func BenchmarkPlaceholder(b *testing.B) {
	for _, bb := range []struct {
		name, in, target, header, body string
	}{
		{"header", "header", "/v1/things?page=2", "Bearer __slack__", ""},
		{"none", "[header, basic, path, query]", "/v1/things?page=2", "Bearer other", ""},
		{"query", "query", "/v1/things?page=2&token=__slack__", "Bearer other", ""},
		{"JSON, 1 KiB", "body", "/v1/things", "Bearer other", `{"a": "` + strings.Repeat("x", 1000) + `", "token": "__slack__"}`},
	} {
		b.Run(bb.name, func(b *testing.B) {
			c := build(b, newEnv(b, nil), "{type: placeholder, placeholder: __slack__, value: $S, in: "+bb.in+"}", map[string]string{"S": secretFile(b, "s3cret")})[0]
			b.ReportAllocs()
			for b.Loop() {
				req, err := http.NewRequestWithContext(b.Context(), "POST", "http://api.example.com"+bb.target, strings.NewReader(bb.body))
				if err != nil {
					b.Fatal(err)
				}
				req.Header = http.Header{"Authorization": {bb.header}, "Content-Type": {"application/json"}, "User-Agent": {"x"}}
				if _, err := c.Apply(req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
