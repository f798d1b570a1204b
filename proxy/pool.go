package proxy

import (
	"net/http"

	lru "github.com/hashicorp/golang-lru/v2"
)

// A pool is the upstream connections of requests with equal TLS settings: net/http's Transport for everything, and
// beside it our own connections for the common case that it is slow at, a request without body to an HTTP/1.1 server.
type pool struct {
	transport *http.Transport
	upgrades  *http.Transport // for what asks to switch protocols, which only HTTP/1.1 can (RFC 9113 section 8.6)
	direct    directPool
	// speaksH1 holds the origins whose last answer over TLS came in HTTP/1.1 although HTTP/2 was offered.
	speaksH1 *lru.Cache[origin, struct{}]
}

// maxKnownOrigins bounds what a pool remembers about origins.
const maxKnownOrigins = 1024

func newPool(tr *http.Transport) *pool {
	p := &pool{transport: tr, upgrades: tr.Clone()}
	p.upgrades.Protocols = new(http.Protocols)
	p.upgrades.Protocols.SetHTTP1(true)
	p.upgrades.ForceAttemptHTTP2 = false
	p.upgrades.TLSClientConfig.NextProtos = []string{"http/1.1"}
	// The size is a constant above zero, so that there is no error.
	p.speaksH1, _ = lru.New[origin, struct{}](maxKnownOrigins)
	p.direct.init(tr)
	return p
}

// send is one round trip. interim gets 1xx answers other than 101.
func (p *pool) send(out *http.Request, interim interimFunc) (*http.Response, error) {
	if out.Header["Upgrade"] != nil {
		return p.upgrades.RoundTrip(withInterim(out, interim))
	}
	if p.goesDirect(out) {
		return p.direct.roundTrip(out, interim)
	}
	resp, err := p.transport.RoundTrip(withInterim(out, interim))
	switch {
	case err != nil || resp.TLS == nil:
	case resp.ProtoMajor == 1:
		p.speaksH1.Add(originOf(out), struct{}{})
	default:
		p.speaksH1.Remove(originOf(out))
	}
	return resp, err
}

// goesDirect reports whether out is the common case: safe to send again on another connection, with no body and
// nothing that net/http's Transport does between head and body.
func (p *pool) goesDirect(out *http.Request) bool {
	switch out.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
	default:
		return false
	}
	if !canPeek || out.Body != nil && out.Body != http.NoBody || out.Header["Expect"] != nil {
		return false
	}
	return out.URL.Scheme == "http" || p.speaksH1.Contains(originOf(out))
}

func (p *pool) closeIdle() {
	p.transport.CloseIdleConnections()
	p.upgrades.CloseIdleConnections()
	p.direct.closeIdle()
}
