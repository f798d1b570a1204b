package cli

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/credproxy/credproxy/secrets"
)

// oauth1 accepts requests that are signed with HMAC-SHA1 in the header (RFC 5849 section 3.2).
func oauth1(consumer, token string, consumerSecret, tokenSecret secrets.Value) func(*http.Request) bool {
	return func(r *http.Request) bool {
		sent, ok := oauth1Header(r)
		params, err := url.ParseQuery(r.URL.RawQuery)
		if !ok || err != nil || sent["oauth_consumer_key"] != consumer || sent["oauth_token"] != token || sent["oauth_signature_method"] != "HMAC-SHA1" {
			return false
		}
		signature, err := base64.StdEncoding.DecodeString(sent["oauth_signature"])
		if err != nil {
			return false
		}
		delete(sent, "oauth_signature")
		for name, value := range sent {
			params.Add(name, value)
		}
		var pairs []string
		for _, name := range slices.Sorted(maps.Keys(params)) {
			for _, value := range slices.Sorted(slices.Values(params[name])) {
				pairs = append(pairs, rfc3986(name)+"="+rfc3986(value))
			}
		}
		mac := hmac.New(sha1.New, []byte(rfc3986(consumerSecret.Reveal())+"&"+rfc3986(tokenSecret.Reveal())))
		mac.Write([]byte(r.Method + "&" + rfc3986("https://"+r.Host+r.URL.EscapedPath()) + "&" + rfc3986(strings.Join(pairs, "&"))))
		return hmac.Equal(mac.Sum(nil), signature)
	}
}

// oauth1Header is the parameters of RFC 5849 section 3.5.1, each of them once.
func oauth1Header(r *http.Request) (map[string]string, bool) {
	list, ok := strings.CutPrefix(strings.Join(r.Header["Authorization"], ", "), "OAuth ")
	sent := make(map[string]string)
	for item := range strings.SplitSeq(list, ", ") {
		name, quoted, _ := strings.Cut(item, "=")
		value, err := url.PathUnescape(strings.Trim(quoted, `"`))
		if _, twice := sent[name]; twice || err != nil {
			return nil, false
		}
		sent[name] = value
	}
	return sent, ok
}

// rfc3986 encodes everything but unreserved characters.
func rfc3986(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// signedNow accepts requests with an HMAC-SHA256 over the time, the method and the target that is not older than a minute.
func signedNow(key secrets.Value) func(*http.Request) bool {
	return func(r *http.Request) bool {
		sent, signatures := r.Header["X-Timestamp"], r.Header["X-Signature"]
		if len(sent) != 1 || len(signatures) != 1 {
			return false
		}
		seconds, err := strconv.ParseInt(sent[0], 10, 64)
		if age := time.Since(time.Unix(seconds, 0)); err != nil || age < -time.Second || age > time.Minute {
			return false
		}
		signature, err := hex.DecodeString(signatures[0])
		mac := hmac.New(sha256.New, []byte(key.Reveal()))
		mac.Write([]byte(sent[0] + r.Method + r.RequestURI))
		return err == nil && hmac.Equal(mac.Sum(nil), signature)
	}
}

// sigV4 accepts GET requests without a body that are signed for S3 in the header (AWS Signature Version 4).
func sigV4(region string, id, key secrets.Value) func(*http.Request) bool {
	return func(r *http.Request) bool {
		list, ok := strings.CutPrefix(strings.Join(r.Header["Authorization"], ", "), "AWS4-HMAC-SHA256 ")
		sent := map[string]string{}
		for item := range strings.SplitSeq(list, ", ") {
			name, value, _ := strings.Cut(item, "=")
			sent[name] = value
		}
		at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		scope := at.Format("20060102") + "/" + region + "/s3/aws4_request"
		if age := time.Since(at); !ok || err != nil || age < -time.Minute || age > time.Minute || sent["Credential"] != id.Reveal()+"/"+scope {
			return false
		}
		var headers strings.Builder
		for name := range strings.SplitSeq(sent["SignedHeaders"], ";") {
			value := r.Header.Get(name)
			if name == "host" {
				value = r.Host
			}
			headers.WriteString(name + ":" + value + "\n")
		}
		query := strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20")
		canonical := strings.Join([]string{r.Method, r.URL.EscapedPath(), query, headers.String(), sent["SignedHeaders"], hex.EncodeToString(sha256.New().Sum(nil))}, "\n")
		sum := sha256.Sum256([]byte(canonical))
		signed := []byte("AWS4" + key.Reveal())
		for _, part := range append(strings.Split(scope, "/"), strings.Join([]string{"AWS4-HMAC-SHA256", r.Header.Get("X-Amz-Date"), scope, hex.EncodeToString(sum[:])}, "\n")) {
			mac := hmac.New(sha256.New, signed)
			mac.Write([]byte(part))
			signed = mac.Sum(nil)
		}
		return strings.Contains(sent["SignedHeaders"], "host") && hmac.Equal([]byte(hex.EncodeToString(signed)), []byte(sent["Signature"]))
	}
}

// jwt accepts tokens of HS256 for the audience that are good now and for no more than a day (RFC 7519 section 7.2). They
// count as secrets.
func (s *sample) jwt(audience string, key secrets.Value) func(*http.Request) bool {
	return func(r *http.Request) bool {
		token, ok := strings.CutPrefix(strings.Join(r.Header["Authorization"], ", "), "Bearer ")
		parts := strings.Split(token, ".")
		if !ok || len(parts) != 3 {
			return false
		}
		s.note(token)
		mac := hmac.New(sha256.New, []byte(key.Reveal()))
		mac.Write([]byte(parts[0] + "." + parts[1]))
		signature, err := base64.RawURLEncoding.DecodeString(parts[2])
		if err != nil || !hmac.Equal(signature, mac.Sum(nil)) {
			return false
		}
		var header struct {
			Algorithm string `json:"alg"`
		}
		var claims struct {
			Audience string `json:"aud"`
			Issued   int64  `json:"iat"`
			Expires  int64  `json:"exp"`
		}
		now := time.Now().Unix()
		return part(parts[0], &header) && part(parts[1], &claims) && header.Algorithm == "HS256" && claims.Audience == audience &&
			claims.Issued <= now && now < claims.Expires && claims.Expires-claims.Issued <= 86400
	}
}

// part decodes one part of a token.
func part(encoded string, into any) bool {
	text, err := base64.RawURLEncoding.DecodeString(encoded)
	return err == nil && json.Unmarshal(text, into) == nil
}
