package oauth

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/credproxy/credproxy/secrets"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

const (
	requestTimeout = 15 * time.Second
	tries          = 3
	firstPause     = 200 * time.Millisecond
)

// How a Client says who it is (RFC 6749 section 2.3.1).
const (
	AuthBasic         = "basic"           // HTTP Basic, both parts form-urlencoded first
	AuthPost          = "post"            // client_id and client_secret in the body
	AuthPrivateKeyJWT = "private_key_jwt" // an assertion in the body (RFC 7523 section 2.2)
	AuthTLS           = "tls"             // client_id in the body, and a certificate in the handshake (RFC 8705 section 2)
	AuthNone          = "none"            // a public client: client_id only
)

// A Client is an OAuth 2.0 client as an authorization server knows it (RFC 6749 section 2). It keeps nothing between
// requests. Each method is one token request: at most 15 seconds, at most three tries, and a further try only after
// a network error or a 5xx status. Redirects are errors. The error, if any, is an *Error, or a Sign's own.
type Client struct {
	HTTP      *http.Client // required; its redirect policy and cookies are not used; for AuthTLS it shows the certificate
	TokenURL  string       // as CheckURL accepts it
	ID        string
	Auth      string // AuthBasic, AuthPost, AuthPrivateKeyJWT, AuthTLS or AuthNone
	Assertion Sign   // for AuthPrivateKeyJWT: says who the client is
	Scopes    []string
	Audience  string
	Resource  []string           // absolute URIs (RFC 8707 section 2)
	Extra     map[string]string  // further form parameters
	Fields    map[string]Pointer // where the answer has what TokenFields lists; of the rest, as RFC 6749 section 5.1 has it
	Now       func() time.Time   // nil: time.Now

	attended bool // a person signs in: what comes is kept to its end, and what works once is not sent twice
}

// A Sign makes a new assertion (RFC 7521 section 3). It is called once for each try, because servers may take an
// assertion only once.
type Sign func() (secrets.Value, error)

// Reserved lists the form parameters that Extra must not name.
func Reserved() []string {
	return []string{"grant_type", "client_id", "client_secret", "scope", "audience", "refresh_token",
		"client_assertion", "client_assertion_type", "assertion", "code", "username", "password",
		"subject_token", "subject_token_type", "actor_token", "actor_token_type", "requested_token_type", "code_verifier", "device_code"}
}

// fieldExpiresAt is a time of expiry, for servers that do not send how long a token lives.
const fieldExpiresAt = "expires_at"

// TokenFields lists the fields of an answer that can be somewhere else.
func TokenFields() []string {
	return []string{"access_token", "refresh_token", "token_type", "expires_in", fieldExpiresAt}
}

// CheckURL reports why a token endpoint cannot be asked at raw: it must be https, or http to loopback, with a host
// and without user information or fragment (RFC 6749 section 3.2). The error does not repeat raw.
func CheckURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return errors.New("want an absolute URL such as https://login.example.com/oauth/token")
	case u.User != nil:
		return errors.New("a user name or password in the URL is not allowed")
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return errors.New("a fragment (#) in the URL is not allowed")
	case u.Scheme == "https" || u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	}
	return errors.New("want https:// (http:// only to loopback)")
}

func loopback(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && addr.IsLoopback()
}

// ClientCredentials asks for a token for the client itself (RFC 6749 section 4.4).
func (c *Client) ClientCredentials(ctx context.Context, secret secrets.Value) (Token, error) {
	t, _, err := c.grant(ctx, secret, "client_credentials", nil)
	return t, err
}

// JWTBearer asks for a token with an assertion (RFC 7523 section 2.1). secret is empty for a client that has none; ID
// may be empty too.
func (c *Client) JWTBearer(ctx context.Context, secret secrets.Value, assertion Sign) (Token, error) {
	t, _, err := c.grant(ctx, secret, "urn:ietf:params:oauth:grant-type:jwt-bearer", proofs{"assertion": assertion})
	if e, ok := errors.AsType[*Error](err); ok {
		e.signed = true
	}
	return t, err
}

// Refresh asks for a token with a refresh token (RFC 6749 section 6). next, if not empty, replaces current and must
// be stored before anything else happens: it can be set even if err is not nil.
func (c *Client) Refresh(ctx context.Context, secret, current secrets.Value) (t Token, next secrets.Value, err error) {
	t, next, err = c.grant(ctx, secret, "refresh_token", proofs{"refresh_token": fixed(current)})
	if next.Equal(current) {
		next = secrets.Value{}
	}
	return t, next, err
}

// proofs are the form parameters that are secrets.
type proofs map[string]Sign

// fixed is a proof that is the same for each try.
func fixed(v secrets.Value) Sign { return func() (secrets.Value, error) { return v, nil } }

// made is what the proofs are for one try.
func (p proofs) made() (map[string]secrets.Value, error) {
	out := make(map[string]secrets.Value, len(p))
	for name, sign := range p {
		v, err := sign()
		if err != nil {
			return nil, err
		}
		out[name] = v
	}
	return out, nil
}

// grant makes the request until it has an answer or no more tries.
func (c *Client) grant(ctx context.Context, secret secrets.Value, kind string, with proofs) (Token, secrets.Value, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	with, err := c.identified(with)
	if err != nil {
		return Token{}, secrets.Value{}, err
	}
	once := func() (Token, secrets.Value, error) {
		proof, err := with.made()
		if err != nil {
			return Token{}, secrets.Value{}, err
		}
		return c.once(ctx, secret, kind, proof)
	}
	if c.attended {
		return once()
	}
	return inTries(ctx, once)
}

// inTries calls once until it has an answer or no more tries.
func inTries(ctx context.Context, once func() (Token, secrets.Value, error)) (Token, secrets.Value, error) {
	for try := 1; ; try++ {
		t, next, err := once()
		if failed, ok := errors.AsType[*Error](err); !ok || !failed.again || try == tries || !next.IsZero() || !pause(ctx, try) {
			return t, next, err
		}
	}
}

// identified adds the client's own assertion, if that is how it says who it is.
func (c *Client) identified(with proofs) (proofs, error) {
	if c.Auth != AuthPrivateKeyJWT {
		return with, nil
	}
	if c.Assertion == nil {
		return nil, &Error{Why: "there is no assertion that says who the client is"}
	}
	all := proofs{"client_assertion": c.Assertion}
	maps.Copy(all, with)
	return all, nil
}

// pause waits before the next try, longer each time. It reports whether there is time for one.
func pause(ctx context.Context, try int) bool {
	wait := firstPause << (2 * (try - 1))
	wait += rand.N(wait / 2)
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < wait {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// once makes one request. x/oauth2 builds it and says who the client is; its context lives as long as the call.
func (c *Client) once(ctx context.Context, secret secrets.Value, kind string, proof map[string]secrets.Value) (Token, secrets.Value, error) {
	sent := append(slices.Collect(maps.Values(proof)), secret)
	if c.HTTP == nil {
		return Token{}, secrets.Value{}, &Error{Why: "there is no HTTP client to ask with"}
	}
	asked := c.now()
	a := &answer{base: cmp.Or(c.HTTP.Transport, http.DefaultTransport), fields: c.Fields, now: asked}
	if c.attended {
		a.longest = maxAttended
	}
	hc := http.Client{Transport: a, Timeout: c.HTTP.Timeout, CheckRedirect: noRedirect}
	cfg := clientcredentials.Config{
		ClientID: c.ID, ClientSecret: secret.Reveal(), TokenURL: c.TokenURL, Scopes: c.Scopes,
		AuthStyle: oauth2.AuthStyleInParams, EndpointParams: c.params(kind, proof),
	}
	if c.Auth == AuthBasic {
		cfg.AuthStyle = oauth2.AuthStyleInHeader
	}
	t, err := cfg.Token(context.WithValue(ctx, oauth2.HTTPClient, &hc))
	next := secrets.NewValue(a.refresh)
	if err != nil || a.fault != "" {
		return Token{}, next, failure(a, c.TokenURL, err, sent)
	}
	token := Token{Access: secrets.NewValue(t.AccessToken), Type: "Bearer"}
	if a.expires {
		token.Expiry = asked.Round(0).Add(a.lifetime)
	}
	return token, next, nil
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func (c *Client) params(kind string, proof map[string]secrets.Value) url.Values {
	form := url.Values{"grant_type": {kind}}
	for name, value := range c.Extra {
		form.Set(name, value)
	}
	if c.Audience != "" {
		form.Set("audience", c.Audience)
	}
	if len(c.Resource) > 0 {
		form["resource"] = c.Resource
	}
	if c.Auth == AuthPrivateKeyJWT {
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	}
	for name, v := range proof {
		form.Set(name, v.Reveal())
	}
	return form
}

func (c *Client) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// failure is what a and err come to. x/oauth2's own errors print the server's answer, so they end here.
func failure(a *answer, endpoint string, err error, sent []secrets.Value) *Error {
	e := &Error{Status: a.status, Why: a.fault, after: a.after, again: serverTrouble(a.status)}
	if u, err := url.Parse(endpoint); err == nil {
		e.Host = u.Host
	}
	var refused *oauth2.RetrieveError
	var lost *url.Error
	switch {
	case a.fault != "":
		e.again = false
	case errors.As(err, &refused):
		e.Code, e.Description = code(refused.ErrorCode, sent), safe(refused.ErrorDescription, sent)
		if e.Code == "" && e.Description == "" {
			e.Why = "no token was given, and no reason"
		}
	case timedOut(err):
		e.timeout, e.Why = true, "no answer in time"
	case errors.Is(err, context.Canceled):
		e.Why, e.cause = "interrupted", context.Canceled
	case errors.As(err, &lost):
		e.again, e.Why = true, safe(lost.Err.Error(), sent)
	default:
		e.Why = "the request could not be made"
	}
	return e
}

func timedOut(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}
