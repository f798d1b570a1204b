package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/credproxy/credproxy/certs"
	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/rules"
	"github.com/credproxy/credproxy/secrets"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// loginFlags are the flags of login.
type loginFlags struct {
	device, noBrowser bool
	port              int
	timeout           time.Duration
}

const loginTimeout = 5 * time.Minute

func newLoginCommand(o *options) *cobra.Command {
	var flags loginFlags
	cmd := &cobra.Command{
		Use:        "login RULE",
		SuggestFor: []string{"signin", "sign-in", "auth", "authorize"},
		Short:      "Sign in for a rule whose API wants a person",
		Long: `login signs you in for a rule of type oauth2_authorization_code or oauth2_device_code, and keeps the refresh token in
the keyring, where the rule says. A running proxy uses it at once.

It opens your browser and waits on a port of 127.0.0.1, which is open only until then, for the browser to come back.
Where the browser cannot come back, as over SSH, paste the address that it ends up at. With --device there is a code to
enter in a browser on any device, if the server can do that.

Exit status: 0 signed in, 1 not signed in and nothing stored, 2 there is no such rule.`,
		Example: `  credproxy login spotify
  credproxy login spotify --no-browser
  credproxy login github --device`,
		Args:              exactly(1),
		ValidArgsFunction: completeLogins(o),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.check(cmd.Flags().Changed("port")); err != nil {
				return err
			}
			return logIn(cmd.Context(), cmd.ErrOrStderr(), o, args[0], flags)
		},
	}
	cmd.Flags().BoolVar(&flags.device, "device", false, "sign in with a code, in a browser on any device")
	cmd.Flags().BoolVar(&flags.noBrowser, "no-browser", false, "only print the address")
	cmd.Flags().IntVar(&flags.port, "port", 0, "`port` of 127.0.0.1 that the browser comes back to (default the rule's, or any)")
	cmd.Flags().DurationVar(&flags.timeout, "timeout", loginTimeout, "how long to wait for you")
	return cmd
}

func (f loginFlags) check(port bool) error {
	switch {
	case port && (f.port < 1 || f.port > 65535):
		return &failure{slug: slugUsage, text: "--port is not a number from 1 to 65535", next: "credproxy login --help"}
	case port && f.device:
		return &failure{slug: slugUsage, text: "--port and --device do not go together", next: "use one of them"}
	case f.timeout < time.Second || f.timeout > time.Hour:
		return &failure{slug: slugUsage, text: "--timeout is not from 1s to 1h", next: "--timeout 5m"}
	}
	return nil
}

func logIn(ctx context.Context, stderr io.Writer, o *options, name string, flags loginFlags) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second ^C ends the program at once
	s := new(stack)
	defer s.Close()
	l, err := o.findLogin(ctx, s, name)
	if err != nil {
		return err
	}
	// What cannot be stored should show before a person goes to the trouble of signing in.
	if _, err := s.Secrets.Resolve(secrets.Unsent(ctx), l.Kept); err != nil && !errors.Is(err, secrets.ErrNotFound) && !errors.Is(err, secrets.ErrCorrupt) {
		return err
	}
	sign := &signIn{
		rule: name, login: l, flags: flags, say: stderr,
		keep: func(got oauth.SignIn) error { return keepSignIn(ctx, stderr, s.Store, l.Kept, name, got) },
	}
	sign.stdin, sign.terminal = os.Stdin, term.IsTerminal(int(os.Stdin.Fd()))
	if !flags.noBrowser {
		sign.browse = findBrowser()
	}
	return sign.run(ctx)
}

// keepSignIn stores what came of a sign-in, whole or not at all.
func keepSignIn(ctx context.Context, stderr io.Writer, store *secrets.Store, kept secrets.Ref, name string, got oauth.SignIn) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	replaced, err := store.PutRef(context.WithoutCancel(ctx), kept, got.Value())
	if err != nil {
		return err
	}
	how := "stored as"
	if replaced {
		how = "replaced"
	}
	fmt.Fprintf(stderr, "signed in for rule %s; %s %s in %s keyring\n", name, how, kept, store.Backend())
	switch end := got.Token.Expiry; {
	case !got.Refresh.IsZero():
	case end.IsZero():
		fmt.Fprintln(stderr, "the server gave no refresh token: sign in again once its access token is refused")
	default:
		fmt.Fprintf(stderr, "the server gave no refresh token: sign in again after %s\n", end.Local().Format(time.DateTime))
	}
	return nil
}

// findLogin finds the login of a rule. It opens in s what it needs.
func (o *options) findLogin(ctx context.Context, s *stack, name string) (*inject.Login, error) {
	path, err := o.rulesPath()
	if err != nil {
		return nil, err
	}
	if err := findRules(path); err != nil {
		return nil, err
	}
	state, err := o.stateDir()
	if err != nil {
		return nil, err
	}
	cfg := stackConfig{State: state, Backend: o.backend}
	if _, err := os.Stat(certs.Path(authorityDir(state))); err == nil { // no CA is made for this
		if s.Store, err = openStore(state, o.backend); err != nil {
			return nil, err
		}
		authority, err := authorityConfig(state, s.Store, o.logger()).Open(ctx)
		if err != nil {
			return nil, err
		}
		if cfg.Roots, err = authority.UpstreamRoots(os.Getenv("SSL_CERT_FILE")); err != nil {
			return nil, err
		}
		cfg.Own = authority.Made
	}
	env, err := s.openSecrets(cfg)
	if err != nil {
		return nil, err
	}
	set, err := rules.Load(path, env)
	if err != nil {
		return nil, err
	}
	l, known := logins(set)[name]
	if !known {
		return nil, noLogin(set, name)
	}
	return l, nil
}

// logins is the login of each rule that has one, by the rule's name.
func logins(set *rules.Set) map[string]*inject.Login {
	found := make(map[string]*inject.Login)
	for i, rule := range set.Rules() {
		for _, c := range set.Credentials(i) {
			if l := inject.LoginOf(c); l != nil {
				found[rule.Name] = l
			}
		}
	}
	return found
}

// noLogin says that name is no rule, or one for which nobody signs in. It repeats only names that are in the file.
func noLogin(set *rules.Set, name string) error {
	var names []string
	with := logins(set)
	f := &failure{slug: slugUsage, text: "there is no rule of that name"}
	for _, rule := range set.Rules() {
		if with[rule.Name] != nil {
			names = append(names, rule.Name)
		}
		if rule.Name == name {
			f.text = "rule " + name + " needs no login: it is of type " + strings.Join(rule.Types, ", ")
			if len(rule.Types) == 0 {
				f.text = "rule " + name + " needs no login: it injects nothing"
			}
		}
	}
	switch near := strict.Nearest(name, names); {
	case near != "":
		f.next = "did you mean: credproxy login " + near
	case len(names) == 0:
		f.next = "only rules of type oauth2_authorization_code and oauth2_device_code have a login, and there is none"
	default:
		slices.Sort(names)
		f.next = "rules with a login: " + strings.Join(names, ", ")
	}
	return f
}
