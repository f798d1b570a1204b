package inject

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
)

// A grant is a bearer token from a token endpoint.
type grant struct {
	env      Env
	blame    string // the settings that can make the server refuse what signer signs
	client   oauth.Client
	secret   secrets.Ref   // of the client; zero if it has none
	issuer   string        // says where the server is; empty: server says it
	server   oauth.Server  // what the rule itself says of it
	signer   secrets.Ref   // the key that signs assertions; zero if there are none
	subject  secrets.Ref   // the token that is exchanged; zero if there is none
	password secrets.Ref   // of a person; zero if there is none
	audience string        // of the client's assertions; empty: the token endpoint
	proof    *asserter     // says who the client is; nil: something else does
	refs     []secrets.Ref // all that the token is asked for with
	login    *Login        // how a person signs in; nil: nobody does
	key      string
	host     string
	ask      func(ctx context.Context) (oauth.Token, error)
	renew    func(ctx context.Context) (oauth.Token, error) // ask, with hints

	found    atomic.Pointer[metadata]
	failed   atomic.Pointer[[]secrets.Value] // what refs were when ask last failed
	signedIn atomic.Pointer[signedIn]        // the last sign-in that was seen
	refused  atomic.Pointer[refusedToken]
}

// metadata is what an issuer said last.
type metadata struct {
	server oauth.Server
	when   time.Time
}

// metadataLife is how long the answer of an issuer is taken for true.
const metadataLife = time.Hour

// endpoints is the server as the rule has it, and beyond that as its issuer does.
func (g *grant) endpoints(ctx context.Context) (oauth.Server, error) {
	if g.issuer == "" {
		return g.server, nil
	}
	now := time.Now().Round(0)
	f := g.found.Load()
	if f == nil || now.Before(f.when) || now.Sub(f.when) >= metadataLife {
		server, err := oauth.Discover(ctx, g.env.HTTP, g.issuer, g.client.Auth == oauth.AuthTLS)
		if err != nil {
			return oauth.Server{}, err
		}
		f = &metadata{server, now}
		g.found.Store(f)
	}
	s := f.server
	s.AuthorizationURL = cmp.Or(g.server.AuthorizationURL, s.AuthorizationURL)
	s.DeviceURL = cmp.Or(g.server.DeviceURL, s.DeviceURL)
	s.RevocationURL = cmp.Or(g.server.RevocationURL, s.RevocationURL)
	return s, nil
}

func (s clientSettings) grant(typ string, env Env, refs ...secrets.Ref) *grant {
	g := &grant{env: env, issuer: s.Issuer.Value, secret: s.ClientSecret.Value, refs: refs, client: oauth.Client{
		HTTP: env.HTTP, TokenURL: s.TokenURL.Value, ID: s.ClientID.Value, Auth: s.auth(),
		Scopes: s.Scopes.Value, Audience: s.Audience, Resource: s.Resource.Value, Extra: s.Extra.Value,
		Fields: s.fields(),
	}}
	g.server.TokenURL = g.client.TokenURL
	if !g.secret.IsZero() {
		g.refs = append(g.refs, g.secret)
	}
	if u, err := url.Parse(cmp.Or(g.client.TokenURL, g.issuer)); err == nil {
		g.host = u.Host
	}
	g.key = fingerprint(typ, g.client, g.refs, g.issuer)
	switch g.client.Auth {
	case oauth.AuthPrivateKeyJWT:
		g.identify(typ, s)
	case oauth.AuthTLS:
		g.show(typ, env.Certificate)
	}
	g.renew = func(ctx context.Context) (oauth.Token, error) {
		ctx, err := g.towards(ctx)
		var t oauth.Token
		if err == nil {
			t, err = g.ask(ctx)
		}
		return t, g.explain(ctx, err)
	}
	return g
}

// identify has the client say who it is with assertions.
func (g *grant) identify(typ string, s clientSettings) {
	if g.proof = s.asserter(g.env, assertionLifetime); g.proof == nil {
		return
	}
	g.audience = s.AssertionAudience.Value
	g.signer, g.blame = s.Key.Value, "client_id, key_id, algorithm and assertion_audience"
	g.refs = append(g.refs, g.signer)
	g.key = fingerprint(typ, g.client, g.refs, g.issuer, g.proof.name, g.proof.keyID, g.audience)
}

// show has the client say who it is with a certificate (RFC 8705 section 2).
func (g *grant) show(typ string, c *Certificate) {
	if c == nil { // reported by checkAuth
		return
	}
	g.client.HTTP, g.signer = c.HTTP, c.Key
	g.refs = append(g.refs, c.Key)
	g.key = fingerprint(typ, g.client, g.refs, g.issuer, c.ID)
}

// fingerprint names the token: credentials with equal settings share one, and it survives a reload of the rules.
func fingerprint(typ string, c oauth.Client, refs []secrets.Ref, more ...any) string {
	parts := append([]any{typ, c.TokenURL, c.ID, c.Auth, c.Scopes, c.Audience, c.Resource, c.Extra, c.Fields}, more...)
	for _, r := range refs {
		parts = append(parts, r.Scheme, r.Name, r.Field, r.TTL, r.Timeout) // r itself does not show all of itself
	}
	text, err := json.Marshal(parts)
	if err != nil {
		panic(err) // strings, numbers and maps of strings have a JSON form
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// towards says that secrets go to the token endpoint.
func (g *grant) towards(ctx context.Context) (context.Context, error) {
	server, err := g.endpoints(ctx)
	if err != nil {
		return ctx, err
	}
	if server.TokenURL == "" { // the key says it, before it is used
		return ctx, nil
	}
	return secrets.For(ctx, hostname(server.TokenURL)), nil
}

// may reports whether a token that was made of the grant's secrets may go where ctx says: a secret's hosts are also those of
// what it is exchanged for.
func (g *grant) may(ctx context.Context) error {
	for _, ref := range g.refs {
		if err := g.env.Secrets.May(ctx, ref); err != nil {
			return err
		}
	}
	return nil
}

// token is a token that is good now.
func (g *grant) token(ctx context.Context) (oauth.Token, error) {
	t, err := g.renewed(ctx)
	if err == nil {
		err = g.may(ctx)
	}
	if err != nil {
		return oauth.Token{}, err
	}
	return t, nil
}

func (g *grant) renewed(ctx context.Context) (oauth.Token, error) {
	key, err := g.tokenKey(ctx)
	if err != nil {
		return oauth.Token{}, err
	}
	t, err := g.env.Tokens.Token(ctx, key, g.renew)
	if err != nil && g.changed(ctx) {
		g.env.Tokens.Retry(key)
		t, err = g.env.Tokens.Token(ctx, key, g.renew)
	}
	return t, err
}

func (g *grant) Apply(req *http.Request) ([]secrets.Value, error) {
	t, err := g.token(req.Context())
	if err != nil {
		return nil, err
	}
	setHeader(req, "Authorization", "Bearer "+t.Access.Reveal())
	return []secrets.Value{t.Access}, nil
}

func (g *grant) Reject(used []secrets.Value) {
	key := g.key
	if s := g.signedIn.Load(); s != nil {
		key = s.key
	}
	for _, v := range used {
		g.refuse(v)
		g.env.Tokens.Reject(key, v)
	}
}

func (*grant) asksServer() {}

func (g *grant) sendsTo() []string {
	if g.issuer != "" || g.host == "" {
		return nil // a server says it, or the key
	}
	return []string{hostname("https://" + g.host)}
}

func (g *grant) Targets() []Target {
	from := g.host
	if from == "" {
		from = "the token_uri of " + g.signer.String()
	}
	return []Target{{"header", "Authorization", "Bearer <access token from " + from + ">"}}
}

// asClient is the client, ready to say who it is (RFC 7523 section 3 for assertions), and its secret, empty if it has none.
func (g *grant) asClient(ctx context.Context) (client oauth.Client, secret secrets.Value, err error) {
	client = g.client
	server, err := g.endpoints(ctx)
	if err != nil {
		return oauth.Client{}, secrets.Value{}, err
	}
	client.TokenURL = server.TokenURL
	if client.Auth == oauth.AuthTLS { // a key that cannot be had is told better here than by a failed handshake
		_, err = g.env.Secrets.Resolve(ctx, g.signer)
		return client, secrets.Value{}, err
	}
	if g.proof == nil {
		secret, err = g.clientSecret(ctx)
		return client, secret, err
	}
	key, err := g.proof.load(ctx, false)
	if err != nil {
		return oauth.Client{}, secrets.Value{}, err
	}
	claims := map[string]any{"iss": client.ID, "sub": client.ID, "aud": cmp.Or(g.audience, client.TokenURL)}
	client.Assertion = func() (secrets.Value, error) { return g.proof.sign(key, claims) }
	return client, secrets.Value{}, nil
}

// clientSecret is the client's secret, empty if it has none.
func (g *grant) clientSecret(ctx context.Context) (secrets.Value, error) {
	if g.secret.IsZero() {
		return secrets.Value{}, nil
	}
	return g.env.Secrets.Resolve(ctx, g.secret)
}

// explain adds to a token endpoint's error what to do, and remembers with which secrets it came about.
func (g *grant) explain(ctx context.Context, err error) error {
	refused, ok := errors.AsType[*oauth.Error](err)
	if !ok {
		return g.missing(err)
	}
	now := g.current(ctx)
	g.failed.Store(&now)
	e := *refused
	switch {
	case e.Next != "": // it says so itself
	case !g.subject.IsZero() && (e.Code == "invalid_grant" || e.Code == "invalid_request"): // RFC 8693 section 2.2.2
		g.env.Secrets.Reject(g.subject, now[0]) // what renews it may have done so
		e.Next = replaceHint(g.subject, "a fresh one") + ", or check subject_token_type"
	case !g.password.IsZero() && e.Code == "invalid_grant":
		g.env.Secrets.Reject(g.password, now[0])
		e.Next = replaceHint(g.password, "") + ", or check username; the server is not asked again before that, or for an hour"
	case e.Slug() == "token_expired" && g.login != nil:
		e.Next = g.login.hint()
	case e.Slug() == "token_expired":
		e.Next = replaceHint(g.refs[0], "a fresh one: this one is expired or revoked")
	case !g.signer.IsZero() && (e.Status == http.StatusUnauthorized || e.Code == "invalid_grant" || e.Code == "invalid_client" || e.Code == "unauthorized_client"):
		e.Next = g.distrust(now)
	case (e.Code == "invalid_client" || e.Code == "unauthorized_client") && !g.secret.IsZero():
		// It may be a stale copy of a secret that was changed behind our back.
		g.env.Secrets.Reject(g.secret, now[len(now)-1])
		e.Next = replaceHint(g.secret, "or check client_id and client_auth")
	default:
		e.Next = g.advice(&e)
	}
	return &e
}

// distrust is for an assertion that the server refused. The key may be a stale copy of one that was replaced.
func (g *grant) distrust(now []secrets.Value) string {
	g.env.Secrets.Reject(g.signer, now[slices.Index(g.refs, g.signer)])
	if g.client.Auth == oauth.AuthTLS {
		return "check client_id and tls.cert in the rules file, and that the server knows the certificate of the key " + g.signer.String()
	}
	return "check " + g.blame + " in the rules file, this computer's clock, and that the server knows the key " + g.signer.String()
}

// advice is what to do about a failure that no new secret helps against.
func (g *grant) advice(e *oauth.Error) string {
	switch {
	case e.Status == 0 || e.Slug() == "token_timeout":
		return "is " + cmp.Or(e.Host, g.host) + " reachable from this machine?"
	case e.Status == http.StatusTooManyRequests || e.Status >= http.StatusInternalServerError:
		return "wait; credproxy asks " + cmp.Or(e.Host, g.host) + " again by itself"
	case e.Code != "" || e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden:
		return "check client_id, client_auth, scopes and audience in the rules file"
	}
	return "check token_url or issuer in the rules file"
}

// changed reports whether a secret is another than when the renewal failed, so that "secret set" helps at once.
func (g *grant) changed(ctx context.Context) bool {
	then := g.failed.Load()
	if then == nil {
		return false
	}
	for i, v := range g.current(ctx) {
		if !v.IsZero() && !v.Equal((*then)[i]) {
			return true
		}
	}
	return false
}

// current is the value of each of refs, empty where it cannot be had.
func (g *grant) current(ctx context.Context) []secrets.Value {
	out := make([]secrets.Value, len(g.refs))
	for i, r := range g.refs {
		if v, err := g.env.Secrets.Resolve(ctx, r); err == nil {
			out[i] = v
		}
	}
	return out
}
