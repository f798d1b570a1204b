package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/rules"
	"github.com/credproxy/credproxy/secrets"
	lru "github.com/hashicorp/golang-lru/v2"
)

// maxTransports bounds the connection pools kept for rules with their own tls settings.
const maxTransports = 64

// transports are the connection pools: connections are shared only by requests with equal TLS settings and equal
// limits on where they may go.
type transports struct {
	roots   *x509.CertPool
	own     func(*x509.Certificate) bool
	dialer  *dialer
	secrets *secrets.Resolver
	base    *pool
	others  *lru.Cache[transportKey, *pool]
	owned   *lru.Cache[boundKey, *boundPool] // connections that belong to a credential
}

type transportKey struct {
	tlsID string
	reach reach
}

func newTransports(cfg *Config, d *dialer) *transports {
	t := &transports{roots: cfg.Roots, own: cfg.Own, dialer: d, secrets: cfg.Secrets}
	t.base = newPool(t.build(nil, reachAll))
	// The size is a constant above zero, so that there is no error.
	t.others, _ = lru.NewWithEvict(maxTransports, func(_ transportKey, old *pool) { old.closeIdle() })
	t.owned, _ = lru.NewWithEvict(maxBoundPools, func(_ boundKey, old *boundPool) { old.closeIdle() })
	return t
}

// bound returns the connections that b was proved for on behalf of client, with the settings of p.
func (t *transports) bound(p *pool, b inject.Binder, client string) *boundPool {
	key := boundKey{p, b, client}
	if found, ok := t.owned.Get(key); ok {
		return found
	}
	fresh := newBoundPool(b, p.transport)
	if found, ok, _ := t.owned.PeekOrAdd(key, fresh); ok {
		return found
	}
	return fresh
}

// system is the pool for the system's roots and any address.
func (t *transports) system() *http.Transport { return t.base.transport }

// pick returns the pool for settings, whose connections go as far as r.
func (t *transports) pick(settings *rules.TLS, r reach) *pool {
	if settings == nil && r == reachAll {
		return t.base
	}
	key := transportKey{reach: r}
	if settings != nil {
		key.tlsID = settings.ID
	}
	if found, ok := t.others.Get(key); ok {
		return found
	}
	fresh := newPool(t.build(settings, r))
	if found, ok, _ := t.others.PeekOrAdd(key, fresh); ok {
		return found
	}
	return fresh
}

func (t *transports) build(settings *rules.TLS, r reach) *http.Transport {
	return &http.Transport{
		Proxy:                  nil, // never from the environment, which may name this proxy
		DialContext:            t.dialer.within(r),
		TLSClientConfig:        t.tlsConfig(settings),
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    10 * time.Second,
		ExpectContinueTimeout:  time.Second,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConns:           512,
		MaxIdleConnsPerHost:    64,
		MaxResponseHeaderBytes: maxHeaderBytes,
		DisableCompression:     true,
		// Finds connections that died while the machine slept or changed networks: golang/go#36026.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second, WriteByteTimeout: 30 * time.Second},
	}
}

func (t *transports) tlsConfig(settings *rules.TLS) *tls.Config {
	c := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		RootCAs:            t.roots,
		ClientSessionCache: tls.NewLRUClientSessionCache(256),
		VerifyConnection:   NotOwn(t.own),
	}
	if settings == nil {
		return c
	}
	c.ServerName = settings.ServerName
	c.RootCAs = settings.Roots(t.roots)
	if settings.Cert != nil {
		c.GetClientCertificate = func(ask *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return settings.ClientCertificate(ask.Context(), t.secrets)
		}
	}
	return c
}

var errOwnCA = errors.New("the certificate is signed by credproxy's own CA")

// NotOwn returns a tls.Config's VerifyConnection that believes no server on the word of a CA whose certificates own
// knows. Whoever can use that CA's key on this machine could otherwise stand between the proxy and any server.
func NotOwn(own func(*x509.Certificate) bool) func(tls.ConnectionState) error {
	if own == nil {
		return nil
	}
	return func(state tls.ConnectionState) error {
		for _, chain := range state.VerifiedChains {
			if slices.ContainsFunc(chain, own) {
				return errOwnCA
			}
		}
		return nil
	}
}

func (t *transports) closeIdle() {
	t.base.closeIdle()
	for _, other := range t.others.Values() {
		other.closeIdle()
	}
	for _, owned := range t.owned.Values() {
		owned.closeIdle()
	}
}

// dialTunnel opens the upstream side of a tunnel that is not decrypted. No rule names it and the default is allow, so it
// goes as far as it would without the proxy, but for metadata services.
func (t *transports) dialTunnel(ctx context.Context, to authority) (net.Conn, error) {
	return t.dialer.dial(ctx, "tcp", to.address(), reachAll)
}
