package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
)

// A failure is one kind of refusal: its slug, the status that it gets and the error type of RFC 9209 section 2.3.
type failure struct {
	slug   string
	status int
	proxy  string
	title  string
}

// The failures that this package finds itself.
const (
	badRequest          = "bad_request"
	nestedConnect       = "nested_connect"
	proxyAuth           = "proxy_auth"
	clientUnknown       = "client_unknown"
	traceRefused        = "trace_refused"
	misdirected         = "misdirected"
	noRule              = "no_rule"
	plainHTTP           = "plain_http"
	loop                = "loop"
	forbiddenAddress    = "forbidden_address"
	browserRequest      = "browser_request"
	tooManyConnections  = "too_many_connections"
	credentialExists    = "credential_exists"
	auditFailed         = "audit_failed"
	upstreamTLS         = "upstream_tls"
	upstreamUnreachable = "upstream_unreachable"
	upstreamTimeout     = "upstream_timeout"
	upstreamProtocol    = "upstream_protocol"
	clientGone          = "client_gone"
	clientTLS           = "client_tls"
	internal            = "internal"
)

// failures is the catalogue of all that can go wrong with a request, wherever it is found.
var failures = index(
	failure{badRequest, 400, "http_request_error", "Not a request for a proxy"},
	failure{"bad_path", 400, "http_request_denied", "Ambiguous path"},
	failure{"denied", 403, "http_request_denied", "Denied by a rule"},
	failure{noRule, 403, "http_request_denied", "No rule for this destination"},
	failure{forbiddenAddress, 403, "destination_ip_prohibited", "No connection to that address"},
	failure{browserRequest, 403, "http_request_denied", "Not for pages in a browser"},
	failure{credentialExists, 403, "http_request_denied", "The request carries a credential of its own"},
	failure{nestedConnect, 405, "http_request_denied", "CONNECT inside a tunnel"},
	failure{traceRefused, 405, "http_request_denied", "Method that repeats the credential"},
	failure{"bad_body", 400, "http_request_error", "The body cannot carry the credential"},
	failure{"cannot_sign", 400, "http_request_error", "The request cannot be signed"},
	failure{"body_too_large", 413, "http_request_error", "Body too large for the credential"},
	failure{"header_too_large", 431, "http_request_error", "Header too large with the credential"},
	failure{proxyAuth, 407, "http_request_denied", "Proxy authentication required"},
	failure{clientUnknown, 403, "http_request_denied", "Client not known any more"}, // in a tunnel, where 407 would be the server's
	failure{misdirected, 421, "http_request_error", "Not the host that the tunnel was opened for"},
	failure{internal, 500, "proxy_internal_error", "credproxy failed"},
	failure{plainHTTP, 502, "http_request_denied", "No credential over plain http"},
	failure{"secret_missing", 502, "proxy_configuration_error", "Secret missing"},
	failure{"secret_misdirected", 403, "http_request_denied", "Secret not for this destination"},
	failure{"secret_denied", 502, "proxy_configuration_error", "Secret not readable"},
	failure{"secret_corrupt", 502, "proxy_configuration_error", "Stored secret damaged"},
	failure{"secret_invalid", 502, "proxy_configuration_error", "Secret cannot be sent"},
	failure{"secret_too_large", 502, "proxy_configuration_error", "Secret too large"},
	failure{"secret_conflict", 502, "proxy_configuration_error", "Secret changed by another process"},
	failure{"secret_unavailable", 502, "proxy_configuration_error", "Secret source failed"},
	failure{"keyring_locked", 503, "proxy_configuration_error", "Keyring locked"},
	failure{"keyring_unavailable", 503, "proxy_configuration_error", "Keyring unavailable"},
	failure{"secret_timeout", 504, "proxy_configuration_error", "Secret source timed out"},
	failure{"token_expired", 502, "proxy_configuration_error", "Sign in again"},
	failure{"token_refresh_failed", 502, "proxy_internal_response", "No access token"},
	failure{"token_timeout", 504, "proxy_internal_response", "Authorization server timed out"},
	failure{"challenge_unsupported", 502, "http_protocol_error", "Upstream wants another credential"},
	failure{"ticket_missing", 502, "proxy_configuration_error", "No Kerberos ticket"},
	failure{"ticket_expired", 502, "proxy_configuration_error", "Kerberos ticket expired"},
	failure{"kdc_failed", 502, "proxy_internal_response", "No ticket from the KDC"},
	failure{"kdc_timeout", 504, "proxy_internal_response", "KDC timed out"},
	failure{upstreamTLS, 502, "tls_certificate_error", "Upstream TLS failed"},
	failure{upstreamUnreachable, 502, "destination_unavailable", "Upstream unreachable"},
	failure{upstreamProtocol, 502, "http_protocol_error", "Upstream answered wrongly"},
	failure{upstreamTimeout, 504, "connection_timeout", "Upstream timed out"},
	failure{clientGone, 502, "connection_terminated", "Client left"},
	failure{auditFailed, 503, "proxy_internal_error", "Audit log not writable"},
	failure{tooManyConnections, 503, "connection_limit_reached", "Too many connections"},
	failure{loop, 508, "proxy_loop_detected", "Request loop"},
)

func index(all ...failure) map[string]failure {
	m := make(map[string]failure, len(all))
	for _, f := range all {
		m[f.slug] = f
	}
	return m
}

// A fault is a failure of this package with what to say about it. Its text never holds values, headers or queries.
type fault struct {
	slug, detail, hint string
	cause              error
}

func faultf(slug, format string, args ...any) *fault {
	return &fault{slug: slug, detail: fmt.Sprintf(format, args...)}
}

func (f *fault) Error() string { return f.detail }
func (f *fault) Unwrap() error { return f.cause }
func (f *fault) Slug() string  { return f.slug }
func (f *fault) Hint() string  { return f.hint }

// advise adds the next command to type.
func (f *fault) advise(format string, args ...any) *fault {
	f.hint = fmt.Sprintf(format, args...)
	return f
}

// slugged is what errors of all packages have in common once they reach a person.
type slugged interface {
	error
	Slug() string
	Hint() string
}

// explained returns err as what may be shown. An error without a slug becomes internal, and its text is not shown.
func explained(err error) slugged {
	if known, ok := errors.AsType[slugged](err); ok {
		if _, listed := failures[known.Slug()]; listed {
			return known
		}
	}
	return &fault{slug: internal, detail: "an unexpected error; the log has more", hint: "credproxy serve --log-level debug", cause: err}
}

// upstreamFault says why a request could not be sent to host, without repeating the error's own text.
func upstreamFault(err error, host string) error {
	if known, ok := errors.AsType[slugged](err); ok {
		return known
	}
	f := &fault{cause: err}
	f.slug, f.detail, f.hint = classify(err, host)
	return f
}

func classify(err error, host string) (slug, detail, hint string) {
	if errors.Is(err, errLoop) {
		return loop, "the request came back to credproxy itself", "unset HTTPS_PROXY for the service that credproxy forwards to, and use its real address"
	}
	if what, ok := errors.AsType[errForbidden](err); ok {
		return forbiddenAddress, host + " is " + string(what) + "; credproxy never connects to it", "to ask it without the proxy: NO_PROXY=" + host
	}
	if errors.Is(err, errPrivate) {
		return forbiddenAddress, host + " has a private address, and its rule injects nothing", "if that is right, set allow_private: true in the rule"
	}
	if errors.Is(err, errNotLoopback) {
		return plainHTTP, host + " is not on this machine", "use https, or set allow_http: true in the rule"
	}
	if detail, hint, ok := certificateProblem(err); ok {
		return upstreamTLS, host + ": " + detail, hint
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsTimeout {
			return upstreamTimeout, "looking up " + host + " timed out", "check the network"
		}
		return upstreamUnreachable, host + " has no address", "check the host name and the network"
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return upstreamTimeout, host + " did not answer in time", "try again"
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return upstreamTimeout, host + " did not answer in time", "try again"
	case errors.Is(err, syscall.ECONNREFUSED):
		return upstreamUnreachable, host + " refused the connection", "check that the server runs"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return upstreamUnreachable, "the connection to " + host + " failed", "check the network"
	}
	return upstreamProtocol, host + " closed the connection or answered with something that is not HTTP", "try again; if it speaks TLS on that port, use https://"
}

// certificateProblem says in a few words why a TLS handshake failed, and what to do.
func certificateProblem(err error) (detail, hint string, ok bool) {
	if errors.Is(err, errOwnCA) {
		return "its certificate is signed by credproxy's own CA", "credproxy's CA is for its clients: take it out of the rule's tls: {ca: FILE}", true
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "its certificate is signed by an unknown authority", "for a private CA set tls: {ca: FILE} in the rule", true
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "its certificate is for another name", "if that name is right, set tls: {server_name: NAME} in the rule", true
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if invalid.Reason == x509.Expired {
			return "its certificate has expired or is not yet valid", "check this computer's clock, or tell the owner of the server", true
		}
		return "its certificate is not valid", "tell the owner of the server", true
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "its certificate is not trusted", "for a private CA set tls: {ca: FILE} in the rule", true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "it does not speak TLS", "check the port, or use http://", true
	}
	if alert, ok := errors.AsType[tls.AlertError](err); ok {
		return "it ended the TLS handshake: " + alert.Error(), "if it wants a client certificate, set tls: {cert: FILE, key: REFERENCE} in the rule", true
	}
	return "", "", false
}

// A problem is the body of a refusal (RFC 9457).
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Hint   string `json:"hint,omitempty"`
	Rule   string `json:"rule,omitempty"`
}

// refusal is the one place where an error becomes status, headers and body.
func refusal(err slugged, rule string) (failure, http.Header, []byte) {
	f := failures[err.Slug()]
	body, encodeErr := json.Marshal(problem{
		Type: "urn:credproxy:" + f.slug, Title: f.title, Status: f.status, Detail: err.Error(), Hint: err.Hint(), Rule: rule,
	})
	if encodeErr != nil {
		body = nil // strings always encode
	}
	body = append(body, '\n')
	h := http.Header{
		"Content-Type":    {"application/problem+json"},
		"Content-Length":  {strconv.Itoa(len(body))},
		"Cache-Control":   {"no-store"},
		"Credproxy-Error": {f.slug},
		"Proxy-Status":    {fmt.Sprintf("credproxy; error=%s; details=%s", f.proxy, structuredString(f.slug))},
	}
	if f.slug == proxyAuth {
		h.Set("Proxy-Authenticate", `Basic realm="credproxy"`)
	}
	return f, h, body
}

// structuredString is s as a String of RFC 8941 section 3.3.3.
func structuredString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// refuse answers a request that does not enter the pipeline.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, client string, err error) {
	known := explained(err)
	f, header, body := refusal(known, "")
	s.recordRefusal(r, client, known, f.status)
	s.limitLast(w)
	for name, values := range header {
		w.Header()[name] = values
	}
	w.WriteHeader(f.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client is gone if this fails
	}
}

// refuseRaw answers a CONNECT on its hijacked connection and closes it.
func (s *Server) refuseRaw(conn net.Conn, r *http.Request, client string, err error) {
	known := explained(err)
	s.recordRefusal(r, client, known, failures[known.Slug()].status)
	answerRaw(conn, known)
}

// answerRaw answers with err and closes conn. The reason phrase is what most clients show of a refused CONNECT, so it
// carries the message.
func answerRaw(conn net.Conn, err slugged) {
	f, header, body := refusal(err, "")
	// curl --proxy-anyauth waits on the same connection unless it is told that it closes.
	header.Set("Connection", "close")
	header.Set("Proxy-Connection", "close")
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", f.status, reasonPhrase(err))
	_ = header.Write(&b)
	b.WriteString("\r\n")
	b.Write(body)
	_ = conn.SetDeadline(deadline(lingerTime))
	if _, err := io.WriteString(conn, b.String()); err == nil {
		linger(conn)
	}
	_ = conn.Close()
}

// refuseClient answers a client that did not say who it is.
func (s *Server) refuseClient(w http.ResponseWriter, r *http.Request) {
	var err error = faultf(proxyAuth, "the run token is missing or wrong").advise("start with: credproxy run -- CMD")
	if s.cfg.Stranger != nil {
		err = s.cfg.Stranger(r)
	}
	if known, ok := err.(stranger); ok && known.Drop() {
		panic(http.ErrAbortHandler)
	}
	s.refuseConnect(w, r, "", err)
}

// refuseConnect answers a CONNECT, or a plain request, before it is looked at.
func (s *Server) refuseConnect(w http.ResponseWriter, r *http.Request, client string, err error) {
	if r.Method != http.MethodConnect {
		s.refuse(w, r, client, err)
		return
	}
	conn, _, hijackErr := replayHijack{w}.Hijack()
	if hijackErr != nil {
		s.refuse(w, r, client, err)
		return
	}
	s.refuseRaw(conn, r, client, err)
}

// reasonPhrase is err as a reason phrase: printable ASCII, short enough for a terminal line.
func reasonPhrase(err slugged) string {
	text := "credproxy: " + err.Error()
	if hint := err.Hint(); hint != "" {
		text += "; " + hint
	}
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
	const longest = 120
	if len(text) > longest {
		text = text[:longest]
	}
	return text
}
