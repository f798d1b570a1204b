package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"github.com/credproxy/credproxy/rules"
	"github.com/credproxy/credproxy/secrets"
)

// The failures that this package finds itself.
const (
	slugUsage        = "usage"
	slugRulesMissing = "rules_missing"
	slugNoProxy      = "no_proxy"
	slugNoHome       = "no_home"
	slugPortInUse    = "port_in_use"
	slugSandbox      = "no_sandbox"
	slugState        = "state_unusable"
	slugInput        = "input"
	slugNotRunnable  = "not_runnable"
	slugLogin        = "login_failed"
	slugAudit        = "audit_broken"
)

// exitCodes is the exit status of each failure that has one of its own; all others are 1. What run's command exits
// with is passed on.
var exitCodes = map[string]int{
	slugUsage: 2,

	"rules_invalid":  3,
	slugRulesMissing: 3,

	"secret_missing":      4,
	"secret_denied":       4,
	"secret_misdirected":  4,
	"secret_timeout":      4,
	"secret_corrupt":      4,
	"secret_unavailable":  4,
	"keyring_locked":      4,
	"keyring_unavailable": 4,

	slugNoProxy: 5,
}

// A failure is an error of the command line.
type failure struct {
	slug string
	text string
	next string // the next command to type
	err  error  // the cause, or nil
	code int    // exit status; 0: that of slug
}

func (f *failure) Error() string {
	if f.err == nil {
		return f.text
	}
	return f.text + ": " + f.err.Error()
}

func (f *failure) Unwrap() error { return f.err }
func (f *failure) Slug() string  { return f.slug }
func (f *failure) Hint() string  { return f.next }

// An exitStatus ends the program with a status and says no more: all is said.
type exitStatus int

func (s exitStatus) Error() string { return "exit status " + strconv.Itoa(int(s)) }

// slugged is what errors of all packages have in common once they reach a person.
type slugged interface {
	error
	Slug() string
	Hint() string
}

// hintOf is the next command to type after err, if there is one.
func hintOf(err error) string {
	if known, ok := errors.AsType[slugged](err); ok {
		return known.Hint()
	}
	return ""
}

// again is err with a hint that leads to the same keyring as the command line did.
func (o *options) again(err error) error {
	known, ok := errors.AsType[slugged](err)
	if !ok || len(o.keyring) == 0 {
		return err
	}
	hint := known.Hint()
	if hint == "" || strings.Contains(hint, "CREDPROXY_BACKEND=") { // that leads to another one on purpose
		return err
	}
	return &hinted{err: err, known: known, hint: withFlags.ReplaceAllStringFunc(hint, func(command string) string {
		return command + " " + strings.Join(o.keyring, " ")
	})}
}

// withFlags finds the commands of hints that take the flags of a keyring.
var withFlags = regexp.MustCompile(`\bcredproxy (secret (set|list|rm)|login|logout|check|serve|env)\b`)

// hinted is an error with another hint.
type hinted struct {
	err   error
	known slugged
	hint  string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }
func (h *hinted) Slug() string  { return h.known.Slug() }
func (h *hinted) Hint() string  { return h.hint }

// exitCode is the exit status that err ends the program with.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if status, ok := errors.AsType[exitStatus](err); ok {
		return int(status)
	}
	if errors.Is(err, context.Canceled) {
		return int(statusInterrupted) // nothing but a person's ^C cancels a command
	}
	if own, ok := errors.AsType[*failure](err); ok && own.code != 0 {
		return own.code
	}
	if known, ok := errors.AsType[slugged](err); ok {
		if code, listed := exitCodes[known.Slug()]; listed {
			return code
		}
	}
	return 1
}

// report tells a person about err, in one write.
func report(w io.Writer, err error) {
	if err == nil {
		return
	}
	if _, silent := errors.AsType[exitStatus](err); silent || errors.Is(err, context.Canceled) {
		return
	}
	var b strings.Builder
	hint := hintOf(err)
	if file, ok := errors.AsType[*rules.FileError](err); ok {
		// Each mistake in the form that editors jump to, then how many there are.
		fmt.Fprintf(&b, "%v\ncredproxy: error: %s in %s\n", file, plural(len(file.Mistakes), "mistake"), file.Path)
	} else {
		fmt.Fprintf(&b, "credproxy: error: %v\n", err)
	}
	if secret, ok := errors.AsType[*secrets.Error](err); ok {
		writeLines(&b, "credproxy: detail: ", secret.Detail)
	}
	writeLines(&b, "credproxy: hint: ", hint)
	_, _ = io.WriteString(w, b.String())
}

// writeLines writes each line of text that is not empty after a label.
func writeLines(b *strings.Builder, label, text string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			b.WriteString(label + line + "\n")
		}
	}
}

// plural is n with noun, such as "1 rule" and "2 rules".
func plural(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return strconv.Itoa(n) + " " + noun
}
