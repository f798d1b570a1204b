package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/credproxy/credproxy/clients"
	"github.com/spf13/cobra"
)

func newClientCommand(o *options) *cobra.Command {
	cmd := newGroup(&cobra.Command{
		Use:   "client",
		Short: "Give programs names, so that rules can tell them apart",
		Long: `client makes tokens for programs that use the proxy of credproxy serve. A rule with "clients: [NAME]" is for those
that show that client's token, so one program can read and another one write the same API. Other users of this machine,
and other machines, need a token in any case. A running proxy follows at once.`,
	})
	cmd.AddCommand(newClientAddCommand(o), newClientListCommand(o), newClientRemoveCommand(o))
	return cmd
}

// clientFlags are what client add may be told.
type clientFlags struct {
	replace bool
	syntax  string
}

func newClientAddCommand(o *options) *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use:        "add NAME",
		SuggestFor: []string{"new", "create"},
		Short:      "Make a token, and print the proxy's URL with it",
		Long: `add makes a token for a client and prints the proxy's URL with the token in it, as HTTP_PROXY and HTTPS_PROXY want it.
It is shown this once: only its hash is kept. With --shell it prints all variables that credproxy env would, for a file
that the program's environment is read from.`,
		Example: `  credproxy client add reader
  credproxy client add ci --shell dotenv > ci.env
  credproxy client add --replace ci`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return addClient(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), o, args[0], f)
		},
	}
	addSettings(cmd.Flags(), o, "listen")
	cmd.Flags().Lookup("listen").Usage = "`address` of the proxy (default that of the running one, else " + defaultListen + ")"
	cmd.Flags().BoolVar(&f.replace, "replace", false, "make a new token for a client that exists; the old one counts no more")
	cmd.Flags().StringVar(&f.syntax, "shell", "", "print the whole environment in this `syntax`: bash, fish, pwsh, cmd, dotenv or json")
	completeWith(cmd, "shell", shellNames())
	return cmd
}

func addClient(ctx context.Context, stdout, stderr io.Writer, o *options, name string, f clientFlags) error {
	if err := checkClientName(name); err != nil {
		return err
	}
	if f.syntax != "" {
		// A syntax that does not exist is refused before there is a token that nobody gets to see.
		if err := writeVariables(io.Discard, f.syntax, nil); err != nil {
			return err
		}
	}
	state, err := o.stateDir()
	if err != nil {
		return err
	}
	p, err := announced(state)
	if err != nil || !alive(p.PID) {
		p = running{Listen: defaultListen}
	}
	if o.listen != "" {
		p.Listen = o.listen
	}
	token, err := clients.Open(clientsDir(state)).Add(name, f.replace)
	if err != nil {
		return clientFailure(name, err)
	}
	url := proxyURL(name, token, p.Listen)
	if f.syntax != "" {
		err = writeEnv(ctx, stdout, stderr, o, f.syntax, p, url, name)
	} else {
		_, err = fmt.Fprintln(stdout, url)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "added client %s; its token is not shown again (rules name it clients: [%s])\n", name, name)
	return nil
}

func newClientListCommand(o *options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:        "list",
		SuggestFor: []string{"ls", "show"},
		Short:      "List the clients that have a token",
		Args:       noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return listClients(cmd.OutOrStdout(), cmd.ErrOrStderr(), o, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func listClients(stdout, stderr io.Writer, o *options, asJSON bool) error {
	state, err := o.stateDir()
	if err != nil {
		return err
	}
	list, err := clients.Open(clientsDir(state)).List()
	if err != nil {
		return clientFailure("", err)
	}
	if asJSON {
		return writeJSON(stdout, list)
	}
	if len(list) == 0 {
		fmt.Fprintln(stderr, "no clients")
		return nil
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 3, ' ', 0)
	for _, c := range list {
		created := "damaged; make it anew with --replace"
		if !c.Created.IsZero() {
			created = c.Created.Local().Format(time.DateTime)
		}
		fmt.Fprintf(w, "%s\t%s\n", c.Name, created)
	}
	return w.Flush()
}

func newClientRemoveCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:        "rm NAME",
		Aliases:    []string{"remove"},
		SuggestFor: []string{"delete", "del", "revoke"},
		Short:      "Remove a client, whose token then counts no more",
		Args:       exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkClientName(args[0]); err != nil {
				return err
			}
			state, err := o.stateDir()
			if err != nil {
				return err
			}
			if err := clients.Open(clientsDir(state)).Remove(args[0]); err != nil {
				return clientFailure(args[0], err)
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "removed client %s\n", args[0])
			return nil
		},
	}
}

// checkClientName accepts what a client can be called. Its error does not repeat name, which may be a token in the wrong
// place.
func checkClientName(name string) error {
	switch {
	case name == clients.Run || name == clients.Local:
		return &failure{slug: slugUsage, text: "the name " + name + " has a meaning of its own", next: "choose another name"}
	case !clients.ValidName(name):
		return badClientName()
	}
	return nil
}

func badClientName() error {
	return &failure{
		slug: slugUsage,
		text: "not a name for a client: use small letters, digits, dots, dashes and underscores, at most 64",
		next: "credproxy client add NAME",
	}
}

// clientFailure says what to do about an error of a Store.
func clientFailure(name string, err error) error {
	switch {
	case errors.Is(err, clients.ErrExists):
		return &failure{slug: slugUsage, text: "there is a client " + name + " already", next: "credproxy client add --replace " + name}
	case errors.Is(err, clients.ErrUnknown):
		return &failure{slug: slugUsage, text: "there is no client " + name, next: "credproxy client list"}
	case errors.Is(err, clients.ErrTooMany):
		return &failure{slug: slugUsage, text: err.Error(), next: "credproxy client rm NAME"}
	}
	return &failure{slug: slugState, text: "using the state folder", next: "choose another folder with --state", err: err}
}
