package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// certificates parses the bundle as a client would.
func certificates(t *testing.T, path string) []*x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return certs
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, c)
	}
}

func count(certs []*x509.Certificate, c *x509.Certificate) (n int) {
	for _, other := range certs {
		if other.Equal(c) {
			n++
		}
	}
	return n
}

func TestBundle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, company := open(t, dir+"/ca"), open(t, dir+"/company")
	inherited := []string{company.Path(), dir + "/missing.pem", company.Path(), a.Path()}
	b, err := WriteBundle(dir+"/out/bundle.pem", a, inherited)
	if err != nil {
		t.Fatal(err)
	}
	got := certificates(t, b.Path)
	if len(got) != b.Roots+1 || b.Roots < 1 {
		t.Fatalf("%d certificates, Roots %d", len(got), b.Roots)
	}
	if !got[0].Equal(company.Certificate()) || count(got, company.Certificate()) != 1 {
		t.Error("the inherited root does not come first, once")
	}
	if !got[len(got)-1].Equal(a.Certificate()) || count(got, a.Certificate()) != 1 {
		t.Error("our CA does not come last, once")
	}
	system, err := systemRoots()
	if err != nil {
		t.Fatal(err)
	}
	for block, rest := pem.Decode(system); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil && time.Now().Before(c.NotAfter) && count(got, c) != 1 {
			t.Errorf("the system's %v stands there %d times, want once", c.Subject, count(got, c))
		}
	}
	wantMode(t, filepath.Dir(b.Path), 0o700)
	wantMode(t, b.Path, 0o644)
}

// In a shell that evaluated credproxy env, the bundle itself is what the environment names. A company's root must
// survive that.
func TestBundleOfABundle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, company := open(t, dir+"/ca"), open(t, dir+"/company")
	path := dir + "/bundle.pem"
	if _, err := WriteBundle(path, a, []string{company.Path()}); err != nil {
		t.Fatal(err)
	}
	first, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	before := certificates(t, path)
	if _, err := WriteBundle(path, a, []string{path}); err != nil {
		t.Fatal(err)
	}
	after := certificates(t, path)
	if len(after) != len(before) || count(after, company.Certificate()) != 1 {
		t.Errorf("%d certificates became %d", len(before), len(after))
	}
	if second, err := os.Stat(path); err != nil || !os.SameFile(first, second) {
		t.Error("a bundle that says the same was written again")
	}
}

func TestBundleLeavesExpiredRootsOut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := dir + "/old.pem"
	synctest.Test(t, func(t *testing.T) { // the bubble's clock starts in the year 2000
		if err := os.WriteFile(old, open(t, dir+"/old").PEM(), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	a := open(t, dir+"/ca")
	b, err := WriteBundle(dir+"/bundle.pem", a, []string{old})
	if err != nil {
		t.Fatal(err)
	}
	if n := count(certificates(t, b.Path), certificates(t, old)[0]); n != 0 {
		t.Errorf("the expired root stands there %d times", n)
	}
}

// An upstream must not be believed because we could have signed its certificate.
func TestUpstreamRootsLeaveUsOut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, other := open(t, dir+"/ca"), open(t, dir+"/other")
	b, err := WriteBundle(dir+"/bundle.pem", a, []string{other.Path()})
	if err != nil {
		t.Fatal(err)
	}
	roots, err := a.UpstreamRoots(b.Path)
	if err != nil || roots == nil {
		t.Fatalf("got %v, %v, want a pool", roots, err)
	}
	for _, test := range []struct {
		name      string
		authority *Authority
		believed  bool
	}{{"ours", a, false}, {"inherited", other, true}} {
		leaf, err := test.authority.Leaf("api.example.com")
		if err != nil {
			t.Fatal(err)
		}
		by, err := x509.ParseCertificate(leaf.Certificate[1])
		if err != nil {
			t.Fatal(err)
		}
		between := x509.NewCertPool()
		between.AddCert(by)
		if _, err := leaf.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between}); (err == nil) != test.believed {
			t.Errorf("%s: got %v, want believed: %v", test.name, err, test.believed)
		}
	}
	system, err := systemRoots()
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(system); block != nil {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Errorf("the system's %v: %v", c.Subject, err)
		}
	}
	for _, file := range []string{"", other.Path(), dir + "/missing.pem"} {
		if roots, err := a.UpstreamRoots(file); roots != nil || err != nil {
			t.Errorf("%q without us: got %v, %v, want none", file, roots, err)
		}
	}
}

func TestMadeByUs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, other := open(t, dir+"/ca"), open(t, dir+"/other")
	between := func(a *Authority) *x509.Certificate {
		leaf, err := a.Leaf("api.example.com")
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(leaf.Certificate[1])
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	old, oldBetween := a.Certificate(), between(a)
	if err := (Config{Dir: dir + "/ca"}).Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	a = open(t, dir+"/ca")
	for _, test := range []struct {
		name string
		cert *x509.Certificate
		want bool
	}{
		{"the root", a.Certificate(), true},
		{"an intermediate", between(a), true},
		{"the root before", old, true},
		{"its intermediate", oldBetween, true},
		{"another CA's root", other.Certificate(), false},
		{"another CA's intermediate", between(other), false},
	} {
		if got := a.Made(test.cert); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
		file := dir + "/roots.pem"
		if err := os.WriteFile(file, encode(test.cert), 0o600); err != nil {
			t.Fatal(err)
		}
		if roots, err := a.UpstreamRoots(file); err != nil || (roots != nil) != test.want {
			t.Errorf("%s in SSL_CERT_FILE: got %v, %v, want a pool without it: %v", test.name, roots, err, test.want)
		}
	}
}

func TestBundleRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a := open(t, dir+"/ca")
	huge := dir + "/huge.pem"
	if err := os.WriteFile(huge, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(huge, rootsBound+1); err != nil {
		t.Fatal(err)
	}
	for name, inherited := range map[string]string{"too large": huge, "a folder": dir} {
		_, err := WriteBundle(dir+"/bundle.pem", a, []string{inherited})
		var e *Error
		if !errors.As(err, &e) || !bytes.Contains([]byte(e.Hint()), []byte(inherited)) {
			t.Errorf("%s: got %v, want an *Error with a hint", name, err)
		}
	}
	if _, err := os.Stat(dir + "/bundle.pem"); err == nil {
		t.Error("a bundle was written in spite of the error")
	}
}
