package inject

import (
	"crypto"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"net/http"
	"slices"
	"strings"
)

// The values of signature_method.
const (
	hmacSHA1   = "HMAC-SHA1"
	hmacSHA256 = "HMAC-SHA256"
	rsaSHA1    = "RSA-SHA1"
	plaintext  = "PLAINTEXT"
)

// hashOf is the hash that a method uses, also for oauth_body_hash.
func hashOf(method string) func() hash.Hash {
	if method == hmacSHA256 {
		return sha256.New
	}
	return sha1.New
}

// oauth1Keys are what a request is signed with.
type oauth1Keys struct {
	consumerSecret, tokenSecret string
	private                     *rsa.PrivateKey
}

// sign is oauth_signature (RFC 5849 section 3.4).
func (k oauth1Keys) sign(method, base string) (string, error) {
	secret := escapeOAuth(k.consumerSecret) + "&" + escapeOAuth(k.tokenSecret)
	switch method {
	case plaintext:
		return secret, nil
	case rsaSHA1:
		sum := sha1.Sum([]byte(base))
		signature, err := rsa.SignPKCS1v15(nil, k.private, crypto.SHA1, sum[:])
		return base64.StdEncoding.EncodeToString(signature), err
	}
	mac := hmac.New(hashOf(method), []byte(secret))
	mac.Write([]byte(base))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil)), nil
}

// A param is a decoded name and value.
type param struct{ name, value string }

// baseString is RFC 5849 section 3.4.1.
func baseString(method, uri string, params []param) string {
	return strings.ToUpper(method) + "&" + escapeOAuth(uri) + "&" + escapeOAuth(normalize(params))
}

// baseURI is RFC 5849 section 3.4.1.2.
func baseURI(req *http.Request) string {
	path := req.URL.EscapedPath()
	if path == "" {
		path = "/"
	}
	return req.URL.Scheme + "://" + hostOf(req) + path
}

// hostOf is whom req is for, in lower case and without the scheme's own port.
func hostOf(req *http.Request) string {
	host := req.Host
	if host == "" {
		host = req.URL.Host
	}
	host = strings.ToLower(host)
	switch req.URL.Scheme {
	case "http":
		host = strings.TrimSuffix(host, ":80")
	case "https":
		host = strings.TrimSuffix(host, ":443")
	}
	return host
}

// normalize is RFC 5849 section 3.4.1.3.2.
func normalize(params []param) string {
	encoded := make([]param, len(params))
	for i, p := range params {
		encoded[i] = param{escapeOAuth(p.name), escapeOAuth(p.value)}
	}
	slices.SortFunc(encoded, func(a, b param) int {
		if c := strings.Compare(a.name, b.name); c != 0 {
			return c
		}
		return strings.Compare(a.value, b.value)
	})
	return joinParams(encoded)
}

// joinParams joins what is already encoded.
func joinParams(params []param) string {
	var b strings.Builder
	for i, p := range params {
		if i > 0 {
			b.WriteByte('&')
		}
		b.WriteString(p.name)
		b.WriteByte('=')
		b.WriteString(p.value)
	}
	return b.String()
}

// parseForm decodes a query or a form as RFC 5849 section 3.4.1.3.1 wants it. Only & separates; an item without = has an
// empty value, and an empty item is none.
func parseForm(raw string) []param {
	var out []param
	for item := range strings.SplitSeq(raw, "&") {
		if item == "" {
			continue
		}
		name, value, _ := strings.Cut(item, "=")
		out = append(out, param{unescapeForm(name), unescapeForm(value)})
	}
	return out
}

// unescapeForm leaves a % that begins no escape as it is, as servers do.
func unescapeForm(s string) string {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '+':
			out = append(out, ' ')
		case c == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]):
			out = append(out, unhex(s[i+1])<<4|unhex(s[i+2]))
			i += 2
		default:
			out = append(out, c)
		}
	}
	return string(out)
}

// escapeOAuth is RFC 5849 section 3.6: everything but unreserved characters, byte by byte, in upper case.
func escapeOAuth(s string) string {
	n := 0
	for i := range len(s) {
		if !isUnreserved(s[i]) {
			n++
		}
	}
	if n == 0 {
		return s
	}
	const digits = "0123456789ABCDEF"
	out := make([]byte, 0, len(s)+2*n)
	for i := range len(s) {
		if c := s[i]; isUnreserved(c) {
			out = append(out, c)
		} else {
			out = append(out, '%', digits[c>>4], digits[c&15])
		}
	}
	return string(out)
}

// isUnreserved is RFC 3986 section 2.3.
func isUnreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}
