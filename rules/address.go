package rules

import (
	"net/netip"
	"slices"
)

// A prohibition is a part of the address space to which no request ever goes.
type prohibition struct {
	prefix netip.Prefix
	what   string
}

// What is asked there is asked for this machine and not for a program: clouds hand out the machine's credentials.
const (
	metadataService = "a cloud's metadata service"
	linkLocal       = "a link-local address, where clouds have their metadata services"
	unspecified     = "no address of a server"
	multicast       = "a multicast address"
	reserved        = "a reserved address"
)

var prohibitions = []prohibition{
	{netip.MustParsePrefix("100.100.100.200/32"), metadataService}, // Alibaba
	{netip.MustParsePrefix("168.63.129.16/32"), metadataService},   // Azure
	{netip.MustParsePrefix("192.0.0.192/32"), metadataService},     // Oracle
	{netip.MustParsePrefix("169.254.0.0/16"), linkLocal},           // 169.254.169.254 nearly everywhere; .170.2 and .170.23 for containers
	{netip.MustParsePrefix("0.0.0.0/8"), unspecified},
	{netip.MustParsePrefix("224.0.0.0/4"), multicast},
	{netip.MustParsePrefix("240.0.0.0/4"), reserved},            // and broadcast
	{netip.MustParsePrefix("fd00:ec2::/32"), metadataService},   // AWS
	{netip.MustParsePrefix("fd20:ce::/64"), metadataService},    // Google
	{netip.MustParsePrefix("fd00:42::42/128"), metadataService}, // Scaleway
	{netip.MustParsePrefix("fe80::/10"), linkLocal},
	{netip.MustParsePrefix("::/128"), unspecified},
	{netip.MustParsePrefix("ff00::/8"), multicast},
}

// metadataAddrs are also looked for in the last four bytes of any IPv6 address: there stands an IPv4 address behind a
// network's own NAT64 prefix (RFC 6052 section 2.2), which nobody else can know.
var metadataAddrs = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("169.254.170.2"), netip.MustParseAddr("169.254.170.23"),
	netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("168.63.129.16"), netip.MustParseAddr("192.0.0.192"),
}

// metadataNames are what clouds call their metadata services. The short ones get their rest from the resolver.
var metadataNames = []string{
	"metadata", "metadata.google.internal", "metadata.goog", "metadata.azure.internal", "metadata.platformequinix.com",
	"metadata.tencentyun.com", "instance-data", "instance-data.ec2.internal",
}

var private = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), // RFC 6598
	netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("198.18.0.0/15"), // RFC 6890
	netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("fec0::/10"),
}

// Forbidden says what host is, if no request ever goes there whatever the rules say, or nothing. A name that only
// resolves to such an address is found by ForbiddenAddr.
func Forbidden(host string) string {
	host, err := CanonicalHost(host)
	if err != nil {
		return ""
	}
	if slices.Contains(metadataNames, host) {
		return metadataService
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return ForbiddenAddr(addr)
	}
	return ""
}

// ForbiddenAddr says what addr is, if nothing is ever sent there, or nothing. An IPv4 address counts in every form in
// which IPv6 may carry it: some network or kernel will translate it.
func ForbiddenAddr(addr netip.Addr) string {
	addr = addr.Unmap().WithZone("")
	for _, p := range prohibitions {
		if p.prefix.Contains(addr) {
			return p.what
		}
	}
	if !addr.Is6() || addr.IsLoopback() {
		return ""
	}
	b := addr.As16()
	if slices.Contains(metadataAddrs, netip.AddrFrom4([4]byte(b[12:]))) {
		return metadataService
	}
	for _, inner := range embedded(addr) {
		if what := ForbiddenAddr(inner); what != "" {
			return what
		}
	}
	return ""
}

// Private reports whether addr is of this machine or of a network that is not the public one, in any form.
func Private(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	in := func(p netip.Prefix) bool { return p.Contains(addr) }
	return slices.ContainsFunc(private, in) || addr.Is6() && slices.ContainsFunc(embedded(addr), Private)
}

var (
	compatible = netip.MustParsePrefix("::/96")           // RFC 4291 section 2.5.5.1
	translated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765
	nat64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215
	sixToFour  = netip.MustParsePrefix("2002::/16")       // RFC 3056
	teredo     = netip.MustParsePrefix("2001::/32")       // RFC 4380
)

// embedded lists the IPv4 addresses that addr, of IPv6, may lead to.
func embedded(addr netip.Addr) []netip.Addr {
	b := addr.As16()
	at := func(i ...int) netip.Addr { return netip.AddrFrom4([4]byte{b[i[0]], b[i[1]], b[i[2]], b[i[3]]}) }
	last := at(12, 13, 14, 15)
	switch {
	case addr.IsLoopback():
		return nil
	case compatible.Contains(addr), translated.Contains(addr), nat64.Contains(addr):
		return []netip.Addr{last}
	case localNAT64.Contains(addr): // the prefix may be longer, and what begins with 0 is a part of it; byte 8 is never used
		all := []netip.Addr{at(6, 7, 9, 10), at(7, 9, 10, 11), at(9, 10, 11, 12), last}
		return slices.DeleteFunc(all, func(a netip.Addr) bool { return a.As4()[0] == 0 })
	case sixToFour.Contains(addr):
		return []netip.Addr{at(2, 3, 4, 5)}
	case teredo.Contains(addr): // the server, and the client with every bit turned
		return []netip.Addr{at(4, 5, 6, 7), netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]})}
	case b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe: // ISATAP, RFC 5214 section 6.1
		return []netip.Addr{last}
	}
	return nil
}
