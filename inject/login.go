package inject

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

// A Login is how a person signs in for a credential. It is good for any number of sign-ins.
type Login struct {
	Kept     secrets.Ref       // where the sign-in is kept: in the keyring
	Redirect *url.URL          // where the browser comes back; a loopback address without a port is good with any; nil: by device only
	Extra    map[string]string // further parameters of the authorization request

	g *grant
}

// LoginOf is the login of c, or nil if nobody signs in for it.
func LoginOf(c Credential) *Login {
	if wrapped, ok := c.(*credential); ok {
		if g, ok := wrapped.method.(*grant); ok {
			return g.login
		}
	}
	return nil
}

// Client reads what the authorization server has to be told and where it is. secret is empty for a client that has
// none.
func (l *Login) Client(ctx context.Context) (client oauth.Client, secret secrets.Value, server oauth.Server, err error) {
	if server, err = l.g.endpoints(ctx); err == nil {
		client, secret, err = l.g.asClient(l.Towards(ctx, server))
	}
	return client, secret, server, l.g.explain(ctx, err)
}

// Towards says that secrets go to the server, each of whose endpoints gets some.
func (l *Login) Towards(ctx context.Context, server oauth.Server) context.Context {
	var hosts []string
	for _, endpoint := range []string{server.TokenURL, server.DeviceURL, server.RevocationURL} {
		if host := hostname(endpoint); host != "" {
			hosts = append(hosts, host)
		}
	}
	return secrets.For(ctx, hosts...)
}

// Explain adds to an error of the server what to do about it.
func (l *Login) Explain(ctx context.Context, err error) error { return l.g.explain(ctx, err) }

// hint is what to do once a sign-in has ended.
func (l *Login) hint() string { return "credproxy login " + cmp.Or(l.g.env.Rule, "RULE") }

// loginSettings are the fields of the types for which a person signs in.
type loginSettings struct {
	clientSettings `yaml:",inline"`
	RefreshToken   strict.At[secrets.Ref]       `yaml:"refresh_token" need:"true"`
	DeviceURL      strict.At[string]            `yaml:"device_url"`
	RevocationURL  strict.At[string]            `yaml:"revocation_url"`
	AuthExtra      strict.At[map[string]string] `yaml:"auth_extra"`
}

func (s loginSettings) check(at *yaml.Node, env Env) strict.Errors {
	errs := slices.Concat(s.require(at), s.clientSettings.check(env), s.onlyForClient(), checkEndpoint("device_url", s.DeviceURL),
		checkEndpoint("revocation_url", s.RevocationURL))
	if r := s.RefreshToken; r.Value.Scheme != "" && r.Value.Scheme != "keyring" {
		errs = append(errs, r.Errorf("refresh_token: credproxy login stores it, so it must be keyring:NAME"))
	}
	for _, name := range slices.Sorted(maps.Keys(s.AuthExtra.Value)) {
		if slices.Contains(oauth.ReservedInAuthorization(), name) {
			errs = append(errs, s.AuthExtra.Errorf("auth_extra: must not set %q", name))
		}
	}
	return errs
}

func checkEndpoint(name string, f strict.At[string]) strict.Errors {
	if f.Line == 0 {
		return nil
	}
	if err := oauth.CheckURL(f.Value); err != nil {
		return strict.Errors{f.Errorf("%s: %s", name, err)}
	}
	return nil
}

// grant is a grant that lives on a sign-in, as oauth2_refresh_token lives on one that happened elsewhere.
func (s loginSettings) grant(typ string, env Env) *grant {
	g := s.clientSettings.grant(typ, env, s.RefreshToken.Value)
	g.server.DeviceURL, g.server.RevocationURL = s.DeviceURL.Value, s.RevocationURL.Value
	g.login = &Login{Kept: s.RefreshToken.Value, Extra: s.AuthExtra.Value, g: g}
	g.ask = g.resume
	return g
}

// signedIn is a sign-in as it was stored, and the key of its access token.
type signedIn struct {
	stored secrets.Value
	key    string
}

// tokenKey names the access token. Each sign-in has one of its own, so that a new sign-in counts at once and one that is
// gone no longer does.
func (g *grant) tokenKey(ctx context.Context) (string, error) {
	if g.login == nil {
		return g.key, nil
	}
	v, err := g.env.Secrets.Resolve(ctx, g.login.Kept)
	last := g.signedIn.Load()
	switch {
	case errors.Is(err, secrets.ErrMisdirected):
		return "", err
	case errors.Is(err, secrets.ErrNotFound):
		if last != nil {
			g.env.Tokens.Drop(last.key)
		}
		return "", g.missing(err)
	case err != nil && last == nil:
		return "", err
	case err != nil: // a keyring that was locked since takes no token away
		return last.key, nil
	case last != nil && last.stored.Equal(v):
		return last.key, nil
	}
	now := &signedIn{v, g.key + " " + oauth.ReadSignIn(v).ID}
	if last != nil && last.key != now.key {
		g.env.Tokens.Drop(last.key)
	}
	g.signedIn.Store(now)
	return now.key, nil
}

// missing is err, which for a sign-in that is not there says how to sign in.
func (g *grant) missing(err error) error {
	e, ok := errors.AsType[*secrets.Error](err)
	if !ok || g.login == nil || e.Ref != g.login.Kept.String() || !errors.Is(e, secrets.ErrNotFound) && !errors.Is(e, secrets.ErrCorrupt) {
		return err
	}
	c := *e
	c.Next = g.login.hint()
	if c.Why == "" {
		c.Why = "nobody has signed in so far"
	}
	return &c
}

// resume is an access token from what is left of the last sign-in.
func (g *grant) resume(ctx context.Context) (oauth.Token, error) {
	v, err := g.env.Secrets.Resolve(ctx, g.login.Kept)
	if err != nil {
		return oauth.Token{}, err
	}
	if s := oauth.ReadSignIn(v); s.Refresh.IsZero() {
		return g.unrenewed(s)
	}
	return g.rotate(ctx, g.login.Kept)
}

// A refusedToken is an access token that cannot be renewed, and when an upstream refused it.
type refusedToken struct {
	token secrets.Value
	at    time.Time
}

// refusedFor is how long it is not sent again. Upstreams answer 401 for many reasons, so it is not dead for good.
const refusedFor = time.Minute

// refuse notes that an upstream refused v, if nothing but a person can renew it.
func (g *grant) refuse(v secrets.Value) {
	last := g.signedIn.Load()
	if last == nil {
		return
	}
	if s := oauth.ReadSignIn(last.stored); s.Refresh.IsZero() && s.Token.Access.Equal(v) {
		g.refused.Store(&refusedToken{v, time.Now()})
	}
}

// unrenewed is the access token of a sign-in that has no refresh token.
func (g *grant) unrenewed(s oauth.SignIn) (oauth.Token, error) {
	now := time.Now()
	const given = "and the server gave no refresh token with it"
	if end := s.Token.Expiry; !end.IsZero() && !now.Before(end) {
		return oauth.Token{}, &oauth.Error{Why: "the access token of the sign-in has expired, " + given, SignIn: true}
	}
	if r := g.refused.Load(); r != nil && r.token.Equal(s.Token.Access) && now.Sub(r.at) < refusedFor {
		return oauth.Token{}, &oauth.Error{Why: "the access token of the sign-in was refused with a 401, " + given, SignIn: true}
	}
	return s.Token, nil
}
