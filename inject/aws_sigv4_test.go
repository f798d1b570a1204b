package inject_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/credproxy/credproxy/inject"
)

const (
	sigV4    = "{type: aws_sigv4, access_key_id: $ID, secret_access_key: $S}"
	sigV4For = "{type: aws_sigv4, access_key_id: $ID, secret_access_key: $S, region: eu-west-1, service: execute-api}"

	placeholder   = "AWS4-HMAC-SHA256 Credential=AKIAPLACEHOLDER/20300101/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=" + noSignature
	noSignature   = "0000000000000000000000000000000000000000000000000000000000000000"
	presignedPart = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAPLACEHOLDER%2F20300101%2Fus-east-1%2Fs3%2Faws4_request" +
		"&X-Amz-Date=20300101T000000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=" + noSignature
	emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// newSigV4 is a credential with the keys that its server knows.
func newSigV4(t testing.TB, text, token string) (inject.Credential, awsTestKeys) {
	t.Helper()
	keys := awsTestKeys{ID: "AKIDREAL", Secret: "s3cr/et+", Token: token}
	if token != "" {
		text = strings.TrimSuffix(text, "}") + ", session_token: $T}"
	}
	vars := map[string]string{"ID": secretFile(t, keys.ID), "S": secretFile(t, keys.Secret), "T": secretFile(t, token)}
	return build(t, newEnv(t, nil), text, vars)[0], keys
}

// What changes with each request.
var (
	anyTime      = regexp.MustCompile(`[0-9]{8}T[0-9]{6}Z`)
	anyDay       = regexp.MustCompile(`(AKIDREAL(?:/|%2F))[0-9]{8}`)
	anySignature = regexp.MustCompile(`(Signature=)[0-9a-f]{64}`)
)

func withoutTime(s string) string {
	return anySignature.ReplaceAllString(anyDay.ReplaceAllString(anyTime.ReplaceAllString(s, "NOW"), "${1}DAY"), "${1}SIG")
}

func TestSigV4OnTheWire(t *testing.T) {
	t.Parallel()
	authorization := func(scope, names string) string {
		return "Authorization: AWS4-HMAC-SHA256 Credential=AKIDREAL/DAY/" + scope + "/aws4_request, SignedHeaders=" + names + ", Signature=SIG"
	}
	presignedAs := func(more, names, token string) string {
		return "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDREAL%2FDAY%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=NOW" + more +
			"&X-Amz-SignedHeaders=" + names + token + "&X-Amz-Signature=SIG"
	}
	const date, empty = "X-Amz-Date: NOW", "X-Amz-Content-Sha256: " + emptyHash
	s3 := "us-east-1/s3"
	tests := []struct {
		name, inject, token, target string
		header                      http.Header
		wantTarget                  string
		want                        []string
	}{
		{"a client that did not sign", sigV4For, "", "/a?b", nil, "", []string{authorization("eu-west-1/execute-api", "host;x-amz-content-sha256;x-amz-date"), empty, date}},
		{"a client's key of another kind", sigV4For, "", "/", http.Header{"Authorization": {"Bearer x"}}, "",
			[]string{authorization("eu-west-1/execute-api", "host;x-amz-content-sha256;x-amz-date"), empty, date}},
		{"the scope is the client's", sigV4, "", "/", http.Header{"Authorization": {placeholder}}, "",
			[]string{authorization(s3, "host;x-amz-content-sha256;x-amz-date"), empty, date}},
		{"the scope is the rule's", sigV4For, "", "/", http.Header{"Authorization": {placeholder}}, "", []string{authorization("eu-west-1/execute-api", "host;x-amz-date"), date}},
		{"a malformed scope does not matter then", sigV4For, "", "/", http.Header{"Authorization": {"AWS4-HMAC-SHA256 Credential=a/b\"c"}}, "",
			[]string{authorization("eu-west-1/execute-api", "host;x-amz-date"), date}},
		{"half of the scope is the rule's", "{type: aws_sigv4, access_key_id: $ID, secret_access_key: $S, region: auto}", "", "/", http.Header{"Authorization": {placeholder}}, "",
			[]string{authorization("auto/s3", "host;x-amz-content-sha256;x-amz-date"), empty, date}},
		{"an id with slashes", sigV4, "", "/", http.Header{"Authorization": {strings.Replace(placeholder, "AKIAPLACEHOLDER", "a/b/c", 1)}}, "",
			[]string{authorization(s3, "host;x-amz-content-sha256;x-amz-date"), empty, date}},
		{"the client's token goes", sigV4, "", "/", http.Header{"Authorization": {placeholder}, "X-Amz-Security-Token": {"theirs"}, "X-Amz-S3session-Token": {"theirs"}}, "",
			[]string{authorization(s3, "host;x-amz-content-sha256;x-amz-date"), empty, date}},
		{"ours comes", sigV4, "ours", "/", http.Header{"Authorization": {placeholder}, "X-Amz-Security-Token": {"theirs"}}, "",
			[]string{authorization(s3, "host;x-amz-content-sha256;x-amz-date;x-amz-security-token"), empty, date, "X-Amz-Security-Token: ours"}},
		{"whatever the spelling", sigV4, "", "/", http.Header{"Authorization": {placeholder}, "x_amz_security-TOKEN": {"a"}, "X_Amz_Date": {"b"}, "AUTHORIZATION": {"c"}, "X-Amz_Content-Sha256": {"d"}}, "",
			[]string{authorization(s3, "host;x-amz-content-sha256;x-amz-date"), empty, date}},
		{"what the client signed is signed", sigV4, "", "/", http.Header{"Authorization": {strings.Replace(placeholder, "host;", "accept;accept-encoding;connection;host;range;user-agent;", 1)},
			"Accept": {"*/*"}, "Range": {"bytes=0-1"}, "If-Match": {"x"}, "Cookie": {"a=b"}, "Accept-Encoding": {"br"}, "X-Amz-Acl": {"private"}, "Content-Type": {"a/b"}}, "",
			[]string{"Accept-Encoding: br", "Accept: */*", authorization(s3, "accept;content-type;host;range;x-amz-acl;x-amz-content-sha256;x-amz-date"), "Content-Type: a/b",
				"Cookie: a=b", "If-Match: x", "Range: bytes=0-1", "X-Amz-Acl: private", empty, date}},
		{"path and query stay as they are", sigV4, "", "/a//b/%7eu;x=1/(z)/%2b+%2F?b=%7e&&a=x+y&c;d&=e&%c3%bc", http.Header{"Authorization": {placeholder}}, "",
			[]string{authorization(s3, "host;x-amz-content-sha256;x-amz-date"), empty, date}},
		{"presigned", sigV4, "", "/k?b=%7e&&" + presignedPart + "&a=x+y", nil,
			"/k?b=%7e&&a=x+y&" + presignedAs("&X-Amz-Expires=60", "host", ""), nil},
		{"presigned, in whatever spelling", sigV4, "", "/k?" + strings.ToLower(strings.ReplaceAll(presignedPart, "X-Amz-Credential", "X%2damz-Credential")), nil,
			"/k?" + presignedAs("&X-Amz-Expires=60", "host", ""), nil},
		{"presigned, with a token", sigV4, "o/u+rs", "/k?X-Amz-Security-Token=theirs&" + presignedPart, http.Header{"X-Amz-Security-Token": {"theirs"}},
			"/k?" + presignedAs("&X-Amz-Expires=60", "host", "&X-Amz-Security-Token=o%2Fu%2Brs"), nil},
		{"presigned, the client's token goes", sigV4, "", "/k?X-Amz-Security-Token=theirs&" + presignedPart, nil,
			"/k?" + presignedAs("&X-Amz-Expires=60", "host", ""), nil},
		{"presigned, for too long", sigV4, "", "/k?" + strings.Replace(presignedPart, "Expires=60", "Expires=99999999", 1), nil,
			"/k?" + presignedAs("&X-Amz-Expires=604800", "host", ""), nil},
		{"presigned, and a header as well", sigV4, "", "/k?" + presignedPart, http.Header{"Authorization": {placeholder}, "X-Amz-Date": {"20300101T000000Z"}, "X-Amz-Acl": {"private"}},
			"/k?" + presignedAs("&X-Amz-Expires=60", "host%3Bx-amz-acl", ""), []string{"X-Amz-Acl: private"}},
		{"presigned, with the kind of body", sigV4, "", "/k?X-Amz-Content-Sha256=UNSIGNED-PAYLOAD&" + presignedPart, nil,
			"/k?" + presignedAs("&X-Amz-Expires=60", "host", "&X-Amz-Content-Sha256=UNSIGNED-PAYLOAD"), nil},
		{"half presigned is not presigned", sigV4, "", "/k?a=b&X-Amz-Credential=x&X-Amz-Security-Token=theirs", http.Header{"Authorization": {placeholder}},
			"/k?a=b", []string{authorization(s3, "host;x-amz-content-sha256;x-amz-date"), empty, date}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, _ := newSigV4(t, tt.inject, tt.token)
			target, lines := newWire(t).send(t, []inject.Credential{c}, tt.target, tt.header)
			want := tt.wantTarget
			if want == "" {
				want = tt.target
			}
			if got := withoutTime(target); got != want {
				t.Errorf("target %s\nwant   %s", got, want)
			}
			for i := range lines {
				lines[i] = withoutTime(lines[i])
			}
			if !slices.Equal(lines, tt.want) {
				t.Errorf("header\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

func TestSigV4Refuses(t *testing.T) {
	t.Parallel()
	scope := func(s string) http.Header {
		return http.Header{"Authorization": {strings.Replace(placeholder, "AKIAPLACEHOLDER/20300101/us-east-1/s3/aws4_request", s, 1)}}
	}
	const wantScope = "set region and service in the rule, or let the program sign with placeholder keys"
	claim := func(values ...string) http.Header {
		return http.Header{"Authorization": {placeholder}, "X-Amz-Content-Sha256": values}
	}
	tests := []struct {
		name, target string
		header       http.Header
		text, hint   string // hint may be a part
	}{
		{"no scope", "/", nil, "the request does not say for which region and service it is", wantScope},
		{"another scheme", "/", http.Header{"Authorization": {"AWS AKIA:c2ln"}}, "the request does not say for which region and service it is", wantScope},
		{"two headers", "/", http.Header{"Authorization": {placeholder, placeholder}}, "the request does not say for which region and service it is", wantScope},
		{"too short", "/", scope("a/us-east-1/s3/aws4_request"), "the scope in the client's signature is malformed", wantScope},
		{"too many slashes", "/", scope(strings.Repeat("a/", 40) + "20300101/us-east-1/s3/aws4_request"), "the scope in the client's signature is malformed", wantScope},
		{"region with a line break", "/", scope("a/20300101/us\neast/s3/aws4_request"), "the scope in the client's signature is malformed", wantScope},
		{"region with a quote", "/", scope(`a/20300101/us"east/s3/aws4_request`), "the scope in the client's signature is malformed", wantScope},
		{"no region", "/", scope("a/20300101//s3/aws4_request"), "the scope in the client's signature is malformed", wantScope},
		{"service with a dot", "/", scope("a/20300101/us-east-1/s3.x/aws4_request"), "the scope in the client's signature is malformed", wantScope},
		{"a long service", "/", scope("a/20300101/us-east-1/" + strings.Repeat("s", 65) + "/aws4_request"), "the scope in the client's signature is malformed", wantScope},
		{"no day", "/", scope("a/20301301/us-east-1/s3/aws4_request"), "the scope in the client's signature is malformed", wantScope},
		{"another end", "/", scope("a/20300101/us-east-1/s3/aws5_request"), "the scope in the client's signature is malformed", wantScope},
		{"presigned without a scope", "/?X-Amz-Signature=0&X-Amz-Expires=1", nil, "the request does not say for which region and service it is", wantScope},
		{"presigned for no time", "/?" + strings.Replace(presignedPart, "Expires=60", "Expires=0", 1), nil, "X-Amz-Expires of the presigned URL is not a number of seconds", "presign it anew"},
		{"presigned for a negative time", "/?" + strings.Replace(presignedPart, "Expires=60", "Expires=-1", 1), nil, "X-Amz-Expires of the presigned URL is not a number of seconds", "presign it anew"},
		{"presigned without a time", "/?" + strings.Replace(presignedPart, "&X-Amz-Expires=60", "", 1), nil, "X-Amz-Expires of the presigned URL is not a number of seconds", "presign it anew"},
		{"presigned twice over", "/?" + presignedPart + "&x-amz-credential=a", nil, "the query has a parameter of a signature twice", "presign the URL anew"},
		{"a bad percent in the query", "/?a=%zz", http.Header{"Authorization": {placeholder}}, "the query has a % that begins no character", "encode % as %25"},
		{"SigV4A", "/", http.Header{"Authorization": {"AWS4-ECDSA-P256-SHA256 Credential=a/20300101/s3/aws4_request"}}, "the request is signed with AWS4-ECDSA-P256-SHA256 (SigV4A), which is not supported", "for one region"},
		{"SigV4A, presigned", "/?" + strings.Replace(presignedPart, "AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256", 1), nil, "the request is signed with AWS4-ECDSA-P256-SHA256 (SigV4A), which is not supported", "for one region"},
		{"SigV4A, chunks", "/", claim("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"), "the body's chunks are signed with AWS4-ECDSA-P256-SHA256 (SigV4A), which is not supported", "for one region"},
		{"events", "/", claim("STREAMING-AWS4-HMAC-SHA256-EVENTS"), "X-Amz-Content-Sha256 is neither a SHA-256 in hex nor a kind of body that can be signed here", "use UNSIGNED-PAYLOAD"},
		{"no hash", "/", claim("abc"), "X-Amz-Content-Sha256 is neither a SHA-256 in hex nor a kind of body that can be signed here", "use UNSIGNED-PAYLOAD"},
		{"a hash in capitals", "/", claim(strings.ToUpper(emptyHash)), "X-Amz-Content-Sha256 is neither a SHA-256 in hex nor a kind of body that can be signed here", "use UNSIGNED-PAYLOAD"},
		{"two hashes", "/", claim(emptyHash, emptyHash), "X-Amz-Content-Sha256 is there more than once", "send it once"},
		{"chunks in a presigned URL", "/?X-Amz-Content-Sha256=STREAMING-AWS4-HMAC-SHA256-PAYLOAD&" + presignedPart, nil, "X-Amz-Content-Sha256 is neither a SHA-256 in hex nor a kind of body that can be signed here", "use UNSIGNED-PAYLOAD"},
		{"chunks without a body", "/", claim("STREAMING-AWS4-HMAC-SHA256-PAYLOAD"), "the body is not in chunks, as X-Amz-Content-Sha256 says", "in another way"},
		{"too many names", "/", http.Header{"Authorization": {strings.Replace(placeholder, "host;", strings.Repeat("a;", 3000), 1)}}, "the client's signature names too many headers", "send fewer headers"},
	}
	c, _ := newSigV4(t, sigV4, "ours")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			req, err := http.NewRequestWithContext(t.Context(), "GET", "https://api.example.com"+tt.target, nil)
			if err != nil {
				t.Fatal(err)
			}
			if tt.header != nil {
				req.Header = tt.header
			}
			before := fmt.Sprint(req.URL, req.Header)
			used, err := c.Apply(req)
			if err == nil {
				t.Fatalf("signed: %s %v", req.URL, req.Header)
			}
			if slug, hint := failure(t, err); slug != "cannot_sign" || err.Error() != tt.text || !strings.Contains(hint, tt.hint) || hint == "" {
				t.Errorf("slug %q, text %q, hint %q\nwant cannot_sign, %q, %q", slug, err, hint, tt.text, tt.hint)
			}
			if got := fmt.Sprint(req.URL, req.Header); got != before || used != nil {
				t.Errorf("the request was changed all the same: %s\nwas %s", got, before)
			}
		})
	}
}

func sha256Hex(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// What is signed of a body: its hash where it is small or the client says it, and otherwise nothing, if the service takes that.
func TestSigV4Bodies(t *testing.T) {
	t.Parallel()
	const unsigned, limit = "UNSIGNED-PAYLOAD", 8 << 20
	small, large, larger := "{}", strings.Repeat("x", limit), strings.Repeat("x", limit+1)
	other := sha256Hex("another")
	tests := []struct {
		name, service, url, claim, body string
		unknown                         bool // no Content-Length
		want                            string
		slug                            string
	}{
		{name: "small", service: "dynamodb", body: small, want: sha256Hex(small)},
		{name: "small, of unknown length", service: "dynamodb", body: small, unknown: true, want: sha256Hex(small)},
		{name: "none", service: "dynamodb", want: emptyHash},
		{name: "as large as can be", service: "lambda", body: large, want: sha256Hex(large)},
		{name: "too large", service: "lambda", body: larger, slug: "body_too_large"},
		{name: "too large, of unknown length", service: "lambda", body: larger, unknown: true, slug: "body_too_large"},
		{name: "the client's hash", service: "lambda", body: larger, claim: other, want: other},
		{name: "the client's hash of a small one", service: "dynamodb", body: small, claim: other, want: other},
		{name: "the client's hash of none", service: "dynamodb", claim: other, want: emptyHash},
		{name: "the client's UNSIGNED-PAYLOAD", service: "mediastore", body: larger, claim: unsigned, want: unsigned},
		{name: "S3, small", service: "s3", body: small, want: sha256Hex(small)},
		{name: "S3, of unknown length", service: "s3", body: small, unknown: true, want: unsigned},
		{name: "S3, too large", service: "s3", body: larger, want: unsigned},
		{name: "S3, too large, over http", service: "s3", url: "http://api.example.com/", body: larger, slug: "body_too_large"},
		{name: "S3, of unknown length, over http", service: "s3", url: "http://api.example.com/", body: small, unknown: true, want: sha256Hex(small)},
		{name: "S3, UNSIGNED-PAYLOAD", service: "s3", body: small, claim: unsigned, want: unsigned},
		{name: "S3, unsigned chunks", service: "s3", body: "2\r\n{}\r\n0\r\nx-amz-checksum-crc32:AAAA\r\n\r\n", claim: "STREAMING-UNSIGNED-PAYLOAD-TRAILER", want: "STREAMING-UNSIGNED-PAYLOAD-TRAILER"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, _ := newSigV4(t, strings.Replace(sigV4For, "execute-api", tt.service, 1), "")
			url := tt.url
			if url == "" {
				url = "https://api.example.com/"
			}
			body := io.Reader(strings.NewReader(tt.body))
			if tt.unknown {
				body = io.MultiReader(body)
			}
			req, err := http.NewRequestWithContext(t.Context(), "PUT", url, body)
			if err != nil {
				t.Fatal(err)
			}
			if tt.unknown {
				req.ContentLength = -1
			}
			length := req.ContentLength
			if tt.claim != "" {
				req.Header.Set("X-Amz-Content-Sha256", tt.claim)
			}
			_, err = c.Apply(req)
			if tt.slug != "" {
				if slug, hint := failure(t, err); slug != tt.slug || !strings.Contains(err.Error()+hint, "8 MiB") {
					t.Errorf("slug %q, %v, hint %q, want %s and the limit", slug, err, hint, tt.slug)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := req.Header.Get("X-Amz-Content-Sha256"); got != tt.want {
				t.Errorf("signed %s, want %s", got, tt.want)
			}
			if got, err := io.ReadAll(req.Body); err != nil || string(got) != tt.body || req.ContentLength != length {
				t.Errorf("%d bytes are sent, Content-Length %d, %v; want %d and %d", len(got), req.ContentLength, err, len(tt.body), length)
			}
		})
	}
}

// A hash that the client made before another credential wrote into the body is not right any more.
func TestSigV4AfterAChangeOfTheBody(t *testing.T) {
	t.Parallel()
	signer, _ := newSigV4(t, sigV4For, "")
	writer := build(t, newEnv(t, nil), "{type: oauth1, consumer_key: me, consumer_secret: $S, placement: body}", map[string]string{"S": secretFile(t, "s3cret")})[0]
	req, err := http.NewRequestWithContext(t.Context(), "POST", "https://api.example.com/", strings.NewReader("a=1"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "X-Amz-Content-Sha256": {sha256Hex("a=1")}}
	for _, c := range []inject.Credential{writer, signer} {
		if _, err := c.Apply(req); err != nil {
			t.Fatal(err)
		}
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got := req.Header.Get("X-Amz-Content-Sha256"); got != sha256Hex(string(body)) || !strings.HasPrefix(string(body), "a=1&oauth_") {
		t.Errorf("signed %s of %s", got, body)
	}
}

// awsChunked is body in aws-chunked coding, with signatures that mean nothing.
func awsChunked(body string, size int, trailers string) string {
	var b strings.Builder
	for len(body) > 0 {
		n := min(size, len(body))
		fmt.Fprintf(&b, "%x;chunk-signature=%s\r\n%s\r\n", n, noSignature, body[:n])
		body = body[n:]
	}
	b.WriteString("0;chunk-signature=" + noSignature + "\r\n")
	if trailers != "" {
		b.WriteString(trailers + "x-amz-trailer-signature:" + noSignature + "\r\n")
	}
	return b.String() + "\r\n"
}

// newChunked is a request with a body in chunks, as coded.
func newChunked(t testing.TB, coded io.Reader, kind string, decoded int) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "PUT", "https://b.s3.amazonaws.com/k", coded)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{
		"Authorization": {placeholder}, "Content-Encoding": {"aws-chunked"}, "X-Amz-Content-Sha256": {kind},
		"X-Amz-Decoded-Content-Length": {fmt.Sprint(decoded)},
	}
	if strings.HasSuffix(kind, "TRAILER") {
		req.Header["X-Amz-Trailer"] = []string{"x-amz-checksum-crc32c"}
	}
	return req
}

const (
	chunksKind   = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
	trailersKind = chunksKind + "-TRAILER"
)

func TestSigV4Chunks(t *testing.T) {
	t.Parallel()
	const trailer = "x-amz-checksum-crc32c:sOO8/Q==\r\n"
	tests := []struct {
		name, kind, body string
		size             int
		trailers         string
	}{
		{"none", chunksKind, "", 1, ""},
		{"one", chunksKind, "hello", 100, ""},
		{"many", chunksKind, strings.Repeat("0123456789", 20_000), 8192, ""},
		{"of one byte", chunksKind, "hello", 1, ""},
		{"as large as can be", chunksKind, strings.Repeat("x", 8<<20), 8 << 20, ""},
		{"with a trailer", trailersKind, "hello", 3, trailer},
		{"with a trailer as some clients write it", trailersKind, "hello", 3, "x-amz-checksum-crc32c:sOO8/Q==\n\r\n"},
		{"none, with a trailer", trailersKind, "", 3, trailer},
	}
	var sent []sigV4Arrival
	for _, tt := range tests {
		for _, slow := range []bool{false, true} {
			c, keys := newSigV4(t, sigV4, "ours")
			coded := awsChunked(tt.body, tt.size, tt.trailers)
			src := io.Reader(strings.NewReader(coded))
			if slow && len(coded) < 1<<20 {
				src = iotest.OneByteReader(src)
			}
			req := newChunked(t, src, tt.kind, len(tt.body))
			if _, err := c.Apply(req); err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(req.Body)
			if err != nil || len(body) != len(coded) {
				t.Errorf("%s: %d bytes, %v, want %d", tt.name, len(body), err, len(coded))
			}
			if bytes.Contains(body, []byte(noSignature)) {
				t.Errorf("%s: a signature of the client is still there", tt.name)
			}
			a := arrival{Method: "PUT", URI: req.URL.String(), Headers: map[string]string{}, Body: body}
			for name, values := range req.Header {
				a.Headers[name] = strings.Join(values, ", ")
			}
			sent = append(sent, sigV4Arrival{arrival: a, Keys: keys, about: tt.name})
		}
	}
	for i, v := range botocore(t, sent) {
		if want := sha256Hex(tests[i/2].body); !v.Valid || v.SHA256 != want {
			t.Errorf("%s: valid %v: %s; a body with the hash %s, want %s", sent[i].about, v.Valid, v.Error, v.SHA256, want)
		}
	}
}

// Whatever is not in the coding breaks off before its end. What was sent until then has right signatures, and no last chunk.
func TestSigV4MalformedChunks(t *testing.T) {
	t.Parallel()
	good := awsChunked("hello", 3, "")
	trailed := awsChunked("hello", 3, "x-amz-checksum-crc32c:sOO8/Q==\r\n")
	head := "5;chunk-signature=" + noSignature + "\r\n"
	tests := []struct{ name, kind, body, why string }{
		{"not in chunks", chunksKind, "hello", "they break off"},
		{"a line without a signature", chunksKind, "5\r\nhello\r\n0\r\n\r\n", "want a size and a signature before each"},
		{"another extension", chunksKind, "5;a=b;chunk-signature=" + noSignature + "\r\nhello\r\n", "want a size and a signature before each"},
		{"a short signature", chunksKind, "5;chunk-signature=" + noSignature[1:] + "\r\nhello\r\n", "want a size and a signature before each"},
		{"a long signature", chunksKind, "5;chunk-signature=0" + noSignature + "\r\nhello\r\n", "want a size and a signature before each"},
		{"no hex", chunksKind, "5;chunk-signature=" + noSignature[1:] + "g\r\nhello\r\n", "want a size and a signature before each"},
		{"a negative size", chunksKind, "-5;chunk-signature=" + noSignature + "\r\nhello\r\n", "want a size and a signature before each"},
		{"a size with a sign", chunksKind, "+5;chunk-signature=" + noSignature + "\r\nhello\r\n", "want a size and a signature before each"},
		{"no size", chunksKind, ";chunk-signature=" + noSignature + "\r\nhello\r\n", "want a size and a signature before each"},
		{"a size of many digits", chunksKind, "000000005;chunk-signature=" + noSignature + "\r\nhello\r\n", "want a size and a signature before each"},
		{"a huge size", chunksKind, "ffffffff;chunk-signature=" + noSignature + "\r\nhello\r\n", "one is larger than 8 MiB"},
		{"just too large", chunksKind, "800001;chunk-signature=" + noSignature + "\r\nhello\r\n", "one is larger than 8 MiB"},
		{"LF for CR LF", chunksKind, "5;chunk-signature=" + noSignature + "\nhello\r\n", "want a size and a signature before each"},
		{"a line without an end", chunksKind, strings.Repeat("5", 10_000), "a line is too long"},
		{"more data than said", chunksKind, head + "helloo\r\n", "one is longer than its size"},
		{"less data than said", chunksKind, head + "hell", "they break off"},
		{"broken off after a chunk", chunksKind, head + "hello\r\n", "they break off"},
		{"broken off in the last one", chunksKind, good[:len(good)-2], "they break off"},
		{"something behind the end", chunksKind, good + "x", "something comes after the last one"},
		{"another body behind the end", chunksKind, good + good, "something comes after the last one"},
		{"unexpected trailers", chunksKind, trailed, "one is longer than its size"},
		{"no trailers", trailersKind, good, "they break off"},
		{"a trailer that is no field", trailersKind, strings.Replace(trailed, "crc32c:", "crc32c ", 1), "a trailer is no field"},
		{"a trailer's signature in the wrong size", trailersKind, strings.Replace(trailed, "x-amz-trailer-signature:0", "x-amz-trailer-signature:", 1), "the trailers' signature is none"},
		{"trailers without end", trailersKind, strings.Replace(trailed, "x-amz-trailer", strings.Repeat("a:b\r\n", 2000)+"x-amz-trailer", 1), "the trailers are too long"},
		{"something behind the trailers", trailersKind, trailed + "\r\n", "something comes after the last one"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, _ := newSigV4(t, sigV4, "")
			req := newChunked(t, strings.NewReader(tt.body), tt.kind, 5)
			if _, err := c.Apply(req); err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(req.Body)
			if err == nil {
				t.Fatalf("no error, and %d bytes: %q", len(body), body)
			}
			if slug, hint := failure(t, err); slug != "bad_body" || hint == "" || err.Error() != "the body's signed chunks are malformed: "+tt.why {
				t.Errorf("slug %q, %q, hint %q; want bad_body, %s", slug, err, hint, tt.why)
			}
			if bytes.Contains(body, []byte(noSignature)) || bytes.HasPrefix(body, []byte("0;")) || bytes.Contains(body, []byte("\r\n0;")) {
				t.Errorf("sent %q", body)
			}
			if n, again := req.Body.Read(make([]byte, 1)); n != 0 || !errors.Is(again, err) {
				t.Errorf("the next Read: %d, %v, want the same error", n, again)
			}
		})
	}
	t.Run("the client leaves", func(t *testing.T) {
		t.Parallel()
		c, _ := newSigV4(t, sigV4, "")
		req := newChunked(t, io.MultiReader(strings.NewReader(head), iotest.ErrReader(context.Canceled)), chunksKind, 5)
		if _, err := c.Apply(req); err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(req.Body); !errors.Is(err, context.Canceled) || len(body) != 0 {
			t.Errorf("sent %q, %v, want the client's own error", body, err)
		}
	})
}

// FuzzSigV4Chunks: whatever comes, all that goes out is as long as what came in, or it is an error.
func FuzzSigV4Chunks(f *testing.F) {
	f.Add(awsChunked("hello", 3, ""), false)
	f.Add(awsChunked("hello", 3, "a:b\r\n"), true)
	f.Add("5;chunk-signature="+noSignature+"\r\nhell", false)
	c, _ := newSigV4(f, sigV4, "")
	f.Fuzz(func(t *testing.T, body string, trailers bool) {
		kind := chunksKind
		if trailers {
			kind = trailersKind
		}
		req := newChunked(t, io.MultiReader(strings.NewReader(body)), kind, 0)
		if _, err := c.Apply(req); err != nil {
			t.Fatal(err)
		}
		out, err := io.ReadAll(req.Body)
		if err == nil && len(out) != len(body) || len(out) > len(body) {
			t.Errorf("%d bytes of %d, %v", len(out), len(body), err)
		}
	})
}

var (
	signedHeader = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=AKIDREAL/[0-9]{8}/[A-Za-z0-9_-]{1,64}/[A-Za-z0-9_-]{1,64}/aws4_request, SignedHeaders=[!#-+\--:<-~]+(;[!#-+\--:<-~]+)*, Signature=[0-9a-f]{64}$`)
	signedQuery  = regexp.MustCompile(`(^|&)X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDREAL%2F[0-9]{8}%2F[A-Za-z0-9_-]{1,64}%2F[A-Za-z0-9_-]{1,64}%2Faws4_request&X-Amz-Date=[0-9TZ]{16}` +
		`&X-Amz-Expires=[0-9]{1,6}&X-Amz-SignedHeaders=[^&]+(&X-Amz-Content-Sha256=[^&]+)?&X-Amz-Security-Token=ours&X-Amz-Signature=[0-9a-f]{64}$`)
)

// FuzzSigV4Request: whatever a client sends, there is an error, or one signature of the right form and no other.
func FuzzSigV4Request(f *testing.F) {
	f.Add("a=b", placeholder, emptyHash, "host")
	f.Add(presignedPart+"&a=b", "", "", "X-Amz-Meta-A")
	f.Add("X-Amz-Security-Token=theirs&"+presignedPart, placeholder, "UNSIGNED-PAYLOAD", "Range")
	c, _ := newSigV4(f, sigV4, "ours")
	f.Fuzz(func(t *testing.T, query, authorization, hash, header string) {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "https://b.s3.amazonaws.com/k", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.URL.RawQuery = query
		req.Header = http.Header{"Authorization": {authorization}, "X-Amz-Content-Sha256": {hash}, "X-Amz-Security-Token": {"theirs"}}
		if http.CanonicalHeaderKey(header) != "" && strings.HasPrefix(header, "X-") && !strings.ContainsAny(header, " \"\\,;=") && len(header) < 50 {
			req.Header[http.CanonicalHeaderKey(header)] = []string{"theirs"}
		}
		if _, err := c.Apply(req); err != nil {
			return
		}
		got := req.Header["Authorization"]
		inHeader, inQuery := len(got) == 1 && signedHeader.MatchString(got[0]), signedQuery.MatchString(req.URL.RawQuery)
		if inHeader == inQuery || len(got) > 1 || inQuery && len(got) > 0 {
			t.Errorf("header %q\nquery %q", got, req.URL.RawQuery)
		}
		token, wantToken := strings.Join(req.Header["X-Amz-Security-Token"], ","), "ours"
		if inQuery {
			wantToken = ""
		}
		left := inject.Target{In: "query", Name: "X-Amz-Signature"}.Present(req)
		if token != wantToken || left != inQuery {
			t.Errorf("token %q, query %q", token, req.URL.RawQuery)
		}
	})
}

func TestSigV4Targets(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ inject, want, refs string }{
		{"{type: aws_sigv4, access_key_id: keyring:a#id, secret_access_key: keyring:a#key}",
			"[{header Authorization AWS4-HMAC-SHA256 <signature for <keyring:a#id>, with <keyring:a#key>>} {header X-Amz-Date <now>} " +
				"{query X-Amz-Signature <the signature of a request that came presigned>}]", "[keyring:a#id keyring:a#key]"},
		{"{type: aws_sigv4, credentials: {exec: [aws, x]}}",
			"[{header Authorization AWS4-HMAC-SHA256 <signature for <exec:aws>, with <exec:aws>>} {header X-Amz-Date <now>} {header X-Amz-Security-Token <exec:aws>} " +
				"{query X-Amz-Signature <the signature of a request that came presigned>}]", "[exec:aws]"},
	} {
		c := build(t, newEnv(t, nil), tt.inject, nil)[0]
		if got, refs := fmt.Sprint(c.Targets()), fmt.Sprint(c.Refs()); got != tt.want || refs != tt.refs {
			t.Errorf("%s\n got %s %s\nwant %s %s", tt.inject, got, refs, tt.want, tt.refs)
		}
	}
}

// BenchmarkSigV4 is the cost of a signature of each kind. BenchmarkApply has that of a request without a body.
func BenchmarkSigV4(b *testing.B) {
	body := strings.Repeat("x", 1<<20)
	for _, bb := range []struct{ name, target, kind, body string }{
		{"presigned", "/k?" + presignedPart, "", ""},
		{"hashed", "/k", "", body},
		{"claimed", "/k", sha256Hex(body), body},
		{"chunks", "/k", chunksKind, awsChunked(body, 64<<10, "")},
	} {
		b.Run(bb.name, func(b *testing.B) {
			c, _ := newSigV4(b, sigV4, "token")
			b.SetBytes(int64(len(bb.body)))
			b.ReportAllocs()
			for b.Loop() {
				req, err := http.NewRequestWithContext(b.Context(), "PUT", "https://b.s3.amazonaws.com"+bb.target, strings.NewReader(bb.body))
				if err != nil {
					b.Fatal(err)
				}
				req.Header["Authorization"] = []string{placeholder}
				if bb.kind != "" {
					req.Header["X-Amz-Content-Sha256"] = []string{bb.kind}
				}
				if _, err := c.Apply(req); err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, req.Body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
