// Package cli holds the commands of credproxy, one file each.
//
// What a command was asked for goes to stdout, all talk to stderr. Errors are two lines, "credproxy: error: …" and
// "credproxy: hint: …", where the hint is the next command to type. The exit statuses stand in errors.go.
package cli

import (
	"context"
	"io"
	"log"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/sandbox"
	"github.com/credproxy/credproxy/secrets"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Main runs the command line args (without the program's name) and returns the exit status. If this process was
// started as the keyring helper, or as the first one of a sandbox, it serves as that instead.
func Main(args []string) int {
	if code, ok := secrets.RunHelper(); ok {
		return code
	}
	if code, ok := sandbox.RunInit(); ok {
		return code
	}
	// What net/http has to say goes to log's standard logger: bytes that an upstream sent unasked, and with GODEBUG all
	// headers. Both can hold secrets. Our own log is a slog.Logger.
	log.SetOutput(io.Discard)
	o := new(options)
	root := newRootCommand(o)
	root.SetArgs(args)
	err := root.ExecuteContext(context.Background())
	report(os.Stderr, o.again(err))
	return exitCode(err)
}

func newRootCommand(o *options) *cobra.Command {
	root := newGroup(&cobra.Command{
		Use:   "credproxy",
		Short: "A local proxy that holds the keys, so that apps need none",
		Long: `credproxy is a local forward proxy that holds the keys. Apps carry no secret: credproxy puts the right
credential on each request, as the rules file says, with secrets from the keyring.`,
		Example: `  credproxy secret set github                          store a secret (hidden prompt, or stdin)
  credproxy login spotify                              sign in where an API wants a person
  credproxy check                                      are the rules and their secrets in order?
  credproxy run -- curl https://api.github.com/user    run a program behind a private proxy
  credproxy serve                                      run the proxy for everything else`,
		Version:           version(),
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return o.fromEnvironment(cmd) },
	})
	root.AddCommand(
		newServeCommand(o), newRunCommand(o), newEnvCommand(o), newClientCommand(o),
		newSecretCommand(o), newLoginCommand(o), newLogoutCommand(o), newCheckCommand(o), newExplainCommand(o),
		newCACommand(o), newAuditCommand(o), newVersionCommand(), newDemoCommand(),
	)
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			newGroup(cmd)
		}
	}
	addSettings(root.PersistentFlags(), o, "rules", "state", "backend", "log-level")
	root.SetFlagErrorFunc(flagError)
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetHelpTemplate(root.HelpTemplate() + "{{if not .HasParent}}\n" + environmentHelp() + "{{end}}")
	return root
}

// newGroup makes cmd a command that only has others below it.
func newGroup(cmd *cobra.Command) *cobra.Command {
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// flagError says what is wrong with a flag. It never repeats the command line, which may hold a secret that was meant
// for stdin: of err, only the name of a long flag is shown.
func flagError(cmd *cobra.Command, err error) error {
	// A flag of a misspelt command is unknown only because the command is.
	if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 {
		return unknownCommand(cmd, args[0])
	}
	f := &failure{slug: slugUsage, text: "unknown flag, or a flag without its value", next: cmd.CommandPath() + " --help"}
	if name := longFlag.FindString(err.Error()); name != "" {
		f.text += ": " + name
		var known []string
		cmd.Flags().VisitAll(func(flag *pflag.Flag) { known = append(known, "--"+flag.Name) })
		if near := strict.Nearest(name, known); near != "" && near != name {
			f.next = "did you mean: " + near
		}
	}
	return f
}

var (
	longFlag    = regexp.MustCompile(`--[a-z][a-z-]{0,20}\b`)
	commandWord = regexp.MustCompile(`^[a-z][a-z-]{0,20}$`)
)

func unknownCommand(parent *cobra.Command, name string) error {
	f := &failure{slug: slugUsage, text: "unknown command", next: parent.CommandPath() + " --help"}
	if commandWord.MatchString(name) {
		f.text += " " + name
	}
	if parent.SuggestionsMinimumDistance <= 0 {
		parent.SuggestionsMinimumDistance = 2
	}
	near := parent.SuggestionsFor(name)
	for _, cmd := range parent.Commands() {
		if slices.Contains(cmd.SuggestFor, name) {
			near = []string{cmd.Name()} // rather than what only looks like it
		}
	}
	if len(near) == 0 {
		near = elsewhere(parent, name)
	}
	if len(near) > 0 {
		f.next = "did you mean: " + parent.CommandPath() + " " + strings.Join(near, ", or ")
	}
	return f
}

// elsewhere finds what name means one level deeper, or as a program.
func elsewhere(parent *cobra.Command, name string) []string {
	var found []string
	for _, group := range parent.Commands() {
		for _, cmd := range group.Commands() {
			if group.Name() != "completion" && (cmd.Name() == name || slices.Contains(cmd.SuggestFor, name)) {
				found = append(found, group.Name()+" "+cmd.Name())
			}
		}
	}
	if len(found) > 0 {
		return found
	}
	if _, err := exec.LookPath(name); err == nil && !parent.HasParent() && commandWord.MatchString(name) {
		return []string{"run -- " + name}
	}
	return nil
}

// noArguments refuses arguments without repeating them.
func noArguments(cmd *cobra.Command, args []string) error { return exactly(0)(cmd, args) }

// exactly wants n arguments. Its error does not repeat them: one too many may be a secret.
func exactly(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == n {
			return nil
		}
		return &failure{
			slug: slugUsage,
			text: cmd.CommandPath() + " takes " + plural(n, "argument") + ", not " + plural(len(args), "argument"),
			next: cmd.CommandPath() + " --help",
		}
	}
}
