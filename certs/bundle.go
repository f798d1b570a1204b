package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// rootsBound is the most that one file of roots may have. A whole system's is about 220 KiB.
const rootsBound = 16 << 20

// A Bundle is a file of roots for clients whose variables replace their roots instead of adding to them.
type Bundle struct {
	Path  string
	Roots int // how many there are besides our own CA
}

// WriteBundle writes to path the roots that stand in the inherited files, the system's roots, and a's own, in
// that order and each once. Inherited files are those that the environment named before credproxy came; they may
// hold a company's CA that nothing else does, so that an earlier bundle of ours is as good a source as any. Files that
// do not exist are left out, as clients do. Expired roots are left out too, and those that a's own has replaced.
//
// On a machine without any root, such as a bare container, the bundle holds our own CA alone and Roots is 0. That is
// safe, for a client then trusts less and not more, and it is enough for the hosts that rules name.
func WriteBundle(path string, a *Authority, inherited []string) (Bundle, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return Bundle{}, &Error{Text: "writing the bundle of roots", Next: "choose another folder with --state", Err: err}
	}
	own := a.root.Load()
	roots := newRootSet(append([]*x509.Certificate{own.cert}, own.retired...))
	for _, name := range inherited {
		data, err := readRoots(name)
		if err != nil {
			return Bundle{}, &Error{Text: "reading the roots that the environment names", Next: "unset the variable that names " + name, Err: err}
		}
		roots.add(data)
	}
	system, err := systemRoots()
	if err != nil {
		return Bundle{}, &Error{Text: "reading the system's roots", Err: err}
	}
	roots.add(system)

	data := append(roots.pem, own.pem...)
	if old, err := readRoots(path); err == nil && bytes.Equal(old, data) {
		return Bundle{path, roots.count}, nil
	}
	if err := writeFile(path, data, 0o644); err != nil {
		return Bundle{}, &Error{Text: "writing the bundle of roots", Next: "choose another folder with --state", Err: err}
	}
	return Bundle{path, roots.count}, nil
}

// UpstreamRoots returns the roots in file, the one that SSL_CERT_FILE names, without what Made knows. It returns nil if
// none of that is there: the system's roots then are what they should be. A proxy that is started in the environment of
// another one would otherwise take a certificate that was made with a's keys for an upstream's.
func (a *Authority) UpstreamRoots(file string) (*x509.CertPool, error) {
	data, err := readRoots(file)
	if err != nil {
		return nil, &Error{Text: "reading the roots that the environment names", Next: "unset SSL_CERT_FILE", Err: err}
	}
	pool, own := x509.NewCertPool(), false
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil: // Go would not use it either
		case a.Made(cert):
			own = true
		default:
			pool.AddCert(cert)
		}
	}
	if !own {
		return nil, nil
	}
	return pool, nil
}

// readRoots reads a file of roots; one that does not exist has none.
func readRoots(name string) ([]byte, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", name)
	}
	return readBounded(f, rootsBound)
}

// A rootSet collects certificates in PEM form, each once.
type rootSet struct {
	pem   []byte
	count int
	seen  map[[sha256.Size]byte]bool
}

// newRootSet returns a set that takes own for already seen: the one comes last, and the others not at all.
func newRootSet(own []*x509.Certificate) *rootSet {
	s := &rootSet{seen: make(map[[sha256.Size]byte]bool)}
	for _, cert := range own {
		s.seen[sha256.Sum256(cert.Raw)] = true
	}
	return s
}

func (s *rootSet) add(data []byte) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return
		}
		id := sha256.Sum256(block.Bytes)
		if block.Type != "CERTIFICATE" || s.seen[id] {
			continue
		}
		s.seen[id] = true
		// What Go cannot parse may still be good enough for the client.
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && time.Now().After(cert.NotAfter) {
			continue
		}
		s.pem = append(s.pem, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes})...)
		s.count++
	}
}
