package rules

import (
	"strings"
	"testing"
)

func TestCanonicalHost(t *testing.T) {
	t.Parallel()
	tests := []struct {
		host, want string // want "": an error
	}{
		{"api.example.com", "api.example.com"},
		{"API.Example.COM", "api.example.com"},
		{"api.example.com.", "api.example.com"},
		{"api.example.com..", ""},
		{".", ""},
		{"", ""},
		{"..", ""},
		{"a..b", ""},
		{"localhost", "localhost"},
		{"my_service", "my_service"},
		{"r3---sn-apo3qvuoxuxbt-j5pe.googlevideo.com", "r3---sn-apo3qvuoxuxbt-j5pe.googlevideo.com"},
		{"-a.example.com", ""},
		{"a-.example.com", ""},
		{"münchen.example", "xn--mnchen-3ya.example"},
		{"MÜNCHEN.example", "xn--mnchen-3ya.example"},
		{"xn--mnchen-3ya.example", "xn--mnchen-3ya.example"},
		{"XN--MNCHEN-3YA.example", "xn--mnchen-3ya.example"},
		{"ｅｘａｍｐｌｅ.com", "example.com"},
		{"example。com", "example.com"},
		{"exam\u00adple.com", "example.com"},
		{"ſ.example.com", "s.example.com"},
		{"\u212a.example.com", "k.example.com"},
		{"xn--example-.com", ""},
		{"xn--example.com", ""},
		{"xn--a.com", ""},
		{"xn--.com", ""},
		{"127.0.0.1", "127.0.0.1"},
		{"127.0.0.1.", "127.0.0.1"},
		{"１２７.0.0.1", "127.0.0.1"},
		{"127.1", ""},
		{"0x7f.0.0.1", ""},
		{"0x7f000001", ""},
		{"2130706433", ""},
		{"0177.0.0.1", ""},
		{"1.2.3.4.5", ""},
		{"256.1.1.1", ""},
		{"a.1", ""},
		{"1.a", "1.a"},
		{"::1", "::1"},
		{"[::1]", "::1"},
		{"[[::1]]", ""},
		{"0:0:0:0:0:0:0:1", "::1"},
		{"2001:DB8::A", "2001:db8::a"},
		{"::ffff:127.0.0.1", "127.0.0.1"},
		{"fe80::1%eth0", ""},
		{"[::1%25good.test]", ""},
		{"[good.test]", ""},
		{"[127.0.0.1]", ""},
		{"[::1", ""},
		{"a:443", ""},
		{"a/b", ""},
		{"a b", ""},
		{"a@b", ""},
		{"a%2eb", ""},
		{"a\x00b", ""},
		{"a／b", ""},
		{strings.Repeat("a", 64), ""},
		{strings.Repeat("a", 63), strings.Repeat("a", 63)},
		{strings.Repeat("a.", 127), strings.Repeat("a.", 126) + "a"},
		{strings.Repeat("a.", 128), ""},
	}
	for _, tt := range tests {
		got, err := CanonicalHost(tt.host)
		if got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("CanonicalHost(%q) = %q, %v, want %q", tt.host, got, err, tt.want)
		}
	}
}

func TestLoopback(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"localhost": true, "a.localhost": true, "127.0.0.1": true, "127.9.9.9": true, "::1": true,
		"localhost.example.com": false, "notlocalhost": false, "10.0.0.1": false, "::2": false, "128.0.0.1": false,
	} {
		if got := Loopback(host); got != want {
			t.Errorf("Loopback(%q) = %v, want %v", host, got, want)
		}
	}
}

func FuzzCanonicalHost(f *testing.F) {
	for _, s := range []string{"a.b", "A.B.", "xn--mnchen-3ya.de", "xn--example-.com", "ſ.x", "::1", "[::1]", "1.2.3.4", "0x1", "ß.de", "faß.de", "a\u200db", "١.com", "א.com"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		once, err := CanonicalHost(s)
		if err != nil {
			return
		}
		twice, err := CanonicalHost(once)
		if err != nil || twice != once {
			t.Errorf("CanonicalHost(%q) = %q, of which it makes %q, %v", s, once, twice, err)
		}
		if len(once) > 253 || strings.ToLower(once) != once || strings.Trim(once, "abcdefghijklmnopqrstuvwxyz0123456789-_.:") != "" {
			t.Errorf("CanonicalHost(%q) = %q, which is not canonical", s, once)
		}
	})
}

func BenchmarkCanonicalHost(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := CanonicalHost("api.eu-west-1.example.com"); err != nil {
			b.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = CanonicalHost("api.eu-west-1.example.com") }); n != 0 {
		b.Errorf("%v allocations, want none", n)
	}
}
