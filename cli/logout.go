package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
	"github.com/spf13/cobra"
)

func newLogoutCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:        "logout RULE",
		SuggestFor: []string{"signout", "sign-out", "revoke"},
		Short:      "Revoke a sign-in and remove it from the keyring",
		Long: `logout asks the server to revoke what login got for a rule, if the server can do that, and removes it from the keyring.
A running proxy forgets it at once. It is removed even if the server does not answer; then the exit status is 1.`,
		Example:           `  credproxy logout spotify`,
		Args:              exactly(1),
		ValidArgsFunction: completeLogins(o),
		RunE: func(cmd *cobra.Command, args []string) error {
			return logOut(cmd.Context(), cmd.ErrOrStderr(), o, args[0])
		},
	}
}

func logOut(ctx context.Context, stderr io.Writer, o *options, name string) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	s := new(stack)
	defer s.Close()
	l, err := o.findLogin(ctx, s, name)
	if err != nil {
		return err
	}
	_, err = s.Secrets.Resolve(secrets.Unsent(ctx), l.Kept)
	if errors.Is(err, secrets.ErrNotFound) {
		fmt.Fprintf(stderr, "nobody is signed in for rule %s; nothing is changed\n", name)
		return nil
	}
	if err != nil && !errors.Is(err, secrets.ErrCorrupt) {
		return err
	}
	where, told := revoke(ctx, s.Secrets, l)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := s.Store.RemoveRef(context.WithoutCancel(ctx), l.Kept); err != nil {
		return err
	}
	removed := fmt.Sprintf("signed out of rule %s: removed %s from %s keyring", name, l.Kept, s.Store.Backend())
	switch refused, ok := errors.AsType[*oauth.Error](told); {
	case told == nil && where != "":
		fmt.Fprintf(stderr, "%s, and revoked at %s\n", removed, where)
	case told == nil, ok && refused.Code == "unsupported_token_type":
		fmt.Fprintf(stderr, "%s; the server cannot revoke it, so it is good there until it ends or you take the access back in your account\n", removed)
	default:
		fmt.Fprintln(stderr, removed)
		return &failure{slug: slugLogin, text: "the server was not told", next: "take the access back in your account there", err: told, code: 1}
	}
	return nil
}

// revoke tells the server that the sign-in is over, and returns the server's host, or nothing if it has no place for
// that. Meanwhile no other process can rotate the token.
func revoke(ctx context.Context, resolver *secrets.Resolver, l *inject.Login) (where string, err error) {
	client, secret, server, err := l.Client(ctx)
	if err != nil || server.RevocationURL == "" {
		return "", err
	}
	if u, err := url.Parse(server.RevocationURL); err == nil {
		where = u.Host
	}
	return where, resolver.Rotate(l.Towards(ctx, server), l.Kept, func(ctx context.Context, current secrets.Value) (secrets.Value, error) {
		return secrets.Value{}, client.Revoke(ctx, server.RevocationURL, secret, oauth.ReadSignIn(current))
	})
}
