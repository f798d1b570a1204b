package inject

import (
	"cmp"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/secrets"
	"github.com/golang-jwt/jwt/v5"
	"gopkg.in/yaml.v3"
)

type jwtSettings struct {
	Algorithm   string                    `yaml:"algorithm" need:"true" oneof:"HS256|HS384|HS512|RS256|RS384|RS512|PS256|PS384|PS512|ES256|ES384|ES512|EdDSA"`
	Key         secrets.Ref               `yaml:"key" need:"true"`
	KeyEncoding strict.At[string]         `yaml:"key_encoding" oneof:"text|base64|hex"`
	KeyID       strict.At[string]         `yaml:"key_id"`
	Claims      strict.At[map[string]any] `yaml:"claims"`
	Generate    strict.At[[]string]       `yaml:"generate"`
	Lifetime    strict.At[time.Duration]  `yaml:"lifetime"`
	ClockSkew   strict.At[time.Duration]  `yaml:"clock_skew"`
	In          string                    `yaml:"in" oneof:"header|query|cookie"`
	Name        strict.At[string]         `yaml:"name"`
	Prefix      strict.At[string]         `yaml:"prefix"`
}

// A jwtAlgorithm is one of RFC 7518 section 3.1 or RFC 8037 section 3.1.
type jwtAlgorithm struct {
	method jwt.SigningMethod
	key    func(text, encoding string) (key any, bad string)
	wants  string
}

var jwtAlgorithms = map[string]jwtAlgorithm{
	"HS256": macAlgorithm(jwt.SigningMethodHS256, 32),
	"HS384": macAlgorithm(jwt.SigningMethodHS384, 48),
	"HS512": macAlgorithm(jwt.SigningMethodHS512, 64),
	"RS256": {jwt.SigningMethodRS256, anyRSA, wantsRSA},
	"RS384": {jwt.SigningMethodRS384, anyRSA, wantsRSA},
	"RS512": {jwt.SigningMethodRS512, anyRSA, wantsRSA},
	"PS256": {jwt.SigningMethodPS256, anyRSA, wantsRSA},
	"PS384": {jwt.SigningMethodPS384, anyRSA, wantsRSA},
	"PS512": {jwt.SigningMethodPS512, anyRSA, wantsRSA},
	"ES256": ecAlgorithm(jwt.SigningMethodES256, elliptic.P256()),
	"ES384": ecAlgorithm(jwt.SigningMethodES384, elliptic.P384()),
	"ES512": ecAlgorithm(jwt.SigningMethodES512, elliptic.P521()),
	"EdDSA": {jwt.SigningMethodEdDSA, func(text, _ string) (any, string) { return ed25519Key(text) }, wantsEd},
}

func anyRSA(text, _ string) (any, string) { return rsaKey(text) }

func macAlgorithm(m jwt.SigningMethod, least int) jwtAlgorithm {
	key := func(text, encoding string) (any, string) { return macKey(text, encoding, least) }
	return jwtAlgorithm{m, key, fmt.Sprintf(wantsMAC, least)}
}

func ecAlgorithm(m jwt.SigningMethod, curve elliptic.Curve) jwtAlgorithm {
	key := func(text, _ string) (any, string) { return ecKey(text, curve) }
	return jwtAlgorithm{m, key, fmt.Sprintf(wantsEC, curve.Params().Name)}
}

const (
	jwtLifetime    = 5 * time.Minute
	maxJWTLifetime = 24 * time.Hour
	jwtClockSkew   = 10 * time.Second
	jwtRejectEvery = 30 * time.Second
)

// generated is every value of the field generate.
var generated = []string{"iat", "exp", "nbf", "jti"}

// A minter mints and sends tokens of its own (RFC 7519), signed as JWS (RFC 7515).
type minter struct {
	env       Env
	algorithm jwtAlgorithm
	ref       secrets.Ref
	encoding  string // of an HMAC key
	keyID     string
	claims    map[string]any // the fixed ones
	generate  []string
	lifetime  time.Duration
	skew      time.Duration

	place  place
	name   string
	prefix string // encoded
	target Target

	now      func() time.Time
	key      parsed[any]
	last     atomic.Pointer[mintedToken] // nil: none that may be used again
	rejected atomic.Pointer[time.Time]
}

// A mintedToken is used again until renewal, unless the key is another.
type mintedToken struct {
	token, secret secrets.Value
	from, renewal time.Time
}

func newJWT(s jwtSettings, at *yaml.Node, env Env) (method, strict.Errors) {
	in := cmp.Or(s.In, "header")
	if s.Name.Line == 0 && in == "header" {
		s.Name.Value = "Authorization"
	}
	if s.Prefix.Line == 0 && in == "header" && SameField(s.Name.Value, "Authorization") {
		s.Prefix.Value = "Bearer "
	}
	p, errs := checkPlace(in, s.Name, s.Prefix)
	if s.Name.Line == 0 && in != "header" && p.set != nil {
		errs = append(errs, strict.Errorf(at, "missing field %q", "name"))
	}
	algorithm, ok := jwtAlgorithms[s.Algorithm]
	lifetime, skew, more := s.times()
	errs = slices.Concat(errs, s.check(), more)
	if len(errs) > 0 || !ok || p.set == nil {
		return nil, errs // what is not in errs, strict has reported
	}
	return &minter{
		env: env, algorithm: algorithm, ref: s.Key, encoding: s.KeyEncoding.Value, keyID: s.KeyID.Value,
		claims: s.Claims.Value, generate: s.made(), lifetime: lifetime, skew: skew,
		place: p, name: s.Name.Value, prefix: p.encode(s.Prefix.Value), now: time.Now,
		target: Target{in, s.Name.Value, s.Prefix.Value + "<" + s.Algorithm + " token signed with " + shown(s.Key) + ">"},
	}, nil
}

// made lists the claims that are made for each token.
func (s jwtSettings) made() []string {
	if s.Generate.Line == 0 {
		return []string{"iat", "exp"}
	}
	return s.Generate.Value
}

// times are the lifetime and the clock skew, and what is wrong with them.
func (s jwtSettings) times() (lifetime, skew time.Duration, errs strict.Errors) {
	lifetime = jwtLifetime
	if s.Lifetime.Line != 0 {
		lifetime = s.Lifetime.Value
	}
	if lifetime < time.Second || lifetime > maxJWTLifetime || lifetime%time.Second != 0 {
		return 0, 0, strict.Errors{s.Lifetime.Errorf("lifetime: want whole seconds, from 1s to 24h")}
	}
	skew = min(jwtClockSkew, (lifetime / 10).Truncate(time.Second))
	if s.ClockSkew.Line != 0 {
		skew = s.ClockSkew.Value
	}
	if skew < 0 || skew > lifetime/2 || skew%time.Second != 0 {
		errs = strict.Errors{s.ClockSkew.Errorf("clock_skew: want whole seconds, and no more than half of the lifetime")}
	}
	return lifetime, skew, errs
}

func (s jwtSettings) check() (errs strict.Errors) {
	if s.KeyEncoding.Line != 0 && s.Algorithm != "" && s.Algorithm[0] != 'H' {
		errs = append(errs, s.KeyEncoding.Errorf("key_encoding: is for HS256, HS384 and HS512; other keys are PEM"))
	}
	if s.KeyID.Value != "" {
		if bad := badText(s.KeyID.Value); bad != "" {
			errs = append(errs, s.KeyID.Errorf("key_id: %s", bad))
		}
	}
	for i, name := range s.Generate.Value {
		if !slices.Contains(generated, name) || slices.Contains(s.Generate.Value[:i], name) {
			errs = append(errs, s.Generate.Errorf("generate: want some of iat, exp, nbf and jti, each once"))
			break
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Claims.Value)) {
		if slices.Contains(s.made(), name) {
			errs = append(errs, s.Claims.Errorf("claims: %s is made for each token; take it out of claims or out of generate", name))
		} else if bad := badClaim(name, s.Claims.Value[name]); bad != "" {
			errs = append(errs, s.Claims.Errorf("claims: %s %s", name, bad))
		}
	}
	return errs
}

// badClaim is what is wrong with a registered claim's value (RFC 7519 section 4.1).
func badClaim(name string, value any) string {
	_, text := value.(string)
	switch name {
	case "iss", "sub", "jti":
		if !text {
			return "must be text; write it in quotes"
		}
	case "aud":
		list, _ := value.([]any)
		notText := func(item any) bool { _, ok := item.(string); return !ok }
		if !text && (len(list) == 0 || slices.ContainsFunc(list, notText)) {
			return "must be text or a list of texts; write numbers in quotes"
		}
	case "iat", "exp", "nbf":
		switch value.(type) {
		case int64, float64:
		default:
			return "must be a number: seconds since 1970"
		}
	}
	return ""
}

// Apply returns the token and its key.
func (m *minter) Apply(req *http.Request) ([]secrets.Value, error) {
	var key any
	secret, err := m.env.useAs(req.Context(), m.ref, m.algorithm.wants, func(text string) (bad string) {
		key, bad = m.key.of(secrets.NewValue(text), func(text string) (any, string) { return m.algorithm.key(text, m.encoding) })
		return bad
	})
	if err != nil {
		return nil, err
	}
	token, err := m.token(secret, key)
	if err != nil {
		return nil, err
	}
	m.place.set(req, m.name, m.prefix+token.Reveal()) // base64url and dots need no encoding anywhere
	return []secrets.Value{token, secret}, nil
}

// token is the last token, or a new one.
func (m *minter) token(secret secrets.Value, key any) (secrets.Value, error) {
	now := m.now().Round(0) // by the wall clock: tokens expire while a laptop sleeps
	if last := m.last.Load(); last != nil && last.secret.Equal(secret) && !now.Before(last.from) && now.Before(last.renewal) {
		return last.token, nil
	}
	text, err := m.mint(key, now)
	if err != nil {
		return secrets.Value{}, err
	}
	token := secrets.NewValue(text)
	if !slices.Contains(m.generate, "jti") { // which makes a token good for one request (RFC 7519 section 4.1.7)
		m.last.Store(&mintedToken{token, secret, now, now.Add(m.lifetime - m.skew - m.lifetime/5)})
	}
	return token, nil
}

// mint makes a token that begins to be valid a little before now, because servers' clocks can be behind.
func (m *minter) mint(key any, now time.Time) (string, error) {
	begin := now.Add(-m.skew).Unix()
	claims := jwt.MapClaims(maps.Clone(m.claims))
	if claims == nil {
		claims = jwt.MapClaims{}
	}
	for _, name := range m.generate {
		switch name {
		case "iat", "nbf":
			claims[name] = begin
		case "exp":
			claims[name] = begin + int64(m.lifetime/time.Second)
		case "jti":
			claims[name] = rand.Text()
		}
	}
	t := jwt.NewWithClaims(m.algorithm.method, claims)
	if m.keyID != "" {
		t.Header["kid"] = m.keyID
	}
	return t.SignedString(key)
}

// Reject drops the token that was refused, but not one after the other: a new one would fare no better.
func (m *minter) Reject(used []secrets.Value) {
	if len(used) < 2 {
		return
	}
	m.env.Secrets.Reject(m.ref, used[1])
	now := m.now().Round(0)
	if before := m.rejected.Load(); before != nil && !now.Before(*before) && now.Sub(*before) < jwtRejectEvery {
		return
	}
	if last := m.last.Load(); last != nil && last.token.Equal(used[0]) && m.last.CompareAndSwap(last, nil) {
		m.rejected.Store(&now)
	}
}

func (m *minter) Targets() []Target { return []Target{m.target} }
