package inject

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

type digestSettings struct {
	Username strict.At[textOrRef] `yaml:"username" need:"true"`
	Password secrets.Ref          `yaml:"password" need:"true"`
}

// A digest proves that it knows a password (RFC 7616). It answers what the server asks for, so it has to hear that first.
// Later requests count up the nonce that they know.
type digest struct {
	env      Env
	username textOrRef
	password secrets.Ref
	spaces   *digestSpaces
}

func newDigest(s digestSettings, _ *yaml.Node, env Env) (method, strict.Errors) {
	if bad := badUsername(s.Username.Value.Text); bad != "" {
		return nil, strict.Errors{s.Username.Errorf("username: %s", bad)}
	}
	return &digest{env, s.Username.Value, s.Password, newDigestSpaces()}, nil
}

// Apply is for an origin that has asked already.
func (d *digest) Apply(req *http.Request) ([]secrets.Value, error) {
	return d.applyAsking(req, func() (*http.Response, error) {
		return nil, &misfit{"challenge_unsupported", "the server has not said yet what it wants", "try again"}
	})
}

// applyAsking returns the password and what tells two attempts apart, and the user name if that is a secret. If the
// server asks for no credential, req gets none, and nothing is returned.
func (d *digest) applyAsking(req *http.Request, ask func() (*http.Response, error)) ([]secrets.Value, error) {
	password, err := d.env.use(req.Context(), d.password, badPassword)
	if err != nil {
		return nil, err
	}
	user := secrets.NewValue(d.username.Text)
	if !d.username.Ref.IsZero() {
		if user, err = d.env.use(req.Context(), d.username.Ref, badUsername); err != nil {
			return nil, err
		}
	}
	turn, ok := d.spaces.turn(req)
	if !ok {
		resp, err := ask()
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusUnauthorized {
			dropHeader(req, "Authorization")
			return nil, nil
		}
		offer := strongestDigest(challengesIn(resp.Header))
		if offer == nil {
			return nil, unsupported(challengesIn(resp.Header), "Digest")
		}
		d.spaces.learn(req, offer, "")
		if turn, ok = d.spaces.turn(req); !ok {
			return nil, unsupported(challengesIn(resp.Header), "Digest") // others have asked it in the meantime, and got another answer
		}
	}
	header, err := turn.authorize(req, user.Reveal(), password.Reveal())
	if err != nil {
		return nil, err
	}
	setHeader(req, "Authorization", header)
	used := []secrets.Value{password, secrets.NewValue(turn.attempt)}
	if !d.username.Ref.IsZero() {
		used = append(used, user)
	}
	return used, nil
}

// Answer learns the next nonce.
func (d *digest) Answer(resp *http.Response, used []secrets.Value, sent int) (again bool) {
	attempt := ""
	if len(used) > 1 {
		attempt = used[1].Reveal()
	}
	if info := resp.Header["Authentication-Info"]; info != nil && attempt != "" {
		delete(resp.Header, "Authentication-Info") // says nothing to a client that has no nonce
		d.spaces.renew(resp.Request, sentNonce(resp.Request), nextNonce(info))
	}
	if resp.StatusCode != http.StatusUnauthorized {
		if attempt != "" && resp.StatusCode < 500 {
			d.spaces.prove(resp.Request, attempt)
		}
		return false
	}
	offer := strongestDigest(challengesIn(resp.Header))
	if offer == nil {
		d.spaces.forget(resp.Request)
		d.Reject(used)
		return false
	}
	if d.spaces.learn(resp.Request, offer, attempt) {
		return true
	}
	d.Reject(used)
	return sent == 1
}

func (d *digest) Reject(used []secrets.Value) {
	rejectFirst(d.env, d.password, used)
	if len(used) > 2 {
		d.env.Secrets.Reject(d.username.Ref, used[2])
	}
}

// signs reports whether a change at t would break the answer. Some servers ask for the body's hash too.
func (d *digest) signs(t Target) bool { return t.In == "query" || t.In == "body" }

func (d *digest) Targets() []Target {
	return []Target{{"header", "Authorization", "Digest " + d.username.shows() + " with " + shown(d.password)}}
}

// sentNonce is the nonce of the digest in req, or empty.
func sentNonce(req *http.Request) string {
	if len(req.Header["Authorization"]) != 1 {
		return ""
	}
	p := challengeParser{rest: req.Header["Authorization"][0]}
	c, _ := p.next()
	return c.params["nonce"]
}

// nextNonce is the one that the server wants next (RFC 7616 section 3.5), or empty.
func nextNonce(info []string) string {
	p := challengeParser{rest: "Digest " + info[0]} // the field is the parameters alone
	c, ok := p.next()
	if !ok || len(info) > 1 {
		return ""
	}
	return c.params["nextnonce"]
}

// knownSchemes are those whose names can be repeated: all else could be anything.
var knownSchemes = []string{"basic", "bearer", "digest", "negotiate", "ntlm", "oauth"}

// unsupported is the error of a server that wants something other than what the rule has.
func unsupported(asked []challenge, scheme string) error {
	text := "the server answers 401 and does not say what it wants"
	hint := "see what it says: curl -I --noproxy '*' URL"
	for _, c := range asked {
		if slices.Contains(knownSchemes, c.scheme) && c.scheme != strings.ToLower(scheme) {
			text, hint = "the server does not take "+scheme+", but "+c.scheme, "write another type in the rule"
			break
		}
	}
	if asksFor(asked, strings.ToLower(scheme)) != nil {
		text = "the server asks for " + scheme + " in a form that credproxy does not know"
	}
	return &misfit{"challenge_unsupported", text, hint}
}

func count(nc uint32) string {
	s := strconv.FormatUint(uint64(nc), 16)
	return "00000000"[len(s):] + s
}
