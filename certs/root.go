package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"
)

const (
	authorityLife = 365 * 24 * time.Hour

	// skew is how far behind the clock of a client, such as one in a virtual machine, may be.
	skew = time.Hour

	// nameBound is the most that a common name may have (RFC 5280, ub-common-name).
	nameBound = 64
)

// create makes a new CA and writes it to dir. The caller holds the lock.
func create(dir string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generating the local CA's key: %w", err)
	}
	cert, err := selfSign(key)
	if err != nil {
		return nil, nil, fmt.Errorf("signing the local CA: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding the local CA's key: %w", err)
	}
	// A crash between these steps leaves a key without a certificate, which the next Open takes for no CA at all.
	// In any other order it could leave a pair that does not belong together.
	certPath := Path(dir)
	if err := os.Remove(certPath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, &Error{Text: "replacing the expired local CA", Err: err}
	}
	for _, f := range []struct {
		path, typ string
		der       []byte
		mode      fs.FileMode
	}{
		{filepath.Join(dir, keyFile), "PRIVATE KEY", der, 0o600},
		{certPath, "CERTIFICATE", cert.Raw, 0o644},
	} {
		data := pem.EncodeToMemory(&pem.Block{Type: f.typ, Bytes: f.der})
		if err := writeFile(f.path, data, f.mode); err != nil {
			return nil, nil, &Error{Text: "writing the local CA", Err: err}
		}
	}
	return cert, key, nil
}

func selfSign(key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	id := make([]byte, 4)
	if _, err := rand.Read(id); err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		// OpenSSL finds an issuer by its subject: two CAs of one name break each other, so no two have one.
		Subject:               pkix.Name{CommonName: commonName(owner(), hex.EncodeToString(id))},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// newSerial returns a random positive serial number of up to 127 bits, so that its DER form has no more than 16 octets.
func newSerial() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, err
	}
	b[0] &= 0x7f
	b[15] |= 1 // never zero
	return new(big.Int).SetBytes(b), nil
}

// commonName is the CA's name. A long owner is cut so that the random id, which makes the name unique, stays whole.
func commonName(owner, id string) string {
	const prefix = "credproxy local CA "
	room := nameBound - len(prefix) - len(" ") - len(id)
	return prefix + owner[:min(len(owner), room)] + " " + id
}

// owner is USER@HOST in printable ASCII.
func owner() string {
	name := "user"
	if u, err := user.Current(); err == nil {
		name = u.Username[strings.LastIndexByte(u.Username, '\\')+1:] // Windows: DOMAIN\user
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '-'
		}
		return r
	}, name+"@"+host)
}
