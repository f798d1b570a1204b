// Package inject turns secrets into credentials on requests: one file per credential type, one table.
package inject

import (
	"net/http"

	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

// Env is all that a credential may use from outside.
type Env struct {
	Secrets *secrets.Resolver
	Tokens  *oauth.Cache
	HTTP    *http.Client // for token endpoints: verified TLS, no redirects, no proxy from the environment
}

// A Credential is one entry of a rule's inject field, ready for use. It is safe for concurrent use.
type Credential interface {
	// Type is the name of the credential's type, such as api_key.
	Type() string

	// Apply puts the credential on req, the caller's own copy, replacing any that the client sent. It waits no
	// longer than req's context. It returns the values that it used, so that the response can be scrubbed of
	// them and so that Reject can be told which were refused. After an error req must not be sent.
	Apply(req *http.Request) (used []secrets.Value, err error)

	// Reject says that the upstream answered 401 to used: the next Apply uses fresh values if there are any.
	Reject(used []secrets.Value)

	// Targets says where Apply writes, and what, with references in place of values.
	Targets() []Target

	// Refs lists the references that the credential needs.
	Refs() []secrets.Ref
}

// A Target is one place of a request that a Credential writes.
type Target struct {
	In    string `json:"in"`    // header, query or cookie
	Name  string `json:"name"`  // of the header, parameter or cookie
	Shows string `json:"value"` // such as "Bearer <keyring:github>"
}

// Present reports whether req already carries something at t.
func (t Target) Present(req *http.Request) bool { panic("stub") }

// New builds the credentials that n, the value of a rule's inject field, describes: a mapping is one, a list several.
// The error, if any, is a strict.Errors with every mistake and its position.
func New(n *yaml.Node, env Env) ([]Credential, error) { panic("stub") }

// Types lists the names of all credential types, sorted.
func Types() []string { panic("stub") }
