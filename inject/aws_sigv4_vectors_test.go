package inject

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/credproxy/credproxy/secrets"
)

// A suiteCase is one case of AWS's signing test suite.
type suiteCase struct {
	Name    string
	Context struct {
		Credentials struct {
			AccessKeyID     string `json:"access_key_id"`
			SecretAccessKey string `json:"secret_access_key"`
			Token           string
		}
		Normalize bool
		Timestamp time.Time
	}
	Header, Query suiteForm
}

type suiteForm struct{ Canonical, Signature, Signed string }

// suiteExceptions are the cases that do not come out as published, and why.
var suiteExceptions = map[string]string{
	"get-space-normalized": "a path with a space in it is not HTTP; with %20 there, services sign %2520",
	"get-utf8":             "a path with other characters than ASCII is not HTTP; percent-encoded, it is signed encoded twice",
	"post-sts-header-after": "the token is added after signing, which one service wants of presigned URLs only; " +
		"TestSigV4TokenOutsideTheSignature has that",
}

// testSigV4 is a credential with fixed keys and a clock that stands still.
func testSigV4(t testing.TB, id, secret, token string, at time.Time) *sigV4 {
	t.Helper()
	file := func(value string) secrets.Ref {
		if value == "" {
			return secrets.Ref{}
		}
		path := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		return secrets.Ref{Scheme: "file", Name: path}
	}
	env := Env{Secrets: secrets.NewResolver(secrets.Config{})}
	t.Cleanup(env.Secrets.Close)
	return &sigV4{env: env, id: file(id), secret: file(secret), token: file(token), now: func() time.Time { return at }}
}

// asSent is a request as a client with placeholder keys sends it, read as a server reads it.
func asSent(t *testing.T, text, id string) *http.Request {
	t.Helper()
	text = strings.ReplaceAll(text, id, "AKIAPLACEHOLDER")
	text = regexp.MustCompile(`(Signature=)[0-9a-f]{64}`).ReplaceAllString(text, "${1}"+strings.Repeat("0", 64))
	line, rest, _ := strings.Cut(text, "\n")
	parts := strings.SplitN(line, " ", 2)
	at := strings.LastIndex(parts[1], " ")
	line = parts[0] + " " + strings.ReplaceAll(parts[1][:at], " ", "%20") + parts[1][at:]
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(line + "\n" + rest)))
	if err != nil {
		t.Fatal(err)
	}
	req.URL.Scheme, req.URL.Host = "https", req.Host
	return req.WithContext(t.Context())
}

// The client's own signature is the suite's, of a key that means nothing. Ours must be the suite's of the real one.
func TestSigV4Suite(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/aws-signing-test-suite/v4.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []suiteCase
	if err := json.Unmarshal(text, &cases); err != nil || len(cases) != 38 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	for _, c := range cases {
		for form, want := range map[string]suiteForm{"header": c.Header, "query": c.Query} {
			t.Run(c.Name+"/"+form, func(t *testing.T) {
				t.Parallel()
				keys := c.Context.Credentials
				a := testSigV4(t, keys.AccessKeyID, keys.SecretAccessKey, keys.Token, c.Context.Timestamp)
				req := asSent(t, want.Signed, keys.AccessKeyID)
				if c.Context.Normalize {
					if _, err := a.Apply(req); err != nil {
						t.Fatal(err)
					}
				} else { // of all services S3 alone is so, and the suite's is called "service"
					signLikeS3(t, a, req)
				}
				got, excepted := signatureOf(req), suiteExceptions[c.Name]
				if len(got) != 64 || (got == want.Signature) == (excepted != "") {
					t.Errorf("signature %q, want %s (exception: %q)\n%s", got, want.Signature, excepted, want.Canonical)
				}
				if form == "query" && req.Header["Authorization"] != nil || form == "header" && strings.Contains(req.URL.RawQuery, "X-Amz") {
					t.Errorf("two forms at once: %s %v", req.URL, req.Header)
				}
			})
		}
	}
}

// signatureOf is the one that req carries, in whatever form.
func signatureOf(req *http.Request) string {
	if found := req.URL.Query().Get(amzSignature); found != "" {
		return found
	}
	_, found, _ := strings.Cut(req.Header.Get("Authorization"), " Signature=")
	return found
}

func signLikeS3(t *testing.T, a *sigV4, req *http.Request) {
	t.Helper()
	keys, _, err := a.keys(t.Context(), a.now())
	if err != nil {
		t.Fatal(err)
	}
	c, err := readSigV4(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.settle("", ""); err != nil {
		t.Fatal(err)
	}
	if err := c.readBody(req); err != nil {
		t.Fatal(err)
	}
	c.s3 = true
	c.sign(req, keys, a.signingKey(keys.secret, c, a.now()), a.now())
}

// The keys and the time of the examples in the Amazon S3 API Reference.
const (
	s3ID     = "AKIAIOSFODNN7EXAMPLE"
	s3Secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)

var s3Time = time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)

// The examples of https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html and, for the last one,
// sigv4-query-string-auth.html.
func TestSigV4PublishedForS3(t *testing.T) {
	t.Parallel()
	const placeholder = "AWS4-HMAC-SHA256 Credential=x/20300101/us-east-1/s3/aws4_request,SignedHeaders="
	tests := []struct {
		name, method, url string
		header            http.Header
		signed, body      string
		want              string
	}{
		{"GET object", "GET", "https://examplebucket.s3.amazonaws.com/test.txt", http.Header{"Range": {"bytes=0-9"}, amzHash: {emptyHash}},
			"host;range;x-amz-content-sha256;x-amz-date", "", "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
		{"PUT object", "PUT", "https://examplebucket.s3.amazonaws.com/test$file.text",
			http.Header{"Date": {"Fri, 24 May 2013 00:00:00 GMT"}, "X-Amz-Storage-Class": {"REDUCED_REDUNDANCY"}},
			"date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class", "Welcome to Amazon S3.",
			"98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"},
		{"GET bucket lifecycle", "GET", "https://examplebucket.s3.amazonaws.com/?lifecycle", http.Header{},
			"host;x-amz-content-sha256;x-amz-date", "", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
		{"GET bucket, list objects", "GET", "https://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J", http.Header{},
			"host;x-amz-content-sha256;x-amz-date", "", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
		{"presigned", "GET", "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256" +
			"&X-Amz-Credential=x%2F20300101%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20300101T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=00",
			http.Header{}, "", "", "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var body io.Reader
			if tt.body != "" {
				body = strings.NewReader(tt.body)
			}
			req, err := http.NewRequestWithContext(t.Context(), tt.method, tt.url, body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header = tt.header
			if tt.signed != "" {
				req.Header.Set("Authorization", placeholder+tt.signed+",Signature=00")
			}
			if _, err := testSigV4(t, s3ID, s3Secret, "", s3Time).Apply(req); err != nil {
				t.Fatal(err)
			}
			if got := signatureOf(req); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// The example of https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html, with its signatures.
func TestSigV4PublishedChunks(t *testing.T) {
	t.Parallel()
	const seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
	published := []string{
		"ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
		"0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
		"b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
	}
	body := func(signatures ...string) string {
		return "10000;chunk-signature=" + signatures[0] + "\r\n" + strings.Repeat("a", 65536) + "\r\n" +
			"400;chunk-signature=" + signatures[1] + "\r\n" + strings.Repeat("a", 1024) + "\r\n0;chunk-signature=" + signatures[2] + "\r\n\r\n"
	}
	zeros := strings.Repeat("0", 64)
	req, err := http.NewRequestWithContext(t.Context(), "PUT", "https://s3.amazonaws.com/examplebucket/chunkObject.txt", strings.NewReader(body(zeros, zeros, zeros)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{
		"Authorization": {"AWS4-HMAC-SHA256 Credential=x/20300101/us-east-1/s3/aws4_request," +
			"SignedHeaders=content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class,Signature=" + zeros},
		"Content-Encoding": {"aws-chunked"}, amzHash: {signedChunks}, "X-Amz-Storage-Class": {"REDUCED_REDUNDANCY"}, "X-Amz-Decoded-Content-Length": {"66560"},
	}
	if _, err := testSigV4(t, s3ID, s3Secret, "", s3Time).Apply(req); err != nil {
		t.Fatal(err)
	}
	if got := signatureOf(req); got != seed {
		t.Errorf("seed %s, want %s", got, seed)
	}
	got, err := io.ReadAll(req.Body)
	if want := body(published...); err != nil || string(got) != want || req.ContentLength != int64(len(want)) || len(want) != 66824 {
		t.Errorf("%d bytes (%d announced), %v: not the published signatures:\n%s", len(got), req.ContentLength, err,
			regexp.MustCompile(`[0-9a-f]{64}`).FindAllString(string(got), -1))
	}
}

func TestSigV4TokenOutsideTheSignature(t *testing.T) {
	t.Parallel()
	signed := func(token string) url.Values {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "https://a.iot.eu-west-1.amazonaws.com/mqtt?X-Amz-Algorithm=AWS4-HMAC-SHA256"+
			"&X-Amz-Credential=x%2F20300101%2Feu-west-1%2Fiotdevicegateway%2Faws4_request&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=00", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := testSigV4(t, s3ID, s3Secret, token, s3Time).Apply(req); err != nil {
			t.Fatal(err)
		}
		return req.URL.Query()
	}
	with, without := signed("token+/="), signed("")
	if with.Get(amzToken) != "token+/=" || with.Get(amzSignature) == "" || with.Get(amzSignature) != without.Get(amzSignature) || without.Has(amzToken) {
		t.Errorf("with a token %v\nwithout one %v\nwant the same signature", with, without)
	}
}
