package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/credproxy/credproxy/audit"
	"github.com/credproxy/credproxy/clients"
	"github.com/credproxy/credproxy/rules"
	"github.com/credproxy/credproxy/secrets"
	"github.com/spf13/cobra"
)

func newDemoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "See it work, on a sample API of its own",
		Long: `demo shows what credproxy does, for real but on its own: it starts a sample HTTPS API on loopback that answers 401
without the exact credential, stores random secrets in a keyring of its own, writes rules, starts a proxy, and sends
the same requests directly and through the proxy. The client is curl if there is one. Everything stands in a temporary
folder that is removed at the end; your keyring, your rules and a running proxy are not touched.

The exit status is 0 only if every line came out as claimed.`,
		Example: `  credproxy demo`,
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDemo(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
}

// statusInterrupted is what shells report for a program that was ended with Ctrl-C.
const statusInterrupted exitStatus = 130

func runDemo(ctx context.Context, stdout, stderr io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop) // a second ^C ends the program at once
	// Caught, SIGPIPE is an error of the write: "credproxy demo | head" must not leave a folder behind.
	pipes := make(chan os.Signal, 1)
	signal.Notify(pipes, syscall.SIGPIPE)
	defer signal.Stop(pipes)
	for _, name := range passphraseVariables {
		if err := os.Unsetenv(name); err != nil {
			return err
		}
	}
	curl, err := exec.LookPath("curl")
	if err != nil {
		curl = ""
	}
	d := &demo{table: newDemoTable(stdout, stop), curl: curl, cases: demoCases}
	err = d.run(ctx)
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(stderr, "credproxy: interrupted; nothing is left behind")
		return statusInterrupted
	}
	return err
}

// passphraseVariables unlock the user's keyring. The demo's has a random key of its own.
var passphraseVariables = []string{
	"CREDPROXY_PASSPHRASE", "CREDPROXY_PASSPHRASE_FD", "CREDPROXY_PASSPHRASE_FILE", "CREDENTIALS_DIRECTORY",
}

// A demo is one run. Its fields are filled in by open, from top to bottom.
type demo struct {
	table *demoTable
	curl  string // path; empty: Go's client is used
	cases func(*sample) []demoCase

	patience time.Duration // for what must happen while the proxy runs; 0: 10 s

	dir     string
	sample  *sample
	list    []demoCase
	log     *os.File
	stack   *stack
	changes chan rulesChange
	token   string // the proxy's, for the demo's clients
	address string // the proxy's
	proxy   string // URL, with the token
	client  demoClient
	started demoProcesses
	heard   strings.Builder // all that clients received

	mistrusted chan struct{} // a client has refused the proxy's certificate

	closers []func() error // in order of opening
}

// run shows everything, and is an exitStatus if a line did not come out as claimed. Afterwards nothing of it is left,
// whatever happened.
func (d *demo) run(ctx context.Context) (err error) {
	began := time.Now()
	defer func() {
		if ctx.Err() != nil { // whatever else went wrong went wrong because of that
			err = ctx.Err()
		}
		if closed := d.closeAbove(0); closed != nil { // it says what may be left
			err = fmt.Errorf("cleaning up: %w", closed)
		}
	}()
	d.dir, err = os.MkdirTemp("", "credproxy-demo-")
	if err == nil {
		d.dir, err = filepath.Abs(d.dir)
	}
	if err != nil {
		return &failure{slug: slugState, text: "making a temporary folder", next: "set TMPDIR to a folder that you can write", err: err}
	}
	d.onClose(func() error { return os.RemoveAll(d.dir) })
	if err := d.open(ctx); err != nil {
		return err
	}
	for _, show := range []func(context.Context) error{d.showKinds, d.showLive, d.fillLog} {
		if err := show(ctx); err != nil {
			return err
		}
	}
	if err := d.closeAbove(1); err != nil { // the logs are whole only now; the folder stays
		return err
	}
	if err := d.showLeaks(); err != nil {
		return err
	}
	d.table.end(time.Since(began))
	if d.table.failed > 0 {
		return exitStatus(1)
	}
	return nil
}

// open starts the API and the proxy, and says so.
func (d *demo) open(ctx context.Context) error {
	d.onClose(d.started.watch())
	d.table.title("credproxy demo: apps without secrets, requests with credentials. All of it happens now, in " + d.dir)
	var err error
	if d.sample, err = startSample(d.dir); err != nil {
		return err
	}
	d.onClose(d.sample.close)
	d.list = d.cases(d.sample)
	d.sample.serve(d.list)
	d.table.say("sample API  https://*.localhost:%s, with a CA of its own; 401 without the exact credential", d.sample.api.port)
	took, err := d.store(ctx)
	if err != nil {
		return err
	}
	d.table.say("secrets     %d random ones, stored in a new keyring (backend file) in %d ms", len(d.sample.stored), took.Milliseconds())
	if err := d.writeRules(false); err != nil {
		return err
	}
	if err := d.startProxy(ctx); err != nil {
		return err
	}
	d.table.say("proxy       %s with %s, where references stand in place of secrets, such as",
		"http://"+d.address, plural(len(d.stack.Rules.Current().Rules()), "rule"))
	d.table.quote(demoRule(d.list[0], d.sample.api.port, true))
	if err := d.signIn(ctx); err != nil {
		return err
	}
	return d.chooseClient(ctx)
}

func (d *demo) rulesPath() string { return filepath.Join(d.dir, "rules.yaml") }
func (d *demo) statePath() string { return filepath.Join(d.dir, "state") }
func (d *demo) logPath() string   { return filepath.Join(d.dir, "proxy.log") }

// openKeyring opens the demo's keyring as another process would.
func (d *demo) openKeyring() (*secrets.Store, error) {
	return secrets.OpenStore(secrets.StoreConfig{State: d.statePath(), Backend: "file"})
}

// store stores the secrets, as "credproxy secret set" does.
func (d *demo) store(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := os.Mkdir(d.statePath(), 0o700); err != nil {
		return 0, err
	}
	keyring, err := d.openKeyring()
	if err != nil {
		return 0, err
	}
	for _, s := range d.sample.stored {
		if err := keyring.Set(ctx, s.name, s.value); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

func (d *demo) startProxy(ctx context.Context) (err error) {
	if d.log, err = os.OpenFile(d.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600); err != nil {
		return err
	}
	d.onClose(d.log.Close)
	// The login server's roots only: those of the API come from the rules.
	roots := x509.NewCertPool()
	roots.AddCert(d.sample.login.server.authority.Certificate())
	d.token = clients.NewToken()
	d.changes, d.mistrusted = make(chan rulesChange, 16), make(chan struct{}, 1)
	d.stack, err = openStack(ctx, stackConfig{
		Rules: d.rulesPath(), State: d.statePath(), Backend: "file", Roots: roots, Drain: time.Second,
		Log:     slog.New(slog.NewTextHandler(d.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Door:    &clients.Door{Tokens: clients.One("demo", d.token)},
		Changed: d.noteChange, Events: []func(audit.Event){d.noteEvent},
	})
	if err != nil {
		return err
	}
	d.onClose(d.stack.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	d.serve(ctx, l)
	return nil
}

func (d *demo) serve(ctx context.Context, l net.Listener) {
	d.address = l.Addr().String()
	d.proxy = proxyURL("demo", d.token, d.address)
	ctx, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- d.stack.Proxy.Serve(ctx, l) }()
	d.onClose(func() error {
		stop()
		return <-served
	})
}

// A rulesChange is what came of a reload.
type rulesChange struct {
	set *rules.Set
	err error
	at  time.Time
}

func (d *demo) noteChange(set *rules.Set, err error) {
	select {
	case d.changes <- rulesChange{set, err, time.Now()}:
	default: // nobody has looked for a long time
	}
}

func (d *demo) onClose(f func() error) { d.closers = append(d.closers, f) }

// closeAbove ends what was opened after the first n things, the last one first.
func (d *demo) closeAbove(n int) error {
	var errs []error
	for _, f := range slices.Backward(d.closers[n:]) {
		errs = append(errs, f())
	}
	d.closers = d.closers[:n]
	return errors.Join(errs...)
}
