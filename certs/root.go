package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"
)

const (
	rootLife = 365 * 24 * time.Hour

	// rootFresh is what a root must have left when the CA is opened.
	rootFresh = 7 * 24 * time.Hour

	// skew is how far behind the clock of a client, such as one in a virtual machine, may be.
	skew = time.Hour

	// nameBound is the most that a common name may have (RFC 5280, ub-common-name).
	nameBound = 64

	retiredFile  = "retired.pem"
	retiredCount = 32
)

// startOver is the way out where a file is damaged.
const startOver = "to start over with a new CA: credproxy ca rotate"

// A folder holds a CA's files.
type folder struct {
	dir   string
	vault Vault // nil: the key is a file
	log   *slog.Logger
}

func (f folder) path(name string) string { return filepath.Join(f.dir, name) }

// An identity is a root without its key.
type identity struct {
	cert *x509.Certificate
	pem  []byte
	name string // of its key: different for each
}

func newIdentity(cert *x509.Certificate) identity {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return identity{cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), hex.EncodeToString(sum[:16])}
}

// worn reports whether a new root is due: this one ends soon, or it comes from before there were intermediates.
func (i identity) worn() bool {
	return time.Until(i.cert.NotAfter) < rootFresh || i.cert.MaxPathLenZero
}

// open returns the root. If there is none, or if it is worn, it makes one.
func (f folder) open(ctx context.Context) (identity, error) {
	id, err := f.load()
	if err == nil && !id.worn() || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	unlock, err := f.lock(ctx)
	if err != nil {
		return identity{}, err
	}
	defer unlock()
	id, err = f.load() // another process may have been quicker
	if err == nil && !id.worn() || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	return f.create(ctx)
}

func (f folder) lock(ctx context.Context) (unlock func(), err error) {
	unlock, err = lock(ctx, f.path(lockFile))
	if err != nil {
		return nil, &Error{Text: "locking the local CA in " + f.dir, Err: err}
	}
	return unlock, nil
}

// load reads the root's certificate. The error wraps fs.ErrNotExist if there is none.
func (f folder) load() (identity, error) {
	path := Path(f.dir)
	blocks, err := readPEM(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return identity{}, &Error{Text: "reading the local CA", Err: err}
	}
	if err != nil {
		return identity{}, withHint(err, "reading the local CA", startOver)
	}
	if len(blocks) != 1 || blocks[0].Type != "CERTIFICATE" {
		return identity{}, &Error{Text: path + " does not hold one certificate in PEM form", Next: startOver}
	}
	cert, err := x509.ParseCertificate(blocks[0].Bytes)
	if err != nil {
		return identity{}, &Error{Text: "reading " + path, Next: startOver, Err: err}
	}
	if _, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || !cert.IsCA || cert.CheckSignatureFrom(cert) != nil {
		return identity{}, &Error{Text: path + " is not the certificate of a local CA", Next: startOver}
	}
	if early := time.Until(cert.NotBefore); early > 0 {
		return identity{}, &Error{
			Text: fmt.Sprintf("the local CA is valid from %s on; this machine's clock says %s", cert.NotBefore.Format(time.DateTime), time.Now().UTC().Format(time.DateTime)),
			Next: "set the clock; if it is right now: credproxy ca rotate",
		}
	}
	return newIdentity(cert), nil
}

// Rotate replaces the root by a new one with a new key, whatever state the CA is in. The old one is trusted no more: it
// is noted, so that it leaves bundles and is no upstream's root. What it has signed goes, and so does its key.
func (cfg Config) Rotate(ctx context.Context) error {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := makePrivate(cfg.Dir); err != nil {
		return err
	}
	f := folder{cfg.Dir, cfg.Vault, cfg.Log}
	unlock, err := f.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = f.create(ctx)
	return err
}

// create makes a new root in place of what is there. The caller holds the lock. The key comes first, under a name of its
// own: a crash at any point leaves the old root with its key, or the new one.
func (f folder) create(ctx context.Context) (identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return identity{}, fmt.Errorf("generating the local CA's key: %w", err)
	}
	cert, err := selfSign(key)
	if err != nil {
		return identity{}, fmt.Errorf("signing the local CA: %w", err)
	}
	id := newIdentity(cert)
	if err := f.retire(); err != nil {
		return identity{}, &Error{Text: "writing the local CA", Err: err}
	}
	if err := f.keepKey(ctx, id, key); err != nil {
		return identity{}, err
	}
	if err := writeFile(Path(f.dir), id.pem, 0o644); err != nil {
		return identity{}, &Error{Text: "writing the local CA", Err: err}
	}
	f.clean(ctx, id)
	return id, nil
}

// retire notes the root that is there, if it is one.
func (f folder) retire() error {
	data, err := os.ReadFile(Path(f.dir))
	block, _ := pem.Decode(data)
	if err != nil || block == nil {
		return nil
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	list := append(f.retired(), cert)
	if len(list) > retiredCount {
		list = list[len(list)-retiredCount:]
	}
	var out []byte
	for _, c := range list {
		out = append(out, newIdentity(c).pem...)
	}
	return writeFile(f.path(retiredFile), out, 0o600)
}

// retired lists the roots that were replaced, as far as they could still be believed.
func (f folder) retired() []*x509.Certificate {
	var list []*x509.Certificate
	blocks, err := readPEM(f.path(retiredFile), nil)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.log.Warn("the list of replaced CAs cannot be read", "error", err)
	}
	for _, b := range blocks {
		if cert, err := x509.ParseCertificate(b.Bytes); err == nil && time.Now().Before(cert.NotAfter) {
			list = append(list, cert)
		}
	}
	return list
}

// clean removes what belongs to other roots than id. What it fails to remove harms nobody: nothing trusts it.
func (f folder) clean(ctx context.Context, id identity) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		f.log.Warn("files of the replaced CA stay", "error", err)
		return
	}
	for _, e := range entries {
		name := e.Name()
		old := name == "ca.key" || // of versions without intermediates
			strings.HasPrefix(name, keyPrefix) && strings.HasSuffix(name, keySuffix) && name != keyName(id) ||
			strings.HasPrefix(name, hostsPrefix) && name != hostsName(id)
		if !old {
			continue
		}
		if err := os.RemoveAll(f.path(name)); err != nil {
			f.log.Warn("a file of the replaced CA stays", "error", err)
		}
	}
	if f.vault == nil {
		return
	}
	for _, cert := range f.retired() {
		if err := f.vault.Remove(ctx, vaultItem(newIdentity(cert))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.log.Warn("the key of the replaced CA stays in the keyring", "error", err)
			return
		}
	}
}

func selfSign(key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		// OpenSSL finds an issuer by its subject: two CAs of one name break each other, so no two have one.
		Subject:               pkix.Name{CommonName: commonName("credproxy local CA "+owner(), newID())},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(rootLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            1,
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

func newID() string {
	id := make([]byte, 4)
	_, _ = rand.Read(id) // it never fails: see crypto/rand
	return hex.EncodeToString(id)
}

// commonName is a CA's name. A long one is cut so that the random id, which makes it unique, stays whole.
func commonName(text, id string) string {
	room := nameBound - len(" ") - len(id)
	return text[:min(len(text), room)] + " " + id
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
