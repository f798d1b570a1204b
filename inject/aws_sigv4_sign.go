package inject

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/credproxy/credproxy/secrets"
)

// longDate is the form of X-Amz-Date.
const longDate = "20060102T150405Z"

// scope is the end of a credential.
func (c *sigV4Request) scope(now time.Time) string {
	return now.Format("20060102") + "/" + c.region + "/" + c.service + "/" + sigV4Terminator
}

// deriveKey is the key for the day of now.
func deriveKey(secret secrets.Value, now time.Time, region, service string) []byte {
	key := []byte("AWS4" + secret.Reveal())
	for _, part := range []string{now.Format("20060102"), region, service, sigV4Terminator} {
		key = hmacSHA256Of(key, part)
	}
	return key
}

func hmacSHA256Of(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	_, _ = io.WriteString(mac, text) // a hash takes everything
	return mac.Sum(nil)
}

// sign puts the signature on req, in the form of the client's, and returns it.
func (c *sigV4Request) sign(req *http.Request, keys awsKeys, key []byte, now time.Time) (signature string) {
	date, scope := now.Format(longDate), c.scope(now)
	credential := keys.id.Reveal() + "/" + scope
	c.clear(req)
	if c.presigned {
		signature = c.signQuery(req, keys, key, date, scope, credential)
	} else {
		signature = c.signHeader(req, keys, key, date, scope, credential)
	}
	if c.chunks {
		req.Body = newChunkSigner(req.Body, chunkKey{key, date, scope, signature}, c.payload == signedAndTrailer)
	}
	return signature
}

// clear takes off all that a signature consists of, wherever it stands and however it is spelled.
func (c *sigV4Request) clear(req *http.Request) {
	for field := range req.Header {
		for _, name := range []string{"Authorization", amzDate, amzToken, amzHash, amzSession} {
			if SameField(field, name) {
				delete(req.Header, field)
				break
			}
		}
	}
	req.URL.RawQuery = c.query.raw
}

func (c *sigV4Request) signHeader(req *http.Request, keys awsKeys, key []byte, date, scope, credential string) string {
	req.Header[amzDate] = []string{date}
	if !keys.token.IsZero() {
		req.Header[amzToken] = []string{keys.token.Reveal()}
	}
	if c.announce {
		req.Header[amzHash] = []string{c.payload}
	}
	headers := c.headers(req)
	signature := hex.EncodeToString(hmacSHA256Of(key, stringToSign(date, scope, c.canonical(req, headers))))
	req.Header["Authorization"] = []string{
		sigV4Algorithm + " Credential=" + credential + ", SignedHeaders=" + namesOf(headers) + ", Signature=" + signature,
	}
	return signature
}

// signQuery is the form of a presigned URL.
func (c *sigV4Request) signQuery(req *http.Request, keys awsKeys, key []byte, date, scope, credential string) string {
	if c.announce && !c.hashInQuery {
		req.Header[amzHash] = []string{c.payload}
	}
	headers := c.headers(req)
	params := []param{
		{"X-Amz-Algorithm", sigV4Algorithm}, {"X-Amz-Credential", credential}, {amzDate, date},
		{"X-Amz-Expires", c.expires}, {"X-Amz-SignedHeaders", namesOf(headers)},
	}
	if c.hashInQuery {
		params = append(params, param{amzHash, c.payload})
	}
	token := param{amzToken, keys.token.Reveal()}
	if token.value != "" && !c.tokenAfter() {
		params = append(params, token)
	}
	for _, p := range params {
		c.query.items = append(c.query.items, queryItem{p.name, percentEncode(p.value, false)})
	}
	signature := hex.EncodeToString(hmacSHA256Of(key, stringToSign(date, scope, c.canonical(req, headers))))
	if token.value != "" && c.tokenAfter() {
		params = append(params, token)
	}
	req.URL.RawQuery = appendParams(req.URL.RawQuery, append(params, param{amzSignature, signature}))
	return signature
}

// tokenAfter reports whether the service wants the token of a presigned URL outside the signature.
func (c *sigV4Request) tokenAfter() bool { return c.service == "iotdevicegateway" }

// stringToSign is what the key signs for a request.
func stringToSign(date, scope string, canonical []byte) string {
	sum := sha256.Sum256(canonical)
	return sigV4Algorithm + "\n" + date + "\n" + scope + "\n" + hex.EncodeToString(sum[:])
}

// A signedHeader is a header in canonical form.
type signedHeader struct {
	name  string // in lower case
	value string
}

func namesOf(headers []signedHeader) string {
	var b strings.Builder
	for i, h := range headers {
		if i > 0 {
			b.WriteByte(';')
		}
		b.WriteString(h.name)
	}
	return b.String()
}

// notSigned are headers that the proxy or the transport writes, or that belong to the hop. Cookie is among them because
// HTTP/2 may split it.
var notSigned = map[string]bool{
	"authorization": true, "host": true, "content-length": true, "connection": true, "keep-alive": true, "te": true, "trailer": true,
	"transfer-encoding": true, "upgrade": true, "expect": true, "user-agent": true, "accept-encoding": true, "cookie": true, "x-amzn-trace-id": true,
}

// headers are those that are signed, sorted: what services insist on, and what the client has signed.
func (c *sigV4Request) headers(req *http.Request) []signedHeader {
	out := make([]signedHeader, 1, len(req.Header)+2)
	out[0] = signedHeader{"host", req.Host}
	for field, values := range req.Header {
		name := strings.ToLower(field)
		if len(values) > 0 && !notSigned[name] && (alwaysSigned(name) || slices.Contains(c.names, name)) {
			out = append(out, signedHeader{name, canonicalValue(values)})
		}
	}
	if req.ContentLength > 0 && slices.Contains(c.names, "content-length") {
		out = append(out, signedHeader{"content-length", strconv.FormatInt(req.ContentLength, 10)})
	}
	slices.SortFunc(out, func(a, b signedHeader) int { return strings.Compare(a.name, b.name) })
	return out
}

func alwaysSigned(name string) bool {
	return strings.HasPrefix(name, "x-amz-") || name == "content-type" || name == "content-md5"
}

// canonicalValue joins values, without spaces at their ends and with one in place of several.
func canonicalValue(values []string) string {
	if len(values) == 1 && !strings.Contains(values[0], "  ") {
		return strings.Trim(values[0], " \t")
	}
	var b strings.Builder
	for i, v := range values {
		if i > 0 {
			b.WriteByte(',')
		}
		v = strings.Trim(v, " \t")
		for j := range len(v) {
			if v[j] != ' ' || v[j-1] != ' ' { // it does not begin with a space
				b.WriteByte(v[j])
			}
		}
	}
	return b.String()
}

// canonical is the canonical request.
func (c *sigV4Request) canonical(req *http.Request, headers []signedHeader) []byte {
	slices.SortFunc(c.query.items, func(a, b queryItem) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.value, b.value))
	})
	b := make([]byte, 0, 1024)
	b = append(append(b, req.Method...), '\n')
	b = append(append(b, c.path(req)...), '\n')
	for i, item := range c.query.items {
		if i > 0 {
			b = append(b, '&')
		}
		b = append(append(append(b, item.name...), '='), item.value...)
	}
	b = append(b, '\n')
	for _, h := range headers {
		b = append(append(append(append(b, h.name...), ':'), h.value...), '\n')
	}
	b = append(b, '\n')
	b = append(append(b, namesOf(headers)...), '\n')
	return append(b, c.payload...)
}

// path is the path in canonical form. What is sent is not changed. S3 takes each segment as it is, in the one right
// encoding, and others take the shortest path and encode it once more.
func (c *sigV4Request) path(req *http.Request) string {
	sent := cmp.Or(req.URL.EscapedPath(), "/")
	if !c.s3 {
		return percentEncode(shortestPath(sent), true)
	}
	segments := strings.Split(sent, "/")
	for i, segment := range segments {
		if decoded, ok := percentDecode(segment, '+'); ok { // EscapedPath is well-formed
			segments[i] = percentEncode(decoded, false)
		}
	}
	return strings.Join(segments, "/")
}

// shortestPath is path without empty and dot segments (RFC 3986 section 5.2.4).
func shortestPath(path string) string {
	if !strings.Contains(path, "//") && !strings.Contains(path, "/.") {
		return path
	}
	var kept []string
	last := ""
	for segment := range strings.SplitSeq(path, "/") {
		switch last = segment; segment {
		case "", ".":
		case "..":
			kept = kept[:max(len(kept)-1, 0)]
		default:
			kept = append(kept, segment)
		}
	}
	out := "/" + strings.Join(kept, "/")
	if out != "/" && (last == "" || last == "." || last == "..") {
		out += "/"
	}
	return out
}

// percentEncode encodes all but unreserved characters (RFC 3986 section 2.3), and / if it separates.
func percentEncode(s string, separates bool) string {
	const digits = "0123456789ABCDEF"
	plain := func(c byte) bool {
		return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~' || separates && c == '/'
	}
	n := 0
	for i := range len(s) {
		if !plain(s[i]) {
			n++
		}
	}
	if n == 0 {
		return s
	}
	out := make([]byte, 0, len(s)+2*n)
	for i := range len(s) {
		if c := s[i]; plain(c) {
			out = append(out, c)
		} else {
			out = append(out, '%', digits[c>>4], digits[c&15])
		}
	}
	return string(out)
}

// percentDecode decodes s, in which + stands for plus. ok is false if a % begins no character.
func percentDecode(s string, plus byte) (decoded string, ok bool) {
	if !strings.ContainsAny(s, "%+") {
		return s, true
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '+':
			out = append(out, plus)
		case c != '%':
			out = append(out, c)
		case i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			out = append(out, unhex(s[i+1])<<4|unhex(s[i+2]))
			i += 2
		default:
			return "", false
		}
	}
	return string(out), true
}
