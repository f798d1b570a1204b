package inject

import (
	"net/http"
	"strings"
	"testing"
)

// Signatures that RFC 2617 section 3.5 and RFC 7616 section 3.9 publish. Those for SHA-512-256 are of erratum 4897: what
// section 3.9.2 shows is SHA-512, cut.
func TestDigestVectors(t *testing.T) {
	t.Parallel()
	const rfc7616 = `Digest realm="http-auth@example.org", qop="auth, auth-int", nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS", algorithm=`
	tests := []struct {
		name, challenge, user, password, uri, cnonce string
		want                                         string
	}{
		{"RFC 2617", `Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41"`,
			"Mufasa", "Circle Of Life", "/dir/index.html", "0a4f113b",
			`username="Mufasa", realm="testrealm@host.com", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", uri="/dir/index.html", response="6629fae49393a05397450978507c4ef1", ` +
				`qop=auth, nc=00000001, cnonce="0a4f113b", opaque="5ccc069c403ebaf9f0171e9517f40e41"`},
		{"RFC 7616, MD5", rfc7616 + "MD5", "Mufasa", "Circle of Life", "/dir/index.html", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
			`username="Mufasa", realm="http-auth@example.org", nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", uri="/dir/index.html", algorithm=MD5, response="8ca523f5e9506fed4657c9700eebdbec", ` +
				`qop=auth, nc=00000001, cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"`},
		{"RFC 7616, SHA-256", rfc7616 + "SHA-256", "Mufasa", "Circle of Life", "/dir/index.html", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
			`username="Mufasa", realm="http-auth@example.org", nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", uri="/dir/index.html", algorithm=SHA-256, ` +
				`response="753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1", ` +
				`qop=auth, nc=00000001, cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"`},
		{"RFC 7616, SHA-512-256 and userhash", `Digest realm="api@example.org", qop="auth", algorithm=SHA-512-256, nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", ` +
			`opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS", charset=UTF-8, userhash=true`, "Jäsøn Doe", "Secret, or not?", "/doe.json", "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v",
			`username="793263caabb707a56211940d90411ea4a575adeccb7e360aeb624ed06ece9b0b", realm="api@example.org", nonce="5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK", uri="/doe.json", ` +
				`algorithm=SHA-512-256, response="3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5", qop=auth, nc=00000001, cnonce="NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v", ` +
				`opaque="HRPCssKJSGjCrkzDg8OhwpzCiGPChXYjwrI2QmXDnsOS", userhash=true`},
		{"RFC 7616, a name in UTF-8", `Digest realm="a\"b\\", nonce="n", charset=UTF-8`, "Jäsøn Doe", "x", "/", "",
			`username*=UTF-8''J%C3%A4s%C3%B8n%20Doe, realm="a\"b\\", nonce="n", uri="/", response="` + digestOf("Jäsøn Doe:a\"b\\:x", "n", "GET:/") + `"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			offer := strongestDigest(challengesIn(http.Header{"Www-Authenticate": {tt.challenge}}))
			if offer == nil {
				t.Fatal("the challenge cannot be answered")
			}
			req, err := http.NewRequestWithContext(t.Context(), "GET", "http://www.example.org"+tt.uri, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := digestTurn{offer, 1, tt.cnonce, ""}.authorize(req, tt.user, tt.password)
			if err != nil || got != "Digest "+tt.want {
				t.Errorf("got %v\n%s, want\n%s", err, got, "Digest "+tt.want)
			}
		})
	}
}

// digestOf is RFC 2069.
func digestOf(a1, nonce, a2 string) string {
	t := digestTurn{digestOffer: newDigestOffer(challenge{scheme: "digest", params: map[string]string{"nonce": "n"}})}
	return t.sum(t.sum(a1), nonce, t.sum(a2))
}

func TestChallenges(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxChallengeParam)
	tests := []struct {
		name   string
		fields []string
		want   []challenge
	}{
		{"none", nil, nil},
		{"one word", []string{"NTLM"}, []challenge{{"ntlm", "", nil}}},
		{"a token", []string{"NTLM TlRMTVNTUAAC+/a=="}, []challenge{{"ntlm", "TlRMTVNTUAAC+/a==", nil}}},
		{"several in one field", []string{`Negotiate, NTLM, Basic realm="a, b" , Digest realm="x",nonce=y`}, []challenge{
			{"negotiate", "", nil}, {"ntlm", "", nil}, {"basic", "", map[string]string{"realm": "a, b"}}, {"digest", "", map[string]string{"realm": "x", "nonce": "y"}}}},
		{"a token and more", []string{"Negotiate oYH= , Basic realm=a"}, []challenge{{"negotiate", "oYH=", nil}, {"basic", "", map[string]string{"realm": "a"}}}},
		{"several fields", []string{"Basic realm=a", "Digest nonce=b"}, []challenge{{"basic", "", map[string]string{"realm": "a"}}, {"digest", "", map[string]string{"nonce": "b"}}}},
		{"spaces and empty items", []string{" ,, Digest\tREALM = \"a\\\"\\\\\" ,, Nonce=a==,"}, []challenge{{"digest", "", map[string]string{"realm": `a"\`, "nonce": "a=="}}}},
		{"a parameter twice", []string{"Digest nonce=a, nonce=b", "Basic realm=a"}, []challenge{{"basic", "", map[string]string{"realm": "a"}}}},
		{"a control character", []string{"Digest nonce=\"a\x01\"", "Digest nonce=\"a\\\r\""}, nil},
		{"no end of the quotes", []string{`Digest nonce="a`, `Digest nonce="a\`}, nil},
		{"no value", []string{"Digest realm=a, nonce=,opaque=a"}, nil},
		{"too long", []string{`Digest nonce="` + long + `x"`, "Digest nonce=" + long + "x"}, nil},
		{"as long as can be", []string{`Digest nonce="` + long + `"`}, []challenge{{"digest", "", map[string]string{"nonce": long}}}},
		{"no scheme", []string{`"Digest" nonce=a`, "=a"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := challengesIn(http.Header{"Www-Authenticate": tt.fields})
			if len(got) != len(tt.want) {
				t.Fatalf("got %v, want %v", got, tt.want)
			}
			for i, want := range tt.want {
				if got[i].scheme != want.scheme || got[i].token != want.token || len(got[i].params) != len(want.params) {
					t.Errorf("got %v, want %v", got[i], want)
				}
				for name, value := range want.params {
					if got[i].params[name] != value {
						t.Errorf("%s is %q, want %q", name, got[i].params[name], value)
					}
				}
			}
		})
	}
}

// Whatever a server sends, what is read of it is bounded.
func TestChallengesAreBounded(t *testing.T) {
	t.Parallel()
	if got := challengesIn(http.Header{"Www-Authenticate": {strings.Repeat("Digest nonce=a, ", 1000)}}); len(got) != maxChallenges {
		t.Errorf("%d challenges", len(got))
	}
	var many strings.Builder
	many.WriteString("Digest nonce=a")
	for i := range 1000 {
		many.WriteString(", p" + strings.Repeat("x", i) + "=1")
	}
	if got := challengesIn(http.Header{"Www-Authenticate": {many.String()}}); len(got) != 0 {
		t.Errorf("%d challenges with too many parameters", len(got))
	}
}

func TestStrongestDigest(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, challenges, want string }{
		{"in any order", "Digest nonce=1, Digest nonce=2, algorithm=SHA-512-256, Digest nonce=3, algorithm=SHA-256", "2"},
		{"the first of equal ones", "Digest nonce=1, algorithm=SHA-256-sess, qop=auth, Digest nonce=2, algorithm=sha-256", "1"},
		{"what is not known is passed over", "Digest nonce=1, algorithm=SHA-512, Digest nonce=2, algorithm=MD5, Digest nonce=3, algorithm=SHA-256, qop=conf", "2"},
		{"nothing that is known", "Digest nonce=1, algorithm=SHA-512, Basic realm=a, Digest realm=a, Digest nonce=1, algorithm=MD5-sess", ""},
	}
	for _, tt := range tests {
		offer := strongestDigest(challengesIn(http.Header{"Www-Authenticate": {tt.challenges}}))
		got := ""
		if offer != nil {
			got = offer.nonce
		}
		if got != tt.want {
			t.Errorf("%s: the one with nonce %q, want %q", tt.name, got, tt.want)
		}
	}
}

// FuzzChallenges: whatever a server says, what is understood of it can be written down and read again.
func FuzzChallenges(f *testing.F) {
	for _, seed := range []string{`Digest realm="a\"b", nonce=c, qop="auth, auth-int", Basic realm=x`, "NTLM TlRMTVNTUAAC+/a==, Negotiate", "Digest nonce=\"\\"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, field string) {
		for _, c := range challengesIn(http.Header{"Www-Authenticate": {field}}) {
			for name, value := range c.params {
				p := challengeParser{rest: "x " + name + "=" + string(appendQuoted(nil, value))}
				if again, ok := p.next(); !ok || again.params[name] != value {
					t.Errorf("%q is %q, and then %q", name, value, again.params[name])
				}
			}
		}
	})
}
