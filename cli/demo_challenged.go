package cli

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"strings"
	"sync"

	"github.com/credproxy/credproxy/secrets"
)

// digestNonce is the sample API's only nonce. Each count of it is good once.
const digestNonce = "7d4f1c"

// digest accepts answers to the sample API's challenge (RFC 7616 section 3.4.1, with SHA-256 and qop=auth).
func digest(user string, password secrets.Value) func(*http.Request) bool {
	var mu sync.Mutex
	seen := make(map[string]bool)
	hashed := func(parts ...string) string {
		sum := sha256.Sum256([]byte(strings.Join(parts, ":")))
		return hex.EncodeToString(sum[:])
	}
	return func(r *http.Request) bool {
		list, ok := strings.CutPrefix(strings.Join(r.Header["Authorization"], ", "), "Digest ")
		sent := make(map[string]string)
		for item := range strings.SplitSeq(list, ", ") {
			name, value, _ := strings.Cut(item, "=")
			sent[name] = strings.Trim(value, `"`)
		}
		if !ok || sent["username"] != user || sent["nonce"] != digestNonce || sent["uri"] != r.RequestURI {
			return false
		}
		want := hashed(hashed(user, "sample", password.Reveal()), digestNonce, sent["nc"], sent["cnonce"], "auth", hashed(r.Method, r.RequestURI))
		if subtle.ConstantTimeCompare([]byte(want), []byte(sent["response"])) != 1 {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		again := seen[sent["nc"]]
		seen[sent["nc"]] = true
		return !again
	}
}
