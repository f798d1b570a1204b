package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/credproxy/credproxy/clients"
	"github.com/credproxy/credproxy/rules"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func newServeCommand(o *options) *cobra.Command {
	var tokens bool
	cmd := &cobra.Command{
		Use:        "serve",
		SuggestFor: []string{"start", "proxy", "daemon"},
		Short:      "Run the proxy until it is told to stop",
		Long: `serve runs the proxy. When it accepts connections, it prints one line to stderr:

  credproxy: listening on 127.0.0.1:7878

It reloads the rules file when that changes; a broken one is reported and changes nothing. What fails is logged under
the name that the client gets for it; what the rules refuse only with --log-level info. SIGHUP also forgets all
cached secrets. SIGINT and SIGTERM let requests in flight finish; a second one stops at once. If it was started on a
terminal, the end of the terminal stops it too; under nohup it goes on.

On loopback it serves your own programs, and whoever has a token of credproxy client add. With --require-token, and
where the system does not say whose a connection is, your own programs need a token too; credproxy env has it. On
other addresses everybody needs a client's token.`,
		Example: `  credproxy serve
  credproxy serve --listen 127.0.0.1:0 --rules ./rules.yaml
  eval "$(credproxy env)"      in the shell that is to use it`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), cmd.ErrOrStderr(), o, tokens) },
	}
	cmd.Flags().BoolVar(&tokens, "require-token", false, "serve nobody without a token, not even your own programs")
	addSettings(cmd.Flags(), o, "listen")
	return cmd
}

func serve(ctx context.Context, stderr io.Writer, o *options, tokens bool) error {
	log := o.logger()
	if err := errors.Join(harden(), noCoreDumps()); err != nil {
		log.Warn(err.Error()) // a sandbox may forbid it; the proxy works without
	}
	state, err := o.stateDir()
	if err != nil {
		return err
	}
	path, err := o.rulesPath()
	if err != nil {
		return err
	}
	address := o.listen
	if address == "" {
		address = defaultListen
	}
	known := clients.Open(clientsDir(state))
	l, err := listen(address, state, known.Any())
	if err != nil {
		return err
	}
	if !isLoopback(l) {
		tokens = true
		fmt.Fprintf(stderr, "credproxy: warning: other machines can reach %s; tokens and plain requests cross the network in the clear\n", l.Addr())
	}
	door, err := newDoor(state, known, tokens)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	s, err := openStack(ctx, stackConfig{
		Door:  door,
		Rules: path, State: state, Backend: o.backend, Log: log, Inherited: inheritedRoots(),
		Changed: func(set *rules.Set, err error) { reportReload(stderr, path, set, err) },
	})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	withdraw, err := announce(state, running{PID: os.Getpid(), Listen: l.Addr().String(), Rules: path, Token: !door.OwnUser, Started: time.Now()})
	if err != nil {
		return errors.Join(err, l.Close(), s.Close())
	}
	defer withdraw()

	terminals := ownTerminals()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, append([]os.Signal{os.Interrupt, syscall.SIGTERM}, reloadSignals...)...)
	defer signal.Stop(signals)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	served := make(chan error, 1)
	go func() { served <- s.Proxy.Serve(ctx, l) }()
	fmt.Fprintf(stderr, "credproxy: listening on %s\n", l.Addr())
	return untilStopped(stderr, s, stop, terminals, signals, served)
}

func isLoopback(l net.Listener) bool {
	tcp, ok := l.Addr().(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// newDoor lets in who has a client's token, and this user's own programs: without a token, where it can be told that they
// are, unless tokens is set.
func newDoor(state string, known *clients.Store, tokens bool) (*clients.Door, error) {
	d := &clients.Door{
		Tokens: known.Check,
		Detail: "this proxy wants a token from others than its own user", Hint: "credproxy client add NAME",
	}
	if !tokens && clients.CanTellOwners() {
		d.OwnUser = true
		return d, nil
	}
	var err error
	if d.LocalToken, err = clients.LocalToken(tokenPath(state)); err != nil {
		return nil, &failure{slug: slugState, text: "opening the door", next: "rm " + quote(tokenPath(state)), err: err}
	}
	d.Detail, d.Hint = "this proxy wants a token", `eval "$(credproxy env)", or credproxy client add NAME`
	return d, nil
}

// ownTerminals lists which of stdin and stderr are a terminal whose end is ours too.
func ownTerminals() []int {
	if signal.Ignored(syscall.SIGHUP) { // nohup
		return nil
	}
	isNone := func(fd int) bool { return !term.IsTerminal(fd) }
	return slices.DeleteFunc([]int{int(os.Stdin.Fd()), int(os.Stderr.Fd())}, isNone)
}

// hungUp reports whether one of the terminals has gone.
func hungUp(terminals []int) bool {
	return slices.ContainsFunc(terminals, func(fd int) bool { return !term.IsTerminal(fd) })
}

// patience is how long a shutdown may take before it is worth a word.
const patience = time.Second

// untilStopped acts on signals until the proxy has ended. The first one that asks for an end lets requests finish;
// the second leaves them, and the stack, to the end of the process. The end of a terminal asks for one, too.
func untilStopped(stderr io.Writer, s *stack, stop func(), terminals []int, signals <-chan os.Signal, served <-chan error) error {
	var slow <-chan time.Time
	stopping := false
	for {
		select {
		case err := <-served:
			return errors.Join(err, s.Close())
		case <-slow:
			fmt.Fprintln(stderr, "credproxy: waiting for requests in flight; once more to stop at once")
		case sig := <-signals:
			asked := sig == os.Interrupt || sig == syscall.SIGTERM
			switch {
			case !asked && !hungUp(terminals):
				s.Secrets.Forget()
				s.Rules.Reload()
			case stopping && !asked: // the shell and the terminal both say so
			case stopping:
				return exitStatus(1)
			default:
				stopping = true
				slow = time.After(patience)
				stop()
			}
		}
	}
}

// reportReload says what came of a reload, with the same message as check.
func reportReload(w io.Writer, path string, set *rules.Set, err error) {
	if err != nil {
		report(w, err)
		fmt.Fprintf(w, "credproxy: the last good rules stay in force\n")
		return
	}
	fmt.Fprintf(w, "credproxy: %s reloaded: %s\n", filepath.Base(path), plural(len(set.Rules()), "rule"))
}
