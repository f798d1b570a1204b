package inject

import (
	"cmp"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/credproxy/credproxy/internal/strict"
	"gopkg.in/yaml.v3"
)

type authorizationCodeSettings struct {
	loginSettings `yaml:",inline"`
	AuthURL       strict.At[string] `yaml:"auth_url"`
	RedirectURI   strict.At[string] `yaml:"redirect_uri"`
	RedirectPort  strict.At[int]    `yaml:"redirect_port"`
}

// anyRedirect is where the browser comes back if the rule does not say: on any port (RFC 8252 section 7.3).
const anyRedirect = "http://127.0.0.1/callback"

// newAuthorizationCode is the authorization code grant (RFC 6749 section 4.1) with PKCE (RFC 7636), whose first part is
// "credproxy login".
func newAuthorizationCode(s authorizationCodeSettings, at *yaml.Node, env Env) (method, strict.Errors) {
	errs := append(s.check(at, env), checkEndpoint("auth_url", s.AuthURL)...)
	if s.AuthURL.Line == 0 && s.Issuer.Line == 0 {
		errs = append(errs, strict.Errorf(at, "missing field %q", "auth_url"))
	}
	redirect, wrong := s.redirect()
	if errs = append(errs, wrong...); len(errs) > 0 {
		return nil, errs
	}
	g := s.grant("oauth2_authorization_code", env)
	g.server.AuthorizationURL = s.AuthURL.Value
	g.login.Redirect = redirect
	return g, nil
}

// redirect is the redirect URI: a loopback address, or an https address that a person copies from the browser.
func (s authorizationCodeSettings) redirect() (*url.URL, strict.Errors) {
	const want = "want http://127.0.0.1/PATH or http://localhost/PATH, with or without a port, or an https:// address"
	u, err := url.Parse(cmp.Or(s.RedirectURI.Value, anyRedirect))
	if err != nil || u.Host == "" || u.User != nil || strings.ContainsAny(s.RedirectURI.Value, "?#") {
		return nil, strict.Errors{s.RedirectURI.Errorf("redirect_uri: %s", want)}
	}
	host := u.Hostname()
	loopback := u.Scheme == "http" && (host == "127.0.0.1" || host == "localhost")
	if !loopback && u.Scheme != "https" {
		return nil, strict.Errors{s.RedirectURI.Errorf("redirect_uri: %s", want)}
	}
	if n, err := strconv.Atoi(u.Port()); u.Port() != "" && (err != nil || n < 1 || n > 65535) {
		return nil, strict.Errors{s.RedirectURI.Errorf("redirect_uri: the port must be from 1 to 65535")}
	}
	port := s.RedirectPort
	switch {
	case port.Line == 0:
	case port.Value < 0 || port.Value > 65535:
		return nil, strict.Errors{port.Errorf("redirect_port: want 1 to 65535, or 0 for any")}
	case !loopback:
		return nil, strict.Errors{port.Errorf("redirect_port: is for a redirect_uri on this computer")}
	case u.Port() != "":
		return nil, strict.Errors{port.Errorf("redirect_port: redirect_uri says it already; leave one out")}
	case port.Value > 0:
		u.Host = net.JoinHostPort(host, strconv.Itoa(port.Value))
	}
	return u, nil
}
