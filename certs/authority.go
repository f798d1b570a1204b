// Package certs is the local certificate authority. Its root, which clients of the proxy trust, signs an intermediate for
// each domain that rules name; that signs the short-lived certificates for the domain's hosts, and can sign no others. The
// package also writes the bundle of roots for clients that replace theirs.
package certs

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
)

const (
	certFile = "ca.pem"
	lockFile = "ca.lock"

	// pemBound is more than any file of the CA can need.
	pemBound = 64 << 10

	// lookEvery is how often a running proxy looks whether the root has been replaced.
	lookEvery = time.Second
)

// Config is what an Authority needs.
type Config struct {
	Dir string // the folder of the CA; it is made

	// Domain returns the domain in the rules that covers host: host itself, or a parent of it. It is asked for each
	// certificate; false refuses. nil: no certificate is made.
	Domain func(host string) (domain string, ok bool)

	// Vault is the keyring in which the root's key is kept. nil: there is none, and a file that only its owner can
	// read has to do.
	Vault Vault

	// Replaced is called when the open CA has got another root, here or by another process. nil: nobody wants to know.
	Replaced func()

	Log *slog.Logger // nil: nothing is logged
}

// An Authority is the local CA. It is safe for concurrent use.
type Authority struct {
	cfg    Config
	folder folder

	leafKey *ecdsa.PrivateKey
	root    atomic.Pointer[root]
	looked  atomic.Int64 // when the root's file was last looked at
	refused atomic.Pointer[refusal]
}

// A root is the CA as it is in its folder, with what was made with it.
type root struct {
	identity
	info    fs.FileInfo         // of its file
	retired []*x509.Certificate // the roots before it

	issuers *lru.Cache[string, *issuer]
	leaves  *lru.Cache[string, *tls.Certificate]
	minting singleflight.Group
}

// Open opens the CA in dir for any host, with its key in a file. It is for servers whose clients are told to trust
// it, such as the demo's; the proxy's own is Config.Open's.
func Open(dir string) (*Authority, error) {
	return Config{Dir: dir, Domain: func(host string) (string, bool) { return host, true }}.Open(context.Background())
}

// Open opens the CA, and creates it on first use. Any number of processes may do so at once and get the same CA. A
// root that ends within days, or that is of the kind that could not be limited to hosts, is replaced by a new one. The
// root's key is needed for that only. The error, if it is about the files, is an *Error.
func (cfg Config) Open(ctx context.Context) (*Authority, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Domain == nil {
		cfg.Domain = func(string) (string, bool) { return "", false }
	}
	a := &Authority{cfg: cfg, folder: folder{cfg.Dir, cfg.Vault, cfg.Log}}
	if err := makePrivate(cfg.Dir); err != nil {
		return nil, err
	}
	id, err := a.folder.open(ctx)
	if err != nil {
		return nil, err
	}
	if err := a.folder.checkKey(id); err != nil {
		return nil, err
	}
	if a.leafKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("generating the leaf key: %w", err)
	}
	if err := a.use(id); err != nil {
		return nil, err
	}
	return a, nil
}

// Path is the PEM file of the root's certificate, for the clients.
func (a *Authority) Path() string { return Path(a.cfg.Dir) }

// Path is where the root's certificate of the CA in dir is, or will be.
func Path(dir string) string { return filepath.Join(dir, certFile) }

// PEM is the root's certificate.
func (a *Authority) PEM() []byte { return bytes.Clone(a.root.Load().pem) }

// Certificate is the root's certificate. It must not be changed.
func (a *Authority) Certificate() *x509.Certificate { return a.root.Load().cert }

// use makes id the root, with nothing made yet.
func (a *Authority) use(id identity) error {
	info, err := os.Stat(a.Path())
	if err != nil {
		return &Error{Text: "reading the local CA", Err: err}
	}
	r := &root{identity: id, info: info}
	for _, cert := range a.folder.retired() {
		if !cert.Equal(id.cert) { // a crash can leave the present one among them
			r.retired = append(r.retired, cert)
		}
	}
	if r.leaves, err = lru.New[string, *tls.Certificate](leafCount); err != nil {
		return fmt.Errorf("making the leaf cache: %w", err)
	}
	if r.issuers, err = lru.New[string, *issuer](issuerCount); err != nil {
		return fmt.Errorf("making the cache of intermediates: %w", err)
	}
	a.root.Store(r)
	a.looked.Store(time.Now().UnixNano())
	return nil
}

// Made reports whether cert is a root of this CA, past or present, or was signed by one.
func (a *Authority) Made(cert *x509.Certificate) bool {
	r := a.root.Load()
	return made(cert, r.cert) || slices.ContainsFunc(r.retired, func(old *x509.Certificate) bool { return made(cert, old) })
}

func made(cert, root *x509.Certificate) bool {
	return bytes.Equal(cert.RawSubjectPublicKeyInfo, root.RawSubjectPublicKeyInfo) ||
		bytes.Equal(cert.RawIssuer, root.RawSubject) && cert.CheckSignatureFrom(root) == nil
}

// current is the root in force. Now and then it looks whether that was replaced, or should be.
func (a *Authority) current() *root {
	r, now := a.root.Load(), time.Now()
	last := a.looked.Load()
	since := time.Duration(now.UnixNano() - last)
	if 0 <= since && since < lookEvery || !a.looked.CompareAndSwap(last, now.UnixNano()) {
		return r
	}
	info, err := os.Stat(a.Path())
	same := err == nil && os.SameFile(info, r.info) && info.ModTime().Equal(r.info.ModTime())
	if (same || errors.Is(err, fs.ErrNotExist)) && time.Until(r.cert.NotAfter) > leafLife {
		return r // removed is not replaced: what clients trust is this one
	}
	return a.follow(r)
}

// follow changes to the root that is in the folder now.
func (a *Authority) follow(r *root) *root {
	ctx, cancel := context.WithTimeout(context.Background(), issueLimit)
	defer cancel()
	id, err := a.folder.open(ctx)
	if err == nil && id.name != r.name {
		err = a.use(id)
	}
	if err != nil {
		a.cfg.Log.Warn("the local CA was replaced, and the new one cannot be used: going on with the old one", "error", err)
		return r
	}
	next := a.root.Load()
	if next.name != r.name {
		a.cfg.Log.Warn("the local CA was replaced; programs that run must be started again to trust the new one", "root", next.cert.Subject.CommonName)
		if a.cfg.Replaced != nil {
			a.cfg.Replaced()
		}
	}
	return next
}
