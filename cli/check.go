package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/rules"
	"github.com/credproxy/credproxy/secrets"
	"github.com/spf13/cobra"
)

func newCheckCommand(o *options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the rules file, and that every secret it names can be read",
		Long: `check loads the rules file and reports every mistake with its position, then reads every secret that the rules name
and reports those that are missing or locked, or that cannot be sent as the rule says. It asks no server, and so no
token endpoint. It runs the commands of exec references, and env references are read from its own environment: not
from that of a proxy that runs. It prints no value.

Exit status: 0 fine, 3 the rules have mistakes or do not exist, 4 a secret cannot be read or sent.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return check(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), o, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// A checkReport is what check --json prints.
type checkReport struct {
	File     string          `json:"file"`
	Rules    int             `json:"rules"`
	Mistakes []rules.Mistake `json:"mistakes"`
	Secrets  []secretReport  `json:"secrets"`
}

// A secretReport says whether one reference resolves.
type secretReport struct {
	Ref   string   `json:"ref"`
	Rules []string `json:"rules"` // that need it
	OK    bool     `json:"ok"`
	Slug  string   `json:"slug,omitempty"`
	Error string   `json:"error,omitempty"`
	Hint  string   `json:"hint,omitempty"`

	err  error
	rule string // that cannot send it, if it can be read
}

func check(ctx context.Context, stdout, stderr io.Writer, o *options, asJSON bool) error {
	path, err := o.rulesPath()
	if err != nil {
		return err
	}
	if err := findRules(path); err != nil {
		return err
	}
	state, err := o.stateDir()
	if err != nil {
		return err
	}
	s := new(stack)
	defer s.Close()
	env, err := s.openSecrets(stackConfig{State: state, Backend: o.backend})
	if err != nil {
		return err
	}
	r := checkReport{File: path, Mistakes: []rules.Mistake{}, Secrets: []secretReport{}}
	set, err := rules.Load(path, env)
	if err == nil {
		r.Rules = len(set.Rules())
		r.Secrets, err = checkSecrets(ctx, o, s.Secrets, set)
		if err == nil {
			checkDestinations(ctx, s.Secrets, r.Secrets, set)
			err = trySending(ctx, o, r.Secrets, set)
		}
	} else if file, ok := errors.AsType[*rules.FileError](err); ok {
		r.Mistakes, err = file.Mistakes, exitStatus(exitCode(err))
		if !asJSON {
			report(stderr, &brokenRules{file})
		}
	}
	if asJSON {
		err = errors.Join(writeJSON(stdout, r), err)
	}
	if err != nil {
		return err
	}
	return r.conclude(stdout, stderr, asJSON)
}

// brokenRules is a FileError without the hint to run this very command.
type brokenRules struct{ *rules.FileError }

// Unwrap gives the file's mistakes.
func (b *brokenRules) Unwrap() error { return b.FileError }

// Hint is what to do about a file that cannot be read; mistakes speak for themselves.
func (b *brokenRules) Hint() string {
	if b.FileError.Unwrap() == nil {
		return ""
	}
	return b.FileError.Hint()
}

// checkSecrets reads every secret that the rules need, one after the other: a keyring may have to ask for each. A person who does not want to be
// asked ends it all.
func checkSecrets(ctx context.Context, o *options, resolver *secrets.Resolver, set *rules.Set) ([]secretReport, error) {
	reports := []secretReport{}
	for _, ref := range set.Refs() {
		report := secretReport{Ref: ref.String(), Rules: usersOf(ref, set), OK: true}
		_, err := resolver.Resolve(secrets.Unsent(ctx), ref)
		if errors.Is(err, context.Canceled) {
			return nil, err
		}
		if err != nil {
			report.fail(o.again(signInFirst(err, ref, set)))
		}
		reports = append(reports, report)
	}
	return reports, nil
}

// signInFirst is err, which for a sign-in that is not there says how to sign in.
func signInFirst(err error, ref secrets.Ref, set *rules.Set) error {
	missing, ok := errors.AsType[*secrets.Error](err)
	if !ok || !errors.Is(err, secrets.ErrNotFound) && !errors.Is(err, secrets.ErrCorrupt) {
		return err
	}
	names := logins(set)
	for _, rule := range set.Rules() {
		if l := names[rule.Name]; l != nil && l.Kept == ref {
			e := *missing
			e.Next = "credproxy login " + rule.Name
			return &e
		}
	}
	return err
}

// trySending puts every credential that needs no server on a request that goes nowhere, and reports the secrets that no
// request can carry.
func trySending(ctx context.Context, o *options, reports []secretReport, set *rules.Set) error {
	for i, rule := range set.Rules() {
		host := strings.ReplaceAll(rule.Hosts[0], "*", "any")
		for _, c := range set.Credentials(i) {
			if inject.AsksServer(c) {
				continue
			}
			target := &url.URL{Scheme: "https", Host: host, Path: "/"}
			req := &http.Request{Method: http.MethodGet, URL: target, Host: host, Header: http.Header{}, Body: http.NoBody}
			if marker, ok := inject.MarkerOf(c); ok {
				marker.Example(req)
			}
			_, err := c.Apply(req.WithContext(secrets.For(ctx, host)))
			if errors.Is(err, context.Canceled) {
				return err
			}
			wrong, ok := errors.AsType[*secrets.Error](err)
			if !ok {
				continue // fine, or about this request only
			}
			j := slices.IndexFunc(reports, func(r secretReport) bool { return r.OK && r.Ref == wrong.Ref })
			if j >= 0 {
				reports[j].rule = rule.Name
				reports[j].fail(o.again(err))
			}
		}
	}
	return nil
}

func (s *secretReport) fail(err error) {
	s.OK, s.Error, s.err = false, err.Error(), err
	if known, ok := errors.AsType[slugged](err); ok {
		s.Slug, s.Hint = known.Slug(), known.Hint()
	}
}

// usersOf names the rules that need ref.
func usersOf(ref secrets.Ref, set *rules.Set) []string {
	names := []string{}
	for _, rule := range set.Rules() {
		for _, r := range rule.Refs {
			if r == ref {
				names = append(names, rule.Name)
				break
			}
		}
	}
	return names
}

// conclude says what is wrong with the secrets, if anything, and gives the exit status.
func (r checkReport) conclude(stdout, stderr io.Writer, asJSON bool) error {
	bad := 0
	for _, secret := range r.Secrets {
		if secret.OK {
			continue
		}
		bad++
		if !asJSON {
			rule := secret.rule
			if rule == "" {
				rule = inWords(secret.Rules)
			}
			report(stderr, fmt.Errorf("rule %s: %w", rule, secret.err))
		}
	}
	if bad > 0 {
		return exitStatus(exitCodes["secret_missing"])
	}
	if asJSON {
		return nil
	}
	_, err := fmt.Fprintf(stdout, "%s: %s, %s: fine\n", r.File, plural(r.Rules, "rule"), plural(len(r.Secrets), "secret"))
	return err
}

// inWords is the first name, and how many more there are.
func inWords(names []string) string {
	switch len(names) {
	case 0:
		return "(tls)"
	case 1:
		return names[0]
	}
	return fmt.Sprintf("%s and %d more", names[0], len(names)-1)
}
