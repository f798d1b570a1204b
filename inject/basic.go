package inject

import (
	"encoding/base64"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

type basicSettings struct {
	Username strict.At[textOrRef]   `yaml:"username" need:"true"`
	Password strict.At[secrets.Ref] `yaml:"password"`
}

// A basic is a user name and a password (RFC 7617), as UTF-8. Services that take an API key for the user name want
// an empty password.
type basic struct {
	env      Env
	username textOrRef
	password secrets.Ref // zero: empty
}

func newBasic(s basicSettings, at *yaml.Node, env Env) (method, strict.Errors) {
	user := s.Username.Value
	var errs strict.Errors
	if user.Text != "" {
		if bad := badUsername(user.Text); bad != "" {
			errs = append(errs, s.Username.Errorf("username: %s", bad))
		}
		if s.Password.Line == 0 {
			errs = append(errs, strict.Errorf(at, "missing field %q (only where the username is a reference may it be left out)", "password"))
		}
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return &basic{env, user, s.Password.Value}, nil
}

func badUsername(s string) string {
	if strings.Contains(s, ":") {
		return "it contains a colon, which ends a user name (RFC 7617 section 2)"
	}
	return badPassword(s)
}

// badPassword: a space at an end is as good as any other character here.
func badPassword(s string) string {
	switch {
	case !utf8.ValidString(s):
		return "it is not UTF-8 text"
	case strings.ContainsFunc(s, unicode.IsControl):
		return "it contains a line break or another control character"
	}
	return ""
}

// Apply returns the password, or the user name if that is the only secret, and then both as they stand on the wire.
func (b *basic) Apply(req *http.Request) ([]secrets.Value, error) {
	user, secret := secrets.NewValue(b.username.Text), secrets.Value{}
	var err error
	if !b.username.Ref.IsZero() {
		if user, err = b.env.use(req.Context(), b.username.Ref, badUsername); err != nil {
			return nil, err
		}
	}
	pair := user.Reveal() + ":"
	if b.password.IsZero() {
		secret = user
	} else {
		if secret, err = b.env.use(req.Context(), b.password, badPassword); err != nil {
			return nil, err
		}
		pair += secret.Reveal()
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(pair))
	setHeader(req, "Authorization", "Basic "+encoded)
	return []secrets.Value{secret, secrets.NewValue(encoded)}, nil
}

func (b *basic) Reject(used []secrets.Value) {
	if len(used) < 2 {
		return
	}
	pair, err := base64.StdEncoding.DecodeString(used[1].Reveal())
	if err != nil {
		return
	}
	user, password, _ := strings.Cut(string(pair), ":")
	if !b.username.Ref.IsZero() {
		b.env.Secrets.Reject(b.username.Ref, secrets.NewValue(user))
	}
	if !b.password.IsZero() {
		b.env.Secrets.Reject(b.password, secrets.NewValue(password))
	}
}

func (b *basic) Targets() []Target {
	password := ""
	if !b.password.IsZero() {
		password = shown(b.password)
	}
	return []Target{{"header", "Authorization", "Basic base64(" + b.username.shows() + ":" + password + ")"}}
}
