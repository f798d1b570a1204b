package cli

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

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
