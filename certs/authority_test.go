package certs

import (
	"crypto/ecdsa"
	"crypto/x509"
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
	if !c.IsCA || c.MaxPathLen != 0 || !c.MaxPathLenZero {
		t.Errorf("IsCA %v, MaxPathLen %d, want a CA with path length 0", c.IsCA, c.MaxPathLen)
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
	if life := time.Until(c.NotAfter); life > authorityLife || life < authorityLife-time.Minute {
		t.Errorf("life is %v, want %v", life, authorityLife)
	}
	wantMode(t, dir, 0o700)
	wantMode(t, filepath.Join(dir, "ca.key"), 0o600)
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
		{"eight days left", authorityLife - 8*24*time.Hour, true},
		{"six days left", authorityLife - 6*24*time.Hour, false},
		{"expired", authorityLife + time.Hour, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir() + "/ca"
			synctest.Test(t, func(t *testing.T) {
				old := open(t, dir)
				time.Sleep(test.age)
				renewed := open(t, dir)
				if same := old.Certificate().Equal(renewed.Certificate()); same != test.same {
					t.Errorf("same CA: %v, want %v", same, test.same)
				}
				if _, err := renewed.Leaf("api.example.com"); err != nil {
					t.Errorf("Leaf: %v", err)
				}
				if _, err := old.Leaf("api.example.com"); (err != nil) != (test.age > authorityLife) {
					t.Errorf("Leaf of the CA that was open: %v", err)
				}
			})
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	key := func(dir string) string { return filepath.Join(dir, "ca.key") }
	for _, test := range []struct {
		name       string
		damage     func(dir string) error
		text, hint string
	}{
		{"key others can read", func(dir string) error { return os.Chmod(key(dir), 0o640) }, "is open to other users (mode 0640)", "chmod 600 "},
		{"folder others can enter", func(dir string) error { return os.Chmod(dir, 0o755) }, "is open to other users (mode 0755)", "chmod 700 "},
		{"key cut short", func(dir string) error { return os.Truncate(key(dir), 40) }, "holds no PRIVATE KEY in PEM form", "rm "},
		{"certificate of another CA", func(dir string) error {
			other, err := Open(dir + "2")
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "ca.pem"), other.PEM(), 0o644)
		}, "is not the certificate of", "rm "},
		{"huge key", func(dir string) error { return os.Truncate(key(dir), 1<<30) }, "larger than 64 KiB", "rm "},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if runtime.GOOS == "windows" && strings.Contains(test.hint, "chmod") {
				t.Skip("Windows has no modes")
			}
			dir := t.TempDir() + "/ca"
			open(t, dir)
			if err := test.damage(dir); err != nil {
				t.Fatal(err)
			}
			_, err := Open(dir)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("got error %v, want an *Error", err)
			}
			if !strings.Contains(e.Error(), test.text) || !strings.Contains(e.Hint(), test.hint) || e.Slug() != "ca_unusable" {
				t.Errorf("got %q with hint %q (%s), want %q with hint %q", e, e.Hint(), e.Slug(), test.text, test.hint)
			}
		})
	}
}

// A crash between the two files leaves the key alone.
func TestOpenAfterACrash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/ca"
	old := open(t, dir)
	if err := os.Remove(old.Path()); err != nil {
		t.Fatal(err)
	}
	if open(t, dir).Certificate().Equal(old.Certificate()) {
		t.Error("the certificate came back from nowhere")
	}
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
	got := commonName(strings.Repeat("long", 40)+"@host", "0123abcd")
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
		file := filepath.Join(t.TempDir(), "leaf.pem")
		if err := os.WriteFile(file, encode(leaf.Leaf), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(openssl, "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", a.Path(), test.flag, test.host, file).CombinedOutput()
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
