package certs

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/credproxy/credproxy/internal/testneed"
)

func open(t testing.TB, dir string) *Authority {
	t.Helper()
	a, err := Open(dir)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return a
}

func TestOpenCreatesAStrictCA(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state", "ca")
	a := open(t, dir)
	c := a.Certificate()

	if got, want := c.Subject.CommonName, `^credproxy local CA \S+@\S+ [0-9a-f]{8}$`; !regexp.MustCompile(want).MatchString(got) {
		t.Errorf("common name %q does not match %s", got, want)
	}
	if len(c.Subject.CommonName) > 64 {
		t.Errorf("common name has %d characters, want at most 64", len(c.Subject.CommonName))
	}
	if !c.IsCA || c.MaxPathLen != 1 {
		t.Errorf("IsCA %v, MaxPathLen %d, want a CA with path length 1", c.IsCA, c.MaxPathLen)
	}
	if got, want := c.KeyUsage, x509.KeyUsageCertSign|x509.KeyUsageCRLSign; got != want {
		t.Errorf("key usage %b, want %b", got, want)
	}
	for _, oid := range []string{"2.5.29.19", "2.5.29.15"} { // basicConstraints, keyUsage
		if !critical(c, oid) {
			t.Errorf("extension %s is not critical", oid)
		}
	}
	if len(c.SubjectKeyId) == 0 {
		t.Error("no subject key identifier")
	}
	if bits := c.SerialNumber.BitLen(); bits > 127 || bits < 64 || c.SerialNumber.Sign() <= 0 {
		t.Errorf("serial number has %d bits, want 64 to 127", bits)
	}
	if _, ok := c.PublicKey.(*ecdsa.PublicKey); !ok {
		t.Errorf("key is %T, want ECDSA", c.PublicKey)
	}
	if life := time.Until(c.NotAfter); life > rootLife || life < rootLife-time.Minute {
		t.Errorf("life is %v, want %v", life, rootLife)
	}
	wantMode(t, dir, 0o700)
	wantMode(t, keyFile(t, dir), 0o600)
	wantMode(t, a.Path(), 0o644)
	if data, err := os.ReadFile(a.Path()); err != nil || string(data) != string(a.PEM()) {
		t.Errorf("file %q (%v), want PEM()", data, err)
	}
	if b := open(t, t.TempDir()+"/ca"); b.Certificate().Subject.CommonName == c.Subject.CommonName {
		t.Errorf("two CAs are called %q", c.Subject.CommonName)
	}
}

func TestOpenAgainIsTheSameCA(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/ca"
	a, b := open(t, dir), open(t, dir)
	if !a.Certificate().Equal(b.Certificate()) {
		t.Error("the second Open made another CA")
	}
	if a.leafKey.Equal(b.leafKey) {
		t.Error("two processes would share a leaf key, which must never leave memory")
	}
}

// TestOpenAtOnce starts processes, for file locks do not keep goroutines apart on every system.
func TestOpenAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/ca"
	const n = 8
	out := make([]string, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), openEnv+"="+dir)
			b, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("process %d: %v: %s", i, err, b)
			}
			out[i] = string(b)
		})
	}
	wg.Wait()
	want := string(open(t, dir).PEM())
	for i, got := range out {
		if got != want {
			t.Errorf("process %d has the CA %q, want %q", i, got, want)
		}
	}
}

const openEnv = "CREDPROXY_TEST_OPEN_CA"

func TestMain(m *testing.M) {
	if dir := os.Getenv(openEnv); dir != "" {
		a, err := Open(dir)
		if err != nil {
			panic(err)
		}
		if hosts := os.Getenv(issueEnv); hosts != "" {
			if err := issueForTest(a, strings.Fields(hosts)); err != nil {
				panic(err)
			}
			return
		}
		os.Stdout.Write(a.PEM())
		return
	}
	os.Exit(m.Run())
}

func TestOpenReplacesAnExpiringCA(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		age  time.Duration
		same bool
	}{
		{"young", 100 * 24 * time.Hour, true},
		{"eight days left", rootLife - 8*24*time.Hour, true},
		{"six days left", rootLife - 6*24*time.Hour, false},
		{"expired", rootLife + time.Hour, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir() + "/ca"
			synctest.Test(t, func(t *testing.T) {
				old := open(t, dir)
				before := old.Certificate()
				time.Sleep(test.age)
				renewed := open(t, dir)
				if same := before.Equal(renewed.Certificate()); same != test.same {
					t.Errorf("same CA: %v, want %v", same, test.same)
				}
				for name, a := range map[string]*Authority{"new": renewed, "open": old} {
					leaf, err := a.Leaf("api.example.com")
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					verify(t, leaf, renewed.Certificate())
				}
			})
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name       string
		damage     func(t *testing.T, dir string) error
		text, hint string
	}{
		{"key others can read", func(t *testing.T, dir string) error { return os.Chmod(keyFile(t, dir), 0o640) }, "is open to other users (mode 0640)", "chmod 600 "},
		{"folder others can enter", func(t *testing.T, dir string) error { return os.Chmod(dir, 0o755) }, "is open to other users (mode 0755)", "chmod 700 "},
		{"certificate cut short", func(t *testing.T, dir string) error { return os.Truncate(Path(dir), 40) }, "does not hold one certificate in PEM form", "ca rotate"},
		{"certificate of no CA", func(t *testing.T, dir string) error {
			leaf, err := open(t, dir).Leaf("api.example.com")
			if err != nil {
				return err
			}
			return os.WriteFile(Path(dir), encode(leaf.Leaf), 0o644)
		}, "is not the certificate of a local CA", "ca rotate"},
		{"huge certificate", func(t *testing.T, dir string) error { return os.Truncate(Path(dir), 1<<30) }, "larger than 64 KiB", "ca rotate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if runtime.GOOS == "windows" && strings.Contains(test.hint, "chmod") {
				t.Skip("Windows has no modes")
			}
			dir := t.TempDir() + "/ca"
			open(t, dir)
			if err := test.damage(t, dir); err != nil {
				t.Fatal(err)
			}
			_, err := Open(dir)
			wantError(t, err, test.text, test.hint)
		})
	}
}

func wantError(t *testing.T, err error, text, hint string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("got error %v, want an *Error", err)
	}
	if !strings.Contains(err.Error(), text) || !strings.Contains(e.Hint(), hint) || e.Slug() != "ca_unusable" {
		t.Errorf("got %q with hint %q (%s), want %q with hint %q", err, e.Hint(), e.Slug(), text, hint)
	}
}

// verify checks a leaf with the chain that clients get.
func verify(t *testing.T, leaf *tls.Certificate, by *x509.Certificate) {
	t.Helper()
	if err := verifyAt(leaf, by, time.Now()); err != nil {
		t.Errorf("%v: %v", leaf.Leaf.DNSNames, err)
	}
}

func verifyAt(leaf *tls.Certificate, by *x509.Certificate, now time.Time) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(by)
	for _, der := range leaf.Certificate[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		between.AddCert(cert)
	}
	_, err := leaf.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now})
	return err
}

// keyFile is the file of the root's key.
func keyFile(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "ca-*.key"))
	if err != nil || len(files) != 1 {
		t.Fatalf("key files %q, %v, want one", files, err)
	}
	return files[0]
}

func TestOpenWithoutAFolder(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(filepath.Join(file, "ca"))
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(e.Hint(), "--state") {
		t.Errorf("got %v, want an *Error with a hint", err)
	}
}

func TestCommonNameStaysUnique(t *testing.T) {
	t.Parallel()
	got := commonName("credproxy local CA "+strings.Repeat("long", 40)+"@host", "0123abcd")
	if len(got) != 64 || !strings.HasSuffix(got, " 0123abcd") {
		t.Errorf("got %q (%d), want 64 characters that end in the id", got, len(got))
	}
}

func TestOpenSSLAcceptsStrictly(t *testing.T) {
	t.Parallel()
	openssl := testneed.Program(t, "openssl")
	a := open(t, t.TempDir()+"/ca")
	for _, test := range []struct{ host, flag string }{
		{"api.example.com", "-verify_hostname"},
		{"127.0.0.1", "-verify_ip"},
		{"::1", "-verify_ip"},
	} {
		leaf, err := a.Leaf(test.host)
		if err != nil {
			t.Fatal(err)
		}
		file, between := filepath.Join(t.TempDir(), "leaf.pem"), filepath.Join(t.TempDir(), "between.pem")
		if err := os.WriteFile(file, encode(leaf.Leaf), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(between, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Certificate[1]}), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(openssl, "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", a.Path(), "-untrusted", between, test.flag, test.host, file).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", test.host, err, out)
		}
	}
}

func critical(c *x509.Certificate, oid string) bool {
	for _, e := range c.Extensions {
		if e.Id.String() == oid {
			return e.Critical
		}
	}
	return false
}

func wantMode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != want && runtime.GOOS != "windows" {
		t.Errorf("%s has mode %04o, want %04o", path, got, want)
	}
}
