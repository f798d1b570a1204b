package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/rules"
	"github.com/credproxy/credproxy/secrets"
	"golang.org/x/term"
)

// A hostChoice says where a secret may be sent; the zero hostChoice: where it could before, and a new one anywhere.
type hostChoice struct {
	hosts []string
	any   bool
}

// check refuses what is no host. It does not repeat it: it may be the secret, in the wrong place.
func (c hostChoice) check() error {
	if c.any && len(c.hosts) > 0 {
		return &failure{slug: slugUsage, text: "--host and --any-host contradict each other", next: "use one of them"}
	}
	for _, host := range c.hosts {
		if rules.CheckHost(host) != "" {
			return &failure{slug: slugUsage, text: "--host is not a host", next: "--host api.example.com, or --host '*.example.com'"}
		}
	}
	return nil
}

// ask has the person at the terminal choose, if the secret is new and nothing was said. What the rules do with the secret is
// the proposal.
func (c hostChoice) ask(ctx context.Context, stderr io.Writer, o *options, store *secrets.Store, name string, from valueSource) (hostChoice, error) {
	if c.any || len(c.hosts) > 0 || from != (valueSource{}) || !term.IsTerminal(int(os.Stdin.Fd())) {
		return c, nil
	}
	if _, err := store.Hosts(ctx, name); !errors.Is(err, secrets.ErrNotFound) {
		return c, nil // what is there stays, or fails when it is stored
	}
	proposed := o.hostsOf(name)
	if len(proposed) == 0 {
		return c, nil
	}
	fmt.Fprintf(stderr, "It may be sent to (hosts, or * for any) [%s]: ", strings.Join(proposed, " "))
	line, err := readLine(os.Stdin)
	if err != nil {
		return c, &failure{slug: slugInput, text: "asking for the hosts", next: "credproxy secret set " + name + " --host HOST", err: err}
	}
	switch words := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' }); {
	case len(words) == 0:
		c.hosts = proposed
	case slices.Equal(words, []string{"*"}):
		c.any = true
	default:
		c.hosts = words
	}
	return c, c.check()
}

// readLine reads one line byte by byte: what follows it is not ours.
func readLine(in io.Reader) (string, error) {
	var line []byte
	for one := make([]byte, 1); len(line) < 4096; {
		n, err := in.Read(one)
		if n == 1 && one[0] == '\n' {
			return strings.TrimSuffix(string(line), "\r"), nil
		}
		line = append(line, one[:n]...)
		if err != nil {
			return "", err
		}
	}
	return "", errors.New("the line is too long")
}

// hostsOf lists where the rules send the secret name, as far as they can be read.
func (o *options) hostsOf(name string) (hosts []string) {
	path, err := o.rulesPath()
	if err != nil {
		return nil
	}
	set, err := rules.Load(path, inject.Env{})
	if err != nil {
		return nil
	}
	for i, rule := range set.Rules() {
		for _, c := range set.Credentials(i) {
			if slices.ContainsFunc(c.Refs(), func(r secrets.Ref) bool { return r.Scheme == "keyring" && r.Name == name }) {
				hosts = append(hosts, destinations(rule, c)...)
			}
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// destinations lists the hosts that the secrets of c, which rule has, go to: themselves, or what they are exchanged for.
func destinations(rule rules.Rule, c inject.Credential) []string {
	return append(slices.Clone(rule.Hosts), inject.SendsTo(c)...)
}

// checkDestinations reports the secrets that a rule would send where they may not go. They have been resolved.
func checkDestinations(ctx context.Context, resolver *secrets.Resolver, reports []secretReport, set *rules.Set) {
	for i, rule := range set.Rules() {
		for _, c := range set.Credentials(i) {
			for _, ref := range c.Refs() {
				j := slices.IndexFunc(reports, func(r secretReport) bool { return r.OK && r.Ref == ref.String() })
				if j < 0 {
					continue
				}
				if err := resolver.May(secrets.For(ctx, destinations(rule, c)...), ref); err != nil {
					reports[j].rule = rule.Name
					reports[j].fail(err)
				}
			}
		}
	}
}
