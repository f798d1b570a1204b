package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/credproxy/credproxy/audit"
	"github.com/credproxy/credproxy/certs"
	"github.com/credproxy/credproxy/clients"
	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/proxy"
	"github.com/credproxy/credproxy/rules"
	"github.com/credproxy/credproxy/secrets"
	"golang.org/x/term"
)

// recheck is how long a secret is used without a look at whether it has changed: much less than the second in which a
// `secret set` must arrive, and long enough that a busy proxy does not look at every request.
const recheck = 100 * time.Millisecond

// stackConfig says where a stack finds and puts things, and who listens.
type stackConfig struct {
	Rules   string // the rules file
	State   string // absolute path of the state folder, which exists
	Backend string // of the keyring; "": the one written down in State, else the platform's

	Bundle    string   // where to write the bundle of roots; "": beside the CA
	Inherited []string // files of roots that belong into the bundle

	Listener net.Listener                 // of a sandbox; nil: a port of loopback
	Deny     bool                         // what no rule matches is refused, whatever the rules say
	Door     *clients.Door                // who is asking; required
	Changed  func(*rules.Set, error)      // after each reload; nil: nobody cares
	Events   []func(audit.Event)          // who sees each request
	Roots    *x509.CertPool               // upstream roots; nil: the system's
	Own      func(*x509.Certificate) bool // what our CA has made: no server is believed on its word; set by openCertificates
	Drain    time.Duration                // for requests in flight at the end; 0: the proxy's default
	Log      *slog.Logger
}

// A stack is everything between a rules file and a proxy that is ready to serve. Its owner closes it.
type stack struct {
	Store     *secrets.Store
	Secrets   *secrets.Resolver
	Authority *certs.Authority
	Bundle    certs.Bundle
	Rules     *rules.Watcher
	Proxy     *proxy.Server

	closers []func() error // in order of opening
}

// openStack opens all parts. ctx bounds the life of the rules' watcher. If it fails, nothing stays open.
func openStack(ctx context.Context, cfg stackConfig) (s *stack, err error) {
	s = new(stack)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
			s = nil
		}
	}()
	if err := findRules(cfg.Rules); err != nil {
		return s, err
	}
	if s.Store, err = openStore(cfg.State, cfg.Backend); err != nil {
		return s, err
	}
	if err := s.openCertificates(ctx, &cfg); err != nil {
		return s, err
	}
	env, err := s.openSecrets(cfg)
	if err != nil {
		return s, err
	}
	var hosts hostCAs
	s.Rules, err = rules.Watch(ctx, rules.WatchConfig{Path: cfg.Rules, Env: env, Changed: hosts.changed(cfg.Changed), Deny: cfg.Deny})
	if err != nil {
		return s, err
	}
	s.onClose(func() error { s.Rules.Close(); return nil })
	if err := s.Authority.Prepare(ctx, s.Rules.Current().Domains()); err != nil {
		return s, err
	}
	hosts.start(ctx, s, cfg.Log)
	if err := s.unlock(ctx); err != nil {
		return s, err
	}
	file, err := audit.OpenFile(auditPath(cfg.State))
	if err != nil {
		return s, &failure{slug: slugState, text: "opening the audit log", next: "choose another folder with --state", err: err}
	}
	events := audit.New(file, append(slices.Clone(cfg.Events), newFailureLog(cfg.Log).request)...)
	s.onClose(events.Close)
	s.Proxy, err = proxy.New(proxy.Config{
		Rules: s.Rules.Current, Leaf: s.leaf(cfg.Log), Secrets: s.Secrets,
		Clients: cfg.Door.Ask, Known: cfg.Door.Known, Conn: cfg.Door.Conn, Stranger: cfg.Door.Stranger,
		Audit: events, Log: cfg.Log, Roots: cfg.Roots, Own: cfg.Own, Drain: cfg.Drain,
	})
	return s, err
}

// openSecrets opens what rules get their secrets and tokens from, and the keyring if it is not open yet.
func (s *stack) openSecrets(cfg stackConfig) (env inject.Env, err error) {
	if s.Store == nil {
		if s.Store, err = openStore(cfg.State, cfg.Backend); err != nil {
			return env, err
		}
	}
	s.Secrets = secrets.NewResolver(secrets.Config{Store: s.Store, Log: cfg.Log, Recheck: recheck})
	s.onClose(func() error { s.Secrets.Close(); return nil })
	tokens := oauth.NewCache()
	if cfg.Log != nil {
		tokens.Failed = newFailureLog(cfg.Log).token
	}
	client := tokenClient(cfg.Roots, cfg.Own)
	s.onClose(func() error {
		tokens.Close()
		client.CloseIdleConnections()
		return nil
	})
	return inject.Env{Secrets: s.Secrets, Tokens: tokens, HTTP: client}, nil
}

// openStore opens the keyring. Only if a person sits there, may it ask for a passphrase.
func openStore(state, backend string) (*secrets.Store, error) {
	attended := term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stderr.Fd()))
	return secrets.OpenStore(secrets.StoreConfig{State: state, Backend: backend, Interactive: attended})
}

// unlock asks for the keyring's passphrase, if one is needed, now and not at the first request.
func (s *stack) unlock(ctx context.Context) error {
	for _, ref := range s.Rules.Current().Refs() {
		if ref.Scheme == "keyring" {
			return s.Store.Unlock(ctx)
		}
	}
	return nil
}

func (s *stack) onClose(f func() error) { s.closers = append(s.closers, f) }

// Close ends all parts, the last one opened first, and waits for their goroutines.
func (s *stack) Close() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i]())
	}
	s.closers = nil
	return errors.Join(errs...)
}

func authorityDir(state string) string { return filepath.Join(state, "ca") }
func auditPath(state string) string    { return filepath.Join(state, "audit.log") }
func clientsDir(state string) string   { return filepath.Join(state, "clients") }
func tokenPath(state string) string    { return filepath.Join(state, "token") }
func bundlePath(state string) string   { return filepath.Join(state, "ca", "bundle.pem") }

// rootVariables name files of roots in the environment that credproxy is started in.
var rootVariables = []string{"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"}

// inheritedRoots lists the files that rootVariables name.
func inheritedRoots() []string {
	var files []string
	for _, name := range rootVariables {
		if file := os.Getenv(name); file != "" {
			files = append(files, file)
		}
	}
	return files
}

// findRules reports a rules file that does not exist, which is how everybody starts.
func findRules(path string) error {
	_, err := os.Stat(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return nil // whatever else is wrong, loading says it better
	}
	next := "printf 'version: 1\\nrules: []\\n' > " + quote(path)
	if dir := filepath.Dir(path); !isDir(dir) {
		next = "mkdir -p " + quote(dir) + "\n" + next
	}
	return &failure{slug: slugRulesMissing, text: "there is no rules file at " + path, next: next}
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// tokenClient asks token endpoints: directly, for the environment's proxy may be this one; over verified TLS; and never
// somewhere else, for a redirect would carry the client's secret along.
func tokenClient(roots *x509.CertPool, own func(*x509.Certificate) bool) *http.Client {
	return &http.Client{
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:                  nil,
			DialContext:            proxy.Dial,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, VerifyConnection: proxy.NotOwn(own)},
			TLSHandshakeTimeout:    10 * time.Second,
			ResponseHeaderTimeout:  20 * time.Second,
			IdleConnTimeout:        time.Minute,
			MaxIdleConns:           16,
			MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:      true,
		},
	}
}

// listen opens the proxy's port. Addresses that other machines can reach are refused unless shared is set: whoever can
// reach the proxy there needs a token, and it comes in the clear.
func listen(address, state string, shared bool) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || strconv.FormatUint(n, 10) != port {
		return nil, &failure{slug: slugUsage, text: "not an address to listen on: " + address, next: "--listen " + defaultListen}
	}
	if strings.EqualFold(host, "localhost") {
		host = "127.0.0.1" // what clients are told; ::1 may belong to somebody else
	}
	switch ip := net.ParseIP(host); {
	case ip == nil:
		return nil, &failure{
			slug: slugUsage,
			text: "refusing to listen on " + address + ": say which address of this machine, as an IP address",
			next: "--listen 127.0.0.1:" + port,
		}
	case !ip.IsLoopback() && !shared:
		return nil, &failure{
			slug: slugUsage,
			text: "refusing to listen on " + address + ": other machines could use your credentials, and no client has a token",
			next: "--listen 127.0.0.1:" + port + "\nor give each client a token first: credproxy client add NAME",
		}
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil && portInUse(err) {
		who, next := "another program", "choose another port, or any: --listen 127.0.0.1:0"
		if r, err := announced(state); err == nil && r.Listen == net.JoinHostPort(host, port) && alive(r.PID) {
			who = fmt.Sprintf("credproxy, process %d", r.PID)
			next = "it runs already; in the shell that is to use it: eval \"$(credproxy env)\"\nor " + next
		}
		return nil, &failure{slug: slugPortInUse, text: address + " is in use by " + who, next: next}
	}
	if err != nil {
		return nil, &failure{slug: slugState, text: "listening on " + address, next: "--listen 127.0.0.1:0", err: err}
	}
	return l, nil
}
