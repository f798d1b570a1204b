package inject

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

type sessionSettings struct {
	Login    siteLogin                `yaml:"login" need:"true"`
	Keep     keepSettings             `yaml:"keep" need:"true"`
	Lifetime strict.At[time.Duration] `yaml:"lifetime"`
	Expired  expiredSettings          `yaml:"expired"`
	In       strict.At[string]        `yaml:"in" oneof:"header|query|cookie"`
	Name     strict.At[string]        `yaml:"name"`
	Prefix   strict.At[string]        `yaml:"prefix"`
}

type keepSettings struct {
	Cookie  strict.At[string]        `yaml:"cookie"`
	Pointer strict.At[oauth.Pointer] `yaml:"pointer"`
}

type expiredSettings struct {
	Status   strict.Many[int]  `yaml:"status" some:"true"`
	Location strict.At[string] `yaml:"location"`
}

// A session is what a site gives to whoever signs in: a cookie, or a token in a JSON answer. All rules and clients with
// the same settings share one, and none gets to see it.
type session struct {
	grant
	settings sessionSettings
	login    oauth.Login
	place    place
	in, name string
	prefix   string // encoded
	path     string // of the login
	away     string // path of the login page, to which who has no session is sent; empty: unknown

	unproven atomic.Int32 // logins since a session was good for anything
}

// maxUnproven bounds the logins that lead to nothing. Many sites set a cookie for a wrong password too, and lock the
// account after a few.
const maxUnproven = 3

func newSession(s sessionSettings, at *yaml.Node, env Env) (method, strict.Errors) {
	errs := slices.Concat(s.Login.check(at), s.Keep.check(at), s.Expired.check())
	if s.Lifetime.Line != 0 && s.Lifetime.Value < time.Second {
		errs = append(errs, s.Lifetime.Errorf("lifetime: want a second or more"))
	}
	p, more := s.sent()
	if errs = append(errs, more...); len(errs) > 0 || p.set == nil {
		return nil, errs
	}
	o := &session{settings: s, place: p, in: s.In.Value, name: s.Name.Value, prefix: p.encode(s.Prefix.Value)}
	o.login = oauth.Login{
		HTTP: env.HTTP, URL: s.Login.URL.Value, Kind: "application/x-www-form-urlencoded",
		Cookie: s.Keep.Cookie.Value, Token: s.Keep.Pointer.Value, Lifetime: s.Lifetime.Value,
		Page: cmp.Or(s.Login.CSRF.URL.Value, s.Login.URL.Value), Hidden: s.Login.CSRF.Field.Value,
	}
	if s.Login.JSON.Line != 0 {
		o.login.Kind = "application/json"
	}
	for _, status := range s.Login.Success {
		o.login.Success = append(o.login.Success, status.Value)
	}
	o.env, o.refs = env, s.Login.refs()
	if u, err := url.Parse(o.login.URL); err == nil {
		o.host, o.path = u.Host, u.Path
	}
	o.away = strings.TrimRight(cmp.Or(s.Expired.Location.Value, o.path), "/")
	o.login.Away = o.leadsAway
	o.key = fingerprint("session", o.client, o.refs, o.login.URL, o.login.Kind, o.login.Cookie, o.login.Token, o.login.Lifetime,
		o.login.Success, o.login.Page, o.login.Hidden, o.away, s.Login.shape())
	o.renew = func(ctx context.Context) (oauth.Token, error) {
		ctx = secrets.For(ctx, hostname(o.login.URL))
		for _, ref := range o.refs { // before the page with the form is asked for
			if _, err := o.env.Secrets.Resolve(ctx, ref); errors.Is(err, secrets.ErrMisdirected) {
				return oauth.Token{}, err
			}
		}
		return o.signIn(ctx)
	}
	return o, nil
}

// sent fills in how what is kept is sent, and checks it.
func (s *sessionSettings) sent() (p place, errs strict.Errors) {
	if s.Keep.Cookie.Line != 0 {
		for name, at := range map[string]strict.Pos{"in": s.In.Pos, "name": s.Name.Pos, "prefix": s.Prefix.Pos} {
			if at.Line != 0 {
				errs = append(errs, at.Errorf("%s: is for a token; a cookie is sent as a cookie", name))
			}
		}
		s.In.Value, s.Name.Value = "cookie", s.Keep.Cookie.Value
		return places["cookie"], errs
	}
	if s.In.Value = cmp.Or(s.In.Value, "header"); s.In.Value == "header" && s.Name.Line == 0 {
		s.Name.Value = "Authorization"
	}
	if s.Name.Value == "" && s.In.Pos.Line != 0 {
		errs = append(errs, s.In.Errorf("in: needs a name"))
	}
	if s.Prefix.Line == 0 && s.In.Value == "header" && SameField(s.Name.Value, "Authorization") {
		s.Prefix.Value = "Bearer "
	}
	p, more := checkPlace(s.In.Value, s.Name, s.Prefix)
	return p, append(errs, more...)
}

func (s keepSettings) check(at *yaml.Node) (errs strict.Errors) {
	switch {
	case s.Cookie.Line == 0 && s.Pointer.Line == 0:
		errs = append(errs, strict.Errorf(at, "keep: want cookie, a name, or pointer, where the token stands in the answer"))
	case s.Cookie.Line != 0 && s.Pointer.Line != 0:
		errs = append(errs, s.Pointer.Errorf("keep: has cookie and pointer; leave one out"))
	}
	if s.Cookie.Line != 0 {
		if bad := badCookieName(s.Cookie.Value); bad != "" {
			errs = append(errs, s.Cookie.Errorf("keep: cookie: %s", bad))
		}
	}
	if s.Pointer.Line != 0 {
		if err := oauth.CheckPointer(s.Pointer.Value); err != nil {
			errs = append(errs, s.Pointer.Errorf("keep: pointer: %s", err))
		}
	}
	return errs
}

func (s expiredSettings) check() (errs strict.Errors) {
	for _, status := range s.Status {
		if status.Value < 400 || status.Value > 499 {
			errs = append(errs, status.Errorf("expired: status: want one from 400 to 499; for a redirect write location"))
		}
	}
	if l := s.Location; l.Line != 0 && (!strings.HasPrefix(l.Value, "/") || strings.Trim(l.Value, "/") == "" || strings.ContainsAny(l.Value, "?#")) {
		errs = append(errs, l.Errorf("expired: location: want the path of the login page, such as /login"))
	}
	return errs
}

// leadsAway reports whether a Location is that of the login page, or below it.
func (o *session) leadsAway(location string) bool {
	u, err := url.Parse(location)
	if err != nil {
		return false
	}
	return o.away != "" && (u.Path == o.away || strings.HasPrefix(u.Path, o.away+"/"))
}

func (o *session) Apply(req *http.Request) ([]secrets.Value, error) {
	t, err := o.token(req.Context())
	if err != nil {
		return nil, err
	}
	if bad := o.place.badValue(t.Access.Reveal()); bad != "" && o.in != "cookie" {
		return nil, &oauth.Error{Host: o.host, Why: "the token cannot be sent: " + bad, Next: "check keep.pointer in the rules file"}
	}
	encoded := o.place.encode(t.Access.Reveal())
	o.place.set(req, o.name, o.prefix+encoded)
	if encoded != t.Access.Reveal() {
		return []secrets.Value{t.Access, secrets.NewValue(encoded)}, nil
	}
	return []secrets.Value{t.Access}, nil
}

// Answer keeps the session from the client. If the server has renewed it, the new one is used from now on.
func (o *session) Answer(resp *http.Response, used []secrets.Value, sent int) (again bool) {
	over := o.over(resp)
	for _, t := range o.takeCookies(resp.Header, used) {
		switch {
		case over || resp.StatusCode >= 400 || len(used) == 0:
		case t.Access.IsZero(): // signed out
			o.Reject(used)
		case t.Access.Equal(used[0]) || o.isOurs(resp.Request):
			o.env.Tokens.Replace(o.key, used[0], o.limited(t))
		}
	}
	if !over {
		if resp.StatusCode < 400 {
			o.unproven.Store(0)
		}
		return false
	}
	o.Reject(used)
	if o.changed(resp.Request.Context()) {
		o.env.Tokens.Retry(o.key)
	}
	return sent == 1
}

// isOurs reports whether a new session in the answer to req is the old one under a new name. After a login of the
// client's own it would be the client's, and all others would be put into that.
func (o *session) isOurs(req *http.Request) bool {
	return (req.Method == http.MethodGet || req.Method == http.MethodHead) && strings.TrimSuffix(req.URL.Path, "/") != strings.TrimSuffix(o.path, "/")
}

// limited is t with a life that is no longer than the rule says.
func (o *session) limited(t oauth.Token) oauth.Token {
	life := o.settings.Lifetime.Value
	if until := time.Now().Round(0).Add(life); life > 0 && (t.Expiry.IsZero() || t.Expiry.After(until)) {
		t.Expiry = until
	}
	return t
}

// over reports whether the server says that the session is over.
func (o *session) over(resp *http.Response) bool {
	redirect := resp.StatusCode >= 300 && resp.StatusCode <= 399
	return resp.StatusCode == http.StatusUnauthorized ||
		slices.ContainsFunc(o.settings.Expired.Status, func(s strict.At[int]) bool { return s.Value == resp.StatusCode }) ||
		redirect && o.leadsAway(resp.Header.Get("Location"))
}

// takeCookies takes what would show the session out of h, and returns what h says of it: the last word, if any.
func (o *session) takeCookies(h http.Header, used []secrets.Value) (last []oauth.Token) {
	now := time.Now()
	for name, lines := range h {
		if !SameField(name, "Set-Cookie") && !SameField(name, "Set-Cookie2") {
			continue
		}
		kept := slices.DeleteFunc(slices.Clone(lines), func(line string) bool {
			if t, mine := oauth.CookieIn(line, o.login.Cookie, now); mine && o.login.Cookie != "" {
				last = []oauth.Token{t}
				return true
			}
			return slices.ContainsFunc(used, func(v secrets.Value) bool { return strings.Contains(line, v.Reveal()) })
		})
		if len(kept) == 0 {
			delete(h, name)
		} else if len(kept) < len(lines) {
			h[name] = kept
		}
	}
	return last
}

func (o *session) Targets() []Target {
	what := "<token from " + o.host + ">"
	if o.login.Cookie != "" {
		what = "<session from " + o.host + ">"
	}
	return []Target{{o.in, o.name, o.settings.Prefix.Value + what}}
}

// askedAgain is when a site that has refused a login gets the next one.
const askedAgain = "the site is not asked again before the secret changes, or for an hour"

// signIn is the renewal of the session.
func (o *session) signIn(ctx context.Context) (oauth.Token, error) {
	if o.unproven.Load() >= maxUnproven {
		o.unproven.Store(maxUnproven - 1) // one more when the pause is over
		now := o.current(ctx)
		o.failed.Store(&now)
		return oauth.Token{}, oauth.LoginPaused(o.host, "the site takes the login and then refuses the session",
			"say in login.success what it answers to the right password, and check expired and the password; "+askedAgain)
	}
	login := o.login
	login.Header = http.Header{}
	for name, text := range o.settings.Login.Headers {
		v, err := text.Value.resolve(ctx, o.env, badHeaderValue)
		if err != nil {
			return oauth.Token{}, err
		}
		login.Header[http.CanonicalHeaderKey(name)] = []string{v}
	}
	t, err := login.Session(ctx, func(hidden string) (secrets.Value, error) {
		body, err := o.settings.Login.body(ctx, o.env)
		if err == nil && login.Hidden != "" {
			body += "&" + url.QueryEscape(login.Hidden) + "=" + url.QueryEscape(hidden)
		}
		return secrets.NewValue(body), err
	})
	refused, ok := errors.AsType[*oauth.Error](err)
	if err == nil {
		o.unproven.Add(1)
		o.failed.Store(nil)
	}
	if !ok {
		return t, err
	}
	now := o.current(ctx)
	o.failed.Store(&now)
	e := *refused
	switch {
	case e.Status == 0 || e.Status == http.StatusTooManyRequests || e.Status >= http.StatusInternalServerError:
		e.Next = o.advice(&e)
	default:
		for i, ref := range o.refs { // it may be a stale copy of what was changed behind our back
			o.env.Secrets.Reject(ref, now[i])
		}
		e.Next = replaceHint(o.refs[0], "") + ", or check login and keep in the rules file; " + askedAgain
	}
	return oauth.Token{}, &e
}
