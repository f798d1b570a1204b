package proxy

import (
	"net/http"
	"net/textproto"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/secrets"
)

// apply puts c on out.
func (x *exchange) apply(p *pool, c inject.Credential, out *http.Request) ([]secrets.Value, error) {
	if a, ok := c.(inject.Asker); ok {
		return a.ApplyAsking(out, func() (*http.Response, error) { return x.ask(p, out) })
	}
	return c.Apply(out)
}

// ask asks what out is for, without anything of the client's but the target, what credential it wants. HEAD changes
// nothing; where a server does not know it, GET is next.
func (x *exchange) ask(p *pool, out *http.Request) (*http.Response, error) {
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		u := *out.URL
		probe := (&http.Request{
			Method: method, URL: &u, Host: out.Host, Header: http.Header{"User-Agent": out.Header["User-Agent"]}, Body: http.NoBody,
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		}).WithContext(out.Context())
		resp, err := p.send(probe, func(int, textproto.MIMEHeader) error { return nil })
		if err != nil {
			return nil, upstreamFault(err, x.target.host)
		}
		_ = resp.Body.Close()
		switch {
		case resp.StatusCode == http.StatusMethodNotAllowed || resp.StatusCode == http.StatusNotImplemented:
		case resp.StatusCode >= 500 || resp.StatusCode < 200:
			return nil, faultf(upstreamProtocol, "%s answered %d when it was asked what credential it wants", x.target.host, resp.StatusCode).advise("try again")
		default:
			return resp, nil
		}
	}
	return nil, faultf(upstreamProtocol, "%s does not say what credential it wants: it knows neither HEAD nor GET", x.target.host).advise("try again, or write another type in the rule")
}
