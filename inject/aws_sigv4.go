package inject

import (
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

type sigV4Settings struct {
	AccessKeyID     strict.At[secrets.Ref] `yaml:"access_key_id"`
	SecretAccessKey strict.At[secrets.Ref] `yaml:"secret_access_key"`
	SessionToken    strict.At[secrets.Ref] `yaml:"session_token"`
	Credentials     strict.At[secrets.Ref] `yaml:"credentials"`
	Region          strict.At[string]      `yaml:"region"`
	Service         strict.At[string]      `yaml:"service"`
}

// A sigV4 signs requests for AWS, and for what speaks its protocol (Signature Version 4). A client has signed them
// with keys that mean nothing; what it said that way of region, service, form and body holds for our signature too.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
type sigV4 struct {
	env               Env
	id, secret, token secrets.Ref // token may be zero
	process           secrets.Ref // or all three in one, as credential_process prints them
	region, service   string      // empty: those of the client's signature
	parsed            parsed[processKeys]
	derived           atomic.Pointer[derivedKey]
	clocks            clocks
	now               func() time.Time
}

func newSigV4(s sigV4Settings, at *yaml.Node, env Env) (method, strict.Errors) {
	if errs := s.check(at); len(errs) > 0 {
		return nil, errs
	}
	return &sigV4{
		env: env, id: s.AccessKeyID.Value, secret: s.SecretAccessKey.Value, token: s.SessionToken.Value,
		process: s.Credentials.Value, region: s.Region.Value, service: s.Service.Value, now: time.Now,
	}, nil
}

func (s sigV4Settings) check(at *yaml.Node) (errs strict.Errors) {
	keys := []struct {
		name  string
		field strict.At[secrets.Ref]
		need  bool
	}{{"access_key_id", s.AccessKeyID, true}, {"secret_access_key", s.SecretAccessKey, true}, {"session_token", s.SessionToken, false}}
	for _, key := range keys {
		given := key.field.Line != 0
		switch whole := s.Credentials.Line != 0; {
		case whole && given:
			errs = append(errs, key.field.Errorf("%s: credentials holds it already; leave one out", key.name))
		case !whole && !given && key.need:
			errs = append(errs, strict.Errorf(at, "missing field %q (or credentials, which holds all keys in one)", key.name))
		}
	}
	for _, part := range []struct {
		name  string
		field strict.At[string]
	}{{"region", s.Region}, {"service", s.Service}} {
		if part.field.Line != 0 && !isScopePart(part.field.Value) {
			errs = append(errs, part.field.Errorf("%s: want 1 to 64 letters, digits, dashes and underscores", part.name))
		}
	}
	return errs
}

// isScopePart reports whether s can be a region or a service. Both become part of a header and of the signing key.
func isScopePart(s string) bool {
	bad := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	}
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, bad)
}

// Apply returns the values of refs, in their order, then the secret parts of a value that holds several, and the
// signature if it was made by a corrected clock. Nothing of req is changed until all that can fail is done, except for
// the body's being held.
func (a *sigV4) Apply(req *http.Request) ([]secrets.Value, error) {
	ahead := a.clocks.ahead(req.URL.Host)
	now := a.now().Add(ahead).UTC()
	keys, used, err := a.keys(req.Context(), now)
	if err != nil {
		return nil, err
	}
	c, err := readSigV4(req)
	if err != nil {
		return nil, err
	}
	if err := c.settle(a.region, a.service); err != nil {
		return nil, err
	}
	if err := c.readBody(req); err != nil {
		return nil, err
	}
	signature := c.sign(req, keys, a.signingKey(keys.secret, c, now), now)
	if ahead != 0 { // the keys are the same as before, but it is worth sending again
		used = append(used, secrets.NewValue(signature))
	}
	return used, nil
}

// signingKey is the key for one day, region and service. The last one is kept, and no more: clients choose the scope.
func (a *sigV4) signingKey(secret secrets.Value, c *sigV4Request, now time.Time) []byte {
	scope := c.scope(now)
	if last := a.derived.Load(); last != nil && last.scope == scope && last.secret.Equal(secret) {
		return last.key
	}
	fresh := &derivedKey{scope, secret, deriveKey(secret, now, c.region, c.service)}
	a.derived.Store(fresh)
	return fresh.key
}

// A derivedKey is the key that signs (and no more than that) for one scope.
type derivedKey struct {
	scope  string
	secret secrets.Value // that it was derived from
	key    []byte
}

// refs lists what is resolved for a request.
func (a *sigV4) refs() []secrets.Ref {
	if !a.process.IsZero() {
		return []secrets.Ref{a.process}
	}
	if a.token.IsZero() {
		return []secrets.Ref{a.secret, a.id}
	}
	return []secrets.Ref{a.secret, a.id, a.token}
}

func (a *sigV4) Reject(used []secrets.Value) {
	for i, ref := range a.refs() {
		if i < len(used) {
			a.env.Secrets.Reject(ref, used[i])
		}
	}
}

// staleKeys are AWS's errors for keys that are no longer good.
var staleKeys = map[string]bool{
	"ExpiredToken": true, "ExpiredTokenException": true, "UnrecognizedClientException": true, "InvalidClientTokenId": true,
}

// Answer corrects the clock by the server's, and drops keys that may be stale. The error's code mostly stands in the
// body, so the status and the Date must do.
func (a *sigV4) Answer(resp *http.Response, used []secrets.Value, sent int) (again bool) {
	switch resp.StatusCode {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
	default:
		return false
	}
	corrected := false
	if resp.Request != nil {
		host := resp.Request.URL.Host
		server, err := http.ParseTime(resp.Header.Get("Date"))
		kept := resp.Header.Get("Age") != "" // by a cache, which leaves the Date as it was
		if err == nil && !kept && a.clocks.learn(host, server, a.now()) {
			return sent == 1
		}
		corrected = a.clocks.ahead(host) != 0
	}
	code, _, _ := strings.Cut(resp.Header.Get("X-Amzn-Errortype"), ":")
	temporary := !a.token.IsZero() || !a.process.IsZero()
	switch {
	case staleKeys[code], resp.StatusCode == http.StatusUnauthorized:
	case resp.StatusCode == http.StatusForbidden && temporary:
	default: // most of what is forbidden is so for good keys too
		return false
	}
	a.Reject(used)
	return sent == 1 && !corrected // with a corrected clock each signature differs, whether the keys do or not
}

// signs reports whether a change at t could break the signature. The client chooses which headers are signed.
func (a *sigV4) signs(Target) bool { return true }

func (a *sigV4) Targets() []Target {
	who, with, token := shown(a.id), shown(a.secret), a.token
	if !a.process.IsZero() {
		who, with, token = shown(a.process), shown(a.process), a.process
	}
	signature := "<signature for " + who + ", with " + with + ">"
	out := []Target{{"header", "Authorization", sigV4Algorithm + " " + signature}, {"header", amzDate, "<now>"}}
	if !token.IsZero() {
		out = append(out, Target{"header", amzToken, shown(token)})
	}
	return append(out, Target{"query", amzSignature, "<the signature of a request that came presigned>"})
}
