package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/rules"
	"github.com/spf13/cobra"
)

func newExplainCommand(o *options) *cobra.Command {
	var method, client string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain [-X METHOD] URL",
		Short: "Say what would become of a request, without sending it",
		Long: `explain says which rule applies to a request, why the others do not, and what would be set on it. It works offline
and reads no secret: references stand in place of values.`,
		Example: `  credproxy explain https://api.github.com/user
  credproxy explain -X DELETE https://api.github.com/repos/acme/widgets`,
		Args:              exactly(1),
		ValidArgsFunction: completeHosts(o),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := explain(cmd.Context(), o, client, method, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), e)
			}
			return e.write(cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&method, "request", "X", http.MethodGet, "`method` of the request")
	cmd.Flags().StringVar(&client, "client", "", "`name` of who is asking, as in the rules' clients")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// What becomes of a request, in one word.
const (
	goesOn  = "forward" // through the proxy's request path, decrypted if it is https
	goesBy  = "tunnel"  // relayed, never decrypted
	goesOut = "refuse"
)

// An explanation is what explain --json prints.
type explanation struct {
	Method  string          `json:"method"`
	URL     string          `json:"url"` // without user and query
	Client  string          `json:"client,omitempty"`
	Outcome string          `json:"outcome"`
	Slug    string          `json:"slug,omitempty"` // why it is refused
	Reason  string          `json:"reason,omitempty"`
	File    string          `json:"file"`
	Rule    string          `json:"rule,omitempty"`
	Line    int             `json:"line,omitempty"`
	Sets    []inject.Target `json:"sets"`
	Removes []string        `json:"removes"`
	Misses  []rules.Miss    `json:"misses"`
}

func explain(ctx context.Context, o *options, client, method, rawURL string) (*explanation, error) {
	path, err := o.rulesPath()
	if err != nil {
		return nil, err
	}
	if err := findRules(path); err != nil {
		return nil, err
	}
	set, err := rules.Load(path, inject.Env{})
	if err != nil {
		return nil, err
	}
	req, port, err := imagine(ctx, method, rawURL)
	if err != nil {
		return nil, err
	}
	shown := *req.URL
	shown.RawQuery, shown.ForceQuery = "", false
	e := &explanation{Method: method, URL: shown.String(), Client: client, File: path, Sets: []inject.Target{}, Removes: []string{}}
	e.decide(set, req, port)
	return e, nil
}

func (e *explanation) decide(set *rules.Set, req *http.Request, port int) {
	d, misses := set.Explain(e.Client, req)
	e.Misses = append([]rules.Miss{}, misses...)
	e.Rule, e.Line, e.Slug, e.Reason = d.Rule, d.Line, d.Slug, d.Reason
	e.Outcome = goesOn
	handling := rules.Intercept // plain http opens no tunnel
	if req.URL.Scheme == "https" {
		handling = set.Connect(e.Client, req.URL.Hostname(), port)
	}
	switch what := rules.Forbidden(req.URL.Hostname()); {
	case handling == rules.Refuse || !d.Allow:
		e.Outcome = goesOut
		return
	case what != "":
		e.Outcome, e.Slug = goesOut, "forbidden_address"
		e.Reason = req.URL.Hostname() + " is " + what + ", and no request goes there"
		return
	case handling == rules.Tunnel:
		e.Outcome = goesBy
		return
	case req.URL.Scheme == "http" && len(d.Inject) > 0 && !d.AllowHTTP && !loopback(req.URL.Hostname()):
		e.Outcome, e.Slug = goesOut, "plain_http"
		e.Reason = "the credential would travel over plain http; use https, or set allow_http in the rule"
		return
	}
	for _, c := range d.Inject {
		e.Sets = append(e.Sets, c.Targets()...)
	}
	e.Removes = append(e.Removes, d.Remove...)
}

// imagine is the request as the proxy would see it.
func imagine(ctx context.Context, method, rawURL string) (req *http.Request, port int, err error) {
	bad := func(text string) (*http.Request, int, error) {
		return nil, 0, &failure{slug: slugUsage, text: text, next: "credproxy explain https://api.example.com/path"}
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return bad("not a URL") // err would repeat it
	}
	ports := map[string]int{"http": 80, "https": 443}
	switch u.Scheme {
	case "ws", "wss":
		u.Scheme = strings.Replace(u.Scheme, "ws", "http", 1)
	case "http", "https":
	default:
		return bad("the URL must begin with https:// or http://")
	}
	host, err := rules.CanonicalHost(u.Hostname())
	if err != nil {
		return bad("the URL's host is not usable: " + err.Error())
	}
	port = ports[u.Scheme]
	if text := u.Port(); text != "" {
		if port, err = strconv.Atoi(text); err != nil || port < 1 || port > 65535 {
			return bad("the URL's port is not a number from 1 to 65535")
		}
	}
	u.User, u.Fragment, u.RawFragment = nil, "", ""
	u.Host = host
	if strings.Contains(host, ":") {
		u.Host = "[" + host + "]"
	}
	if port != ports[u.Scheme] {
		u.Host = net.JoinHostPort(host, strconv.Itoa(port))
	}
	if u.Path == "" {
		u.Path = "/"
	}
	if req, err = http.NewRequestWithContext(ctx, method, u.String(), nil); err != nil {
		return bad("not a method: use letters such as GET")
	}
	return req, port, nil
}

// loopback reports whether a request to host stays on this machine, as far as its name says.
func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback() || host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// write prints e for a person.
func (e *explanation) write(w io.Writer) error {
	var errs []error
	line := func(label, format string, args ...any) {
		_, err := fmt.Fprintf(w, "%-9s%s\n", label, fmt.Sprintf(format, args...))
		errs = append(errs, err)
	}
	line("request", "%s %s", e.Method, e.URL)
	if e.Client != "" {
		line("client", "%s", e.Client)
	}
	if e.Rule != "" {
		line("rule", "%s (%s:%d)", e.Rule, e.File, e.Line)
	} else {
		line("rule", "none in %s", e.File)
	}
	switch e.Outcome {
	case goesOut:
		line("refused", "%s: %s", e.Slug, e.Reason)
	case goesBy:
		line("passed", "tunnelled, never decrypted")
	default:
		line("passed", "%s", map[bool]string{true: "unchanged", false: "with these changes"}[len(e.Sets)+len(e.Removes) == 0])
	}
	for _, name := range e.Removes {
		line("removes", "header %s", name)
	}
	for _, t := range e.Sets {
		line("sets", "%s %s: %s", t.In, t.Name, t.Shows)
	}
	for _, m := range e.Misses {
		line("not", "%s (%s:%d): %s", m.Rule, e.File, m.Line, m.Why)
	}
	return errors.Join(errs...)
}
