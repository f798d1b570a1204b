package inject

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

type oauth1Settings struct {
	ConsumerKey     strict.At[textOrRef]   `yaml:"consumer_key" need:"true"`
	ConsumerSecret  strict.At[secrets.Ref] `yaml:"consumer_secret"`
	Token           strict.At[textOrRef]   `yaml:"token"`
	TokenSecret     strict.At[secrets.Ref] `yaml:"token_secret"`
	SignatureMethod string                 `yaml:"signature_method" oneof:"HMAC-SHA1|HMAC-SHA256|RSA-SHA1|PLAINTEXT"`
	PrivateKey      strict.At[secrets.Ref] `yaml:"private_key"`
	Realm           strict.At[string]      `yaml:"realm"`
	Placement       string                 `yaml:"placement" oneof:"header|query|body"`
	BodyHash        *bool                  `yaml:"body_hash"`
}

// An oauth1 is a signature of the whole request (RFC 5849). The fields of a form are signed with it; of another body the
// hash is (draft-eaton-oauth-bodyhash-00).
type oauth1 struct {
	env                         Env
	consumerKey, token          textOrRef // token may be zero
	consumerSecret, tokenSecret secrets.Ref
	privateKey                  secrets.Ref
	method, placement, realm    string
	bodyHash                    bool

	key   parsed[*rsa.PrivateKey]
	now   func() time.Time
	nonce func() string
}

// protocolParams are those that the client must not send beside ours. Others, such as oauth_verifier, are its own.
var protocolParams = []string{
	"oauth_consumer_key", "oauth_token", "oauth_signature_method", "oauth_timestamp", "oauth_nonce", "oauth_version",
	"oauth_body_hash", "oauth_signature",
}

func newOAuth1(s oauth1Settings, at *yaml.Node, env Env) (method, strict.Errors) {
	o := &oauth1{
		env: env, consumerKey: s.ConsumerKey.Value, token: s.Token.Value,
		consumerSecret: s.ConsumerSecret.Value, tokenSecret: s.TokenSecret.Value, privateKey: s.PrivateKey.Value,
		method: cmp.Or(s.SignatureMethod, hmacSHA1), placement: cmp.Or(s.Placement, "header"), realm: s.Realm.Value,
		bodyHash: s.BodyHash == nil || *s.BodyHash, now: time.Now, nonce: rand.Text,
	}
	if errs := s.check(at, o); len(errs) > 0 {
		return nil, errs
	}
	return o, nil
}

func (s oauth1Settings) check(at *yaml.Node, o *oauth1) (errs strict.Errors) {
	unused := func(name string, field strict.At[secrets.Ref]) {
		if field.Line != 0 {
			errs = append(errs, field.Errorf("%s: is not used with signature_method %s", name, o.method))
		}
	}
	needed := func(name string, field strict.At[secrets.Ref]) {
		if field.Line == 0 {
			errs = append(errs, strict.Errorf(at, "missing field %q", name))
		}
	}
	switch o.method {
	case rsaSHA1:
		needed("private_key", s.PrivateKey)
		unused("consumer_secret", s.ConsumerSecret)
		unused("token_secret", s.TokenSecret)
	case hmacSHA1, hmacSHA256, plaintext:
		needed("consumer_secret", s.ConsumerSecret)
		unused("private_key", s.PrivateKey)
	}
	if s.TokenSecret.Line != 0 && s.Token.Line == 0 {
		errs = append(errs, s.TokenSecret.Errorf("token_secret: needs a token"))
	}
	for name, field := range map[string]strict.At[textOrRef]{"consumer_key": s.ConsumerKey, "token": s.Token} {
		if bad := badText(field.Value.Text); field.Value.Text != "" && bad != "" {
			errs = append(errs, field.Errorf("%s: %s", name, bad))
		}
	}
	switch {
	case o.realm == "":
	case badHeaderValue(o.realm) != "" || strings.ContainsAny(o.realm, `"\`):
		errs = append(errs, s.Realm.Errorf("realm: want ASCII text without quotes and backslashes"))
	case o.placement != "header":
		errs = append(errs, s.Realm.Errorf("realm: stands in the header only (RFC 5849 section 3.5.1)"))
	}
	return errs
}

// Apply returns the values of refs, in their order, and of a PLAINTEXT signature its form on the wire.
func (o *oauth1) Apply(req *http.Request) ([]secrets.Value, error) {
	keys, params, used, err := o.resolve(req.Context())
	if err != nil {
		return nil, err
	}
	params = append(params,
		param{"oauth_signature_method", o.method},
		param{"oauth_timestamp", strconv.FormatInt(o.now().Unix(), 10)},
		param{"oauth_nonce", o.nonce()},
		param{"oauth_version", "1.0"})
	body, err := o.body(req)
	if err != nil {
		return nil, err
	}
	if body.hash != "" {
		params = append(params, param{"oauth_body_hash", body.hash})
	}
	req.URL.RawQuery = withoutParams(req.URL.RawQuery, protocolParams)
	form := withoutParams(body.form, protocolParams)
	if hasScheme(req, "OAuth") { // RFC 5849 section 3.2: one place only
		delete(req.Header, "Authorization")
	}
	signed := slices.Concat(parseForm(req.URL.RawQuery), parseForm(form), params)
	signature, err := keys.sign(o.method, baseString(req.Method, baseURI(req), signed))
	if err != nil {
		return nil, err
	}
	params = append(params, param{"oauth_signature", signature})
	switch {
	case o.placement == "header":
		setHeader(req, "Authorization", o.authorization(params))
	case o.placement == "query":
		req.URL.RawQuery = appendParams(req.URL.RawQuery, params)
	default:
		form = appendParams(form, params)
	}
	if form != body.form {
		setBody(req, []byte(form))
	}
	if o.method == plaintext {
		used = append(used, secrets.NewValue(signature), secrets.NewValue(escapeOAuth(signature)))
	}
	return used, nil
}

// refs lists what is resolved for a request.
func (o *oauth1) refs() []secrets.Ref {
	all := []secrets.Ref{o.consumerSecret, o.tokenSecret, o.privateKey, o.consumerKey.Ref, o.token.Ref}
	return slices.DeleteFunc(all, secrets.Ref.IsZero)
}

// resolve returns the keys, the parameters that say who signs, and the values of refs.
func (o *oauth1) resolve(ctx context.Context) (keys oauth1Keys, params []param, used []secrets.Value, err error) {
	text := map[secrets.Ref]string{}
	for _, ref := range o.refs() {
		bad, what := badText, ""
		if ref == o.privateKey {
			what = wantsRSA
			bad = func(s string) (why string) {
				keys.private, why = o.key.of(secrets.NewValue(s), rsaKey)
				return why
			}
		}
		v, err := o.env.useAs(ctx, ref, what, bad)
		if err != nil {
			return keys, nil, nil, err
		}
		used, text[ref] = append(used, v), v.Reveal()
	}
	keys.consumerSecret, keys.tokenSecret = text[o.consumerSecret], text[o.tokenSecret]
	params = []param{{"oauth_consumer_key", cmp.Or(o.consumerKey.Text, text[o.consumerKey.Ref])}}
	if token := cmp.Or(o.token.Text, text[o.token.Ref]); token != "" {
		params = append(params, param{"oauth_token", token})
	}
	return keys, params, used, nil
}

// oauth1Body is what is signed of a body: the fields of a form, or the hash of anything else.
type oauth1Body struct{ form, hash string }

func (o *oauth1) body(req *http.Request) (oauth1Body, error) {
	form := isForm(req)
	switch {
	case o.placement == "body" && !form:
		return oauth1Body{}, &misfit{"bad_body", "the request's body is no form, so the OAuth 1.0 parameters have no place in it",
			"use placement: header or query for such requests, in a rule of their own"}
	case req.Body == nil || req.Body == http.NoBody:
		return oauth1Body{}, nil
	case o.placement != "body" && (o.method == plaintext || !form && !o.bodyHash):
		return oauth1Body{}, nil // nothing of the body is signed, so it need not be read
	case form:
		body, err := wholeBody(req, "send less at once, or as another type than a form")
		return oauth1Body{form: string(body)}, err
	}
	body, err := wholeBody(req, "set body_hash: false in the rule, if the API takes requests whose body is not signed")
	if err != nil {
		return oauth1Body{}, err
	}
	sum := hashOf(o.method)()
	sum.Write(body)
	return oauth1Body{hash: base64.StdEncoding.EncodeToString(sum.Sum(nil))}, nil
}

// authorization is RFC 5849 section 3.5.1.
func (o *oauth1) authorization(params []param) string {
	var b strings.Builder
	b.WriteString("OAuth ")
	if o.realm != "" {
		b.WriteString(`realm="` + o.realm + `", `)
	}
	for i, p := range params {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(p.name + `="` + escapeOAuth(p.value) + `"`)
	}
	return b.String()
}

// hasScheme reports whether req's Authorization is of scheme (RFC 9110 section 11.4).
func hasScheme(req *http.Request, scheme string) bool {
	return slices.ContainsFunc(req.Header["Authorization"], func(line string) bool {
		first, _, _ := strings.Cut(strings.TrimLeft(line, " \t"), " ")
		return strings.EqualFold(first, scheme)
	})
}

// appendParams adds params to a raw query or form.
func appendParams(raw string, params []param) string {
	encoded := make([]param, len(params))
	for i, p := range params {
		encoded[i] = param{p.name, escapeOAuth(p.value)}
	}
	if raw != "" {
		raw += "&"
	}
	return raw + joinParams(encoded)
}

func (o *oauth1) Reject(used []secrets.Value) {
	for i, ref := range o.refs() {
		if i < len(used) {
			o.env.Secrets.Reject(ref, used[i])
		}
	}
}

// signs reports whether a change at t would break the signature.
func (o *oauth1) signs(t Target) bool { return t.In != "header" && t.In != "cookie" }

func (o *oauth1) Targets() []Target {
	with := "with " + shown(o.consumerSecret)
	if o.method == rsaSHA1 {
		with = "with " + shown(o.privateKey)
	}
	if !o.tokenSecret.IsZero() {
		with += " and " + shown(o.tokenSecret)
	}
	if o.placement == "header" {
		return []Target{{"header", "Authorization", "OAuth <" + o.method + " signature for " + o.consumerKey.shows() + ", " + with + ">"}}
	}
	shows := map[string]string{
		"oauth_consumer_key": o.consumerKey.shows(), "oauth_token": o.token.shows(), "oauth_signature_method": o.method,
		"oauth_timestamp": "<now>", "oauth_nonce": "<random>", "oauth_version": "1.0", "oauth_signature": "<signature " + with + ">",
	}
	var out []Target
	for _, name := range protocolParams {
		if shows[name] != "" {
			out = append(out, Target{o.placement, name, shows[name]})
		}
	}
	return out
}
