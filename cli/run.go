package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/credproxy/credproxy/audit"
	"github.com/credproxy/credproxy/clients"
	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/rules"
	"github.com/credproxy/credproxy/sandbox"
	"github.com/credproxy/credproxy/secrets"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Exit statuses of run for a command that could not be started, as in env(1).
const (
	statusNotExecutable = 126
	statusNotFound      = 127
)

type runFlags struct {
	quiet, summary, deny, sandbox bool

	as string
}

func newRunCommand(o *options) *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARGUMENTS]",
		Short: "Run a program behind a proxy of its own",
		Long: `run starts a private proxy, and the command with an environment that leads its requests there. The proxy takes
requests from that command only, and ends with it. The exit status is the command's; 127 if it does not exist,
126 if it cannot be executed.

The command does not see the variables that env: references of the rules name. Where a rule has a placeholder for a
variable, it sees that.

Rules know the command as the client "run". With --as it is another one: a name that a rule has under clients, or that
credproxy client add has made. No token is needed for that; each run has its own.`,
		Example: `  credproxy run -- curl https://api.github.com/user
  credproxy run --rules ./rules.yaml -- python3 report.py
  credproxy run --as reader -- ./agent`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return &failure{slug: slugUsage, text: "no command to run", next: "credproxy run -- COMMAND"}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return run(cmd.Context(), cmd.ErrOrStderr(), o, f, args)
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().BoolVar(&f.summary, "summary", false, "print a summary at the end (default if stderr is a terminal)")
	cmd.Flags().BoolVar(&f.deny, "deny-unmatched", false, "refuse what no rule matches, whatever the rules file says")
	cmd.Flags().StringVar(&f.as, "as", clients.Run, "`name` of the command in rules' clients and in the audit log")
	cmd.Flags().BoolVar(&f.sandbox, "sandbox", false, "give the program no other network than the proxy, and hide the keyring from it (Linux)")
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "print no summary and no reloads")
	return cmd
}

func run(ctx context.Context, stderr io.Writer, o *options, f runFlags, args []string) error {
	path, err := lookCommand(args[0])
	if err != nil {
		return err
	}
	var box *sandbox.Box
	var inside net.Listener
	if f.sandbox {
		if box, err = startSandbox(); err != nil {
			return err
		}
		defer box.Close()
		inside = box.Listener()
	}
	log := o.logger()
	if err := harden(); err != nil {
		log.Warn(err.Error()) // a sandbox may forbid it; the proxy works without
	}
	var counts summary
	p, err := startPrivate(ctx, o, f.as, stackConfig{
		Log:  log,
		Deny: f.deny, Listener: inside,
		Events:  []func(audit.Event){counts.add},
		Changed: func(set *rules.Set, err error) { reportBrokenRules(stderr, f, err) },
	})
	if err != nil {
		return err
	}
	env, dropped := p.environment()
	if !f.quiet {
		warnOfShadows(stderr, dropped)
	}
	c := child{cmd: &exec.Cmd{Path: path, Args: args, Env: env, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}}
	c.start, c.signal = c.cmd.Start, func(sig os.Signal) { _ = c.cmd.Process.Signal(sig) } // it has just ended if this fails
	if box != nil {
		c.cmd, c.signal = box.Command(), box.Signal
		c.start = func() error { return launch(box, p.sandboxed(path, args, env)) }
	}
	status, err := c.run(args[0])
	if closeErr := p.Close(); closeErr != nil {
		report(stderr, closeErr) // the exit status stays the command's
	}
	if err != nil {
		return err
	}
	if !f.quiet && (f.summary || term.IsTerminal(int(os.Stderr.Fd()))) {
		counts.write(stderr)
	}
	if status != 0 {
		return exitStatus(status)
	}
	return nil
}

func reportBrokenRules(stderr io.Writer, f runFlags, err error) {
	if err != nil && !f.quiet {
		reportReload(stderr, "", nil, err)
	}
}

func warnOfShadows(w io.Writer, dropped []shadow) {
	for _, d := range dropped {
		fmt.Fprintf(w, "credproxy: NO_PROXY: left out %s, which covers %s of rule %s\n", d.entry, d.host, d.rule)
	}
}

// lookCommand finds the program to run.
func lookCommand(name string) (string, error) {
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
		return path, nil
	case isDir(name) && filepath.Base(name) != name:
		return "", notRunnable(name, statusNotExecutable, "it is a folder", "write the path of a program")
	case errors.Is(err, fs.ErrPermission):
		return "", notRunnable(name, statusNotExecutable, "it is not executable", "chmod +x "+quote(name))
	case errors.Is(err, exec.ErrDot):
		return "", notRunnable(name, statusNotExecutable, "it is in the current folder", "credproxy run -- ./"+name)
	}
	return "", notRunnable(name, statusNotFound, "command not found", "check PATH, or write the program's full path")
}

func notRunnable(name string, status int, why, next string) error {
	return &failure{slug: slugNotRunnable, text: name + ": " + why, next: next, code: status}
}

// A private proxy serves one run.
type private struct {
	*stack
	id, name, token string
	address         string
	state, rules    string // folder, file
	dir             string // for the files of this run
	stop            context.CancelFunc
	served          chan error
}

// startPrivate starts a proxy on a port of its own that only knows the bearer of a new token, under name.
func startPrivate(ctx context.Context, o *options, name string, cfg stackConfig) (*private, error) {
	p := &private{id: randomHex(4), name: name, token: clients.NewToken(), served: make(chan error, 1)}
	var err error
	if cfg.State, err = o.stateDir(); err != nil {
		return nil, err
	}
	if cfg.Rules, err = o.rulesPath(); err != nil {
		return nil, err
	}
	if p.dir, err = makeRunDir(cfg.State, p.id); err != nil {
		return nil, err
	}
	p.state, p.rules = cfg.State, cfg.Rules
	cfg.Backend = o.backend
	// A bundle of its own: another run may have inherited other roots.
	cfg.Bundle, cfg.Inherited = filepath.Join(p.dir, "bundle.pem"), inheritedRoots()
	cfg.Door = &clients.Door{
		Tokens: clients.One(p.name, p.token),
		Detail: "the run token is missing or wrong", Hint: "start with: credproxy run -- CMD",
	}
	cfg.Drain = 500 * time.Millisecond // what outlives the command has nobody waiting for it
	if err := p.open(ctx, cfg); err != nil {
		return nil, errors.Join(err, os.RemoveAll(p.dir))
	}
	return p, nil
}

// open opens the stack and serves it.
func (p *private) open(ctx context.Context, cfg stackConfig) (err error) {
	if p.stack, err = openStack(ctx, cfg); err != nil {
		return err
	}
	if err := p.checkName(cfg.State); err != nil {
		return errors.Join(err, p.stack.Close())
	}
	if err := p.writeWgetrc(); err != nil {
		return errors.Join(err, p.stack.Close())
	}
	l := cfg.Listener
	if l == nil {
		if l, err = listen("127.0.0.1:0", cfg.State, false); err != nil {
			return errors.Join(err, p.stack.Close())
		}
	}
	ctx, p.stop = context.WithCancel(ctx)
	p.address = l.Addr().String()
	go func() { p.served <- p.Proxy.Serve(ctx, l) }()
	return nil
}

// Close ends the proxy and takes its files away.
func (p *private) Close() error {
	p.stop()
	return errors.Join(<-p.served, p.stack.Close(), os.RemoveAll(p.dir))
}

func (p *private) wgetrc() string { return filepath.Join(p.dir, "wgetrc") }

func (p *private) writeWgetrc() error {
	data, err := wgetrcFor(p.Bundle.Path)
	if err != nil {
		return err
	}
	return replaceFile(p.wgetrc(), data)
}

// environment is the child's.
func (p *private) environment() (env []string, dropped []shadow) {
	set := p.Rules.Current()
	e := clientEnv{
		proxy:  proxyURL(p.name, p.token, p.address),
		bundle: p.Bundle.Path, ca: p.Authority.Path(), wgetrc: p.wgetrc(),
	}
	e.noProxy, dropped = noProxy(inheritedNoProxy(), set.Rules())
	env = secrets.Environ()
	changes := append(ownVariables(env), secretVariables(set)...)
	changes = append(changes, markerVariables(set, p.name)...)
	changes = append(changes, e.variables()...)
	return merge(env, append(changes, variable{name: "CREDPROXY_RUN", value: p.id, set: true})), dropped
}

// checkName refuses a name that means nothing: with a misspelt one, other rules would apply than somebody meant.
func (p *private) checkName(state string) error {
	known := append(p.Rules.Current().Clients(), clients.Run)
	if slices.Contains(known, p.name) {
		return nil
	}
	list, err := clients.Open(clientsDir(state)).List()
	if err != nil {
		return err
	}
	for _, c := range list {
		known = append(known, c.Name)
	}
	if slices.Contains(known, p.name) {
		return nil
	}
	if !clients.ValidName(p.name) {
		return badClientName()
	}
	f := &failure{slug: slugUsage, text: "no rule and no client has the name " + p.name, next: "credproxy client add " + p.name}
	if near := strict.Nearest(p.name, known); near != "" {
		f.next = "did you mean: --as " + near
	}
	return f
}

// makeRunDir makes a folder for one run, and takes those away whose process has died without doing so.
func makeRunDir(state, id string) (string, error) {
	runs := filepath.Join(state, "run")
	if entries, err := os.ReadDir(runs); err == nil {
		for _, e := range entries {
			pid, _, _ := strings.Cut(e.Name(), "-")
			if n, err := strconv.Atoi(pid); err == nil && n > 0 && !alive(n) {
				_ = os.RemoveAll(filepath.Join(runs, e.Name())) // the next run tries again
			}
		}
	}
	dir := filepath.Join(runs, fmt.Sprintf("%d-%s", os.Getpid(), id))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", &failure{slug: slugState, text: "making a folder for this run", next: "choose another folder with --state", err: err}
	}
	return dir, nil
}

// A child is the command that is to run: as a process of its own, or as the first one of a sandbox, which runs it.
type child struct {
	cmd    *exec.Cmd
	start  func() error
	signal func(os.Signal)
}

// run runs the command called name to its end, handing on signals, and returns its exit status.
func (c child) run(name string) (int, error) {
	signals := make(chan os.Signal, 16)
	for _, sig := range passedOn {
		// What is ignored from the start, as under nohup, is ignored by the child too. Let it be.
		if !signal.Ignored(sig) {
			signal.Notify(signals, sig)
		}
	}
	defer signal.Stop(signals)
	if err := c.start(); err != nil {
		if known, ok := errors.AsType[*failure](err); ok {
			return 0, known
		}
		return 0, notRunnable(name, statusNotExecutable, "it cannot be executed", "file "+quote(name))
	}
	ended := make(chan error, 1)
	go func() { ended <- c.cmd.Wait() }()
	for {
		select {
		case sig := <-signals:
			// The terminal has sent its own to the child already.
			if !fromTerminal(sig) || !inForeground() {
				c.signal(sig)
			}
		case err := <-ended:
			if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
				return 0, fmt.Errorf("running %s: %w", name, err)
			}
			return statusOf(c.cmd.ProcessState), nil
		}
	}
}

// randomHex returns n random bytes as an identifier.
func randomHex(n int) string { return hex.EncodeToString(randomBytes(n)) }

// randomToken returns 256 random bits that can stand in a URL as they are.
func randomToken() string { return clients.NewToken() }

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails: see crypto/rand
	return b
}
