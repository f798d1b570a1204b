package rules

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/secrets"
)

// TLS is a rule's tls field: how to verify the upstream, and who to be.
type TLS struct {
	ID         string // equal for equal settings
	CA         []byte // PEM, believed in addition; nil: nothing is
	Cert       []byte // PEM chain; nil: none
	Key        secrets.Ref
	ServerName string // verified instead of the host; "": the host

}

type tlsField struct {
	CA         strict.At[string]      `yaml:"ca"`
	Cert       strict.At[string]      `yaml:"cert"`
	Key        strict.At[secrets.Ref] `yaml:"key"`
	ServerName strict.At[string]      `yaml:"server_name"`
}

// build reads the files that f names, relative to dir. read is called for each.
func (f *tlsField) build(read func(path string) ([]byte, error)) (*TLS, strict.Errors) {
	var errs strict.Errors
	t := &TLS{Key: f.Key.Value}
	ca, err := certificates(f.CA.Value, read)
	if err != nil {
		errs = append(errs, f.CA.Errorf("tls: ca: %v", err))
	}
	if t.Cert, err = certificates(f.Cert.Value, read); err != nil {
		errs = append(errs, f.Cert.Errorf("tls: cert: %v", err))
	}
	switch {
	case f.Cert.Line != 0 && f.Key.Line == 0:
		errs = append(errs, f.Cert.Errorf("tls: cert needs key, a secret reference"))
	case f.Cert.Line == 0 && f.Key.Line != 0:
		errs = append(errs, f.Key.Errorf("tls: key needs cert, a file"))
	}
	if name := f.ServerName.Value; f.ServerName.Line != 0 {
		p, problem := parseHost(name)
		if problem == "" && p.wild {
			problem = "host is a pattern; name one host"
		}
		if problem != "" {
			errs = append(errs, f.ServerName.Errorf("tls: server_name: %s", problem))
		}
		t.ServerName = p.name
	}
	if len(errs) > 0 {
		return nil, errs
	}
	t.CA = ca
	t.ID = identity(string(ca), string(t.Cert), fmt.Sprintf("%#v", t.Key), t.ServerName)
	return t, nil
}

// Roots is what a client that believes base believes with t; nil stands for the system's roots.
func (t *TLS) Roots(base *x509.CertPool) *x509.CertPool {
	if t == nil || t.CA == nil {
		return base
	}
	roots := x509.NewCertPool()
	if base != nil {
		roots = base.Clone()
	} else if system, err := x509.SystemCertPool(); err == nil {
		roots = system
	}
	roots.AppendCertsFromPEM(t.CA)
	return roots
}

// ClientCertificate is the certificate of t with its key, which must not be asked for if t has none. The error does not
// quote the key.
func (t *TLS) ClientCertificate(ctx context.Context, from *secrets.Resolver) (*tls.Certificate, error) {
	key, err := from.Resolve(secrets.Unsent(ctx), t.Key) // TLS proves that it is there, and does not send it
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(t.Cert, []byte(key.Reveal()))
	if err != nil {
		return nil, fmt.Errorf("the client certificate and the key %v do not fit each other", t.Key)
	}
	return &cert, nil
}

// in is env for the rule that t belongs to: the ca holds for its token endpoint too, and the certificate if the rule
// says so there.
func (t *TLS) in(env inject.Env) inject.Env {
	if env.HTTP == nil {
		return env
	}
	if t.CA != nil {
		env.HTTP = withTLS(env.HTTP, func(c *tls.Config) { c.RootCAs = t.Roots(c.RootCAs) })
	}
	if t.Cert != nil {
		env.Certificate = &inject.Certificate{
			ID: identity(string(t.Cert)), Key: t.Key,
			HTTP: withTLS(env.HTTP, func(c *tls.Config) {
				c.GetClientCertificate = func(ask *tls.CertificateRequestInfo) (*tls.Certificate, error) {
					return t.ClientCertificate(ask.Context(), env.Secrets)
				}
			}),
		}
	}
	return env
}

// withTLS is c with connections of its own, changed by set.
func withTLS(c *http.Client, set func(*tls.Config)) *http.Client {
	tr, ok := c.Transport.(*http.Transport)
	if !ok {
		return c
	}
	tr = tr.Clone()
	if tr.TLSClientConfig == nil {
		tr.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	set(tr.TLSClientConfig)
	with := *c
	with.Transport = tr
	return &with
}

func identity(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// certificates reads a PEM file of certificates and nothing else. Without a path there are none.
func certificates(path string, read func(path string) ([]byte, error)) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	data, err := read(path)
	if err != nil {
		return nil, err
	}
	n := 0
	for rest := data; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch {
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			return nil, errors.New("the file holds a private key; keep it apart and name it in key, as a secret reference")
		case block.Type != "CERTIFICATE":
			return nil, fmt.Errorf("PEM block %d of the file is no certificate", n+1)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, fmt.Errorf("certificate %d of the file is broken", n+1)
		}
	}
	if n == 0 {
		return nil, errors.New("the file holds no PEM certificate")
	}
	return data, nil
}

// readBounded reads a regular file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	// Opening a named pipe would wait for its other end.
	if info, err := os.Stat(path); err != nil {
		return nil, bare(err)
	} else if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, bare(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, bare(err)
	}
	if int64(len(data)) > limit {
		return nil, errors.New("the file is larger than 1 MiB")
	}
	return data, nil
}

// bare is err without the operation and the path, which stand beside it anyway.
func bare(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// absolute is path seen from dir; "~/" is the home folder.
func absolute(dir, path string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}
