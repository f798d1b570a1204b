package oauth

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// CheckIssuer reports why raw cannot be an issuer: it must be as CheckURL has it, without a query (RFC 8414 section 2).
func CheckIssuer(raw string) error {
	if err := CheckURL(raw); err != nil {
		return err
	}
	if strings.Contains(raw, "?") {
		return errors.New("a query (?) in the URL is not allowed")
	}
	return nil
}

// A Server is where an authorization server is asked what (RFC 8414 section 2). What it has not is empty.
type Server struct {
	Issuer           string
	AuthorizationURL string
	TokenURL         string
	DeviceURL        string // RFC 8628 section 4
	RevocationURL    string
	SaysIssuer       bool // its redirects name the issuer (RFC 9207 section 3)
}

// Discover is what the authorization server issuer says of itself in its metadata (RFC 8414 section 3), or, if it has
// none there, in those of OpenID Connect. There always is a TokenURL. It takes at most 15 seconds. The error, if any, is
// an *Error. For a client that shows a certificate it is where such clients ask (RFC 8705 section 5).
func Discover(ctx context.Context, hc *http.Client, issuer string, certificate bool) (Server, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	u, err := url.Parse(issuer)
	if err != nil || hc == nil {
		return Server{}, &Error{Why: "the issuer cannot be asked"}
	}
	base, path := u.Scheme+"://"+u.Host, strings.TrimSuffix(u.EscapedPath(), "/")
	doc, failed := metadata(ctx, hc, base+"/.well-known/oauth-authorization-server"+path, issuer)
	if failed != nil && failed.Status == http.StatusNotFound {
		doc, failed = metadata(ctx, hc, base+path+"/.well-known/openid-configuration", issuer)
	}
	if failed != nil {
		failed.Host = u.Host
		return Server{}, failed
	}
	s := Server{issuer, usable(doc.Authorization), doc.Token, usable(doc.Device), usable(doc.Revocation), doc.SaysIssuer}
	if certificate {
		s.TokenURL = cmp.Or(usable(doc.Aliases.Token), s.TokenURL)
		s.DeviceURL = cmp.Or(usable(doc.Aliases.Device), s.DeviceURL)
		s.RevocationURL = cmp.Or(usable(doc.Aliases.Revocation), s.RevocationURL)
	}
	return s, nil
}

// A document is the metadata of an authorization server, as far as they are used.
type document struct {
	Issuer        string `json:"issuer"`
	Authorization string `json:"authorization_endpoint"`
	endpoints
	SaysIssuer bool      `json:"authorization_response_iss_parameter_supported"`
	Aliases    endpoints `json:"mtls_endpoint_aliases"`
}

type endpoints struct {
	Token      string `json:"token_endpoint"`
	Device     string `json:"device_authorization_endpoint"`
	Revocation string `json:"revocation_endpoint"`
}

// metadata reads one document. The issuer in it must be the one that was asked (RFC 8414 section 3.3).
func metadata(ctx context.Context, hc *http.Client, from, issuer string) (doc document, failed *Error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return document{}, &Error{Why: "the issuer cannot be asked"}
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "credproxy")
	plain := http.Client{Transport: cmp.Or(hc.Transport, http.DefaultTransport), Timeout: hc.Timeout, CheckRedirect: noRedirect}
	resp, err := plain.Do(req)
	if err != nil {
		return document{}, unread(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return document{}, unread(err)
	}
	e := &Error{Status: resp.StatusCode}
	switch {
	case resp.StatusCode != http.StatusOK:
		e.Why = "the issuer's metadata are not there"
	case len(body) > maxAnswer:
		e.Why = "the issuer's metadata are larger than 64 KiB"
	case json.Unmarshal(body, &doc) != nil:
		e.Why = "the issuer's metadata are not a JSON object"
	case doc.Issuer != issuer:
		e.Why = "the metadata are those of another issuer"
	case usable(doc.Token) == "":
		e.Why = "the issuer's metadata have no token_endpoint with https"
	default:
		return doc, nil
	}
	return document{}, e
}

// usable is an endpoint if it may be asked, and shown.
func usable(endpoint string) string {
	if CheckURL(endpoint) != nil || !visible(endpoint, '!') {
		return ""
	}
	return endpoint
}

// unread is an error of the network, without the address.
func unread(err error) *Error {
	var lost *url.Error
	switch {
	case timedOut(err):
		return &Error{timeout: true, Why: "no answer in time"}
	case errors.As(err, &lost):
		return &Error{Why: safe(lost.Err.Error(), nil)}
	}
	return &Error{Why: "the issuer's metadata broke off"}
}
