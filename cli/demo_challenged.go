package cli

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"net/http"
	"strings"
	"sync"
	"unicode/utf16"

	"github.com/credproxy/credproxy/secrets"
	//lint:ignore SA1019 NTLM is made of MD4.
	"golang.org/x/crypto/md4"
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

// ntlmNonce is the sample API's only challenge for NTLM.
const ntlmNonce = "8f1e6c02"

// ntlmChallenge is the sample API's CHALLENGE_MESSAGE (MS-NLMP section 2.2.1.2): UTF-16, NTLMv2, a domain called CORP.
func ntlmChallenge() []byte {
	info := append(append([]byte{2, 0, 8, 0}, utf16le("CORP")...), 0, 0, 0, 0)
	b := append([]byte("NTLMSSP\x00\x02\x00\x00\x00"), make([]byte, 8)...)
	b = append(binary.LittleEndian.AppendUint32(b, 0xa0888201), ntlmNonce...)
	b = append(b, make([]byte, 8)...)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(info)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(info)))
	return append(binary.LittleEndian.AppendUint32(b, 48), info...)
}

// ntlm accepts answers to that challenge (MS-NLMP section 3.3.2).
func ntlm(domain, user string, password secrets.Value) func(*http.Request) bool {
	return func(r *http.Request) bool {
		encoded, ok := strings.CutPrefix(r.Header.Get("Authorization"), "NTLM ")
		m, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil || len(m) < 64 || m[8] != 3 {
			return false
		}
		response, sentDomain, sentUser := ntlmField(m, 20), ntlmField(m, 28), ntlmField(m, 36)
		if len(response) < 44 || string(sentDomain) != string(utf16le(domain)) || string(sentUser) != string(utf16le(user)) {
			return false
		}
		h := md4.New()
		h.Write(utf16le(password.Reveal()))
		key := hmacMD5(h.Sum(nil), utf16le(strings.ToUpper(user)+domain))
		return hmac.Equal(response[:16], hmacMD5(key, append([]byte(ntlmNonce), response[16:]...)))
	}
}

// ntlmField is the part of m that the field at an offset points to.
func ntlmField(m []byte, at int) []byte {
	length, offset := int(binary.LittleEndian.Uint16(m[at:])), int(binary.LittleEndian.Uint32(m[at+4:]))
	if offset+length > len(m) {
		return nil
	}
	return m[offset : offset+length]
}

func hmacMD5(key, data []byte) []byte {
	mac := hmac.New(md5.New, key)
	mac.Write(data)
	return mac.Sum(nil)
}

func utf16le(s string) []byte {
	var b []byte
	for _, unit := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, unit)
	}
	return b
}
