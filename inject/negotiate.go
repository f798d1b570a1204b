package inject

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/secrets"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"gopkg.in/yaml.v3"
)

type negotiateSettings struct {
	Principal strict.At[string]      `yaml:"principal"`
	Keytab    strict.At[secrets.Ref] `yaml:"keytab"`
	CCache    strict.At[string]      `yaml:"ccache"`
	Service   strict.At[string]      `yaml:"service"`
	Config    strict.At[string]      `yaml:"krb5_conf"`
}

// A negotiate is a Kerberos ticket for the server (RFC 4559 with SPNEGO, RFC 4178), in each request with an authenticator of
// its own. Who it is comes from the user's ticket cache, or from a keytab.
type negotiate struct {
	env              Env
	principal        string // empty: whoever the cache is for
	keytab           secrets.Ref
	ccache, service  string // empty: the usual one
	config           string // of Kerberos; empty: the usual one
	now              func() time.Time
	key              parsed[*keytab.Keytab]
	tickets          *lru.Cache[string, *ticketSlot] // by service
	grantingByKeytab atomic.Pointer[kerberosTicket]
}

// A ticketSlot is the place of one service's ticket.
type ticketSlot struct {
	turn   chan struct{} // held by who asks the KDC
	ticket atomic.Pointer[kerberosTicket]
}

const (
	maxTickets       = 256
	ticketMargin     = time.Minute // before its end a ticket is not used any more
	kerberosPatience = 20 * time.Second
)

func newNegotiate(s negotiateSettings, at *yaml.Node, env Env) (method, strict.Errors) {
	var errs strict.Errors
	if s.Keytab.Line != 0 && s.Principal.Line == 0 {
		errs = append(errs, strict.Errorf(at, "missing field %q, which a keytab needs", "principal"))
	}
	if s.Keytab.Line != 0 && s.CCache.Line != 0 {
		errs = append(errs, s.CCache.Errorf("ccache: is not used with a keytab"))
	}
	if s.Principal.Line != 0 && badPrincipal(s.Principal.Value) {
		errs = append(errs, s.Principal.Errorf("principal: want NAME@REALM, or NAME in the default realm"))
	}
	if s.Service.Line != 0 && (badPrincipal(s.Service.Value) || strings.Count(s.Service.Value, "/") != 1 || strings.Contains(s.Service.Value, "@")) {
		errs = append(errs, s.Service.Errorf("service: want a name such as HTTP/web.example.com"))
	}
	for _, path := range []struct {
		name  string
		field strict.At[string]
	}{{"ccache", s.CCache}, {"krb5_conf", s.Config}} {
		if path.field.Line != 0 && !filepath.IsAbs(path.field.Value) {
			errs = append(errs, path.field.Errorf("%s: want the absolute path of a file", path.name))
		}
	}
	if len(errs) > 0 {
		return nil, errs
	}
	// The size is a constant above zero, so that there is no error.
	tickets, _ := lru.New[string, *ticketSlot](maxTickets)
	return &negotiate{
		env: env, principal: s.Principal.Value, keytab: s.Keytab.Value, ccache: s.CCache.Value, service: s.Service.Value, config: s.Config.Value,
		now: time.Now, tickets: tickets,
	}, nil
}

// badPrincipal: a backslash would escape what follows.
func badPrincipal(s string) bool {
	name, realm, hasRealm := strings.Cut(s, "@")
	return badText(s) != "" || strings.ContainsAny(s, ` \`) || strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/") || name == "" ||
		hasRealm && (realm == "" || strings.Contains(realm, "@"))
}

// asksServer: the KDC.
func (*negotiate) asksServer() {}

// Apply returns the token, which is good once.
func (n *negotiate) Apply(req *http.Request) ([]secrets.Value, error) {
	t, err := n.ticket(req.Context(), n.serviceFor(req))
	if err != nil {
		return nil, err
	}
	message, err := t.token()
	if err != nil { // the text may hold parts of the ticket
		return nil, kerberosFault("kdc_failed", "the Kerberos ticket cannot be used", "kinit")
	}
	token := base64.StdEncoding.EncodeToString(message)
	setHeader(req, "Authorization", "Negotiate "+token)
	return []secrets.Value{secrets.NewValue(token)}, nil
}

// serviceFor is the name of req's server as the rule knows it. DNS is not asked: it could name another.
func (n *negotiate) serviceFor(req *http.Request) string {
	return cmp.Or(n.service, "HTTP/"+strings.TrimSuffix(strings.ToLower(req.URL.Hostname()), "."))
}

// Answer drops the ticket that was refused, if it was not new: the server may have another key by now.
func (n *negotiate) Answer(resp *http.Response, _ []secrets.Value, sent int) (again bool) {
	if resp.StatusCode != http.StatusUnauthorized {
		for _, c := range challengesIn(resp.Header) {
			if c.scheme == "negotiate" { // says who the server is, to who began it
				delete(resp.Header, "Www-Authenticate")
			}
		}
		return false
	}
	slot, ok := n.tickets.Get(n.serviceFor(resp.Request))
	if !ok {
		return false
	}
	t := slot.ticket.Load()
	return t != nil && sent == 1 && t.uses.Load() > 1 && slot.ticket.CompareAndSwap(t, nil)
}

// Reject does nothing: Answer knows more.
func (n *negotiate) Reject([]secrets.Value) {}

func (n *negotiate) Targets() []Target {
	who := cmp.Or(n.principal, "the user of the ticket cache")
	if !n.keytab.IsZero() {
		who += " with " + shown(n.keytab)
	}
	return []Target{{"header", "Authorization", "Negotiate <ticket of " + who + ">"}}
}

// ticket returns a ticket for service. One caller asks the KDC, and the others wait for it or for their own context.
func (n *negotiate) ticket(ctx context.Context, service string) (*kerberosTicket, error) {
	id, err := n.identity(ctx)
	if err != nil {
		return nil, err
	}
	slot, ok := n.tickets.Get(service)
	if !ok {
		slot = &ticketSlot{turn: make(chan struct{}, 1)}
		if found, ok, _ := n.tickets.PeekOrAdd(service, slot); ok {
			slot = found
		}
	}
	good := func() *kerberosTicket {
		if t := slot.ticket.Load(); t != nil && t.from == id.mark && n.now().Before(t.end.Add(-ticketMargin)) {
			t.uses.Add(1)
			return t
		}
		return nil
	}
	if t := good(); t != nil {
		return t, nil
	}
	select {
	case slot.turn <- struct{}{}:
		defer func() { <-slot.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if t := good(); t != nil {
		return t, nil
	}
	ctx, cancel := context.WithTimeout(ctx, kerberosPatience)
	defer cancel()
	t, err := n.fetch(ctx, id, service)
	if err != nil {
		return nil, err
	}
	t.uses.Add(1)
	slot.ticket.Store(t)
	return t, nil
}

// An identity is where tickets come from. mark changes with it.
type identity struct {
	mark   string
	ccache string // path
	keytab *keytab.Keytab
}

// identity finds who it is, without a word to the KDC.
func (n *negotiate) identity(ctx context.Context) (identity, error) {
	if !n.keytab.IsZero() {
		var kt *keytab.Keytab
		v, err := n.env.useAs(ctx, n.keytab, "a keytab in base64", func(text string) (bad string) {
			kt, bad = n.key.of(secrets.NewValue(text), readKeytab)
			return bad
		})
		mark := sha256.Sum256([]byte(v.Reveal()))
		return identity{mark: string(mark[:]), keytab: kt}, err
	}
	path, err := n.cachePath()
	if err != nil {
		return identity{}, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return identity{}, kerberosFault("ticket_missing", "there is no Kerberos ticket cache", "kinit")
	}
	return identity{mark: fmt.Sprint(path, info.ModTime().UnixNano(), info.Size()), ccache: path}, nil
}

// cachePath is the file with the user's tickets.
func (n *negotiate) cachePath() (string, error) {
	name := cmp.Or(n.ccache, os.Getenv("KRB5CCNAME"), fmt.Sprintf("/tmp/krb5cc_%d", os.Getuid()))
	kind, path, ok := strings.Cut(name, ":")
	if !ok || filepath.IsAbs(name) {
		return name, nil
	}
	if kind != "FILE" || !filepath.IsAbs(path) {
		return "", kerberosFault("ticket_missing", "KRB5CCNAME names a ticket cache that is not a file", "export KRB5CCNAME=FILE:/tmp/krb5cc_$(id -u), kinit, and start credproxy again")
	}
	return path, nil
}

func readKeytab(text string) (kt *keytab.Keytab, bad string) {
	defer func() {
		if recover() != nil { // the library takes every length for true
			kt, bad = nil, "it is not a whole keytab"
		}
	}()
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || !bytes.HasPrefix(b, []byte{5}) {
		return nil, "it is not a keytab in base64"
	}
	kt = keytab.New()
	if err := kt.Unmarshal(b); err != nil || len(kt.Entries) == 0 {
		return nil, "it is not a whole keytab"
	}
	return kt, ""
}

func kerberosFault(slug, text, hint string) error { return &misfit{slug, text, hint} }
