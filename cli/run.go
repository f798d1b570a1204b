package cli

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/credproxy/credproxy/audit"
	"github.com/credproxy/credproxy/rules"
	"github.com/credproxy/credproxy/secrets"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Exit statuses of run for a command that could not be started, as in env(1).
const (
	statusNotExecutable = 126
	statusNotFound      = 127
)

type runFlags struct{ quiet, summary, deny bool }

func newRunCommand(o *options) *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARGUMENTS]",
		Short: "Run a program behind a proxy of its own",
		Long: `run starts a private proxy, and the command with an environment that leads its requests there. The proxy takes
requests from that command only, and ends with it. The exit status is the command's; 127 if it does not exist,
126 if it cannot be executed.

The command does not see the variables that env: references of the rules name. Where a rule has a placeholder for a
variable, it sees that.`,
		Example: `  credproxy run -- curl https://api.github.com/user
  credproxy run --rules ./rules.yaml -- python3 report.py`,
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
	cmd.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "print no summary and no reloads")
	return cmd
}

func run(ctx context.Context, stderr io.Writer, o *options, f runFlags, args []string) error {
	path, err := lookCommand(args[0])
	if err != nil {
		return err
	}
	log := o.logger()
	if err := harden(); err != nil {
		log.Warn(err.Error()) // a sandbox may forbid it; the proxy works without
	}
	var counts summary
	p, err := startPrivate(ctx, o, stackConfig{
		Log:     log,
		Deny:    f.deny,
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
	status, err := runChild(path, args, env)
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
	id, token string
	address   string
	dir       string // for the files of this run
	stop      context.CancelFunc
	served    chan error
}

// startPrivate starts a proxy on a port of its own that only knows the bearer of a new token.
func startPrivate(ctx context.Context, o *options, cfg stackConfig) (*private, error) {
	p := &private{id: randomHex(4), token: randomToken(), served: make(chan error, 1)}
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
	cfg.Backend = o.backend
	// A bundle of its own: another run may have inherited other roots.
	cfg.Bundle, cfg.Inherited = filepath.Join(p.dir, "bundle.pem"), inheritedRoots()
	cfg.Clients = bearerOf(p.token)
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
	if err := p.writeWgetrc(); err != nil {
		return errors.Join(err, p.stack.Close())
	}
	l, err := listen("127.0.0.1:0", cfg.State)
	if err != nil {
		return errors.Join(err, p.stack.Close())
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
		proxy:  "http://" + runName + ":" + p.token + "@" + p.address,
		bundle: p.Bundle.Path, ca: p.Authority.Path(), wgetrc: p.wgetrc(),
	}
	e.noProxy, dropped = noProxy(inheritedNoProxy(), set.Rules())
	env = secrets.Environ()
	changes := append(ownVariables(env), secretVariables(set)...)
	changes = append(changes, markerVariables(set, runName)...)
	changes = append(changes, e.variables()...)
	return merge(env, append(changes, variable{name: "CREDPROXY_RUN", value: p.id, set: true})), dropped
}

// runName is the client's name in rules and in the audit log.
const runName = "run"

// bearerOf knows one client: whoever presents token as the password of runName (RFC 7617).
func bearerOf(token string) func(*http.Request) (string, bool) {
	want := sha256.Sum256([]byte(runName + ":" + token))
	return func(r *http.Request) (string, bool) {
		scheme, credentials, _ := strings.Cut(r.Header.Get("Proxy-Authorization"), " ")
		sent, err := base64.StdEncoding.DecodeString(strings.TrimSpace(credentials))
		got := sha256.Sum256(sent)
		ok := err == nil && strings.EqualFold(scheme, "basic") && subtle.ConstantTimeCompare(got[:], want[:]) == 1
		return runName, ok
	}
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

// runChild runs the command to its end, handing on signals, and returns its exit status.
func runChild(path string, args, env []string) (int, error) {
	cmd := &exec.Cmd{Path: path, Args: args, Env: env, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	signals := make(chan os.Signal, 16)
	for _, sig := range passedOn {
		// What is ignored from the start, as under nohup, is ignored by the child too. Let it be.
		if !signal.Ignored(sig) {
			signal.Notify(signals, sig)
		}
	}
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, notRunnable(args[0], statusNotExecutable, "it cannot be executed", "file "+quote(path))
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case sig := <-signals:
			// The terminal has sent its own to the child already.
			if !fromTerminal(sig) || !inForeground() {
				_ = cmd.Process.Signal(sig) // it has just ended if this fails
			}
		case err := <-ended:
			if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
				return 0, fmt.Errorf("running %s: %w", args[0], err)
			}
			return statusOf(cmd.ProcessState), nil
		}
	}
}

// randomHex returns n random bytes as an identifier.
func randomHex(n int) string { return hex.EncodeToString(randomBytes(n)) }

// randomToken returns 256 random bits that can stand in a URL as they are.
func randomToken() string { return base64.RawURLEncoding.EncodeToString(randomBytes(32)) }

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails: see crypto/rand
	return b
}
