package inject_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/credproxy/credproxy/internal/testneed"
)

// awsTestKeys are what a server knows of its client.
type awsTestKeys struct {
	ID     string `json:"id"`
	Secret string `json:"secret"`
	Token  string `json:"token"`
}

// A sigV4Arrival is a request as it arrived, with whose it must be.
type sigV4Arrival struct {
	arrival

	Keys awsTestKeys `json:"keys"`

	about  string
	broken bool // changed on the way
}

// A sigV4Verdict is what the verifier says.
type sigV4Verdict struct {
	Valid, Presigned bool
	Payload, Error   string
	SHA256           string // of the body, decoded
}

// botocore asks botocore about each of sent.
func botocore(t *testing.T, sent []sigV4Arrival) []sigV4Verdict {
	t.Helper()
	python := testneed.PythonModule(t, "botocore.auth")
	var in, stderr bytes.Buffer
	for _, s := range sent {
		if err := json.NewEncoder(&in).Encode(s); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), python, "testdata/sigv4_verify.py")
	cmd.Stdin, cmd.Stderr = &in, &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the verifier: %v\n%s", err, &stderr)
	}
	verdicts := make([]sigV4Verdict, len(sent))
	for i, dec := 0, json.NewDecoder(bytes.NewReader(out)); i < len(sent); i++ {
		if err := dec.Decode(&verdicts[i]); err != nil {
			t.Fatalf("%s: no verdict: %v", sent[i].about, err)
		}
	}
	return verdicts
}

// sdkSignature is what AWS's own signer for Go makes of a request that arrived, and what is on it.
func sdkSignature(t *testing.T, s sigV4Arrival) (want, got string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), s.Method, s.URI, nil)
	if err != nil {
		t.Fatal(err)
	}
	query := req.URL.Query()
	presigned := query.Has("X-Amz-Signature")
	credential, names, date, hash := query.Get("X-Amz-Credential"), query.Get("X-Amz-SignedHeaders"), query.Get("X-Amz-Date"), s.Headers["X-Amz-Content-Sha256"]
	if got = query.Get("X-Amz-Signature"); !presigned {
		_, rest, _ := strings.Cut(s.Headers["Authorization"], "Credential=")
		credential, rest, _ = strings.Cut(rest, ", SignedHeaders=")
		names, got, _ = strings.Cut(rest, ", Signature=")
		date = s.Headers["X-Amz-Date"]
	}
	scope := strings.Split(credential, "/")
	at, err := time.Parse("20060102T150405Z", date)
	if err != nil || len(scope) != 5 {
		t.Fatalf("%s: scope %q, date %v", s.about, credential, err)
	}
	for name, value := range s.Headers {
		if slices.Contains(strings.Split(names, ";"), strings.ToLower(name)) {
			req.Header[name] = []string{value}
		}
	}
	if slices.Contains(strings.Split(names, ";"), "content-length") {
		req.ContentLength = int64(len(s.Body))
	}
	s3 := scope[3] == "s3"
	if hash == "" {
		sum := sha256.Sum256(s.Body)
		if hash = hex.EncodeToString(sum[:]); s3 && presigned {
			hash = "UNSIGNED-PAYLOAD"
		}
	}
	for _, name := range []string{"Algorithm", "Credential", "Date", "SignedHeaders", "Security-Token", "Signature"} {
		query.Del("X-Amz-" + name)
	}
	req.URL.RawQuery = query.Encode()
	keys := aws.Credentials{AccessKeyID: s.Keys.ID, SecretAccessKey: s.Keys.Secret, SessionToken: s.Keys.Token}
	options := func(o *v4.SignerOptions) { o.DisableURIPathEscaping, o.DisableHeaderHoisting = s3, true }
	if !presigned {
		if err := v4.NewSigner().SignHTTP(t.Context(), keys, req, hash, scope[3], scope[2], at, options); err != nil {
			t.Fatal(err)
		}
		_, want, _ = strings.Cut(req.Header.Get("Authorization"), ", Signature=")
		return want, got
	}
	signed, _, err := v4.NewSigner().PresignHTTP(t.Context(), keys, req, hash, scope[3], scope[2], at, options)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := url.Parse(signed)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Query().Get("X-Amz-Signature"), got
}

// signAsClient signs req as a program does that was given keys which mean nothing, at some other time.
func signAsClient(t *testing.T, r *mathrand.Rand, req *http.Request, body, service string, presigned bool) {
	t.Helper()
	keys := aws.Credentials{AccessKeyID: "AKIAPLACEHOLDER", SecretAccessKey: "placeholder", SessionToken: pick(r, "", "placeholder")}
	at := time.Now().Add(time.Duration(r.IntN(1000)-500) * time.Hour)
	options := func(o *v4.SignerOptions) { o.DisableURIPathEscaping, o.DisableHeaderHoisting = service == "s3", true }
	sum := sha256.Sum256([]byte(body))
	hash, region := hex.EncodeToString(sum[:]), pick(r, "us-east-1", "eu-central-1", "auto")
	if presigned {
		if service == "s3" {
			hash = "UNSIGNED-PAYLOAD"
		}
		q := req.URL.RawQuery
		req.URL.RawQuery = strings.TrimPrefix(q+"&X-Amz-Expires=60", "&")
		signed, header, err := v4.NewSigner().PresignHTTP(t.Context(), keys, req, hash, service, region, at, options)
		if err != nil {
			t.Fatal(err)
		}
		if req.URL, err = url.Parse(signed); err != nil {
			t.Fatal(err)
		}
		for name, values := range header {
			req.Header[http.CanonicalHeaderKey(name)] = values
		}
		req.Header.Del("Host")
		return
	}
	if service == "s3" {
		hash = pick(r, hash, "UNSIGNED-PAYLOAD")
		req.Header.Set("X-Amz-Content-Sha256", hash)
	}
	if err := v4.NewSigner().SignHTTP(t.Context(), keys, req, hash, service, region, at, options); err != nil {
		t.Fatal(err)
	}
}

// someAWSRequest is one that both verifiers read as we do: botocore takes what is encoded as it should be, and the
// SDK's signer paths that are in their shortest form.
func someAWSRequest(t *testing.T, r *mathrand.Rand, base, service, body string) *http.Request {
	t.Helper()
	paths := []string{"/", "/a/b", "/a%20b/%C3%BC", "/x%2Fy/z", "/~t-_.", "/%2525"}
	if service == "s3" {
		paths = append(paths, "//a//b/", "/a%2Bb", "/%E2%82%AC%3D%26")
	}
	items := []string{"a=1", "a=2", "a=", "a-b=1", "Action=List", "Version=2011-06-15", "b=x%20y", "c=%2F%3D%26%25", "%C3%BC=%E2%82%AC", "Z=~-_.", "lifecycle="}
	var query []string
	for range r.IntN(5) {
		query = append(query, pick(r, items...))
	}
	target := base + pick(r, paths...)
	if len(query) > 0 {
		target += "?" + strings.Join(query, "&")
	}
	method := pick(r, "GET", "DELETE", "HEAD")
	if body != "" {
		method = pick(r, "PUT", "POST")
	}
	req, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("User-Agent", "x")
	for name, value := range map[string]string{
		"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "DynamoDB_20120810.ListTables", "X-Amz-Meta-Note": "a  b   c",
		"Range": "bytes=0-9", "Content-Md5": "1B2M2Y8AsgTpgAmY7PhCfg==", "X-Amzn-Trace-Id": "Root=1",
	} {
		if pick(r, true, false) {
			req.Header.Set(name, value)
		}
	}
	return req
}

// Requests that AWS's SDK has signed with placeholder keys arrive with signatures that the SDK's signer for Go and
// botocore, each by itself, make of what arrived.
func TestSigV4AgainstTwoVerifiers(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var body []byte
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r.Clone(context.WithoutCancel(r.Context()))
		body, _ = io.ReadAll(r.Body)
		got.Body = io.NopCloser(bytes.NewReader(body))
	}))
	defer srv.Close()
	r := mathrand.New(mathrand.NewPCG(4, 2))
	env := newEnv(t, nil)
	var sent []sigV4Arrival
	for i := range 400 {
		keys := awsTestKeys{ID: "AKIDREAL", Secret: pick(r, "s/e+c=r et", "wJalrXUtnFEMI"), Token: pick(r, "", "Fw/o+Token==")}
		text := fmt.Sprintf("{type: aws_sigv4, access_key_id: %q, secret_access_key: %q", secretFile(t, keys.ID), secretFile(t, keys.Secret))
		if keys.Token != "" {
			text += fmt.Sprintf(", session_token: %q", secretFile(t, keys.Token))
		}
		cred := build(t, env, text+"}", nil)[0]
		service, presigned, content := pick(r, "s3", "dynamodb", "execute-api"), pick(r, true, false), pick(r, "", "", "{}", "\x00\xff", strings.Repeat("x", 70_000))
		req := someAWSRequest(t, r, srv.URL, service, content)
		path, query := req.URL.EscapedPath(), req.URL.RawQuery
		signAsClient(t, r, req, content, service, presigned)
		if _, err := cred.Apply(req); err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Transport{DisableCompression: true, DisableKeepAlives: true}).RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		s := sigV4Arrival{arrival: received(t, got), Keys: keys, about: fmt.Sprintf("%d %s presigned=%v", i, service, presigned)}
		if want, have := sdkSignature(t, s); want != have {
			t.Errorf("%s: the SDK signs %s, and it is %s\n%s %s\n%v", s.about, want, have, s.Method, s.URI, s.Headers)
		}
		if !presigned && got.RequestURI != strings.TrimSuffix(path+"?"+query, "?") && !sameParams(got.URL.RawQuery, query) {
			t.Errorf("%s: the target is %s, want %s?%s", s.about, got.RequestURI, path, query)
		}
		if string(body) != content {
			t.Errorf("%s: %d bytes arrived, want %d", s.about, len(body), len(content))
		}
		sent = append(sent, s)
	}
	for i := range 40 { // and what is changed on the way does not pass
		s := sent[i]
		s.broken, s.about = true, s.about+", changed"
		switch i % 4 {
		case 0:
			s.Keys.Secret += "x"
		case 1:
			s.Method = "PATCH"
		case 2:
			s.URI += pick(r, "&", "?")[:1] + "b=2"
		case 3:
			s.Keys.Token += "x"
		}
		sent = append(sent, s)
	}
	for i, v := range botocore(t, sent) {
		if s := sent[i]; v.Valid == s.broken {
			t.Errorf("%s: valid %v, want %v: %s\n%s %s\n%v", s.about, v.Valid, !s.broken, v.Error, s.Method, s.URI, s.Headers)
		}
	}
}

// sameParams reports whether two queries differ in their order only: the SDK sorts.
func sameParams(a, b string) bool {
	x, y := strings.Split(a, "&"), strings.Split(b, "&")
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y)
}
