package certs

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func encodeDER(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func verifyIn(leaf *tls.Certificate, roots *x509.CertPool) error {
	by, err := x509.ParseCertificate(leaf.Certificate[1])
	if err != nil {
		return err
	}
	between := x509.NewCertPool()
	between.AddCert(by)
	_, err = leaf.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between})
	return err
}

func TestLeafForRuledHostsOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/ca"
	a, _ := openIn(t, dir, nil)
	for _, host := range []string{"evil.test", "example.com", "127.0.0.1", ""} {
		if leaf, err := a.Leaf(host); err == nil {
			t.Errorf("Leaf(%q) = %v, want an error", host, leaf.Leaf.DNSNames)
		} else if !strings.Contains(err.Error(), "no rule names the host") {
			t.Errorf("Leaf(%q): %v", host, err)
		}
	}
	b, err := Config{Dir: dir}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Leaf("api.example.com"); err == nil {
		t.Error("a CA that was told of no hosts makes certificates")
	}
}

// A host whose rule is taken away gets no certificate any more, though there is one.
func TestLeafFollowsTheRules(t *testing.T) {
	t.Parallel()
	ruled := true
	a, err := Config{Dir: t.TempDir() + "/ca", Domain: func(host string) (string, bool) { return host, ruled }}.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	leafOf(t, a)
	ruled = false
	if _, err := a.Leaf("api.example.com"); err == nil {
		t.Error("the certificate of before is still handed out")
	}
}

func TestIssuerIsLimited(t *testing.T) {
	t.Parallel()
	a := open(t, t.TempDir()+"/ca")
	leaf, err := a.Leaf("api.example.com")
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(leaf.Certificate[1])
	if err != nil {
		t.Fatal(err)
	}
	if len(leaf.Certificate) != 2 {
		t.Errorf("%d certificates in the chain, want 2", len(leaf.Certificate))
	}
	if !slices.Equal(c.PermittedDNSDomains, []string{"api.example.com"}) || !critical(c, "2.5.29.30") || len(c.ExcludedIPRanges) != 2 {
		t.Errorf("permitted %q, excluded %v", c.PermittedDNSDomains, c.ExcludedIPRanges)
	}
	if !c.IsCA || !c.MaxPathLenZero || c.KeyUsage != x509.KeyUsageCertSign || !slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) {
		t.Errorf("IsCA %v, MaxPathLen %d, usage %b %v", c.IsCA, c.MaxPathLen, c.KeyUsage, c.ExtKeyUsage)
	}
	if life := time.Until(c.NotAfter); life > issuerLife || life < issuerLife-time.Minute {
		t.Errorf("life is %v, want %v", life, issuerLife)
	}
	wantMode(t, a.folder.hosts(a.current().identity), 0o700)
	wantMode(t, a.folder.issuerPath(a.current().identity, "api.example.com"), 0o600)
}

// The size of a handshake must not depend on how many hosts rules name.
func TestManyHosts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/ca"
	a := open(t, dir)
	var hosts []string
	for i := range 2000 {
		hosts = append(hosts, fmt.Sprintf("host-%d.example.com", i))
	}
	if err := a.Prepare(t.Context(), hosts); err != nil {
		t.Fatal(err)
	}
	leaf, err := a.Leaf(hosts[1999])
	if err != nil {
		t.Fatal(err)
	}
	verify(t, leaf, a.Certificate())
	if size := len(leaf.Certificate[0]) + len(leaf.Certificate[1]); size > 1500 {
		t.Errorf("the chain has %d bytes, want at most 1500", size)
	}
	if s, err := (Config{Dir: dir}).Status(); err != nil || len(s.Hosts) != 2000 {
		t.Errorf("status lists %d hosts (%v), want 2000", len(s.Hosts), err)
	}
}

func TestIssuerIsRenewed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		age     time.Duration
		locked  bool
		renewed bool
		fails   bool
	}{
		{"young", 59 * 24 * time.Hour, false, false, false},
		{"a month left", 61 * 24 * time.Hour, false, true, false},
		{"a month left, keyring locked", 61 * 24 * time.Hour, true, false, false},
		{"expired", 91 * 24 * time.Hour, false, true, false},
		{"expired, keyring locked", 91 * 24 * time.Hour, true, false, true},
		{"clock set back", -48 * time.Hour, false, true, false},
	} {
		for _, way := range []string{"running", "at a start"} {
			t.Run(test.name+" "+way, func(t *testing.T) {
				t.Parallel()
				dir, k := t.TempDir()+"/ca", new(keychain)
				synctest.Test(t, func(t *testing.T) {
					a, _ := openIn(t, dir, k)
					if test.age < 0 { // the root is from before; the intermediate was made by a clock that ran ahead
						time.Sleep(-test.age)
					}
					first, err := a.Leaf("api.example.com")
					if err != nil {
						t.Fatal(err)
					}
					file := a.folder.issuerPath(a.current().identity, "api.example.com")
					if err := os.Chtimes(file, time.Now(), time.Now()); err != nil { // the bubble's clock
						t.Fatal(err)
					}
					if test.age < 0 {
						a.future(t, "api.example.com", -test.age)
					} else {
						time.Sleep(test.age)
					}
					if test.locked {
						k.fail(errLocked)
					}
					if way == "at a start" {
						a, _ = openIn(t, dir, k)
						if err := a.Prepare(t.Context(), []string{"api.example.com"}); (err != nil) != test.fails {
							t.Errorf("Prepare: %v", err)
						}
					} else {
						a.current().leaves.Purge() // its life is shorter than what is tried here
					}
					leaf, err := a.Leaf("api.example.com")
					if (err != nil) != test.fails {
						t.Fatalf("got %v, want an error: %v", err, test.fails)
					}
					if test.fails {
						return
					}
					verify(t, leaf, a.Certificate())
					if renewed := string(leaf.Certificate[1]) != string(first.Certificate[1]); renewed != test.renewed {
						t.Errorf("renewed: %v, want %v", renewed, test.renewed)
					}
				})
			})
		}
	}
}

// future makes the intermediate and the leaves of domain as a clock that runs ahead would have made them.
func (a *Authority) future(t *testing.T, domain string, ahead time.Duration) {
	t.Helper()
	r := a.current()
	key, err := a.folder.rootKey(t.Context(), r.identity)
	if err != nil {
		t.Fatal(err)
	}
	template, err := issuerTemplate(r.cert, domain)
	if err != nil {
		t.Fatal(err)
	}
	own := newKey(t)
	template.NotBefore = time.Now().Add(ahead)
	der, err := x509.CreateCertificate(rand.Reader, template, r.cert, &own.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := encodeKey(own)
	if err != nil {
		t.Fatal(err)
	}
	path := a.folder.issuerPath(r.identity, domain)
	if err := replaceFile(path, append(encoded, encodeDER(der)...)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Now().Add(ahead), time.Now().Add(ahead)); err != nil {
		t.Fatal(err)
	}
	r.issuers.Purge()
	r.leaves.Purge()
}

func TestRootOfTheFuture(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/ca"
	open(t, dir) // in the present, while the bubble's clock says 2000
	synctest.Test(t, func(t *testing.T) {
		_, err := Open(dir)
		wantError(t, err, "this machine's clock says 2000-01-01", "set the clock")
	})
}

func TestBrokenIssuers(t *testing.T) {
	t.Parallel()
	const host = "api.example.com"
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, a *Authority, path string) error
		text   string // of the error; empty: another one is made
	}{
		{"missing", func(t *testing.T, a *Authority, path string) error { return os.Remove(path) }, ""},
		{"empty", func(t *testing.T, a *Authority, path string) error { return os.Truncate(path, 0) }, ""},
		{"cut short", func(t *testing.T, a *Authority, path string) error { return os.Truncate(path, 300) }, ""},
		{"huge", func(t *testing.T, a *Authority, path string) error { return os.Truncate(path, 1<<20) }, ""},
		{"another host's", func(t *testing.T, a *Authority, path string) error {
			mustLeaf(t, a, "www.example.com")
			return os.Rename(a.folder.issuerPath(a.current().identity, "www.example.com"), path)
		}, ""},
		{"another CA's", func(t *testing.T, a *Authority, path string) error {
			other := open(t, t.TempDir()+"/ca")
			mustLeaf(t, other, host)
			return os.Rename(other.folder.issuerPath(other.current().identity, host), path)
		}, ""},
		{"a certificate of one and the key of another", func(t *testing.T, a *Authority, path string) error {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			_, cert := pem.Decode(data)
			key, err := encodeKey(newKey(t))
			if err != nil {
				return err
			}
			return os.WriteFile(path, append(key, cert...), 0o600)
		}, ""},
		{"open to others", func(t *testing.T, a *Authority, path string) error { return os.Chmod(path, 0o644) }, "is open to other users (mode 0644)"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if runtime.GOOS == "windows" && test.text != "" {
				t.Skip("Windows has no modes")
			}
			dir := t.TempDir() + "/ca"
			a, _ := openIn(t, dir, nil)
			mustLeaf(t, a, host)
			if err := test.damage(t, a, a.folder.issuerPath(a.current().identity, host)); err != nil {
				t.Fatal(err)
			}
			b, _ := openIn(t, dir, nil)
			if err := b.Prepare(t.Context(), []string{host}); err != nil {
				t.Fatal(err)
			}
			if test.text == "" {
				mustLeaf(t, b, host)
				return
			}
			_, err := b.Leaf(host)
			wantError(t, err, test.text, "chmod 600 ")
		})
	}
}

// TestIssueAtOnce starts processes that need the same hosts, and further ones, of a CA that does not exist yet.
func TestIssueAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() + "/ca"
	const n = 6
	var wg sync.WaitGroup
	chains := make([]string, n)
	for i := range n {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), openEnv+"="+dir, issueEnv+"=api.example.com own-"+fmt.Sprint(i)+".example.com www.example.com")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("process %d: %v: %s", i, err, out)
			}
			chains[i] = string(out)
		})
	}
	wg.Wait()
	for i, chain := range chains {
		if chain != chains[0] {
			t.Errorf("process %d has another intermediate for the same host than process 0", i)
		}
	}
	if s, err := (Config{Dir: dir}).Status(); err != nil || len(s.Hosts) != n+2 {
		t.Errorf("%d intermediates (%v), want %d", len(s.Hosts), err, n+2)
	}
}

const issueEnv = "CREDPROXY_TEST_ISSUE"

// issueForTest is what a process of TestIssueAtOnce does: it prints the root, and the intermediate for the first host.
func issueForTest(a *Authority, hosts []string) error {
	if err := a.Prepare(context.Background(), hosts); err != nil {
		return err
	}
	leaf, err := a.Leaf(hosts[0])
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(encodeDER(leaf.Certificate[1]))
	return err
}

func BenchmarkIssue(b *testing.B) {
	a := open(b, b.TempDir()+"/ca")
	r := a.current()
	key, err := a.folder.rootKey(b.Context(), r.identity)
	if err != nil {
		b.Fatal(err)
	}
	leafOf(b, a)
	for b.Loop() {
		if err := a.folder.issue(r.identity, key, "api.example.com"); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFirstLeaf is the first connection to a host, whose intermediate is a file.
func BenchmarkFirstLeaf(b *testing.B) {
	a := open(b, b.TempDir()+"/ca")
	leafOf(b, a)
	r := a.current()
	for b.Loop() {
		r.issuers.Purge()
		r.leaves.Purge()
		leafOf(b, a)
	}
}

func BenchmarkPrepare(b *testing.B) {
	for _, n := range []int{10, 5000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			a := open(b, b.TempDir()+"/ca")
			var hosts []string
			for i := range n {
				hosts = append(hosts, fmt.Sprintf("host-%d.example.com", i))
			}
			if err := a.Prepare(b.Context(), hosts); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if err := a.Prepare(b.Context(), hosts); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
