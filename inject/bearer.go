package inject

import (
	"net/http"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

type bearerSettings struct {
	Token secrets.Ref `yaml:"token" need:"true"`
}

// A bearer is a fixed bearer token (RFC 6750 section 2.1).
type bearer struct {
	env Env
	ref secrets.Ref
}

func newBearer(s bearerSettings, _ *yaml.Node, env Env) (method, strict.Errors) {
	return &bearer{env, s.Token}, nil
}

func (b *bearer) Apply(req *http.Request) ([]secrets.Value, error) {
	v, err := b.env.use(req.Context(), b.ref, badHeaderValue)
	if err != nil {
		return nil, err
	}
	setHeader(req, "Authorization", "Bearer "+v.Reveal())
	return []secrets.Value{v}, nil
}

func (b *bearer) Reject(used []secrets.Value) { rejectFirst(b.env, b.ref, used) }

func (b *bearer) Targets() []Target {
	return []Target{{"header", "Authorization", "Bearer " + shown(b.ref)}}
}
