package certs

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

const (
	leafLife  = 7 * 24 * time.Hour
	leafCount = 1024

	// leafFresh is what a leaf must have left when it is handed out, so that no long connection outlives it.
	leafFresh = 24 * time.Hour
)

// Leaf returns a certificate for host, a DNS name or IP literal in the form of rules.CanonicalHost: lower case, no
// trailing dot, no brackets. It is made once per host and kept; all leaves of an Authority share one key, which
// never leaves memory. A name that no certificate can stand for is an error.
func (a *Authority) Leaf(host string) (*tls.Certificate, error) {
	if leaf, ok := a.leaves.Get(host); ok && time.Until(leaf.Leaf.NotAfter) > leafFresh {
		return leaf, nil
	}
	return a.mintOnce(host)
}

func (a *Authority) mintOnce(host string) (*tls.Certificate, error) {
	leaf, err, _ := a.minting.Do(host, func() (any, error) {
		leaf, err := a.mint(host)
		if err != nil {
			return nil, err
		}
		a.leaves.Add(host, leaf)
		return leaf, nil
	})
	if err != nil {
		return nil, fmt.Errorf("making a certificate: %w", err)
	}
	return leaf.(*tls.Certificate), nil
}

func (a *Authority) mint(host string) (*tls.Certificate, error) {
	now := time.Now()
	if now.After(a.cert.NotAfter.Add(-leafFresh)) {
		return nil, &Error{Text: "the local CA has expired", Next: "start credproxy again: it makes a new one"}
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"credproxy"}},
		NotBefore:             latest(now.Add(-skew), a.cert.NotBefore),
		NotAfter:              earliest(now.Add(leafLife), a.cert.NotAfter),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.Zone() == "" {
		template.IPAddresses = []net.IP{addr.AsSlice()}
	} else if err := checkName(host); err != nil {
		return nil, err
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &a.leafKey.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.leafKey, Leaf: leaf}, nil
}

var errName = errors.New("not a DNS name or IP address in canonical form")

// checkName accepts the host names that are in use (RFC 1123 section 2.1, and underscores), in lower case. It
// refuses wildcards: a leaf is for one host.
func checkName(host string) error {
	if host == "" || len(host) > 253 {
		return errName
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return errName
		}
		for _, c := range []byte(label) {
			switch {
			case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
			default:
				return errName
			}
		}
	}
	return nil
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
