package proxy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/credproxy/credproxy/internal/testneed"
)

// A signedArrival is a request as it arrived at an upstream, for the verifier.
type signedArrival struct {
	Method  string            `json:"method"`
	URI     string            `json:"uri"`
	Headers map[string]string `json:"headers"`
	Body    []byte            `json:"body"`
	Keys    map[string]string `json:"keys"`
	Now     int64             `json:"now"`
}

// A signedVerdict is what the verifier says.
type signedVerdict struct {
	Valid, Presigned bool
	Payload, Error   string
	SHA256           string // of the body, decoded
	Size             int
}

// An awsUpstream answers everything, and keeps it for the verifier.
type awsUpstream struct {
	*upstream
	answer func(w http.ResponseWriter, r *http.Request)

	mu       sync.Mutex
	arrivals []signedArrival
	broken   []error // bodies that did not come to their end
}

// startAWS runs one, with the keys of rule.
func startAWS(t *testing.T, ca *testCA, h2 bool) *awsUpstream {
	t.Helper()
	up := &awsUpstream{answer: func(http.ResponseWriter, *http.Request) {}}
	up.upstream = startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
		a := signedArrival{
			Method: r.Method, URI: "https://" + r.Host + r.RequestURI, Headers: map[string]string{}, Now: time.Now().Unix(),
			Keys: map[string]string{"id": "AKIDREAL", "secret": canary, "token": "T0ken/+="},
		}
		for name, values := range r.Header {
			a.Headers[name] = strings.Join(values, ", ")
		}
		body, err := io.ReadAll(r.Body)
		a.Body = body
		up.mu.Lock()
		if err != nil {
			up.broken = append(up.broken, err)
		} else {
			up.arrivals = append(up.arrivals, a)
		}
		answer := up.answer
		up.mu.Unlock()
		answer(w, r)
	})
	return up
}

// taken is what arrived since the last call.
func (u *awsUpstream) taken() (arrivals []signedArrival, broken []error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	arrivals, broken, u.arrivals, u.broken = u.arrivals, u.broken, nil, nil
	return arrivals, broken
}

// rule signs for the upstream with its keys, and says more.
func (u *awsUpstream) rule(t *testing.T, more string) string {
	return fmt.Sprintf("  - name: aws\n    match: {host: aws.localhost, port: %s}\n    inject: {type: aws_sigv4, access_key_id: %q, secret_access_key: %q, session_token: %q%s}\n",
		u.port, secretFile(t, "AKIDREAL"), secretFile(t, canary), secretFile(t, "T0ken/+="), more)
}

// verifySigned has botocore look at every signature in arrivals. All must be right.
func verifySigned(t *testing.T, arrivals []signedArrival) []signedVerdict {
	t.Helper()
	python := testneed.PythonModule(t, "botocore.auth")
	var in, stderr bytes.Buffer
	for _, a := range arrivals {
		if err := json.NewEncoder(&in).Encode(a); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), python, "../inject/testdata/sigv4_verify.py")
	cmd.Stdin, cmd.Stderr = &in, &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the verifier: %v\n%s", err, &stderr)
	}
	verdicts := make([]signedVerdict, len(arrivals))
	for i, dec := 0, json.NewDecoder(bytes.NewReader(out)); i < len(arrivals); i++ {
		if err := dec.Decode(&verdicts[i]); err != nil {
			t.Fatal(err)
		}
		if a := arrivals[i]; !verdicts[i].Valid {
			t.Errorf("%s %s: %.600s\n%v", a.Method, a.URI, verdicts[i].Error, a.Headers)
		}
	}
	return verdicts
}

const (
	awsPlaceholder = "AWS4-HMAC-SHA256 Credential=AKIAPLACEHOLDER/20300101/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=" + zeroSignature
	zeroSignature  = "0000000000000000000000000000000000000000000000000000000000000000"
	signedChunks   = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
)

// awsChunked is size zeros in aws-chunked coding, and how long that is.
func awsChunked(size, chunk int, trailer string) (body io.Reader, length int64) {
	var parts []io.Reader
	add := func(r io.Reader, n int) { parts, length = append(parts, r), length+int64(n) }
	text := func(s string) { add(strings.NewReader(s), len(s)) }
	for left := size; left > 0; left -= chunk {
		n := min(left, chunk)
		text(fmt.Sprintf("%x;chunk-signature=%s\r\n", n, zeroSignature))
		add(io.LimitReader(zeros{}, int64(n)), n)
		text("\r\n")
	}
	text("0;chunk-signature=" + zeroSignature + "\r\n")
	if trailer != "" {
		text(trailer + "\r\nx-amz-trailer-signature:" + zeroSignature + "\r\n")
	}
	text("\r\n")
	return io.MultiReader(parts...), length
}

// Bodies of all kinds arrive as they were sent, with signatures that botocore makes of what arrived.
func TestSigV4Bodies(t *testing.T) {
	t.Parallel()
	const mega = 1 << 20
	hash := func(size int64) string {
		h := sha256.New()
		_, _ = io.Copy(h, io.LimitReader(zeros{}, size)) // neither fails
		return hex.EncodeToString(h.Sum(nil))
	}
	tests := []struct {
		name, service, claim string
		size                 int
		chunk                int // aws-chunked
		trailer              string
		unknown              bool
		want                 string // what the signature says of the body
	}{
		{name: "none", service: "s3", want: hash(0)},
		{name: "small", service: "dynamodb", size: 1000},
		{name: "small, of unknown length", service: "dynamodb", size: 1000, unknown: true},
		{name: "as large as is hashed", service: "lambda", size: 8 * mega},
		{name: "larger, with its hash", service: "lambda", size: 9 * mega, claim: hash(9 * mega), want: hash(9 * mega)},
		{name: "S3, large", service: "s3", size: 9 * mega, want: "UNSIGNED-PAYLOAD"},
		{name: "S3, of unknown length", service: "s3", size: 3 * mega, unknown: true, want: "UNSIGNED-PAYLOAD"},
		{name: "S3, unsigned", service: "s3", size: 3 * mega, claim: "UNSIGNED-PAYLOAD", want: "UNSIGNED-PAYLOAD"},
		{name: "S3, chunks", service: "s3", size: 20*mega + 17, chunk: 64 << 10, claim: signedChunks, want: signedChunks},
		{name: "S3, chunks, of unknown length", service: "s3", size: mega, chunk: 64 << 10, unknown: true, claim: signedChunks, want: signedChunks},
		{name: "S3, no chunks but the last", service: "s3", chunk: 1, claim: signedChunks, want: signedChunks},
		{name: "S3, large chunks", service: "s3", size: 9 * mega, chunk: 8 * mega, claim: signedChunks, want: signedChunks},
		{name: "S3, chunks with a trailer", service: "s3", size: mega, chunk: 64 << 10, trailer: "x-amz-checksum-crc32c:sOO8/Q==", claim: signedChunks + "-TRAILER", want: signedChunks + "-TRAILER"},
	}
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		up := startAWS(t, ca, h2)
		p := startProxy(t, ca, up.rule(t, ""))
		c := p.client(t, h2)
		for _, tt := range tests {
			body, length := io.LimitReader(zeros{}, int64(tt.size)), int64(tt.size)
			if tt.chunk > 0 {
				body, length = awsChunked(tt.size, tt.chunk, tt.trailer)
			}
			req, err := http.NewRequestWithContext(t.Context(), "PUT", up.url("aws.localhost", "/b/k%20k?x=1"), body)
			if err != nil {
				t.Fatal(err)
			}
			if req.ContentLength = length; tt.unknown {
				req.ContentLength = -1
			}
			if length == 0 {
				req.Body = http.NoBody
			}
			req.Header = http.Header{"Authorization": {strings.Replace(awsPlaceholder, "s3", tt.service, 1)}, "X-Amz-Date": {"20300101T000000Z"}, "X-Amz-Security-Token": {"theirs"}}
			if tt.claim != "" {
				req.Header["X-Amz-Content-Sha256"] = []string{tt.claim}
			}
			if tt.chunk > 0 {
				req.Header["Content-Encoding"], req.Header["X-Amz-Decoded-Content-Length"] = []string{"aws-chunked"}, []string{fmt.Sprint(tt.size)}
			}
			resp, err := c.Do(req)
			if err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			if text, err := readAll(resp); err != nil || resp.StatusCode != 200 {
				t.Errorf("%s: %s %s %v", tt.name, resp.Status, text, err)
			}
		}
		arrivals, broken := up.taken()
		if len(arrivals) != len(tests) || len(broken) > 0 {
			t.Fatalf("%d requests and %d broken ones arrived", len(arrivals), len(broken))
		}
		for i, v := range verifySigned(t, arrivals) {
			tt, a := tests[i], arrivals[i]
			want, length := tt.want, int64(tt.size)
			if want == "" {
				want = hash(length)
			}
			if tt.chunk > 0 {
				_, length = awsChunked(tt.size, tt.chunk, tt.trailer)
			}
			if v.Payload != want || v.Size != tt.size || int64(len(a.Body)) != length || v.SHA256 != hash(int64(tt.size)) {
				t.Errorf("%s: %d bytes arrived, %d when decoded, as %s; want %d, %d, %s", tt.name, len(a.Body), v.Size, v.Payload, length, tt.size, want)
			}
			if announced := a.Headers["Content-Length"]; announced != fmt.Sprint(length) && !(announced == "" && (tt.unknown || length == 0)) {
				t.Errorf("%s: Content-Length %q, want %d", tt.name, announced, length)
			}
		}
	})
}

// What cannot be signed does not arrive, and what turns out to be wrong on its way is broken off.
func TestSigV4BodiesRefused(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		up := startAWS(t, ca, h2)
		p := startProxy(t, ca, up.rule(t, ""))
		put := func(claim, service string, body io.Reader) *http.Response {
			t.Helper()
			req, err := http.NewRequestWithContext(t.Context(), "PUT", up.url("aws.localhost", "/b/k"), body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header = http.Header{"Authorization": {strings.Replace(awsPlaceholder, "s3", service, 1)}}
			if claim != "" {
				req.Header["X-Amz-Content-Sha256"] = []string{claim}
			}
			resp, err := p.client(t, h2).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			return resp
		}
		large := func() io.Reader { return io.LimitReader(zeros{}, 8<<20+1) }
		if f := refused(t, put("", "lambda", large()), 413, "body_too_large"); !strings.Contains(f.Hint, "at most 8 MiB") {
			t.Errorf("hint %q", f.Hint)
		}
		refused(t, put("nonsense", "s3", strings.NewReader("x")), 400, "cannot_sign")
		refused(t, put("", "s3/x", strings.NewReader("x")), 400, "cannot_sign")
		if arrivals, broken := up.taken(); len(arrivals)+len(broken) > 0 {
			t.Errorf("arrived: %+v, %v", arrivals, broken)
		}
		good, _ := awsChunked(200_000, 64<<10, "")
		for name, body := range map[string]io.Reader{
			"in the middle": io.MultiReader(io.LimitReader(good, 150_000), strings.NewReader(strings.Repeat("?", 100_000))),
			"at once":       strings.NewReader("5\r\nhello\r\n0\r\n\r\n"),
		} {
			f := refused(t, put(signedChunks, "s3", io.MultiReader(body)), 400, "bad_body")
			if !strings.Contains(f.Detail, "chunks are malformed") {
				t.Errorf("%s: %q", name, f.Detail)
			}
			if arrivals, _ := up.taken(); len(arrivals) > 0 {
				t.Errorf("%s: a whole body arrived: %.300q", name, arrivals[0].Body)
			}
		}
	})
}

// The path and the query go out byte for byte as they came, whatever the signature has to make of them.
func TestSigV4TargetsAsTheyAre(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		up := startAWS(t, ca, h2)
		p := startProxy(t, ca, up.rule(t, ", region: us-east-1"))
		targets := []string{
			"/", "/?", "/b/a%2Bb%20c", "/b//double//", "/b/%C3%BC?prefix=%C3%BC&list-type=2", "/b/k?a=%2F&a=&b", "/b/~-._",
		}
		presigned := "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=x%2F20300101%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=" + zeroSignature
		for _, target := range targets {
			for _, query := range []string{"", presigned} {
				req, err := http.NewRequestWithContext(t.Context(), "GET", up.url("aws.localhost", target), nil)
				if err != nil {
					t.Fatal(err)
				}
				if query != "" {
					req.URL.RawQuery = strings.TrimPrefix(req.URL.RawQuery+"&"+query, "&")
				} else {
					req.Header.Set("Authorization", awsPlaceholder)
				}
				resp, err := p.client(t, h2).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				if text, err := readAll(resp); err != nil || resp.StatusCode != 200 {
					t.Errorf("%s: %s %s %v", target, resp.Status, text, err)
				}
			}
		}
		arrivals, _ := up.taken()
		verdicts := verifySigned(t, arrivals)
		for i, a := range arrivals {
			got := strings.TrimPrefix(a.URI, up.url("aws.localhost", ""))
			want := targets[i/2]
			if verdicts[i].Presigned {
				got = regexp.MustCompile(`[?&]X-Amz-Algorithm=.*$`).ReplaceAllString(got, "")
				want = strings.TrimSuffix(want, "?")
			}
			if got != want || verdicts[i].Presigned != (i%2 == 1) {
				t.Errorf("target %s, presigned %v; want %s", got, verdicts[i].Presigned, want)
			}
		}
	})
}

// Temporary keys that the server does not take any more are read again, and the request is sent again with the new ones.
func TestSigV4StaleToken(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		up := startAWS(t, ca, h2)
		path := filepath.Join(t.TempDir(), "keys")
		print := func(token string) {
			text := fmt.Sprintf(`{"Version": 1, "AccessKeyId": "AKIDREAL", "SecretAccessKey": %q, "SessionToken": %q, "Expiration": "2999-01-02T03:04:05Z"}`, canary, token)
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Error(err)
			}
		}
		print("stale")
		up.answer = func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Amz-Security-Token") != "T0ken/+=" {
				print("T0ken/+=")
				w.WriteHeader(http.StatusForbidden)
			}
		}
		p := startProxy(t, ca, fmt.Sprintf("  - name: aws\n    match: {host: aws.localhost, port: %s}\n    inject: {type: aws_sigv4, credentials: {exec: [cat, %q], ttl: 1h}}\n", up.port, path))
		for range 2 {
			req, err := http.NewRequestWithContext(t.Context(), "PUT", up.url("aws.localhost", "/b/k"), strings.NewReader("hello"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", awsPlaceholder)
			resp, err := p.client(t, h2).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := readAll(resp); err != nil || resp.StatusCode != 200 {
				t.Errorf("got %s, %v", resp.Status, err)
			}
		}
		arrivals, _ := up.taken()
		if len(arrivals) != 3 || arrivals[0].Headers["X-Amz-Security-Token"] != "stale" {
			t.Fatalf("%d requests arrived, want 3", len(arrivals))
		}
		arrivals[0].Keys["token"] = "stale"
		for _, v := range verifySigned(t, arrivals) {
			if v.Size != len("hello") {
				t.Errorf("a body of %d bytes arrived", v.Size)
			}
		}
	})
}

// keep leaves a client's own signature as it is, in either form; what is not signed is signed all the same.
func TestSigV4OnExisting(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startAWS(t, ca, false)
	rule := strings.Replace(up.rule(t, ", region: us-east-1, service: s3"), "    inject:", "    on_existing: MODE\n    inject:", 1)
	presigned := "?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=x%2F20300101%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=" + zeroSignature
	for _, mode := range []string{"keep", "fail"} {
		p := startProxy(t, ca, strings.Replace(rule, "MODE", mode, 1))
		for _, tt := range []struct{ query, authorization string }{{"", awsPlaceholder}, {presigned, ""}, {"", ""}} {
			req, err := http.NewRequestWithContext(t.Context(), "GET", up.url("aws.localhost", "/b/k"+tt.query), nil)
			if err != nil {
				t.Fatal(err)
			}
			if tt.authorization != "" {
				req.Header.Set("Authorization", tt.authorization)
			}
			resp, err := p.client(t, false).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			own := tt.query+tt.authorization != ""
			if own && mode == "fail" {
				refused(t, resp, 403, "credential_exists")
				continue
			}
			if _, err := readAll(resp); err != nil || resp.StatusCode != 200 {
				t.Errorf("%s: %s, %v", mode, resp.Status, err)
			}
			arrivals, _ := up.taken()
			if len(arrivals) != 1 {
				t.Fatalf("%s: %d requests arrived", mode, len(arrivals))
			}
			a := arrivals[0]
			if own && (a.Headers["Authorization"] != tt.authorization || !strings.HasSuffix(a.URI, "/b/k"+tt.query) || a.Headers["X-Amz-Security-Token"] != "") {
				t.Errorf("%s: arrived %s %v", mode, a.URI, a.Headers)
			}
			if !own {
				verifySigned(t, arrivals)
			}
		}
		if arrivals, broken := up.taken(); len(arrivals)+len(broken) > 0 {
			t.Errorf("%s: arrived too: %v", mode, arrivals)
		}
	}
}

// A server whose clock is elsewhere refuses once. The request is sent again by its clock, and later ones are right at once.
func TestSigV4Skew(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		up := startAWS(t, ca, h2)
		skew := 3 * time.Hour
		up.answer = func(w http.ResponseWriter, r *http.Request) {
			there := time.Now().Add(skew).UTC()
			w.Header().Set("Date", there.Format(http.TimeFormat))
			at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
			if err != nil || there.Sub(at).Abs() > 5*time.Minute {
				w.WriteHeader(http.StatusForbidden)
				_, _ = io.WriteString(w, "<Error><Code>RequestTimeTooSkewed</Code></Error>")
			}
		}
		p := startProxy(t, ca, up.rule(t, ""))
		var all []signedArrival
		put := func(size int, want int, wantSent ...time.Duration) {
			t.Helper()
			body, length := awsChunked(size, 4096, "")
			req, err := http.NewRequestWithContext(t.Context(), "PUT", up.url("aws.localhost", "/b/k"), body)
			if err != nil {
				t.Fatal(err)
			}
			req.ContentLength = length
			req.Header = http.Header{"Authorization": {awsPlaceholder}, "X-Amz-Content-Sha256": {signedChunks}, "X-Amz-Decoded-Content-Length": {fmt.Sprint(size)}}
			resp, err := p.client(t, h2).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if text, err := readAll(resp); err != nil || resp.StatusCode != want {
				t.Errorf("got %s %s %v, want %d", resp.Status, text, err, want)
			}
			arrivals, _ := up.taken()
			if len(arrivals) != len(wantSent) {
				t.Fatalf("%d requests arrived, want %d", len(arrivals), len(wantSent))
			}
			for i := range arrivals {
				arrivals[i].Now += int64(wantSent[i] / time.Second)
			}
			all = append(all, arrivals...)
		}
		put(10_000, 200, 0, skew)
		put(10_000, 200, skew)
		skew = -time.Hour
		put(100_000, 403, 3*time.Hour) // too large to be sent again, but the clock is known from now on
		put(100_000, 200, skew)
		verifySigned(t, all)
	})
}

// Programs as they are, with keys that mean nothing: AWS's SDK for Python, and curl.
func TestSigV4Clients(t *testing.T) {
	t.Parallel()
	python, curl := testneed.PythonModule(t, "boto3, botocore.auth"), testneed.Program(t, "curl")
	ca := newTestCA(t, "upstream")
	up := startAWS(t, ca, true)
	up.answer = func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("X-Amz-Target") != "":
			_, _ = io.WriteString(w, `{"TableNames":["t"]}`)
		case r.URL.Query().Has("list-type"):
			_, _ = io.WriteString(w, "<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")
		case r.Method == "GET":
			_, _ = io.WriteString(w, "0123456789")
		default:
			w.Header().Set("ETag", `"x"`)
		}
	}
	p := startProxy(t, ca, up.rule(t, ""))
	out := runClient(t, p, python, "testdata/boto3_client.py", up.url("aws.localhost", ""))
	const want = `{"put": 200, "get": 10, "list": 0, "delete": 200, "tables": ["t"], "presigned get_object": 200, "presigned put_object": 200}`
	if got := strings.TrimSpace(string(out)); got != want {
		t.Errorf("boto3 got  %s\nwant       %s", got, want)
	}
	if got := runClient(t, p, curl, "-sS", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", "placeholder:placeholder", up.url("aws.localhost", "/b/k")); string(got) != "0123456789" {
		t.Errorf("curl got %q", got)
	}
	arrivals, broken := up.taken()
	if len(arrivals) != 8 || len(broken) > 0 {
		t.Errorf("%d requests arrived, %v", len(arrivals), broken)
	}
	verdicts := verifySigned(t, arrivals)
	var presigned []bool
	for _, v := range verdicts {
		presigned = append(presigned, v.Presigned)
	}
	if want := []bool{false, false, false, false, false, true, true, false}; !slices.Equal(presigned, want) {
		t.Errorf("presigned: %v, want %v", presigned, want)
	}
}
