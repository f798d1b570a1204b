package inject

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/credproxy/credproxy/secrets"
)

// minRSA is the least size of an RSA key in bits (RFC 7518 section 3.3).
const minRSA = 2048

// What to store, for hints.
const (
	wantsRSA = "an RSA private key of at least 2048 bits, as PEM without a passphrase"
	wantsEC  = "an EC private key on the curve %s, as PEM without a passphrase"
	wantsEd  = "an Ed25519 private key, as PEM without a passphrase"
	wantsMAC = "a shared secret of at least %d random bytes"
)

// A parsed is what was last made of a secret, so that it is not made anew for every request. The zero parsed is empty.
type parsed[T any] struct {
	last atomic.Pointer[parsedValue[T]]
}

type parsedValue[T any] struct {
	from secrets.Value
	to   T
}

// of returns what parse makes of v, or what is wrong with v.
func (p *parsed[T]) of(v secrets.Value, parse func(string) (T, string)) (T, string) {
	if last := p.last.Load(); last != nil && last.from.Equal(v) {
		return last.to, ""
	}
	to, bad := parse(v.Reveal())
	if bad == "" {
		p.last.Store(&parsedValue[T]{v, to})
	}
	return to, bad
}

// privateKey is the private key in text, which is PEM: PKCS #8, or the older forms for RSA and EC.
func privateKey(text string) (key any, bad string) {
	rest := []byte(text)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, "it is not a private key in PEM form"
		}
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			if block.Headers["DEK-Info"] != "" {
				return nil, "the private key is encrypted"
			}
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			if block.Headers["DEK-Info"] != "" {
				return nil, "the private key is encrypted"
			}
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "EC PARAMETERS": // openssl ecparam writes them before the key
			continue
		case "ENCRYPTED PRIVATE KEY":
			return nil, "the private key is encrypted"
		case "PUBLIC KEY", "RSA PUBLIC KEY", "CERTIFICATE":
			return nil, "it is public, and a private key is wanted"
		default:
			return nil, "it is not a private key in PEM form"
		}
		if err != nil {
			return nil, "the private key is damaged"
		}
		return key, ""
	}
}

// rsaKey is the RSA key in text.
func rsaKey(text string) (*rsa.PrivateKey, string) {
	found, bad := privateKey(text)
	if bad != "" {
		return nil, bad
	}
	key, ok := found.(*rsa.PrivateKey)
	switch {
	case !ok:
		return nil, "it is " + kindOfKey(found) + ", and an RSA key is wanted"
	case key.N.BitLen() < minRSA:
		return nil, "the RSA key has less than 2048 bits"
	}
	return key, ""
}

// ecKey is the EC key in text, which must be on curve.
func ecKey(text string, curve elliptic.Curve) (*ecdsa.PrivateKey, string) {
	found, bad := privateKey(text)
	if bad != "" {
		return nil, bad
	}
	if key, ok := found.(*ecdsa.PrivateKey); ok && key.Curve == curve {
		return key, ""
	}
	return nil, "it is " + kindOfKey(found) + ", and an EC key on " + curve.Params().Name + " is wanted"
}

// ed25519Key is the Ed25519 key in text.
func ed25519Key(text string) (ed25519.PrivateKey, string) {
	found, bad := privateKey(text)
	if bad != "" {
		return nil, bad
	}
	if key, ok := found.(ed25519.PrivateKey); ok {
		return key, ""
	}
	return nil, "it is " + kindOfKey(found) + ", and an Ed25519 key is wanted"
}

// macKey is the shared secret in text, which must have at least so many bytes (RFC 7518 section 3.2).
func macKey(text, encoding string, least int) ([]byte, string) {
	if strings.HasPrefix(text, "-----BEGIN ") {
		return nil, "it is PEM, and a shared secret is wanted" // a public key is no secret
	}
	var key []byte
	var err error
	switch encoding {
	case "base64":
		plain := strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
		key, err = base64.RawStdEncoding.DecodeString(plain)
	case "hex":
		key, err = hex.DecodeString(text)
	default:
		if bad := badText(text); bad != "" {
			return nil, bad
		}
		key = []byte(text)
	}
	switch {
	case err != nil:
		return nil, "it is not " + encoding
	case len(key) < least:
		return nil, fmt.Sprintf("it has less than %d bytes", least)
	}
	return key, ""
}

func kindOfKey(key any) string {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		return "an RSA key"
	case *ecdsa.PrivateKey:
		return "an EC key on " + k.Curve.Params().Name
	case ed25519.PrivateKey:
		return "an Ed25519 key"
	}
	return "a key of another kind"
}
