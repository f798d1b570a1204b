package certs

import (
	"encoding/pem"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/windows"
)

// systemRoots returns the current user's view of the ROOT store, which includes the machine's, in PEM form.
func systemRoots() ([]byte, error) {
	name, err := windows.UTF16PtrFromString("ROOT")
	if err != nil {
		return nil, err
	}
	store, err := windows.CertOpenSystemStore(0, name)
	if err != nil {
		return nil, fmt.Errorf("opening the ROOT store: %w", err)
	}
	defer func() { _ = windows.CertCloseStore(store, 0) }()
	var data []byte
	var cert *windows.CertContext
	for {
		// Each call releases the context that it is given.
		cert, err = windows.CertEnumCertificatesInStore(store, cert)
		if errors.Is(err, windows.Errno(windows.CRYPT_E_NOT_FOUND)) {
			return data, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the ROOT store: %w", err)
		}
		der := unsafe.Slice(cert.EncodedCert, cert.Length)
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
}
