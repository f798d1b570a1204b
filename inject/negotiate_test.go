package inject

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/credentials"
	"github.com/jcmturner/gokrb5/v8/iana/etypeID"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/jcmturner/gokrb5/v8/messages"
	krbtypes "github.com/jcmturner/gokrb5/v8/types"
)

func testKeytab(t testing.TB) []byte {
	t.Helper()
	kt := keytab.New()
	if err := kt.AddEntry("ada", "TEST.EXAMPLE", "x", time.Unix(1, 0), 1, etypeID.AES256_CTS_HMAC_SHA1_96); err != nil {
		t.Fatal(err)
	}
	b, err := kt.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadKeytab(t *testing.T) {
	t.Parallel()
	b := testKeytab(t)
	for _, tt := range []struct{ name, text, want string }{
		{"whole", base64.StdEncoding.EncodeToString(b), ""},
		{"with a line break at the end", base64.StdEncoding.EncodeToString(b) + "\n", ""},
		{"not in base64", string(b), "it is not a keytab in base64"},
		{"something else", "bm90aGluZw==", "it is not a keytab in base64"},
		{"cut", base64.StdEncoding.EncodeToString(b[:len(b)/2]), "it is not a whole keytab"},
		{"nothing in it", base64.StdEncoding.EncodeToString(b[:2]), "it is not a whole keytab"},
	} {
		if kt, bad := readKeytab(tt.text); bad != tt.want || (kt != nil) != (bad == "") {
			t.Errorf("%s: %q, want %q", tt.name, bad, tt.want)
		}
	}
}

// FuzzKerberosFiles: no keytab and no ticket cache, whatever is in it, does more than fail.
func FuzzKerberosFiles(f *testing.F) {
	f.Add(testKeytab(f))
	f.Add([]byte("\x05\x04\x00\x0c\x00\x01\x00\x08\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x01R\x00\x00\x00\x01u"))
	path := filepath.Join(f.TempDir(), "cc")
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = readKeytab(base64.StdEncoding.EncodeToString(b))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if ticket, err := fromCache(path); (ticket == nil) == (err == nil) {
			t.Errorf("%v, %v", ticket, err)
		}
	})
}

// BenchmarkNegotiate is the cost of a token where the ticket is known.
func BenchmarkNegotiate(b *testing.B) {
	name := krbtypes.NewPrincipalName(preferredService, "HTTP/web.example.com")
	ticket := &kerberosTicket{
		ticket: messages.Ticket{TktVNO: 5, Realm: "TEST.EXAMPLE", SName: name, EncPart: krbtypes.EncryptedData{EType: etypeID.AES256_CTS_HMAC_SHA1_96, KVNO: 1, Cipher: make([]byte, 400)}},
		key:    krbtypes.EncryptionKey{KeyType: etypeID.AES256_CTS_HMAC_SHA1_96, KeyValue: make([]byte, 32)},
		client: credentials.New("ada", "TEST.EXAMPLE"),
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ticket.token(); err != nil {
			b.Fatal(err)
		}
	}
}
