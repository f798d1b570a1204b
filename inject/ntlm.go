package inject

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"strings"
	"sync/atomic"

	ntlmssp "github.com/Azure/go-ntlmssp"
	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

type ntlmSettings struct {
	Username strict.At[textOrRef] `yaml:"username" need:"true"`
	Password secrets.Ref          `yaml:"password" need:"true"`
	Domain   strict.At[string]    `yaml:"domain"`
}

// An ntlm is NTLMv2 (MS-NLMP, as MS-NTHT puts it into HTTP). It proves a connection, not a request.
type ntlm struct {
	env      Env
	username textOrRef
	password secrets.Ref
	domain   string
	attempt  atomic.Pointer[string] // another one after a connection that was proved is not taken any more
}

func newNTLM(s ntlmSettings, _ *yaml.Node, env Env) (method, strict.Errors) {
	var errs strict.Errors
	if bad := badAccount(s.Username.Value.Text); bad != "" {
		errs = append(errs, s.Username.Errorf("username: %s", bad))
	}
	if bad := badAccount(s.Domain.Value); bad != "" {
		errs = append(errs, s.Domain.Errorf("domain: %s", bad))
	}
	if len(errs) > 0 {
		return nil, errs
	}
	n := &ntlm{env: env, username: s.Username.Value, password: s.Password, domain: s.Domain.Value}
	n.attempt.Store(new(rand.Text()))
	return n, nil
}

func badAccount(s string) string {
	if strings.Contains(s, `\`) {
		return `it contains a backslash; write DOMAIN\USER as two fields, domain and username`
	}
	if len(s) > 256 {
		return "it is longer than 256 bytes"
	}
	return badPassword(s)
}

func badNTLMPassword(s string) string {
	if s == "" {
		return "it is empty"
	}
	return badPassword(s)
}

// Apply returns the password and what tells two attempts apart, and the user name if that is a secret. It takes off what the
// client sent: the connection is what will be proved.
func (n *ntlm) Apply(req *http.Request) ([]secrets.Value, error) {
	password, err := n.env.use(req.Context(), n.password, badNTLMPassword)
	if err != nil {
		return nil, err
	}
	used := []secrets.Value{password, secrets.NewValue(*n.attempt.Load())}
	if !n.username.Ref.IsZero() {
		user, err := n.env.use(req.Context(), n.username.Ref, badAccount)
		if err != nil {
			return nil, err
		}
		used = append(used, user)
	}
	dropHeader(req, "Authorization")
	return used, nil
}

// bind is the Bind of a Binder.
func (n *ntlm) bind(used []secrets.Value) (first string, answer func(*http.Response) (string, error), err error) {
	user := n.username.Text
	if len(used) > 2 {
		user = used[2].Reveal()
	}
	if n.domain != "" {
		user = n.domain + `\` + user
	}
	message, err := ntlmssp.NewNegotiateMessage("", "") // the names are this machine's, which are nobody's business
	if err != nil {
		return "", nil, err
	}
	return "NTLM " + base64.StdEncoding.EncodeToString(message), func(resp *http.Response) (string, error) {
		asked := challengesIn(resp.Header)
		c := asksFor(asked, "ntlm")
		if c == nil {
			return "", unsupported(asked, "NTLM")
		}
		message, err := base64.StdEncoding.DecodeString(c.token)
		if err == nil && resp.TLS != nil && len(resp.TLS.PeerCertificates) > 0 {
			message = withChannelBinding(message, resp.TLS.PeerCertificates[0])
		}
		if err == nil {
			message, err = ntlmssp.NewAuthenticateMessage(message, user, used[0].Reveal(), nil)
		}
		if err != nil { // whose text may hold what the server sent
			return "", &misfit{"challenge_unsupported", "the server's NTLM challenge cannot be answered", "see that the server takes NTLMv2 and UTF-16"}
		}
		return "NTLM " + base64.StdEncoding.EncodeToString(message), nil
	}, nil
}

// Answer tells a refused password from a connection that is not taken any more, or never was for more than one request.
func (n *ntlm) Answer(resp *http.Response, used []secrets.Value, sent int) (again bool) {
	if resp.StatusCode != http.StatusUnauthorized || len(used) < 2 {
		return false
	}
	if resp.Request.Header["Authorization"] == nil {
		if last := n.attempt.Load(); *last == used[1].Reveal() {
			n.attempt.CompareAndSwap(last, new(rand.Text()))
		}
		return sent == 1
	}
	n.Reject(used)
	return sent <= 2
}

func (n *ntlm) Reject(used []secrets.Value) {
	rejectFirst(n.env, n.password, used)
	if len(used) > 2 {
		n.env.Secrets.Reject(n.username.Ref, used[2])
	}
}

func (n *ntlm) Targets() []Target {
	user := n.username.shows()
	if n.domain != "" {
		user = n.domain + `\` + user
	}
	return []Target{{"header", "Authorization", "NTLM " + user + " with " + shown(n.password)}}
}
