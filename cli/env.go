package cli

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	"github.com/credproxy/credproxy/certs"
	"github.com/credproxy/credproxy/clients"
	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/rules"
	"github.com/spf13/cobra"
)

func newEnvCommand(o *options) *cobra.Command {
	var unset bool
	var syntax string
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Print the variables that lead programs to the running proxy",
		Long: `env prints the environment variables that make programs use the proxy which credproxy serve runs, in the syntax of
your shell. It finds the last one that was started with the same state folder, wherever it listens; --listen asks for
one on a certain address. If no proxy runs it prints nothing and exits with status 5.`,
		Example: `  eval "$(credproxy env)"
  credproxy env --shell fish | source
  credproxy env --shell dotenv > proxy.env
  eval "$(credproxy env --unset)"`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if syntax == "" {
				syntax = loginShell()
			}
			if unset {
				return writeVariables(cmd.OutOrStdout(), syntax, append(clientEnv{}.cleared(), o.clearedMarkers()...))
			}
			return printEnv(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), o, syntax)
		},
	}
	addSettings(cmd.Flags(), o, "listen")
	cmd.Flags().Lookup("listen").Usage = "`address` of the running proxy (default that of the last one, else " + defaultListen + ")"
	cmd.Flags().StringVar(&syntax, "shell", "", "`syntax`: bash (also zsh, sh), fish, pwsh, cmd, dotenv or json (default from $SHELL)")
	cmd.Flags().BoolVar(&unset, "unset", false, "print what takes the variables away again")
	completeWith(cmd, "shell", shellNames())
	return cmd
}

// cleared lists all variables, none of them set.
func (e clientEnv) cleared() []variable {
	list := e.variables()
	for i := range list {
		list[i] = variable{name: list[i].name}
	}
	return list
}

// clearedMarkers lists the variables of the placeholders in the rules, none of them set. Rules that cannot be read have none.
func (o *options) clearedMarkers() []variable {
	set, err := rulesOf(o, running{})
	if err != nil {
		return nil
	}
	list := markerVariables(set, "")
	for i := range list {
		list[i] = variable{name: list[i].name}
	}
	return list
}

func printEnv(ctx context.Context, stdout, stderr io.Writer, o *options, syntax string) error {
	state, err := o.stateDir()
	if err != nil {
		return err
	}
	p, err := findProxy(ctx, state, o.listen)
	if err != nil {
		return err
	}
	url := proxyURL("", "", p.Listen)
	if p.Token {
		token, err := clients.LocalToken(tokenPath(state))
		if err != nil {
			return &failure{slug: slugState, text: "finding the proxy's token", next: "rm " + quote(tokenPath(state)) + "\nand start credproxy serve again", err: err}
		}
		url = proxyURL(clients.Local, token, p.Listen)
	}
	return writeEnv(ctx, stdout, stderr, o, syntax, p, url, "")
}

// writeEnv prints the variables that lead a client, or one without a name, to p at url.
func writeEnv(ctx context.Context, stdout, stderr io.Writer, o *options, syntax string, p running, url, client string) error {
	state, err := o.stateDir()
	if err != nil {
		return err
	}
	e := clientEnv{proxy: url, bundle: bundlePath(state), ca: certs.Path(authorityDir(state)), wgetrc: filepath.Join(state, "wgetrc")}
	if err := keepRoots(ctx, o, e); err != nil {
		return err
	}
	if err := keepWgetrc(e.wgetrc, e.bundle); err != nil {
		return err
	}
	var markers []variable
	if set, err := rulesOf(o, p); err == nil {
		markers = markerVariables(set, client)
		var dropped []shadow
		e.noProxy, dropped = noProxy(inheritedNoProxy(), set.Rules())
		warnOfShadows(stderr, dropped)
	} else {
		// check says what is wrong with them. An entry could lead around a rule that is still in force.
		fmt.Fprintln(stderr, "credproxy: NO_PROXY: left empty, because the rules cannot be read")
	}
	return writeVariables(stdout, syntax, append(e.variables(), markers...))
}

// proxyURL is the proxy's URL for a client, or without a name for whoever needs none. All addresses of a machine are no
// address to connect to.
func proxyURL(name, token, address string) string {
	if host, port, err := net.SplitHostPort(address); err == nil {
		if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
			address = net.JoinHostPort("127.0.0.1", port)
		}
	}
	if name == "" {
		return "http://" + address
	}
	return "http://" + name + ":" + token + "@" + address
}

// keepRoots makes sure that the files exist. What the running proxy has written stays as it is: to open the CA could
// mean to renew it.
func keepRoots(ctx context.Context, o *options, e clientEnv) error {
	if isFile(e.bundle) && isFile(e.ca) {
		return nil
	}
	cfg, _, err := o.authority()
	if err != nil {
		return err
	}
	authority, err := cfg.Open(ctx)
	if err != nil {
		return err
	}
	_, err = certs.WriteBundle(e.bundle, authority, inheritedRoots())
	return err
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// rulesOf reads the rules that the running proxy goes by.
func rulesOf(o *options, p running) (*rules.Set, error) {
	path := p.Rules
	if path == "" || o.rules != "" {
		var err error
		if path, err = o.rulesPath(); err != nil {
			return nil, err
		}
	}
	return rules.Load(path, inject.Env{})
}

// keepWgetrc writes our wgetrc, unless the environment names that very file already.
func keepWgetrc(path, bundle string) error {
	if os.Getenv("WGETRC") == path && isFile(path) {
		return nil
	}
	data, err := wgetrcFor(bundle)
	if err != nil {
		return err
	}
	if err := replaceFile(path, data); err != nil {
		return &failure{slug: slugState, text: "writing the state folder", next: "choose another folder with --state", err: err}
	}
	return nil
}
