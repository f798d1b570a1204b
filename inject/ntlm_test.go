package inject

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/secrets"
)

// ntlmChallengeVector is the CHALLENGE_MESSAGE of MS-NLMP section 4.2.4.3.
const ntlmChallengeVector = "4e544c4d53535000020000000c000c003800000033828ae20123456789abcdef0000000000000000240024004400000006007017" +
	"0000000f53006500720076006500720002000c0044006f006d00610069006e0001000c0053006500720076006500720000000000"

func newTestNTLM(t testing.TB, password string) Binder {
	t.Helper()
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte(password), 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := strict.Parse([]byte("{type: ntlm, domain: Domain, username: User, password: 'file:" + path + "'}"))
	if err != nil {
		t.Fatal(err)
	}
	resolver := secrets.NewResolver(secrets.Config{})
	t.Cleanup(resolver.Close)
	creds, err := New(n, Env{Secrets: resolver})
	if err != nil {
		t.Fatal(err)
	}
	return creds[0].(Binder)
}

// bound is the message with which b answers m.
func bound(t testing.TB, b Binder, m []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://api.example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	used, err := b.Apply(req)
	if err != nil {
		t.Fatal(err)
	}
	_, answer, err := b.Bind(used)
	if err != nil {
		t.Fatal(err)
	}
	header, err := answer(&http.Response{StatusCode: 401, Header: http.Header{"Www-Authenticate": {"NTLM " + base64.StdEncoding.EncodeToString(m)}}})
	if err != nil {
		return nil, err
	}
	return base64.StdEncoding.DecodeString(strings.TrimPrefix(header, "NTLM "))
}

// A server that wants a key exchange, as the one of the vector does, gets nothing: the key would be the session's.
func TestNTLMFlags(t *testing.T) {
	t.Parallel()
	m, err := hex.DecodeString(ntlmChallengeVector)
	if err != nil {
		t.Fatal(err)
	}
	b := newTestNTLM(t, "Password")
	if got, err := bound(t, b, m); err == nil {
		t.Errorf("got %x for a key exchange", got)
	}
	m[23] &^= 0x40
	if got, err := bound(t, b, m); err != nil || !strings.Contains(string(got), "D\x00o\x00m\x00a\x00i\x00n\x00") || !strings.HasPrefix(string(got), "NTLMSSP\x00\x03") {
		t.Errorf("got %x, %v", got, err)
	}
}

func testCertificate(t testing.TB) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// The hash of the binding is the one that the certificate is signed with (RFC 5929 section 4.1).
func TestChannelBindings(t *testing.T) {
	t.Parallel()
	cert := testCertificate(t)
	sum := sha512.Sum384(cert.Raw)
	want := "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x45\x00\x00\x00tls-server-end-point:" + string(sum[:])
	if got := string(channelBindings(cert)); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// FuzzNTLMChallenge: no challenge breaks what reads it.
func FuzzNTLMChallenge(f *testing.F) {
	m, err := hex.DecodeString(ntlmChallengeVector)
	if err != nil {
		f.Fatal(err)
	}
	m[23] &^= 0x40
	f.Add(m)
	f.Add(m[:48])
	cert := testCertificate(f)
	b := newTestNTLM(f, "Password")
	f.Fuzz(func(t *testing.T, m []byte) {
		with := withChannelBinding(m, cert)
		if len(with) != len(m) && string(with[:ntlmTargetInfo]) != string(m[:ntlmTargetInfo]) {
			t.Error("more than the attributes has changed")
		}
		_, _ = bound(t, b, with)
	})
}

// BenchmarkNTLM is the cost of proving a connection, and of a request on one that is proved.
func BenchmarkNTLM(b *testing.B) {
	m, err := hex.DecodeString(ntlmChallengeVector)
	if err != nil {
		b.Fatal(err)
	}
	m[23] &^= 0x40
	n := newTestNTLM(b, "Password")
	b.Run("connection", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := bound(b, n, m); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("request", func(b *testing.B) {
		req, err := http.NewRequestWithContext(b.Context(), "GET", "http://api.example.com/", nil)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := n.Apply(req); err != nil {
				b.Fatal(err)
			}
		}
	})
}
