package rules

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/secrets"
)

// certificate makes a self-signed certificate and its key, in PEM.
func certificate(t *testing.T, name string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

func put(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, _ := certificate(t, "root.test")
	me, _ := certificate(t, "me.test")
	if err := os.Mkdir(filepath.Join(dir, "pki"), 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(dir, "pki", "root.pem"), "# our root\n"+root)
	put(t, filepath.Join(dir, "me.pem"), me+root)
	path := filepath.Join(dir, "rules.yaml")
	put(t, path, `
version: 1
rules:
  - {name: a, match: {host: a.test}, tls: {ca: pki/root.pem, cert: me.pem, key: env:KEY, server_name: real.test}}
  - {name: b, match: {host: b.test}, tls: {key: env:KEY, cert: `+filepath.Join(dir, "me.pem")+`, ca: ./pki/root.pem, server_name: real.test}}
  - {name: c, match: {host: c.test}, tls: {ca: pki/root.pem, cert: me.pem, key: env:OTHER, server_name: real.test}}
  - {name: d, match: {host: d.test}, tls: {server_name: real.test}}
`)
	s, err := Load(path, inject.Env{})
	if err != nil {
		t.Fatal(err)
	}
	of := func(host string) *TLS { return s.Decide("", request(t, "GET", "https://"+host+"/")).TLS }
	a, b, c, d := of("a.test"), of("b.test"), of("c.test"), of("d.test")
	block, _ := pem.Decode([]byte(root))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: a.Roots(nil), DNSName: "root.test"}); err != nil {
		t.Errorf("the roots do not hold the rule's ca: %v", err)
	}
	if string(a.Cert) != me+root || a.Key != (secrets.Ref{Scheme: "env", Name: "KEY"}) || a.ServerName != "real.test" {
		t.Errorf("got %+v", a)
	}
	if a.ID != b.ID {
		t.Error("equal settings, different IDs")
	}
	if a.ID == c.ID || a.ID == d.ID {
		t.Error("different settings, equal IDs")
	}
	if d.CA != nil || d.Cert != nil {
		t.Errorf("without ca and cert: got %+v", d)
	}
	if refs := s.Refs(); len(refs) != 2 {
		t.Errorf("Refs: got %v, want the two keys", refs)
	}
}

func TestTLSMistakes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key := certificate(t, "a.test")
	put(t, filepath.Join(dir, "cert.pem"), cert)
	put(t, filepath.Join(dir, "both.pem"), cert+key)
	put(t, filepath.Join(dir, "text.pem"), "no PEM at all")
	put(t, filepath.Join(dir, "broken.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
	put(t, filepath.Join(dir, "crl.pem"), "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")
	for fields, want := range map[string]string{
		"ca: absent.pem":                "3:48: rules[0] \"a\": tls: ca: no such file or directory",
		"ca: .":                         "tls: ca: not a regular file",
		"ca: text.pem":                  "tls: ca: the file holds no PEM certificate",
		"ca: broken.pem":                "tls: ca: certificate 1 of the file is broken",
		"ca: crl.pem":                   "tls: ca: PEM block 1 of the file is no certificate",
		"cert: both.pem, key: env:K":    "tls: cert: the file holds a private key; keep it apart and name it in key, as a secret reference",
		"cert: cert.pem":                "3:50: rules[0] \"a\": tls: cert needs key, a secret reference",
		"key: env:K":                    "tls: key needs cert, a file",
		"key: s3cr3t, cert: cert.pem":   "tls: key: not a reference",
		"ca: cert.pem, server_name: X.": `tls: server_name: host is not in its canonical form; use "x"`,
		"ca: cert.pem, servername: x":   `tls: unknown field "servername" (did you mean "server_name"?)`,
	} {
		_, err := Parse(filepath.Join(dir, "rules.yaml"), []byte("version: 1\nrules:\n  - {name: a, match: {host: a.test}, tls: {"+fields+"}}\n"), inject.Env{})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%s: got %v, want %s", fields, err, want)
		}
	}
}
