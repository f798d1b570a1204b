package cli

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/credproxy/credproxy/rules"
	"github.com/credproxy/credproxy/secrets"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// options is what the command line and the environment say.
type options struct {
	rules, state, backend, logLevel, listen string

	// keyring is the flags of the command line, not of the environment, that say which keyring.
	keyring []string

	needsBoth bool // the rules and the state folder
}

// defaultListen is where serve listens and env looks unless told otherwise.
const defaultListen = "127.0.0.1:7878"

// A setting is a flag with its environment variable.
type setting struct {
	flag, env, usage string
	field            func(*options) *string
	assumed          string // what holds if nothing is said, for the help
}

// settings is the one table of them: flags, fallbacks and the help all come from here.
var settings = []setting{
	{"rules", "CREDPROXY_RULES", "rules `file`", func(o *options) *string { return &o.rules }, "$XDG_CONFIG_HOME/credproxy/rules.yaml"},
	{"state", "CREDPROXY_STATE", "`folder` for all that credproxy writes", func(o *options) *string { return &o.state }, "$XDG_STATE_HOME/credproxy"},
	{"backend", "CREDPROXY_BACKEND", "`keyring`: " + strings.Join(secrets.Backends(), ", "), func(o *options) *string { return &o.backend }, "the platform's"},
	{"log-level", "CREDPROXY_LOG_LEVEL", "`level`: debug, info, warn or error", func(o *options) *string { return &o.logLevel }, "warn"},
	{"listen", "CREDPROXY_LISTEN", "`address` of the proxy; port 0 is any", func(o *options) *string { return &o.listen }, defaultListen},
}

// addSettings adds the named settings to flags.
func addSettings(flags *pflag.FlagSet, o *options, names ...string) {
	for _, s := range settings {
		for _, name := range names {
			if s.flag == name {
				flags.StringVar(s.field(o), s.flag, "", fmt.Sprintf("%s (default %s)", s.usage, s.assumed))
			}
		}
	}
}

// fromEnvironment fills in what the command line leaves open.
func (o *options) fromEnvironment(cmd *cobra.Command) error {
	for _, name := range []string{"backend", "state"} {
		if flag := cmd.Flag(name); flag != nil && flag.Changed {
			o.keyring = append(o.keyring, "--"+name+" "+quote(flag.Value.String()))
		}
	}
	o.needsBoth = slices.Contains([]string{"serve", "run", "env", "check", "login", "logout"}, cmd.Name())
	for _, s := range settings {
		if field := s.field(o); *field == "" {
			*field = os.Getenv(s.env)
		}
	}
	if _, err := o.level(); err != nil {
		return err
	}
	return nil
}

// environmentHelp lists the environment variables.
func environmentHelp() string {
	var b strings.Builder
	b.WriteString("Environment:\n")
	for _, s := range settings {
		fmt.Fprintf(&b, "  %-20s --%s\n", s.env, s.flag)
	}
	return b.String()
}

func (o *options) level() (slog.Level, error) {
	level := slog.LevelWarn
	if o.logLevel == "" {
		return level, nil
	}
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return 0, &failure{slug: slugUsage, text: "unknown log level", next: "--log-level debug, info, warn or error"}
	}
	return level, nil
}

// logger writes to stderr from the chosen level on. fromEnvironment has checked the level.
func (o *options) logger() *slog.Logger {
	level, _ := o.level()
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// rulesPath is where the rules file is, whether or not it exists.
func (o *options) rulesPath() (string, error) {
	if o.rules != "" {
		return o.rules, nil
	}
	dir, ok := baseFolder("XDG_CONFIG_HOME", "AppData", ".config")
	if !ok {
		return "", o.noHome("--rules FILE")
	}
	return filepath.Join(dir, "credproxy", "rules.yaml"), nil
}

// stateDir makes the state folder, which nobody else may look into, and returns its absolute path.
func (o *options) stateDir() (string, error) {
	dir := o.state
	if dir == "" {
		base, ok := baseFolder("XDG_STATE_HOME", "LocalAppData", filepath.Join(".local", "state"))
		if !ok {
			return "", o.noHome("--state DIR")
		}
		dir = filepath.Join(base, "credproxy")
	}
	dir, err := filepath.Abs(dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return "", &failure{slug: slugState, text: "making the state folder", next: "choose another folder with --state", err: err}
	}
	// Whoever can write here can replace keys, or lead what we write elsewhere.
	if flaws := rules.Flaws(dir); len(flaws) > 0 {
		next := "choose another folder with --state, one that only you can write to"
		if o.state == "" { // a folder that somebody named may be everybody's, and is not to be closed
			next = flaws[0].Next
		}
		return "", &failure{slug: slugState, text: "the state folder " + dir + " is not safe: " + flaws[0].Why, next: next}
	}
	return dir, nil
}

// baseFolder finds a folder of the XDG base directory specification, which says that relative paths are to be ignored.
// Windows has folders of its own; macOS has too, but tools of the terminal keep to ~/.config there.
func baseFolder(xdg, windows, below string) (dir string, ok bool) {
	if dir := os.Getenv(xdg); filepath.IsAbs(dir) {
		return dir, true
	}
	if runtime.GOOS == "windows" {
		if dir := os.Getenv(windows); filepath.IsAbs(dir) {
			return dir, true
		}
	}
	home, err := os.UserHomeDir()
	if err != nil || !filepath.IsAbs(home) {
		return "", false
	}
	return filepath.Join(home, below), true
}

// noHome says which flags do without a home folder, all that the command needs at once.
func (o *options) noHome(flag string) error {
	if o.needsBoth && o.rules == "" && o.state == "" {
		flag = "--rules FILE --state DIR"
	}
	return &failure{slug: slugNoHome, text: "there is no home folder: HOME is not set", next: "set HOME, or use " + flag}
}
