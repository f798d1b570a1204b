package cli

import (
	"context"
	"crypto/tls"
	"log/slog"
	"os"
	"time"

	"github.com/credproxy/credproxy/certs"
	"github.com/credproxy/credproxy/rules"
)

// openCertificates opens the CA and writes the bundle. It makes sure that upstreams are not believed on our own word.
func (s *stack) openCertificates(ctx context.Context, cfg *stackConfig) (err error) {
	path := cfg.Bundle
	if path == "" {
		path = bundlePath(cfg.State)
	}
	authority, inherited := authorityConfig(cfg.State, s.Store, cfg.Log), cfg.Inherited
	authority.Domain = func(host string) (string, bool) { return s.Rules.Current().Domain(host) }
	authority.Replaced = func() {
		if _, err := certs.WriteBundle(path, s.Authority, inherited); err != nil {
			cfg.Log.Warn("the bundle of roots still has the old CA", "error", err)
		}
	}
	if s.Authority, err = authority.Open(ctx); err != nil {
		return err
	}
	cfg.Own = s.Authority.Made
	if s.Bundle, err = certs.WriteBundle(path, s.Authority, cfg.Inherited); err != nil {
		return err
	}
	if s.Bundle.Roots == 0 {
		cfg.Log.Warn("this system has no root certificates: clients can only reach hosts that rules name; install ca-certificates, or set SSL_CERT_FILE")
	}
	if cfg.Roots == nil {
		cfg.Roots, err = s.Authority.UpstreamRoots(os.Getenv("SSL_CERT_FILE"))
	}
	return err
}

// leaf is the CA's, and says in the log why there is none: a TLS alert cannot.
func (s *stack) leaf(log *slog.Logger) func(host string) (*tls.Certificate, error) {
	return func(host string) (*tls.Certificate, error) {
		leaf, err := s.Authority.Leaf(host)
		if err != nil {
			log.Error(err.Error(), "host", host, "hint", hintOf(err))
		}
		return leaf, err
	}
}

// hostCAs keeps an intermediate ready for each host that rules name.
type hostCAs struct{ wake chan struct{} }

// changed is told of reloads, and tells next. It does not wait for the keyring.
func (h *hostCAs) changed(next func(*rules.Set, error)) func(*rules.Set, error) {
	h.wake = make(chan struct{}, 1)
	return func(set *rules.Set, err error) {
		if err == nil {
			select {
			case h.wake <- struct{}{}:
			default:
			}
		}
		if next != nil {
			next(set, err)
		}
	}
}

// start makes and renews them until s closes.
func (h *hostCAs) start(ctx context.Context, s *stack, log *slog.Logger) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	s.onClose(func() error {
		cancel()
		<-done
		return nil
	})
	go func() {
		defer close(done)
		day := time.NewTicker(24 * time.Hour)
		defer day.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-h.wake:
			case <-day.C:
			}
			if err := s.Authority.Prepare(ctx, s.Rules.Current().Domains()); err != nil && ctx.Err() == nil {
				log.Error(err.Error(), "hint", hintOf(err))
			}
		}
	}()
}
