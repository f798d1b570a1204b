package oauth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"maps"
	"net/url"
	"strings"

	"github.com/credproxy/credproxy/secrets"
	"golang.org/x/oauth2"
)

// An Authorization is one authorization request (RFC 6749 section 4.1.1) with a proof key (RFC 7636). It is good for one
// answer. Get one from Authorize.
type Authorization struct {
	URL string // for the person's browser

	client   Client
	server   Server
	redirect string
	state    string
	verifier secrets.Value
}

// ReservedInAuthorization lists the parameters of an authorization request that a rule must not set itself.
func ReservedInAuthorization() []string {
	return []string{"response_type", "response_mode", "client_id", "client_secret", "redirect_uri", "scope", "state", "audience", "resource",
		"code_challenge", "code_challenge_method", "request", "request_uri"}
}

// Authorize makes an authorization request to server, which has an AuthorizationURL, whose answer goes to redirect.
// extra is further parameters.
func (c *Client) Authorize(server Server, redirect string, extra map[string]string) (*Authorization, error) {
	u, err := url.Parse(server.AuthorizationURL)
	if err != nil || CheckURL(server.AuthorizationURL) != nil {
		return nil, &Error{Why: "there is no address where a person can sign in"}
	}
	a := &Authorization{client: *c, server: server, redirect: redirect, state: rand.Text(), verifier: secrets.NewValue(oauth2.GenerateVerifier())}
	a.client.attended = true
	q := u.Query() // what stands in the rule stays (RFC 6749 section 3.1)
	for name, value := range extra {
		q.Set(name, value)
	}
	q.Set("response_type", "code")
	q.Set("redirect_uri", redirect)
	q.Set("state", a.state)
	q.Set("code_challenge", oauth2.S256ChallengeFromVerifier(a.verifier.Reveal()))
	q.Set("code_challenge_method", "S256")
	c.describe(q)
	u.RawQuery = q.Encode()
	a.URL = u.String()
	return a, nil
}

// describe says who asks, and for what.
func (c *Client) describe(form url.Values) {
	form.Set("client_id", c.ID)
	if len(c.Scopes) > 0 {
		form.Set("scope", strings.Join(c.Scopes, " "))
	}
	if c.Audience != "" {
		form.Set("audience", c.Audience)
	}
	if len(c.Resource) > 0 {
		form["resource"] = c.Resource
	}
}

const maxCode = 8 << 10

// Code takes the code from the parameters of the redirect (RFC 6749 section 4.1.2). They must have a's state, and be from
// the server that a went to (RFC 9207 section 2.4). The error, if any, is an *Error.
func (a *Authorization) Code(params url.Values) (secrets.Value, error) {
	for _, name := range []string{"state", "code", "error", "iss"} {
		if len(params[name]) > 1 {
			return secrets.Value{}, &Error{Why: "the redirect has " + name + " twice"}
		}
	}
	code, refused, issuer := params.Get("code"), params.Get("error"), params.Get("iss")
	e := new(Error)
	switch {
	case subtle.ConstantTimeCompare([]byte(params.Get("state")), []byte(a.state)) != 1:
		e.Why = "the redirect has the wrong state: it does not belong to this sign-in"
	case issuer != "" && a.server.Issuer != "" && issuer != a.server.Issuer:
		e.Why = "the redirect comes from another server than the one that was asked (iss)"
	case issuer == "" && a.server.SaysIssuer:
		e.Why = "the redirect does not say from which server it comes (iss), and this server says that it always does"
	case refused != "" || params.Has("error"):
		if e.Code, e.Description = codeOf(refused), safe(params.Get("error_description"), []secrets.Value{a.verifier}); e.Code == "access_denied" {
			e.Why = "the sign-in was refused"
		}
	case code == "":
		e.Why = "the redirect has no code"
	case len(code) > maxCode || !visible(code, ' '):
		e.Why = "the redirect has a code that RFC 6749 does not allow"
	default:
		return secrets.NewValue(code), nil
	}
	return secrets.Value{}, e
}

// codeOf is an error code that came with nothing that we had sent.
func codeOf(s string) string {
	if c := code(s, nil); c != "" {
		return c
	}
	return "error"
}

// Exchange asks for what the code is worth (RFC 6749 section 4.1.3), once: a code that is sent twice may cost the
// sign-in. secret is empty for a client that has none.
func (a *Authorization) Exchange(ctx context.Context, secret, code secrets.Value) (SignIn, error) {
	asked := a.client
	asked.Scopes, asked.Audience = nil, ""
	asked.Extra = maps.Clone(a.client.Extra)
	if asked.Extra == nil {
		asked.Extra = make(map[string]string)
	}
	asked.Extra["redirect_uri"] = a.redirect
	t, refresh, err := asked.grant(ctx, secret, "authorization_code", proofs{"code": fixed(code), "code_verifier": fixed(a.verifier)})
	if err != nil {
		return SignIn{}, err
	}
	return newSignIn(t, refresh, asked.now()), nil
}
