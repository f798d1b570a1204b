package cli

import (
	"fmt"

	"github.com/credproxy/credproxy/certs"
	"github.com/spf13/cobra"
)

func newCACommand(o *options) *cobra.Command {
	cmd := newGroup(&cobra.Command{
		Use:   "ca",
		Short: "Show the local CA that signs certificates for intercepted hosts",
		Long: `ca shows the local CA. It is made on first use, for this user on this machine only; its key never leaves the state
folder. Programs started by credproxy run trust it without further ado.`,
	})
	cmd.AddCommand(
		newAuthorityCommand(o, "path", "Print the path of the CA certificate", func(a *certs.Authority) string { return a.Path() + "\n" }),
		newAuthorityCommand(o, "export", "Print the CA certificate in PEM form", func(a *certs.Authority) string { return string(a.PEM()) }),
	)
	return cmd
}

func newAuthorityCommand(o *options, use, short string, show func(*certs.Authority) string) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			state, err := o.stateDir()
			if err != nil {
				return err
			}
			a, err := certs.Open(authorityDir(state))
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), show(a))
			return err
		},
	}
}
