package certs

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Status is what people want to know of a CA.
type Status struct {
	Path      string    `json:"path"`
	Name      string    `json:"name"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Key       string    `json:"key"` // where it is kept; empty: nowhere
	Hosts     []HostCA  `json:"intermediates"`
	Retired   int       `json:"replaced"` // roots that this one has replaced and that have not expired
}

// A HostCA is the intermediate for a domain.
type HostCA struct {
	Domain   string    `json:"domain"`
	NotAfter time.Time `json:"not_after"`
	Path     string    `json:"path"`
}

// Status describes the CA. It asks no keyring, and makes nothing: the error wraps fs.ErrNotExist if there is none.
func (cfg Config) Status() (Status, error) {
	f := folder{cfg.Dir, cfg.Vault, cfg.Log}
	id, err := f.load()
	if err != nil {
		return Status{}, err
	}
	s := Status{
		Path: Path(cfg.Dir), Name: id.cert.Subject.CommonName, NotBefore: id.cert.NotBefore, NotAfter: id.cert.NotAfter,
		Key: f.whereKey(id), Hosts: []HostCA{}, Retired: len(f.retired()),
	}
	entries, err := os.ReadDir(f.hosts(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Status{}, &Error{Text: "reading the local CA", Err: err}
	}
	for _, e := range entries {
		path := filepath.Join(f.hosts(id), e.Name())
		blocks, err := readPEM(path, nil)
		if err != nil || len(blocks) != 2 {
			continue // it will be made anew
		}
		cert, err := x509.ParseCertificate(blocks[1].Bytes)
		if err != nil {
			continue
		}
		domain := strings.Join(cert.PermittedDNSDomains, ", ")
		if len(cert.PermittedIPRanges) > 0 {
			domain = cert.PermittedIPRanges[0].IP.String()
		}
		s.Hosts = append(s.Hosts, HostCA{domain, cert.NotAfter, path})
	}
	slices.SortFunc(s.Hosts, func(a, b HostCA) int { return strings.Compare(a.Domain, b.Domain) })
	return s, nil
}
