package certs

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func encode(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func pool(a *Authority) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.Certificate())
	return p
}

// TestLeafInAHandshake lets crypto/tls judge: the client verifies chain, name, time and usage.
func TestLeafInAHandshake(t *testing.T) {
	t.Parallel()
	a := open(t, t.TempDir()+"/ca")
	for _, host := range []string{"api.example.com", "localhost", "a_b.example.com", "xn--bcher-kva.example", "127.0.0.1", "::1", "192.0.2.7"} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(host+" "+tls.VersionName(version), func(t *testing.T) {
				t.Parallel()
				server, client := net.Pipe()
				defer server.Close()
				defer client.Close()
				served := make(chan error, 1)
				go func() {
					served <- tls.Server(server, &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return a.Leaf(host) }}).Handshake()
				}()
				c := tls.Client(client, &tls.Config{RootCAs: pool(a), ServerName: host, MinVersion: version, MaxVersion: version})
				if err := c.Handshake(); err != nil {
					t.Errorf("client: %v", err)
				}
				if err := <-served; err != nil {
					t.Errorf("server: %v", err)
				}
			})
		}
	}
}

func TestLeafIsForOneHostAndServersOnly(t *testing.T) {
	t.Parallel()
	a := open(t, t.TempDir()+"/ca")
	leaf, err := a.Leaf("api.example.com")
	if err != nil {
		t.Fatal(err)
	}
	c := leaf.Leaf
	if c.Subject.CommonName != "" || len(c.DNSNames) != 1 || c.DNSNames[0] != "api.example.com" || len(c.IPAddresses) != 0 {
		t.Errorf("subject %v, names %v, addresses %v: want the one name, in the SAN only", c.Subject, c.DNSNames, c.IPAddresses)
	}
	if c.IsCA || !c.BasicConstraintsValid || c.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("IsCA %v, key usage %b", c.IsCA, c.KeyUsage)
	}
	by, err := x509.ParseCertificate(leaf.Certificate[1])
	if err != nil {
		t.Fatal(err)
	}
	if string(c.AuthorityKeyId) != string(by.SubjectKeyId) || string(by.AuthorityKeyId) != string(a.Certificate().SubjectKeyId) {
		t.Error("an authority key identifier is not that of the CA above")
	}
	between := x509.NewCertPool()
	between.AddCert(by)
	if d := time.Until(c.NotAfter); d > leafLife || d < leafLife-time.Minute {
		t.Errorf("lives for %v, want %v", d, leafLife)
	}
	if c.NotBefore.Before(a.Certificate().NotBefore) || time.Since(c.NotBefore) < skew-time.Minute {
		t.Errorf("valid from %v, want an hour ago but not before the CA's %v", c.NotBefore, a.Certificate().NotBefore)
	}
	for name, opts := range map[string]x509.VerifyOptions{
		"other host":  {Roots: pool(a), DNSName: "www.example.com"},
		"subdomain":   {Roots: pool(a), DNSName: "x.api.example.com"},
		"client":      {Roots: pool(a), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
		"in 25 hours": {Roots: pool(a), CurrentTime: time.Now().Add(25 * time.Hour)},
		"another CA":  {Roots: pool(open(t, t.TempDir()+"/ca"))},
		"2 hours ago": {Roots: pool(a), CurrentTime: time.Now().Add(-2 * time.Hour)},
	} {
		opts.Intermediates = between
		if _, err := c.Verify(opts); err == nil {
			t.Errorf("%s: verified", name)
		}
	}
}

func TestLeafRefusesNames(t *testing.T) {
	t.Parallel()
	a := open(t, t.TempDir()+"/ca")
	for _, host := range []string{
		"", ".", "*.example.com", "Example.com", "example.com.", "a..b", "-a.example", "a-.example", "a b", "a\x00.example.com", "exämple.com",
		"example.com:443", "[::1]", "fe80::1%eth0", "a/b", strings.Repeat("a", 64) + ".example", strings.Repeat("abcdefg.", 32) + "example",
	} {
		if leaf, err := a.Leaf(host); err == nil {
			t.Errorf("Leaf(%q) = %v, want an error", host, leaf.Leaf.DNSNames)
		}
	}
	if n := a.current().leaves.Len(); n != 0 {
		t.Errorf("%d refused names are kept", n)
	}
}

func TestLeafIsMadeOnce(t *testing.T) {
	t.Parallel()
	a := open(t, t.TempDir()+"/ca")
	var leaves [64]*tls.Certificate
	var wg sync.WaitGroup
	for i := range leaves {
		wg.Go(func() { leaves[i], _ = a.Leaf("api.example.com") })
	}
	wg.Wait()
	distinct := map[string]bool{}
	for _, l := range leaves {
		distinct[l.Leaf.SerialNumber.String()] = true
	}
	if last, _ := a.Leaf("api.example.com"); len(distinct) != 1 || last != leaves[0] {
		t.Errorf("%d certificates were made for one host", len(distinct))
	}
	other, err := a.Leaf("www.example.com")
	if err != nil {
		t.Fatal(err)
	}
	if other == leaves[0] || other.PrivateKey != leaves[0].PrivateKey {
		t.Error("another host wants another certificate with the same key")
	}
}

func TestLeafIsRenewedInTime(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/ca"
	synctest.Test(t, func(t *testing.T) {
		a := open(t, dir)
		first, _ := a.Leaf("api.example.com")
		time.Sleep(leafLife - leafFresh - time.Minute)
		if kept, _ := a.Leaf("api.example.com"); kept != first {
			t.Error("renewed too soon")
		}
		time.Sleep(2 * time.Minute)
		renewed, err := a.Leaf("api.example.com")
		if err != nil || renewed == first {
			t.Errorf("not renewed in time (%v)", err)
		}
	})
}

func TestLeafWarmPathDoesNotAllocate(t *testing.T) {
	a := open(t, t.TempDir()+"/ca")
	leafOf(t, a)
	if n := testing.AllocsPerRun(100, func() { leafOf(t, a) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func leafOf(t testing.TB, a *Authority) {
	if _, err := a.Leaf("api.example.com"); err != nil {
		t.Error(err)
	}
}

func BenchmarkLeafWarm(b *testing.B) {
	a := open(b, b.TempDir()+"/ca")
	b.ReportAllocs()
	for b.Loop() {
		leafOf(b, a)
	}
}

func BenchmarkLeafCold(b *testing.B) {
	a := open(b, b.TempDir()+"/ca")
	r := a.current()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.mint(r, "api.example.com", "api.example.com"); err != nil {
			b.Fatal(err)
		}
	}
}
