// Package rules is the rules file: loading, matching and deciding. It is pure after loading.
package rules

import (
	"context"
	"crypto/x509"
	"net/http"
	"time"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/secrets"
)

// A Set is a loaded rules file. It does not change: a reload makes a new one.
type Set struct{}

// Load reads the rules file at path. The error, if any, is a *FileError with every mistake.
func Load(path string, env inject.Env) (*Set, error) { panic("stub") }

// Parse is Load for data that stands, or will stand, at path.
func Parse(path string, data []byte, env inject.Env) (*Set, error) { panic("stub") }

// A FileError is every mistake of a rules file.
type FileError struct {
	Path     string
	Mistakes []Mistake
}

// A Mistake is one mistake, with the source line it stands on.
type Mistake struct {
	Path   string `json:"path"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
	Text   string `json:"message"`
	Source string `json:"-"` // the source line; empty under inject, where it could hold a secret
}

func (e *FileError) Error() string { panic("stub") }

// Slug is rules_invalid.
func (e *FileError) Slug() string { return "rules_invalid" }

// Hint is the next command to type.
func (e *FileError) Hint() string { panic("stub") }

// Handling is what becomes of a tunnel.
type Handling int

const (
	Refuse    Handling = iota // zero value: nothing passes by accident
	Tunnel                    // relay bytes, never decrypted
	Intercept                 // terminate TLS and decide per request
)

// Connect says what to do with a tunnel to host:port before any request is seen. host is canonical (CanonicalHost).
func (s *Set) Connect(client, host string, port int) Handling { panic("stub") }

// Decide says what to do with req, whose URL is absolute with a canonical host. Deny rules win; then the first match in file order.
func (s *Set) Decide(client string, req *http.Request) Decision { panic("stub") }

// Explain is Decide with the reason for every rule that names the host but does not apply.
func (s *Set) Explain(client string, req *http.Request) (Decision, []Miss) { panic("stub") }

// A Miss is a rule that does not apply to a request, and why.
type Miss struct {
	Rule string `json:"rule"`
	Line int    `json:"line"`
	Why  string `json:"why"` // such as: method GET is not one of DELETE
}

// OnExisting says what becomes of a credential that the client sent itself.
type OnExisting int

const (
	Replace OnExisting = iota
	Keep
	Fail
)

// A Decision says what to do with one request, and why.
type Decision struct {
	Allow      bool
	Rule       string // name, or empty if none matched
	Line       int    // where the rule stands
	Slug       string // why not, if not Allow: denied, no_rule, bad_path
	Reason     string // for the client and the audit log
	Inject     []inject.Credential
	Remove     []string // canonical header names
	OnExisting OnExisting
	AllowHTTP  bool // the credential may travel over plain http to any host
	Scrub      bool
	TLS        *TLS // nil: the system's roots, no client certificate
}

// TLS is a rule's tls field: how to verify the upstream, and who to be.
type TLS struct {
	ID         string         // equal for equal settings
	Roots      *x509.CertPool // the system's and the rule's ca; nil: the system's
	Cert       []byte         // PEM chain; nil: none
	Key        secrets.Ref
	ServerName string // verified instead of the host; "": the host
}

// Refs lists the references that the rules need, each once, in file order.
func (s *Set) Refs() []secrets.Ref { panic("stub") }

// Rule is one rule as check and explain show it.
type Rule struct {
	Name  string
	Line  int
	Hosts []string
	Types []string // credential types
	Refs  []secrets.Ref
	Deny  string
}

// Rules lists the rules in file order.
func (s *Set) Rules() []Rule { panic("stub") }

// CanonicalHost returns the one spelling of a host name or IP literal (IDNA lookup profile, lower case, no trailing
// dot, IP literals through net/netip without brackets) or an error.
func CanonicalHost(host string) (string, error) { panic("stub") }

// A Watcher keeps the Set of a rules file up to date.
type Watcher struct{}

// WatchConfig is what a Watcher needs.
type WatchConfig struct {
	Path string
	Env  inject.Env
	// Changed is called after each reload, one at a time: with the new Set, or with the error that kept the old one.
	// A broken file is reported once, until it changes again.
	Changed func(*Set, error)
	Poll    time.Duration // backstop for file systems without notification; 0 is 2 s
}

// Watch loads the file and follows it until ctx ends or Close. The first load must succeed.
func Watch(ctx context.Context, cfg WatchConfig) (*Watcher, error) { panic("stub") }

// Current is the Set in force. It is safe for concurrent use and costs one atomic load.
func (w *Watcher) Current() *Set { panic("stub") }

// Reload reads the file now.
func (w *Watcher) Reload() { panic("stub") }

// Close ends the Watcher and waits for its goroutine.
func (w *Watcher) Close() { panic("stub") }
