//go:build !darwin && !windows

package certs

// rootFiles is where systems keep their roots; the first that exists counts. It is the list of crypto/x509
// (src/crypto/x509/root_linux.go), which has no way to print what it loads.
var rootFiles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Arch, Gentoo
	"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora, RHEL 6
	"/etc/ssl/ca-bundle.pem",                            // openSUSE
	"/etc/pki/tls/cacert.pem",                           // OpenELEC
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // RHEL 7
	"/etc/ssl/cert.pem",                                 // Alpine, FreeBSD, OpenBSD
	"/usr/local/etc/ssl/cert.pem",                       // FreeBSD, from ports
	"/usr/local/share/certs/ca-root-nss.crt",            // DragonFly
	"/etc/openssl/certs/ca-certificates.crt",            // NetBSD
}

// systemRoots returns the system's roots in PEM form, or nothing if it has none.
func systemRoots() ([]byte, error) {
	for _, name := range rootFiles {
		if data, err := readRoots(name); err != nil || len(data) > 0 {
			return data, err
		}
	}
	return nil, nil
}
