package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/credproxy/credproxy/secrets"
	"github.com/spf13/cobra"
)

func newSecretCommand(o *options) *cobra.Command {
	cmd := newGroup(&cobra.Command{
		Use:   "secret",
		Short: "Store, list and remove secrets in the keyring",
		Long: `secret looks after the secrets that rules name as keyring:NAME. No command prints one.
A running proxy uses a new value at once.`,
	})
	cmd.AddCommand(newSecretSetCommand(o), newSecretListCommand(o), newSecretRemoveCommand(o))
	return cmd
}

func newSecretSetCommand(o *options) *cobra.Command {
	var from valueSource
	var to hostChoice
	cmd := &cobra.Command{
		Use:        "set NAME",
		SuggestFor: []string{"add", "put", "store", "new", "create"},
		Short:      "Store a secret, from a hidden prompt or from stdin",
		Long: `set stores a secret in the keyring and reads it back. The value comes from a hidden prompt, or from stdin if that is
not a terminal. It is never an argument: other users could see it, and the shell would keep it. One newline at its
end is taken off.

With --host the secret can go nowhere else, whatever the rules say: not itself, and no token that it is exchanged for.
At a terminal set asks for the hosts of a new secret. A new value for an old secret keeps the hosts.`,
		Example: `  credproxy secret set github
  pass show github | credproxy secret set github
  credproxy secret set github --host api.github.com --host '*.github.com'
  credproxy secret set github --from-env GITHUB_TOKEN
  credproxy secret set google --from-file service-account.json`,
		Args:              exactly(1),
		ValidArgsFunction: completeSecrets(o),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := from.check(cmd.Flags().Changed); err != nil {
				return err
			}
			if err := to.check(); err != nil {
				return err
			}
			return setSecret(cmd.Context(), cmd.ErrOrStderr(), o, args[0], from, to)
		},
	}
	cmd.Flags().StringVar(&from.env, "from-env", "", "take the value of this environment `variable`")
	cmd.Flags().StringVar(&from.file, "from-file", "", "take the content of this `file`; - is stdin")
	cmd.Flags().StringArrayVar(&to.hosts, "host", nil, "a `host` that it may be sent to, or *.domain; can be given again")
	cmd.Flags().BoolVar(&to.any, "any-host", false, "it may be sent wherever a rule says")
	return cmd
}

func setSecret(ctx context.Context, stderr io.Writer, o *options, name string, from valueSource, to hostChoice) error {
	if err := checkSecretName("set", name); err != nil {
		return err
	}
	store, err := o.store()
	if err != nil {
		return err
	}
	value, err := from.read(stderr, name)
	if err != nil {
		return err
	}
	if to, err = to.ask(ctx, stderr, o, store, name, from); err != nil {
		return err
	}
	put := store.Put // keeps the hosts
	if to.any || len(to.hosts) > 0 {
		put = func(ctx context.Context, name string, v secrets.Value) (bool, error) {
			return store.Bind(ctx, name, v, to.hosts)
		}
	}
	replaced, err := put(ctx, name, value)
	if err != nil {
		return err
	}
	done := "stored"
	if replaced {
		done = "replaced"
	}
	fmt.Fprintf(stderr, "%s %s in %s keyring (rules name it keyring:%s)\n", done, name, store.Backend(), name)
	return nil
}

func newSecretListCommand(o *options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:        "list",
		SuggestFor: []string{"ls", "get", "show"},
		Short:      "List the names of the stored secrets, and where they may be sent",
		Args:       noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return listSecrets(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), o, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func listSecrets(ctx context.Context, stdout, stderr io.Writer, o *options, asJSON bool) error {
	store, err := o.store()
	if err != nil {
		return err
	}
	list, err := store.List(ctx)
	if err != nil {
		return err
	}
	for i, info := range list {
		if list[i].Hosts, err = store.Hosts(ctx, info.Name); errors.Is(err, context.Canceled) {
			return err
		}
		list[i].Unread = err != nil
	}
	if asJSON {
		if list == nil {
			list = []secrets.Info{}
		}
		return writeJSON(stdout, list)
	}
	if len(list) == 0 {
		fmt.Fprintf(stderr, "no secrets in %s keyring\n", store.Backend())
		return nil
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 3, ' ', 0)
	for _, info := range list {
		updated, to := "", "to any host"
		if !info.Updated.IsZero() {
			updated = "\t" + info.Updated.Local().Format(time.DateTime)
		}
		switch {
		case info.Unread:
			to = "cannot be read"
		case len(info.Hosts) > 0:
			to = "to " + strings.Join(info.Hosts, ", ")
		}
		fmt.Fprintf(w, "%s%s\t%s\n", info.Name, updated, to)
	}
	return w.Flush()
}

func newSecretRemoveCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:               "rm NAME",
		Aliases:           []string{"remove"},
		SuggestFor:        []string{"delete", "del", "unset"},
		Short:             "Remove a secret from the keyring",
		Args:              exactly(1),
		ValidArgsFunction: completeSecrets(o),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkSecretName("rm", args[0]); err != nil {
				return err
			}
			store, err := o.store()
			if err != nil {
				return err
			}
			if err := store.Remove(cmd.Context(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "removed %s from %s keyring\n", args[0], store.Backend())
			return nil
		},
	}
}

// store opens the keyring that o names.
func (o *options) store() (*secrets.Store, error) {
	state, err := o.stateDir()
	if err != nil {
		return nil, err
	}
	return openStore(state, o.backend)
}

// checkSecretName accepts what can stand after keyring: in the rules. Its error does not repeat name, which may be the
// secret itself in the wrong place.
func checkSecretName(verb, name string) error {
	if isSecretName(name) {
		return nil
	}
	f := &failure{
		slug: slugUsage,
		text: "not a name for a secret: use small letters, digits, dots, dashes and underscores, at most 64",
		next: "credproxy secret set NAME, and the value when asked for it",
	}
	if rest, ok := strings.CutPrefix(name, "keyring:"); ok && isSecretName(rest) {
		f.next = "leave off keyring: (credproxy secret " + verb + " " + rest + ")"
	} else if isSecretName(strings.ToLower(name)) {
		f.next = "write a name in small letters: github, not GitHub"
	} else if verb == "rm" {
		f.next = "credproxy secret list"
	}
	return f
}

func isSecretName(name string) bool {
	ref, err := secrets.ParseRef("keyring:" + name)
	return err == nil && ref.Name == name
}
