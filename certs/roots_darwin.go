package certs

import (
	"context"
	"fmt"
	"os/exec"
	"time"
)

// rootKeychains are those that only an administrator can add to. The login keychain is left out: a certificate that
// lies there is not thereby trusted, and security does not print which ones are.
var rootKeychains = []string{
	"/System/Library/Keychains/SystemRootCertificates.keychain",
	"/Library/Keychains/System.keychain",
}

// systemRoots returns the system's roots in PEM form.
func systemRoots() ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	args := append([]string{"find-certificate", "-a", "-p"}, rootKeychains...)
	data, err := exec.CommandContext(ctx, "/usr/bin/security", args...).Output()
	if err != nil {
		return nil, fmt.Errorf("security find-certificate: %w", err)
	}
	return data, nil
}
