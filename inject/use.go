package inject

import (
	"context"
	"net/url"
	"slices"
	"strings"

	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

// use resolves ref and refuses a value that bad finds fault with.
func (e Env) use(ctx context.Context, ref secrets.Ref, bad func(string) string) (secrets.Value, error) {
	return e.useAs(ctx, ref, "", bad)
}

// useAs is use for a value of a certain kind, which the hint describes by what.
func (e Env) useAs(ctx context.Context, ref secrets.Ref, what string, bad func(string) string) (secrets.Value, error) {
	v, err := e.Secrets.Resolve(ctx, ref)
	if err != nil {
		return secrets.Value{}, err
	}
	if why := bad(v.Reveal()); why != "" {
		return secrets.Value{}, &secrets.Error{Op: "use", Ref: ref.String(), Kind: secrets.ErrInvalid, Why: why, Next: replaceHint(ref, what)}
	}
	return v, nil
}

// hostname is the host of an URL, without its port.
func hostname(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// SendsTo lists the hosts, beside that of the request, that c sends secrets to, as far as the rules alone say so.
func SendsTo(c Credential) []string {
	if wrapped, ok := c.(interface{ special() method }); ok {
		if s, ok := wrapped.special().(interface{ sendsTo() []string }); ok {
			return s.sendsTo()
		}
	}
	return nil
}

// replaceHint says how to put a new value, described by what, where ref points.
func replaceHint(ref secrets.Ref, what string) string {
	if what != "" {
		what = " (" + what + ")"
	}
	if ref.Scheme == "keyring" {
		return "credproxy secret set " + ref.Name + what
	}
	return "put a new value" + what + " where " + ref.String() + " points"
}

// A textOrRef is a field that is plain text unless it is written as a reference.
type textOrRef struct {
	Text string
	Ref  secrets.Ref
}

// UnmarshalYAML takes what begins like a reference for one, so that a misspelt reference is not sent as text.
func (t *textOrRef) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		scheme, _, ok := strings.Cut(n.Value, ":")
		if !ok || !slices.Contains(secrets.Sources(), scheme) {
			t.Text = n.Value
			return nil
		}
	}
	return t.Ref.UnmarshalYAML(n)
}

// shows is the field as a person may see it.
func (t textOrRef) shows() string {
	if t.Ref.IsZero() {
		return t.Text
	}
	return shown(t.Ref)
}

func shown(r secrets.Ref) string { return "<" + r.String() + ">" }
