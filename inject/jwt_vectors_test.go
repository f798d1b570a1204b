package inject

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/secrets"
)

func unbase64(t *testing.T, s string) []byte {
	t.Helper()
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func pkcs8(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// The keys of RFC 7515 appendix A and RFC 8037 appendix A.1, in the form in which people store them.
func rfcRSA(t *testing.T) string {
	n := new(big.Int).SetBytes(unbase64(t, "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMs"+
		"D1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8"+
		"NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"))
	d := new(big.Int).SetBytes(unbase64(t, "Eq5xpGnNCivDflJsRQBXHx1hdR1k6Ulwe2JZD50LpXyWPEAeP88vLNO97IjlA7_GQ5sLKMgvfTeXZx9SE-7YwVol2NXOoAJe46sui395IW_GO-pWJ1O0"+
		"BkTGoVEn2bKVRUCgu-GjBVaYLU6f3l9kJfFNS3E0QbVdxzubSu3Mkqzjkn439X0M_V51gfpRLI9JYanrC4D4qAdGcopV_0ZHHzQlBjudU2QvXt4ehNYTCBr6XCLQUShb1juUO1ZdiYoFaFQT5Tw8bGUl_x_jTj3ccPDVZFD9pIuhLh"+
		"BOneufuBiB4cS98l2SR_RQyGWSeWjnczT0QU91p1DhOVRuOopznQ"))
	p := new(big.Int).SetBytes(unbase64(t, "4BzEEOtIpmVdVEZNCqS7baC4crd0pqnRH_5IB3jw3bcxGn6QLvnEtfdUdiYrqBdss1l58BQ3KhooKeQTa9AB0Hw_Py5PJdTJNPY8cQn7ouZ2KKDcmnPG"+
		"BY5t7yLc1QlQ5xHdwW1VhvKn-nXqhJTBgIPgtldC-KDV5z-y2XDwGUc"))
	key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: n, E: 65537}, D: d, Primes: []*big.Int{p, new(big.Int).Div(n, p)}}
	if err := key.Validate(); err != nil {
		t.Fatal(err)
	}
	return pkcs8(t, key)
}

func rfcEC(t *testing.T, curve elliptic.Curve, d string) string {
	key, err := ecdsa.ParseRawPrivateKey(curve, unbase64(t, d))
	if err != nil {
		t.Fatal(err)
	}
	return pkcs8(t, key)
}

func TestJWTPublishedSignatures(t *testing.T) {
	t.Parallel()
	const payload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
	tests := []struct {
		name, algorithm, encoding, key string
		signed, signature              string
		random                         bool // each signature is another
	}{
		{"RFC 7515 appendix A.1", "HS256", "base64", "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
			"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9." + payload, "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", false},
		{"RFC 7515 appendix A.2", "RS256", "", rfcRSA(t), "eyJhbGciOiJSUzI1NiJ9." + payload,
			"cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07" +
				"Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw", false},
		{"RFC 7515 appendix A.3", "ES256", "", rfcEC(t, elliptic.P256(), "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"), "eyJhbGciOiJFUzI1NiJ9." + payload,
			"DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q", true},
		{"RFC 7515 appendix A.4", "ES512", "", rfcEC(t, elliptic.P521(), "AY5pb7A0UFiB3RELSD64fTLOSV_jazdF7fLYyuTw8lOfRhWg6Y6rUrPAxerEzgdRhajnu0ferB0d53vM9mE15j2C"), "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA",
			"AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn", true},
		{"RFC 8037 appendix A.4", "EdDSA", "", pkcs8(t, ed25519.NewKeyFromSeed(unbase64(t, "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"))),
			"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc", "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := jwtAlgorithms[tt.algorithm]
			key, bad := a.key(tt.key, tt.encoding)
			if bad != "" {
				t.Fatalf("the RFC's key: %s", bad)
			}
			public := key
			if signer, ok := key.(crypto.Signer); ok {
				public = signer.Public()
			}
			if err := a.method.Verify(tt.signed, unbase64(t, tt.signature), public); err != nil {
				t.Errorf("the RFC's signature: %v", err)
			}
			ours, err := a.method.Sign(tt.signed, key)
			if err != nil {
				t.Fatal(err)
			}
			if err := a.method.Verify(tt.signed, ours, public); err != nil {
				t.Errorf("our signature: %v", err)
			}
			if got := base64.RawURLEncoding.EncodeToString(ours); (got == tt.signature) == tt.random {
				t.Errorf("got %s, want %s", got, tt.signature)
			}
		})
	}
}

// TestJWTIsKept moves the clock.
func TestJWTIsKept(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	write := func(key string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(key), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	one, two := strings.Repeat("1", 32), strings.Repeat("2", 33)
	write(one)
	env := Env{Secrets: secrets.NewResolver(secrets.Config{})}
	t.Cleanup(env.Secrets.Close)
	n, err := strict.Parse([]byte("{type: jwt, algorithm: HS256, key: 'file:" + path + "', lifetime: 100s, clock_skew: 20s}"))
	if err != nil {
		t.Fatal(err)
	}
	creds, err := New(n, env)
	if err != nil {
		t.Fatal(err)
	}
	m := creds[0].(*credential).method.(*minter)
	begin := time.Unix(2_000_000_000, 0)
	steps := []struct {
		name   string
		at     time.Duration
		do     func(before []secrets.Value)
		minted bool
	}{
		{name: "the first", minted: true},
		{name: "at once again", at: 0},
		{name: "shortly before renewal", at: 59 * time.Second},
		{name: "renewal, a fifth of the lifetime ahead of expiry", at: 60 * time.Second, minted: true},
		{name: "refused", at: 61 * time.Second, do: m.Reject, minted: true},
		{name: "refused again", at: 62 * time.Second, do: m.Reject},
		{name: "refused after a while", at: 91 * time.Second, do: m.Reject, minted: true},
		{name: "another key", at: 92 * time.Second, do: func([]secrets.Value) { write(two) }, minted: true},
		{name: "the clock was set back", at: 10 * time.Second, minted: true},
		{name: "after sleep", at: 48 * time.Hour, minted: true},
	}
	var used []secrets.Value
	for _, s := range steps {
		m.now = func() time.Time { return begin.Add(s.at) }
		if s.do != nil {
			s.do(used)
		}
		before := used
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://api.example.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if used, err = creds[0].Apply(req); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		if minted := before == nil || !before[0].Equal(used[0]); minted != s.minted {
			t.Errorf("%s: minted is %v, want %v", s.name, minted, s.minted)
		}
		if got := req.Header.Get("Authorization"); got != "Bearer "+used[0].Reveal() {
			t.Errorf("%s: Authorization %q", s.name, got)
		}
	}
}
