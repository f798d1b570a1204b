package rules

import (
	"errors"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"
)

var (
	errHostEmpty   = errors.New("it is empty")
	errHostLength  = errors.New("it is longer than a host name can be")
	errHostChar    = errors.New("it has a character that host names do not have")
	errHostLabel   = errors.New("a part between dots is empty, too long, or starts or ends with a hyphen")
	errHostNumber  = errors.New("it is neither a name nor an IP address in its usual form")
	errHostIDN     = errors.New("it is not a valid internationalized name")
	errHostZone    = errors.New("an IP address with a zone is not supported")
	errHostBracket = errors.New("brackets belong around an IPv6 address only")
)

// CanonicalHost returns the one spelling of a host name or IP literal (IDNA lookup profile, lower case, no trailing
// dot, IP literals through net/netip without brackets) or an error. Underscores, which internal names carry, are
// accepted; an IPv4 address written as IPv6 becomes IPv4; the historical spellings of IPv4 addresses (0x7f.1) are
// refused. The error does not repeat host.
func CanonicalHost(host string) (string, error) {
	if isCanonicalName(host) {
		return host, nil
	}
	if strings.HasPrefix(host, "[") || strings.Contains(host, ":") {
		return canonicalIPv6(host)
	}
	name := host
	for i := range len(name) {
		if name[i] >= 0x80 {
			ascii, err := idna.Lookup.ToASCII(name)
			if err != nil {
				return "", errHostIDN
			}
			name = ascii
			break
		}
	}
	return canonicalASCII(strings.TrimSuffix(strings.ToLower(name), "."))
}

// isCanonicalName reports whether host is certainly canonical: a plain ASCII name that no rule of IDNA touches.
func isCanonicalName(host string) bool {
	if host == "" || len(host) > 253 {
		return false
	}
	start, number := 0, true
	for i := 0; i <= len(host); i++ {
		if i < len(host) && host[i] != '.' {
			c := host[i]
			digit := '0' <= c && c <= '9'
			number = number && digit
			if !digit && !('a' <= c && c <= 'z') && c != '-' && c != '_' {
				return false
			}
			continue
		}
		label := host[start:i]
		if !validLabel(label) || strings.HasPrefix(label, "xn--") {
			return false
		}
		if i < len(host) {
			start, number = i+1, true
		}
	}
	return !number && !strings.HasPrefix(host[start:], "0x")
}

func validLabel(label string) bool {
	return label != "" && len(label) <= 63 && label[0] != '-' && label[len(label)-1] != '-'
}

func canonicalIPv6(host string) (string, error) {
	text := host
	if rest, ok := strings.CutPrefix(host, "["); ok {
		if text, ok = strings.CutSuffix(rest, "]"); !ok || !strings.Contains(text, ":") {
			return "", errHostBracket
		}
	}
	addr, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return "", errHostChar
	case addr.Zone() != "":
		return "", errHostZone
	}
	return addr.Unmap().String(), nil
}

// canonicalASCII checks a lower-case name without its trailing dot.
func canonicalASCII(name string) (string, error) {
	switch {
	case name == "":
		return "", errHostEmpty
	case len(name) > 253:
		return "", errHostLength
	case isCanonicalName(name):
		return name, nil
	}
	last := ""
	for label := range strings.SplitSeq(name, ".") {
		if !validLabel(label) {
			return "", errHostLabel
		}
		for i := range len(label) {
			c := label[i]
			if !('0' <= c && c <= '9') && !('a' <= c && c <= 'z') && c != '-' && c != '_' {
				return "", errHostChar
			}
		}
		if strings.HasPrefix(label, "xn--") && !validPunycode(label) {
			return "", errHostIDN
		}
		last = label
	}
	if strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
		addr, err := netip.ParseAddr(name)
		if err != nil {
			return "", errHostNumber
		}
		return addr.String(), nil
	}
	return name, nil
}

// validPunycode refuses labels that IDNA would change on a second pass, and those that only pretend to hold
// something beyond ASCII (xn--example-), which some software reads as the plain name.
func validPunycode(label string) bool {
	unicode, err := idna.Lookup.ToUnicode(label)
	if err != nil || strings.IndexFunc(unicode, func(r rune) bool { return r >= 0x80 }) < 0 {
		return false
	}
	again, err := idna.Lookup.ToASCII(unicode)
	return err == nil && again == label
}

// Loopback reports whether host, which is canonical, is this machine by definition: localhost and the names below
// it (RFC 6761 section 6.3), 127.0.0.0/8 and ::1.
func Loopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}
