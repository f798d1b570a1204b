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
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	issuerLife = 90 * 24 * time.Hour

	// issuerDue is the age at which an intermediate is renewed. The root's key has a month then to turn up.
	issuerDue = 60 * 24 * time.Hour

	issuerCount = 1024 // kept in memory

	// issueLimit bounds the wait for the root's key where a client waits.
	issueLimit = 20 * time.Second

	// issuePause is how long a failure to get the root's key stands for all that need it.
	issuePause = 5 * time.Second

	hostsPrefix = "hosts-"
)

// An issuer is an intermediate: a CA for one domain of the rules.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// due reports whether a new one should take i's place.
func (i *issuer) due() bool {
	return i == nil || time.Until(i.cert.NotAfter) < issuerLife-issuerDue && time.Since(i.cert.NotBefore) > issuerDue || !i.usable()
}

func (i *issuer) usable() bool {
	now := time.Now()
	return i != nil && now.After(i.cert.NotBefore) && now.Before(i.cert.NotAfter)
}

// Intermediates are files: the root's key is needed once for a domain and quarter, and a start asks no keyring. They
// stand in a folder that is named after the root, so that a new root leaves all of them behind.
func hostsName(id identity) string { return hostsPrefix + id.name }

func (f folder) hosts(id identity) string { return f.path(hostsName(id)) }

// issuerPath is the file of a domain's intermediate: a digest, for not every name of a host is one of a file.
func (f folder) issuerPath(id identity, domain string) string {
	sum := sha256.Sum256([]byte(domain))
	return filepath.Join(f.hosts(id), hex.EncodeToString(sum[:16])+".pem")
}

// A refusal is a failure to get the root's key, and how long it stands.
type refusal struct {
	err   error
	until time.Time
}

// Prepare makes the intermediates that domains lack, and renews those that end within a month. It needs the root's key
// for that alone. If the key cannot be had it is an error only if a domain has no intermediate that still serves.
func (a *Authority) Prepare(ctx context.Context, domains []string) error {
	r := a.current()
	due, lacking := a.folder.due(r.identity, domains)
	if len(due) == 0 {
		return nil
	}
	a.refused.Store(nil)
	err := a.issue(ctx, r, due)
	if errors.Is(err, errReplaced) && a.current() != r {
		return a.Prepare(ctx, domains)
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	if len(lacking) == 0 {
		a.cfg.Log.Warn("certificates of the local CA end within a month and cannot be renewed now", "error", err)
		return nil
	}
	return fmt.Errorf("making a certificate for %s: %w", few(lacking), err)
}

// few is at most three of names.
func few(names []string) string {
	if len(names) > 3 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
	}
	return strings.Join(names, ", ")
}

// due lists the domains whose intermediate is missing or old, and of these the ones that have none that can serve. It
// goes by the files' times; who uses a file looks into it.
func (f folder) due(id identity, domains []string) (due, lacking []string) {
	for _, domain := range domains {
		info, err := os.Stat(f.issuerPath(id, domain))
		age := time.Duration(0)
		if err == nil {
			age = time.Since(info.ModTime())
		}
		switch {
		case err != nil || age > issuerLife || age < -skew || info.Size() == 0:
			due, lacking = append(due, domain), append(lacking, domain)
		case age > issuerDue:
			due = append(due, domain)
		}
	}
	return due, lacking
}

// issuer returns the intermediate for domain: from memory, from its file, or a new one.
func (a *Authority) issuer(r *root, domain string) (*issuer, error) {
	kept, _ := r.issuers.Get(domain)
	if !kept.due() {
		return kept, nil
	}
	i, err := a.folder.loadIssuer(r.identity, domain)
	if err != nil && !errors.Is(err, errReissue) {
		return nil, err
	}
	if i.due() {
		ctx, cancel := context.WithTimeout(context.Background(), issueLimit)
		defer cancel()
		if err = a.issueOnce(ctx, r, domain); err == nil {
			i, err = a.folder.loadIssuer(r.identity, domain)
		}
	}
	switch {
	case err == nil:
	case i.usable():
		a.cfg.Log.Warn("a certificate of the local CA cannot be renewed", "host", domain, "until", i.cert.NotAfter, "error", err)
	default:
		return nil, err
	}
	r.issuers.Add(domain, i)
	return i, nil
}

// issueOnce is issue, and fails at once for a while after it has failed: each handshake would ask the keyring.
func (a *Authority) issueOnce(ctx context.Context, r *root, domain string) error {
	if f := a.refused.Load(); f != nil {
		if left := time.Until(f.until); 0 < left && left <= issuePause {
			return f.err
		}
	}
	err := a.issue(ctx, r, []string{domain})
	switch {
	case err == nil:
		a.refused.Store(nil)
	case !errors.Is(err, errReplaced):
		a.refused.Store(&refusal{err, time.Now().Add(issuePause).Round(0)})
	}
	return err
}

// errReplaced says that the root is not the one in force any more: the next look finds the new one.
var errReplaced = errors.New("the local CA has just been replaced")

// issue makes intermediates for those of domains that still lack one once the lock is held.
func (a *Authority) issue(ctx context.Context, r *root, domains []string) error {
	unlock, err := a.folder.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	domains = slices.DeleteFunc(slices.Clone(domains), func(domain string) bool {
		i, err := a.folder.loadIssuer(r.identity, domain)
		return err == nil && !i.due()
	})
	if len(domains) == 0 {
		return nil
	}
	id, err := a.folder.load()
	if err != nil {
		return err
	}
	if id.name != r.name {
		a.looked.Store(0)
		return errReplaced
	}
	key, err := a.folder.rootKey(ctx, r.identity)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(a.folder.hosts(r.identity), 0o700); err != nil {
		return &Error{Text: "writing a certificate of the local CA", Err: err}
	}
	a.folder.dropExpired(r.identity)
	for _, domain := range domains {
		if err := a.folder.issue(r.identity, key, domain); err != nil {
			return err
		}
	}
	return nil
}

// issue makes and writes one intermediate.
func (f folder) issue(id identity, rootKey *ecdsa.PrivateKey, domain string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("generating the key of an intermediate: %w", err)
	}
	template, err := issuerTemplate(id.cert, domain)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, id.cert, &key.PublicKey, rootKey)
	if err != nil {
		return fmt.Errorf("signing the intermediate for %s: %w", domain, err)
	}
	data, err := encodeKey(key)
	if err != nil {
		return err
	}
	data = append(data, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	if err := replaceFile(f.issuerPath(id, domain), data); err != nil {
		return &Error{Text: "writing a certificate of the local CA", Err: err}
	}
	return nil
}

// nowhere is a domain that nobody has (RFC 2606). A kind of name of which only this one is permitted is excluded in a way
// that all verifiers read alike.
const nowhere = "invalid"

// Where an address of one family is permitted, GnuTLS takes the other family for permitted too, and Java 17 fails over a
// range of the other that is excluded. So one address of the other is permitted that nobody has: the limited broadcast
// address, and one that is discarded (RFC 6666). Java compares the leading bytes across families: they differ from most.
var (
	unused4 = netip.MustParseAddr("255.255.255.255")
	unused6 = netip.MustParseAddr("100::ffff")
)

func only(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}
}

var (
	everyIPv4 = &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	everyIPv6 = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
)

// issuerTemplate limits a CA to domain. A dNSName constraint covers a name and all below it (RFC 5280 section 4.2.1.10);
// there is none for the name alone, and none for a wildcard's names without it.
func issuerTemplate(parent *x509.Certificate, domain string) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber:                serial,
		Subject:                     pkix.Name{Organization: []string{"credproxy"}, CommonName: commonName("credproxy for "+domain, newID())},
		NotBefore:                   latest(now.Add(-skew), parent.NotBefore),
		NotAfter:                    earliest(now.Add(issuerLife), parent.NotAfter),
		KeyUsage:                    x509.KeyUsageCertSign,
		ExtKeyUsage:                 []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		PermittedDNSDomainsCritical: true, // of all constraints
		PermittedEmailAddresses:     []string{nowhere},
		PermittedURIDomains:         []string{nowhere},
	}
	switch addr, err := netip.ParseAddr(domain); {
	case err == nil && addr.Zone() == "":
		t.PermittedDNSDomains = []string{nowhere}
		t.PermittedIPRanges = []*net.IPNet{only(addr), only(unused6)}
		if addr.Is6() {
			t.PermittedIPRanges[1] = only(unused4)
		}
	default:
		if err := checkName(domain); err != nil {
			return nil, err
		}
		t.PermittedDNSDomains = []string{domain}
		t.ExcludedIPRanges = []*net.IPNet{everyIPv4, everyIPv6}
	}
	return t, nil
}

// covers reports whether cert is limited to domain exactly.
func covers(cert *x509.Certificate, domain string) bool {
	want, err := issuerTemplate(cert, domain)
	if err != nil || !cert.IsCA || !cert.MaxPathLenZero || !slices.Equal(cert.PermittedDNSDomains, want.PermittedDNSDomains) {
		return false
	}
	return slices.EqualFunc(cert.PermittedIPRanges, want.PermittedIPRanges, func(a, b *net.IPNet) bool { return a.String() == b.String() })
}

// errReissue says that a file holds no intermediate that can be used: one is made in its place.
var errReissue = errors.New("it is not an intermediate for this host")

// loadIssuer reads a domain's intermediate. Whatever is not exactly that is errReissue: after a crash of the machine it
// can be cut short, for it is not worth a sync. A key that others may have read is another error.
func (f folder) loadIssuer(id identity, domain string) (*issuer, error) {
	path := f.issuerPath(id, domain)
	var open error
	blocks, err := readPEM(path, func(file *os.File) error {
		open = checkKeyFile(file)
		return open
	})
	if open != nil {
		return nil, open
	}
	if err != nil || len(blocks) != 2 || blocks[0].Type != "PRIVATE KEY" || blocks[1].Type != "CERTIFICATE" {
		return nil, errReissue
	}
	cert, err := x509.ParseCertificate(blocks[1].Bytes)
	if err != nil || cert.CheckSignatureFrom(id.cert) != nil || !covers(cert, domain) {
		return nil, errReissue
	}
	key, err := parseKey(blocks[0].Bytes, cert)
	if err != nil {
		return nil, errReissue
	}
	return &issuer{cert, key}, nil
}

// dropExpired removes the intermediates of hosts that rules have not named for long.
func (f folder) dropExpired(id identity) {
	entries, err := os.ReadDir(f.hosts(id))
	if err != nil {
		return
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > issuerLife {
			_ = os.Remove(filepath.Join(f.hosts(id), e.Name())) // the next one tries again
		}
	}
}
