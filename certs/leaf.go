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
	leafLife  = 24 * time.Hour
	leafCount = 1024

	// leafFresh is what a leaf must have left when it is handed out, so that few connections outlive it.
	leafFresh = 6 * time.Hour
)

// Leaf returns a certificate for host, a DNS name or IP literal in the form of rules.CanonicalHost: lower case, no
// trailing dot, no brackets. Its chain ends with the intermediate. It is made once per host and kept; all leaves of an
// Authority share one key, which never leaves memory. A host that Config.Domain does not cover, and a name that no
// certificate can stand for, are errors.
func (a *Authority) Leaf(host string) (*tls.Certificate, error) {
	domain, ok := a.cfg.Domain(host)
	if !ok {
		return nil, &Error{Text: "making a certificate: no rule names the host"}
	}
	r := a.current()
	if leaf, ok := r.leaves.Get(host); ok && fresh(leaf.Leaf) {
		return leaf, nil
	}
	leaf, err := a.mintOnce(r, host, domain)
	if errors.Is(err, errReplaced) {
		if next := a.current(); next != r {
			return a.mintOnce(next, host, domain)
		}
	}
	return leaf, err
}

func fresh(leaf *x509.Certificate) bool {
	now := time.Now()
	return now.After(leaf.NotBefore) && leaf.NotAfter.Sub(now) > leafFresh
}

func (a *Authority) mintOnce(r *root, host, domain string) (*tls.Certificate, error) {
	leaf, err, _ := r.minting.Do(host, func() (any, error) {
		leaf, err := a.mint(r, host, domain)
		if err != nil {
			return nil, err
		}
		r.leaves.Add(host, leaf)
		return leaf, nil
	})
	if err != nil {
		return nil, fmt.Errorf("making a certificate: %w", err)
	}
	return leaf.(*tls.Certificate), nil
}

func (a *Authority) mint(r *root, host, domain string) (*tls.Certificate, error) {
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"credproxy"}},
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
	by, err := a.issuer(r, domain)
	if err != nil {
		return nil, err
	}
	if template.SerialNumber, err = newSerial(); err != nil {
		return nil, err
	}
	template.NotBefore = latest(now.Add(-skew), by.cert.NotBefore)
	template.NotAfter = earliest(now.Add(leafLife), by.cert.NotAfter)
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, &a.leafKey.PublicKey, by.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der, by.cert.Raw}, PrivateKey: a.leafKey, Leaf: leaf}, nil
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
