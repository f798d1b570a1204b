package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/credproxy/credproxy/certs"
	"github.com/credproxy/credproxy/secrets"
	"github.com/spf13/cobra"
)

func newCACommand(o *options) *cobra.Command {
	cmd := newGroup(&cobra.Command{
		Use:   "ca",
		Short: "Show and renew the local CA that signs certificates for intercepted hosts",
		Long: `ca shows the local CA. It is made on first use, for this user on this machine only. Its key is in the keyring, or in a
file where there is none, and signs a CA for each host that rules name; that can sign for its host alone. Programs
started by credproxy run trust it without further ado.`,
	})
	cmd.AddCommand(
		newAuthorityCommand(o, "path", "Print the path of the CA certificate", func(a *certs.Authority) string { return a.Path() + "\n" }),
		newAuthorityCommand(o, "export", "Print the CA certificate in PEM form", func(a *certs.Authority) string { return string(a.PEM()) }),
		newCAStatusCommand(o),
		newCARotateCommand(o),
	)
	return cmd
}

func newAuthorityCommand(o *options, use, short string, show func(*certs.Authority) string) *cobra.Command {
	return &cobra.Command{
		Use:   use,
		Short: short,
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _, err := o.authority()
			if err != nil {
				return err
			}
			a, err := cfg.Open(cmd.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), show(a))
			return err
		},
	}
}

func newCAStatusCommand(o *options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the CA, the hosts that it can sign for, and where its key is",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _, err := o.authority()
			if err != nil {
				return err
			}
			s, err := cfg.Status()
			if errors.Is(err, fs.ErrNotExist) {
				return &failure{slug: slugState, text: "there is no local CA yet", next: "credproxy ca path"}
			}
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), s)
			}
			return showCA(cmd.OutOrStdout(), s)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func showCA(stdout io.Writer, s certs.Status) error {
	key := s.Key
	if key == "" {
		key = "nowhere: no certificates can be made for further hosts; credproxy ca rotate"
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintf(w, "root\t%s\ncertificate\t%s\nkey\t%s\nuntil\t%s\n", s.Name, s.Path, key, s.NotAfter.Local().Format(time.DateTime))
	for _, h := range s.Hosts {
		fmt.Fprintf(w, "signs for\t%s\tuntil %s\n", h.Domain, h.NotAfter.Local().Format(time.DateTime))
	}
	return w.Flush()
}

func newCARotateCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:        "rotate",
		SuggestFor: []string{"renew", "reset", "new", "replace"},
		Short:      "Replace the CA by a new one",
		Long: `rotate makes a new CA with a new key, and writes the bundle of roots anew. The old key is removed, and with it all that it
has signed. A proxy that runs changes to the new CA with the next connection, and need not be started again.

Programs that run have read the old certificate and refuse the new one: start them again. Where the old certificate
was added by hand, such as to the system's trust store, remove it, and add that of credproxy ca path.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, state, err := o.authority()
			if err != nil {
				return err
			}
			return rotateCA(cmd.Context(), cmd.ErrOrStderr(), cfg, bundlePath(state))
		},
	}
}

func rotateCA(ctx context.Context, stderr io.Writer, cfg certs.Config, bundle string) error {
	if err := cfg.Rotate(ctx); err != nil {
		return err
	}
	a, err := cfg.Open(ctx)
	if err != nil {
		return err
	}
	// The bundle that is there may hold roots that a running proxy was started with.
	if _, err := certs.WriteBundle(bundle, a, append([]string{bundle}, inheritedRoots()...)); err != nil {
		return err
	}
	fmt.Fprintf(stderr, "the local CA is now %s; programs that run must be started again to trust it\n", a.Certificate().Subject.CommonName)
	return nil
}

// authority is where the CA is.
func (o *options) authority() (cfg certs.Config, state string, err error) {
	if state, err = o.stateDir(); err != nil {
		return cfg, "", err
	}
	store, err := openStore(state, o.backend)
	if err != nil {
		return cfg, "", err
	}
	return authorityConfig(state, store, o.logger()), state, nil
}

func authorityConfig(state string, store *secrets.Store, log *slog.Logger) certs.Config {
	cfg := certs.Config{Dir: authorityDir(state), Log: log}
	// The file backend is a keyring behind a passphrase, which a start must not ask for if its rules need no secret of it.
	if store.Backend() != "file" {
		cfg.Vault = vault{store}
	}
	return cfg
}

// A vault keeps the CA's key in the keyring.
type vault struct{ store *secrets.Store }

func (v vault) Name() string { return v.store.Backend() }

func (v vault) Read(ctx context.Context, item string) ([]byte, error) {
	value, err := v.store.Own(item).Get(ctx)
	if err != nil {
		return nil, absent(err)
	}
	return []byte(value.Reveal()), nil
}

func (v vault) Write(ctx context.Context, item string, data []byte) error {
	return v.store.Own(item).Set(ctx, secrets.NewValue(string(data)))
}

func (v vault) Remove(ctx context.Context, item string) error {
	return absent(v.store.Own(item).Remove(ctx))
}

// absent says in the words of certs that there is no such item.
func absent(err error) error {
	if errors.Is(err, secrets.ErrNotFound) {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}
