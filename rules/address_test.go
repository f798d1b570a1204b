package rules

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/inject"
)

// carriers writes an IPv4 address in every form in which IPv6 may carry it to where it leads.
func carriers(v4 netip.Addr) map[string]netip.Addr {
	b := v4.As4()
	at := func(prefix string, places ...int) netip.Addr {
		out := netip.MustParseAddr(prefix).As16()
		for i, place := range places {
			out[place] = b[i]
		}
		return netip.AddrFrom16(out)
	}
	turned := at("2001:0:808:808::", 12, 13, 14, 15).As16()
	for i := 12; i < 16; i++ {
		turned[i] = ^turned[i]
	}
	return map[string]netip.Addr{
		"itself": v4, "mapped": netip.AddrFrom16(v4.As16()), "compatible": at("::", 12, 13, 14, 15),
		"with a zone": netip.AddrFrom16(v4.As16()).WithZone("eth0"),
		"translated":  at("::ffff:0:0:0", 12, 13, 14, 15), "NAT64": at("64:ff9b::", 12, 13, 14, 15),
		"local NAT64 /48": at("64:ff9b:1::", 6, 7, 9, 10), "local NAT64 /56": at("64:ff9b:1:ab00::", 7, 9, 10, 11),
		"local NAT64 /64": at("64:ff9b:1:abcd::", 9, 10, 11, 12), "local NAT64 /96": at("64:ff9b:1:abcd::", 12, 13, 14, 15),
		"6to4": at("2002:808:808::1", 2, 3, 4, 5), "Teredo server": at("2001::f7f7:f7f7", 4, 5, 6, 7), "Teredo client": netip.AddrFrom16(turned),
		"ISATAP": at("2001:db8::5efe:0:0", 12, 13, 14, 15), "global ISATAP": at("2001:db8::200:5efe:0:0", 12, 13, 14, 15),
	}
}

func TestForbiddenAddr(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.0.23", "169.254.255.255", "100.100.100.200", "168.63.129.16", "192.0.0.192",
		"0.0.0.0", "0.1.2.3", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
	} {
		for form, addr := range carriers(netip.MustParseAddr(text)) {
			if strings.HasPrefix(text, "0.") && strings.HasPrefix(form, "local NAT64") {
				continue // cannot be told from a longer prefix
			}
			if ForbiddenAddr(addr) == "" {
				t.Errorf("%s (%s of %s) is not forbidden", addr, form, text)
			}
		}
	}
	for _, text := range []string{
		"fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:42::42", "fe80::1", "fe80::a9fe:a9fe%eth0", "febf::1", "ff02::1", "::",
		"2001:db8:1:2::a9fe:a9fe", "fd00:c1::a9fe:a9fe", "2001:db8:64::6464:64c8", // behind a network's own NAT64
	} {
		if ForbiddenAddr(netip.MustParseAddr(text)) == "" {
			t.Errorf("%s is not forbidden", text)
		}
	}
	for _, text := range []string{
		"1.1.1.1", "8.8.8.8", "10.0.0.1", "127.0.0.1", "192.168.1.1", "100.100.100.100", "192.0.0.1", "168.63.129.17", "169.253.1.1", "170.0.0.1",
		"::1", "fd00::1", "fd00:1::ec2:254", "2606:4700::1111", "2002:0808:0808::1", "64:ff9b::808:808", "64:ff9b:1::a00:1", "2001:db8::5efe:808:808",
	} {
		if what := ForbiddenAddr(netip.MustParseAddr(text)); what != "" {
			t.Errorf("%s is %s", text, what)
		}
	}
}

func TestPrivate(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "127.0.0.1", "127.255.0.1", "100.64.0.1", "100.127.255.255", "198.18.0.1"} {
		for form, addr := range carriers(netip.MustParseAddr(text)) {
			if !Private(addr) {
				t.Errorf("%s (%s of %s) is not private", addr, form, text)
			}
		}
	}
	for _, text := range []string{"::1", "fc00::1", "fdff::1", "fec0::1"} {
		if !Private(netip.MustParseAddr(text)) {
			t.Errorf("%s is not private", text)
		}
	}
	for _, text := range []string{"1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "128.0.0.1", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::1"} {
		if Private(netip.MustParseAddr(text)) {
			t.Errorf("%s is private", text)
		}
	}
}

func TestForbidden(t *testing.T) {
	t.Parallel()
	for _, host := range []string{
		"metadata.google.internal", "METADATA.Google.Internal.", "metadata.goog", "metadata", "instance-data", "169.254.169.254", "169.254.169.254.",
		"１６９.254.169.254", "[::ffff:169.254.169.254]", "::ffff:a9fe:a9fe", "[64:ff9b::a9fe:a9fe]", "fd00:ec2::254",
	} {
		if Forbidden(host) == "" {
			t.Errorf("%s is not forbidden", host)
		}
	}
	for _, host := range []string{"metadata.example.com", "api.example.com", "a.metadata", "localhost", "10.0.0.1", "", "..", "a b"} {
		if what := Forbidden(host); what != "" {
			t.Errorf("%q is %s", host, what)
		}
	}
	// No other spelling of these addresses is a host at all.
	for _, host := range []string{"2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518", "169.16689662", "0xa9.254.169.254", "0xa9.0xfe.0xa9.0xfe", "169.254.169.0376", "169.254.169.254.."} {
		if got, err := CanonicalHost(host); err == nil {
			t.Errorf("CanonicalHost(%q) = %q", host, got)
		}
	}
}

func TestRulesAboutReachAndBrowsers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ rule, want string }{
		{"{name: a, match: {host: 169.254.169.254, scheme: http}}", "never reached: 169.254.169.254 is a link-local address"},
		{"{name: a, match: {host: [a.test, metadata.google.internal]}, inject: {type: bearer, token: env:A}}", "never reached: metadata.google.internal is a cloud's metadata service"},
		{"{name: a, match: {host: 'fd00:ec2::254'}}", "never reached: fd00:ec2::254 is a cloud's metadata service"},
		{"{name: a, match: {host: 169.254.169.254}, deny: not even with a reason}", ""},
		{"{name: a, match: {host: a.test}, allow_private: true}", ""},
		{"{name: a, match: {host: a.test}, allow_private: true, deny: x}", "allow_private has no effect in a deny rule"},
		{"{name: a, match: {host: a.test}, allow_private: true, inject: {type: bearer, token: env:A}}", "allow_private has no effect with inject"},
		{"{name: a, match: {host: a.test}, browser: true, inject: {type: bearer, token: env:A}}", ""},
		{"{name: a, match: {host: a.test}, browser: true}", "browser has no effect without inject"},
		{"{name: a, match: {host: a.test}, browser: yes, inject: {type: bearer, token: env:A}}", "browser"},
		{"{name: a, match: {host: a.test}, allow_privat: true}", `(did you mean "allow_private"?)`},
	} {
		_, err := Parse("rules.yaml", []byte("version: 1\nrules: ["+tt.rule+"]"), inject.Env{})
		if tt.want == "" && err != nil {
			t.Errorf("%s: %v", tt.rule, err)
		}
		if tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q in it", tt.rule, err, tt.want)
		}
	}
}

// What is forbidden or private is so in every form.
func FuzzForbiddenAddr(f *testing.F) {
	f.Add([]byte{169, 254, 169, 254})
	f.Add([]byte{8, 8, 8, 8})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != 4 {
			return
		}
		v4 := netip.AddrFrom4([4]byte(b))
		if ForbiddenAddr(v4) == "" && !Private(v4) || v4.As4()[0] == 0 {
			return
		}
		for form, addr := range carriers(v4) {
			if ForbiddenAddr(addr) == "" && ForbiddenAddr(v4) != "" {
				t.Errorf("%s of %s is not forbidden", form, v4)
			}
			if Private(v4) && !Private(addr) {
				t.Errorf("%s of %s is not private", form, v4)
			}
		}
	})
}
