package inject

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"sync/atomic"

	"github.com/credproxy/credproxy/secrets"
)

// minRSA is the least size of an RSA key in bits (RFC 7518 section 3.3).
const minRSA = 2048

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
	any, bad := privateKey(text)
	if bad != "" {
		return nil, bad
	}
	key, ok := any.(*rsa.PrivateKey)
	switch {
	case !ok:
		return nil, "it is " + kindOfKey(any) + ", and an RSA key is wanted"
	case key.N.BitLen() < minRSA:
		return nil, "the RSA key has less than 2048 bits"
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
