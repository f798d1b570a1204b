package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/rules"
	"github.com/credproxy/credproxy/secrets"
	"github.com/elazarl/goproxy"
)

// RoundTrip forwards req. goproxy calls it for every plain and decrypted request. It returns no error: what fails
// becomes an answer, because goproxy would show the error's text.
func (s *Server) RoundTrip(req *http.Request, _ *goproxy.ProxyCtx) (*http.Response, error) {
	x := exchangeOf(req.Context())
	resp, err := s.forward(x, req)
	x.noMoreInterim()
	if err != nil {
		return x.refusal(req, err), nil
	}
	return resp, nil
}

// forward is the path of one request, top to bottom.
func (s *Server) forward(x *exchange, req *http.Request) (*http.Response, error) {
	d := s.cfg.Rules().Decide(x.client, req)
	x.event.Rule, x.event.Decision = d.Rule, "pass"
	if d.Trial {
		x.event.Trial = noRule
	}
	if !d.Allow {
		return nil, denied(d, x.target)
	}
	if len(d.Inject) > 0 && !d.Browser && fromPage(req, x.target) {
		return nil, faultf(browserRequest, "a browser sent this, and a page in it must not use the credential of rule %q", d.Rule).
			advise("if it is to be used in a browser, set browser: true in the rule")
	}
	reach, err := s.reach(req, x.target, d)
	if err != nil {
		return nil, err
	}
	if len(d.Inject) > 0 && slices.Contains(echoMethods, req.Method) {
		return nil, faultf(traceRefused, "%s asks the server to repeat the request, with the credential in it", req.Method).advise("use another method")
	}
	if len(d.Inject) > 0 && s.cfg.Audit.Err() != nil {
		return nil, faultf(auditFailed, "the audit log cannot be written, so no credential is used").advise("make room on the disk that holds the state folder")
	}
	p := s.transports.pick(d.TLS, reach)
	out, used, err := x.authenticate(p, req, x.takeBody(req, d), d)
	if err != nil {
		return nil, err
	}
	resp, err := x.send(p, out, used)
	if err != nil {
		return nil, err
	}
	for sent := 1; answered(resp, used, sent) && sent < maxSends; sent++ {
		next, again := x.retry(p, req, d, used)
		if next == nil {
			break // the upstream's own answer says more
		}
		_ = resp.Body.Close() // unread, which may cost the connection: its end may never come
		resp, used = next, again
	}
	return x.receive(resp)
}

// echoMethods have servers repeat what they got (RFC 9110 section 9.3.8), the last two those of Microsoft.
var echoMethods = []string{http.MethodTrace, "TRACK", "DEBUG"}

// denied is the refusal that d stands for.
func denied(d rules.Decision, target authority) error {
	f := faultf(d.Slug, "%s", d.Reason)
	if d.Slug == noRule {
		return f.advise("credproxy explain https://%s/", target.hostHeader("https"))
	}
	return f.advise("see rule %q in the rules file", d.Rule)
}

// reach is how far req may go. It refuses a credential over plain http, unless the rule allows it or the upstream is on
// this machine.
//
// A credential over verified TLS goes anywhere: the certificate proves the name, and internal APIs are common. What
// a rule lets pass without one is held to public addresses, because nothing proves that the name's owner did not point
// it at a neighbour of ours; a rule that names the address itself says so. What no rule names passes only where the default
// is allow, and goes where it would go without the proxy.
func (s *Server) reach(req *http.Request, target authority, d rules.Decision) (reach, error) {
	switch plain := req.URL.Scheme == "http"; {
	case len(d.Inject) == 0:
		proven := !plain && d.TLS != nil && d.TLS.Cert != nil // a client certificate is a credential too
		if d.Rule == "" || d.AllowPrivate || proven || namesAddress(target.host) {
			return reachAll, nil
		}
		return reachPublic, nil
	case !plain || d.AllowHTTP:
		return reachAll, nil
	case s.dialer.isLoopbackHost(req.Context(), target.host):
		return reachLoopback, nil
	}
	return reachPublic, faultf(plainHTTP, "rule %q does not send its credential over plain http", d.Rule).
		advise("use https://%s, or set allow_http: true in the rule", target.host)
}

// takeBody wraps the request's body for the transport.
func (x *exchange) takeBody(req *http.Request, d rules.Decision) io.ReadCloser {
	if req.Body == nil || req.Body == http.NoBody || req.ContentLength == 0 {
		req.Body = http.NoBody
		return http.NoBody
	}
	drop := trailersToDrop(req, d)
	removeFields(req.Trailer, drop) // what is announced; a client can send more
	x.body = &requestBody{
		src: req.Body, length: req.ContentLength, trailer: req.Trailer, drop: drop,
		// Trailers are never sent again: net/http may still be filling them in for the first time.
		keep: len(d.Inject) > 0 && req.ContentLength <= maxReplay && len(req.Trailer) == 0, turn: make(chan struct{}, 1),
	}
	req.Body = http.NoBody // each copy that is sent gets its own
	return x.body
}

// trailersToDrop lists the trailers that must not be sent: they come after the credentials, and some servers take them
// for headers.
func trailersToDrop(req *http.Request, d rules.Decision) []string {
	if len(req.Trailer) == 0 {
		return nil
	}
	drop := append(slices.Clone(forbiddenTrailers), d.Remove...)
	for _, c := range d.Inject {
		for _, target := range c.Targets() {
			if target.In == "header" {
				drop = append(drop, target.Name)
			}
		}
	}
	return drop
}

// usage is what one credential put on a request.
type usage struct {
	credential inject.Credential
	values     []secrets.Value
}

// empty reports whether it put nothing on, because the server asked for nothing.
func (u usage) empty() bool { return len(u.values) == 0 }

// authenticate returns the copy of req that goes to the upstream, with body. Credentials are set last, so that no header
// of the client can take them away. What has to be asked for them is asked by p.
func (x *exchange) authenticate(p *pool, req *http.Request, body io.ReadCloser, d rules.Decision) (*http.Request, []usage, error) {
	out := outbound(req, x.upgrade)
	out.Body = body
	removeFields(out.Header, d.Remove)
	prepareScrub(out, d)
	var used []usage
	for _, c := range d.Inject {
		// Asked of out, whose `remove` headers are gone, and not of req. No two credentials write the same place.
		if d.OnExisting != rules.Replace && present(c, out) {
			if d.OnExisting == rules.Fail {
				return nil, nil, faultf(credentialExists, "the request already carries what rule %q would set", d.Rule).
					advise("take the credential out of the program, or set on_existing: replace in the rule")
			}
			continue
		}
		values, err := x.apply(p, c, out)
		if err != nil {
			if out.Context().Err() != nil {
				err = left(err)
			}
			return nil, nil, err
		}
		used = append(used, usage{c, values})
	}
	x.noteCredentials(used, d)
	x.hide(d, used)
	return out, used, nil
}

func present(c inject.Credential, req *http.Request) bool {
	for _, target := range c.Targets() {
		if target.Present(req) {
			return true
		}
	}
	return false
}

// noteCredentials puts what is on the request into the audit event.
func (x *exchange) noteCredentials(used []usage, d rules.Decision) {
	if len(used) != len(d.Inject) || slices.ContainsFunc(used, usage.empty) {
		x.nameCredentials(used)
	} else if len(used) > 0 {
		x.event.Decision, x.event.Inject, x.event.Secrets = "inject", d.Types, d.Secrets
	}
}

// nameCredentials is noteCredentials where some of the rule's are not there.
func (x *exchange) nameCredentials(used []usage) {
	x.event.Decision, x.event.Inject, x.event.Secrets = "pass", nil, nil
	for _, u := range used {
		if u.empty() {
			continue
		}
		x.event.Decision = "inject"
		x.event.Inject = append(x.event.Inject, u.credential.Type())
		for _, ref := range u.credential.Refs() {
			x.event.Secrets = append(x.event.Secrets, ref.String())
		}
	}
}

// send is one round trip, with used on out.
func (x *exchange) send(p *pool, out *http.Request, used []usage) (*http.Response, error) {
	resp, err := x.roundTrip(p, out, used)
	if err == nil {
		return resp, nil
	}
	if out.Context().Err() != nil {
		return nil, left(err)
	}
	if fault := x.body.fault(x.h1); fault != nil {
		return nil, fault
	}
	return nil, upstreamFault(err, x.target.host)
}

// roundTrip sends out over a connection that belongs to a credential, if one of used wants that, and otherwise over any.
func (x *exchange) roundTrip(p *pool, out *http.Request, used []usage) (*http.Response, error) {
	for i, u := range used {
		b, ok := u.credential.(inject.Binder)
		if !ok {
			continue
		}
		resp, proved, err := x.server.transports.bound(p, b, x.client).send(out, u.values, x.interim)
		if err == nil && !proved {
			used[i].values = nil
			x.nameCredentials(used)
		}
		return resp, err
	}
	return p.send(out, x.interim)
}

// left is the fault of a request whose client did not wait for what failed with err.
func left(err error) error {
	return &fault{slug: clientGone, detail: "the client left before the answer", cause: err}
}

// maxSends bounds how often one request is sent.
const maxSends = 3

// answered tells the credentials of resp, and reports whether one of them may fare better if the request is sent again.
func answered(resp *http.Response, used []usage, sent int) (again bool) {
	for _, u := range used {
		if u.credential.Answer(resp, u.values, sent) {
			again = true
		}
	}
	return again
}

// retry sends the request once more with what the credentials are now. It returns nil if that cannot be, because the
// body is gone, or would be no use, because the credentials are the same.
func (x *exchange) retry(p *pool, req *http.Request, d rules.Decision, used []usage) (*http.Response, []usage) {
	body := io.ReadCloser(http.NoBody)
	if x.body != nil {
		kept, whole := x.body.whole()
		if !whole {
			return nil, nil
		}
		body = io.NopCloser(bytes.NewReader(kept))
	}
	if x.upgrade != "" {
		return nil, nil
	}
	out, again, err := x.authenticate(p, req, body, d)
	if err != nil || sameValues(used, again) {
		return nil, nil
	}
	resp, err := x.send(p, out, again)
	if err != nil {
		return nil, nil
	}
	return resp, again
}

func sameValues(a, b []usage) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if len(a[i].values) != len(b[i].values) {
			return false
		}
		for j := range a[i].values {
			if !a[i].values[j].Equal(b[i].values[j]) {
				return false
			}
		}
	}
	return true
}

// receive prepares the upstream's answer for the client.
func (x *exchange) receive(resp *http.Response) (*http.Response, error) {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		up, ok := resp.Body.(io.ReadWriteCloser)
		if !ok || x.upgrade == "" || !strings.EqualFold(resp.Header.Get("Upgrade"), x.upgrade) {
			_ = resp.Body.Close()
			return nil, faultf(upstreamProtocol, "%s switched to a protocol that nobody asked for", x.target.host).advise("try again, or tell the owner of the API")
		}
		x.upstream = up
		return resp, x.scrub(resp)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 999 { // net/http takes any number, and panics when it is to send it
		_ = resp.Body.Close()
		return nil, faultf(upstreamProtocol, "%s answered with a status that does not exist", x.target.host).advise("try again, or tell the owner of the API")
	}
	inbound(resp.Header)
	if x.h1 && !x.http10 && len(resp.Trailer) > 0 {
		delete(resp.Header, "Content-Length") // HTTP/1.1 has trailers only behind chunks
	}
	if resp.StatusCode == http.StatusNotModified || resp.StatusCode == http.StatusNoContent {
		_ = resp.Body.Close()
		resp.Body = http.NoBody // net/http's HTTP/2 misses a body if there is a Content-Length, as there may be in a 304
	}
	if err := x.scrub(resp); err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	if resp.Body != http.NoBody {
		resp.Body = &responseBody{ReadCloser: resp.Body, x: x, ctx: resp.Request.Context(), resp: resp}
	}
	return resp, nil
}

// refusal is the answer for err.
func (x *exchange) refusal(req *http.Request, err error) *http.Response {
	known := explained(err)
	x.event.Decision, x.event.Reason, x.event.Error = "refuse", known.Error(), known.Slug()
	f, header, body := refusal(known, x.event.Rule)
	if known.Slug() == internal {
		x.server.log.Error("request failed", "host", x.target.host, "type", fmt.Sprintf("%T", err))
	}
	resp := &http.Response{
		StatusCode: f.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req,
		Header: header, ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body)),
	}
	if req.Method == http.MethodHead {
		resp.Body = http.NoBody
	}
	return resp
}
