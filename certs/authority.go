// Package certs is the local certificate authority: the CA that clients of the proxy trust, the short-lived
// certificates that it signs for intercepted hosts, and the bundle of roots for clients that replace theirs.
package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
)

const (
	keyFile  = "ca.key"
	certFile = "ca.pem"
	lockFile = "ca.lock"

	// pemBound is more than either file can need.
	pemBound = 64 << 10
)

// An Authority is the local CA. It is safe for concurrent use.
type Authority struct {
	path string // of the certificate
	pem  []byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey

	leafKey *ecdsa.PrivateKey
	leaves  *lru.Cache[string, *tls.Certificate]
	minting singleflight.Group
}

// Open opens the CA in dir, and creates it on first use: a key that only its owner can read (ca.key) and a
// certificate (ca.pem). Any number of processes may do so at once and get the same CA. A CA that has less than a
// leaf's lifetime left is replaced by a new one; processes that have the old one open keep it until they end.
// The error, if it is about the files, is an *Error.
func Open(dir string) (*Authority, error) {
	if err := makePrivate(dir); err != nil {
		return nil, err
	}
	cert, key, err := load(dir)
	if err != nil || stale(cert) {
		// A half-written pair and a lost race look alike from here: look again while nobody writes.
		if cert, key, err = renew(dir); err != nil {
			return nil, err
		}
	}
	leafKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generating the leaf key: %w", err)
	}
	leaves, err := lru.New[string, *tls.Certificate](leafCount)
	if err != nil {
		return nil, fmt.Errorf("making the leaf cache: %w", err)
	}
	return &Authority{
		path:    Path(dir),
		pem:     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}),
		cert:    cert,
		key:     key,
		leafKey: leafKey,
		leaves:  leaves,
	}, nil
}

// Path is the PEM file of the CA's certificate, for the clients.
func (a *Authority) Path() string { return a.path }

// Path is where the certificate of the CA in dir is, or will be.
func Path(dir string) string { return filepath.Join(dir, certFile) }

// PEM is the CA's certificate.
func (a *Authority) PEM() []byte { return bytes.Clone(a.pem) }

// Certificate is the CA's certificate. It must not be changed.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// stale reports whether leaves of cert would not live their whole life.
func stale(cert *x509.Certificate) bool { return time.Until(cert.NotAfter) < leafLife }

// renew loads the CA again under the lock, and creates it if there is none or if it is about to expire.
func renew(dir string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	unlock, err := lock(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, nil, &Error{Text: "locking the local CA in " + dir, Err: err}
	}
	defer unlock()
	cert, key, err := load(dir)
	switch {
	case err == nil && !stale(cert):
		return cert, key, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, nil, err
	}
	return create(dir)
}

// load reads the CA. The error wraps fs.ErrNotExist if either file is not there: one without the other is what a
// crash while creating leaves behind.
func load(dir string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	keyPath, certPath := filepath.Join(dir, keyFile), Path(dir)
	again := fmt.Sprintf("to start over with a new CA: rm %s %s", keyPath, certPath)
	if _, err := os.Stat(certPath); err != nil {
		return nil, nil, &Error{Text: "reading the local CA", Next: again, Err: err}
	}
	der, err := readBlock(keyPath, "PRIVATE KEY", checkKeyFile)
	if err != nil {
		return nil, nil, withHint(err, "reading the local CA's key", again)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return nil, nil, &Error{Text: keyPath + " does not hold an ECDSA key", Next: again}
	}
	der, err = readBlock(certPath, "CERTIFICATE", nil)
	if err != nil {
		return nil, nil, withHint(err, "reading the local CA", again)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, &Error{Text: "reading " + certPath, Next: again, Err: err}
	}
	if !key.PublicKey.Equal(cert.PublicKey) || !cert.IsCA {
		return nil, nil, &Error{Text: fmt.Sprintf("%s is not the certificate of %s", certPath, keyPath), Next: again}
	}
	return cert, key, nil
}

// readBlock reads the PEM block of the given type that stands alone in a small file.
func readBlock(path, typ string, check func(*os.File) error) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if check != nil {
		if err := check(f); err != nil {
			return nil, err
		}
	}
	data, err := readBounded(f, pemBound)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != typ {
		return nil, &Error{Text: fmt.Sprintf("%s holds no %s in PEM form", path, typ)}
	}
	return block.Bytes, nil
}

// withHint makes an *Error of err that has a hint; one that stands already is kept.
func withHint(err error, text, hint string) error {
	var e *Error
	if !errors.As(err, &e) {
		return &Error{Text: text, Next: hint, Err: err}
	}
	if e.Next == "" {
		e.Next = hint
	}
	return e
}
