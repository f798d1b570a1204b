package proxy

import (
	"context"
	"io"
	"net/http"
	"net/textproto"
	"time"

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

// ask asks what out is for what credential it wants.
func (x *exchange) ask(p *pool, out *http.Request) (*http.Response, error) {
	resp, err := probe(out, "", func(req *http.Request) (*http.Response, error) {
		return p.send(req, func(int, textproto.MIMEHeader) error { return nil })
	})
	if err != nil {
		return nil, upstreamFault(err, x.target.host)
	}
	return resp, nil
}

const (
	probeTimeout = 30 * time.Second
	maxProbeBody = 64 << 10 // of an answer that has to be read for the sake of its connection
)

// probe sends what out is for a request of our own, with nothing of the client's but the target. HEAD changes nothing; where
// a server does not know it, GET is next. The answer's body is gone.
func probe(out *http.Request, authorization string, send func(*http.Request) (*http.Response, error)) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(out.Context(), probeTimeout)
	defer cancel()
	host := out.URL.Hostname()
	for _, method := range []string{http.MethodHead, http.MethodGet} {
		u := *out.URL
		req := (&http.Request{
			Method: method, URL: &u, Host: out.Host, Header: http.Header{"User-Agent": out.Header["User-Agent"]}, Body: http.NoBody,
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		}).WithContext(ctx)
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		resp, err := send(req)
		if err != nil {
			return nil, err
		}
		if authorization != "" { // a second one follows on the same connection
			_, err = io.CopyN(io.Discard, resp.Body, maxProbeBody)
		}
		_ = resp.Body.Close()
		switch {
		case err != nil && err != io.EOF:
			return nil, err
		case resp.StatusCode == http.StatusMethodNotAllowed || resp.StatusCode == http.StatusNotImplemented:
		case resp.StatusCode >= 500 || resp.StatusCode < 200:
			return nil, faultf(upstreamProtocol, "%s answered %d when it was asked what credential it wants", host, resp.StatusCode).advise("try again")
		default:
			return resp, nil
		}
	}
	return nil, faultf(upstreamProtocol, "%s does not say what credential it wants: it knows neither HEAD nor GET", host).advise("try again, or write another type in the rule")
}
