package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
)

// A signIn is one sign-in by a person.
type signIn struct {
	rule  string
	login *inject.Login
	flags loginFlags

	say      io.Writer
	stdin    io.Reader // where the person may paste the address; nil: nowhere
	terminal bool      // stdin is one
	browse   func(address string) error
	keep     func(oauth.SignIn) error
}

// run signs in and keeps what comes of it. A failure is one of login's own, unless it is about a secret.
func (s *signIn) run(ctx context.Context) error {
	err := s.attempt(ctx)
	refused, ok := errors.AsType[*oauth.Error](err)
	if !ok || errors.Is(err, context.Canceled) {
		return err
	}
	f := &failure{slug: slugLogin, text: "signing in for rule " + s.rule, next: "credproxy login " + s.rule, err: err}
	byPerson := refused.Host == "" || refused.Code == "access_denied" || refused.Code == "expired_token"
	if !byPerson && refused.Status < http.StatusInternalServerError && refused.Status != http.StatusTooManyRequests {
		if e, ok := errors.AsType[*oauth.Error](s.login.Explain(ctx, refused)); ok && e.Next != "" {
			f.next = e.Next
		}
	}
	return f
}

// nobody is the failure of a sign-in for which nobody came within limit.
func (s *signIn) nobody(limit time.Duration) error {
	return &failure{slug: slugLogin, text: fmt.Sprintf("signing in for rule %s: nobody has signed in within %s", s.rule, limit.Round(time.Second)),
		next: "credproxy login " + s.rule + " --timeout 15m"}
}

func (s *signIn) attempt(ctx context.Context) error {
	byDevice := s.login.Redirect == nil || s.flags.device
	if byDevice && s.flags.port != 0 {
		return &failure{slug: slugUsage, text: "--port is for a sign-in in the browser, and rule " + s.rule + " has another", next: "credproxy login " + s.rule}
	}
	client, secret, server, err := s.login.Client(ctx)
	if err != nil {
		return err
	}
	if byDevice {
		return s.byDevice(ctx, client, secret, server)
	}
	return s.byBrowser(ctx, client, secret, server)
}

// byDevice is the device authorization grant (RFC 8628).
func (s *signIn) byDevice(ctx context.Context, client oauth.Client, secret secrets.Value, server oauth.Server) error {
	if server.DeviceURL == "" {
		return &failure{slug: slugLogin, text: "rule " + s.rule + " does not know where to ask for a code, and neither does its issuer",
			next: "write device_url in the rules file, or leave out --device"}
	}
	d, err := client.StartDevice(ctx, server.DeviceURL, secret, s.login.Extra)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.say, "Enter the code  %s  at  %s\n", d.UserCode, d.URI)
	if d.Complete != "" {
		fmt.Fprintf(s.say, "or open  %s\n", d.Complete)
	}
	limit := min(s.flags.timeout, d.Life)
	s.waiting(limit)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	defer s.progress(ctx)()
	got, err := d.Wait(ctx, secret)
	if errors.Is(err, context.DeadlineExceeded) {
		return s.nobody(limit)
	}
	if err != nil {
		return err
	}
	return s.keep(got)
}

// byBrowser is the authorization code grant with a loopback redirect (RFC 8252).
func (s *signIn) byBrowser(ctx context.Context, client oauth.Client, secret secrets.Value, server oauth.Server) error {
	if server.AuthorizationURL == "" {
		return &failure{slug: slugLogin, text: "rule " + s.rule + " does not know where a person signs in, and neither does its issuer",
			next: "write auth_url in the rules file"}
	}
	if s.browse == nil && !s.terminal && !s.flags.noBrowser {
		return &failure{slug: slugLogin, text: "there is no browser to open here, and no terminal to paste an address into",
			next: "credproxy login " + s.rule + " --no-browser, and open the address that it prints\nor credproxy login " + s.rule + " --device"}
	}
	back, err := listenForBrowser(s.login.Redirect, s.flags.port)
	if err != nil {
		return err
	}
	defer back.close()
	a, err := client.Authorize(server, back.uri, s.login.Extra)
	if err != nil {
		return err
	}
	params, err := s.visit(ctx, a, back)
	if err != nil {
		return err
	}
	code, err := a.Code(params)
	if err != nil {
		return err
	}
	got, err := a.Exchange(ctx, secret, code)
	if err != nil {
		return err
	}
	if back.cameAgain() {
		return &oauth.Error{Why: "the browser came back twice, so somebody else may have the code; what it was worth is not kept"}
	}
	if err := s.keep(got); err != nil {
		return err
	}
	back.done()
	return nil
}

// visit sends the person to the server, and returns the parameters with which the browser comes back, by itself or in
// the person's clipboard.
func (s *signIn) visit(ctx context.Context, a *oauth.Authorization, back *browserReturn) (url.Values, error) {
	opened := s.browse != nil && s.browse(a.URL) == nil
	if opened {
		fmt.Fprintf(s.say, "Your browser should open. If it does not, open this address:\n\n  %s\n\n", a.URL)
	} else {
		fmt.Fprintf(s.say, "Open this address in a browser:\n\n  %s\n\n", a.URL)
	}
	var pasted chan url.Values
	if s.stdin != nil && (s.terminal || s.flags.noBrowser || back.came == nil) {
		pasted = make(chan url.Values)
		fmt.Fprintf(s.say, "If the browser then shows an error at %s…, paste its whole address here.\n", back.uri)
		go s.readPasted(ctx, back.uri, pasted) // a read from a terminal ends only with the program
	}
	s.waiting(s.flags.timeout)
	ctx, cancel := context.WithTimeout(ctx, s.flags.timeout)
	defer cancel()
	defer s.progress(ctx)()
	for {
		select {
		case params := <-back.came:
			return params, nil
		case params, ok := <-pasted:
			if ok {
				return params, nil
			}
			if back.came == nil {
				return nil, &oauth.Error{Why: "the input ended before the address came"}
			}
			pasted = nil
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil, s.nobody(s.flags.timeout)
			}
			return nil, ctx.Err()
		}
	}
}

// maxPaste bounds a line that is pasted.
const maxPaste = 64 << 10

// readPasted sends the parameters of the first line that is an address below uri.
func (s *signIn) readPasted(ctx context.Context, uri string, pasted chan<- url.Values) {
	defer close(pasted)
	lines := bufio.NewScanner(s.stdin)
	lines.Buffer(nil, maxPaste)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		query, ok := strings.CutPrefix(line, uri+"?")
		query, _, _ = strings.Cut(query, "#") // some servers put a fragment there for the browser
		params, err := url.ParseQuery(query)
		if !ok || err != nil {
			fmt.Fprintf(s.say, "That is not the address. It begins with %s?\n", uri)
			continue
		}
		select {
		case pasted <- params:
		case <-ctx.Done():
		}
		return
	}
}

func (s *signIn) waiting(how time.Duration) {
	fmt.Fprintf(s.say, "Waiting for you to sign in, for %s at most (Ctrl-C to stop).\n", inMinutes(how))
}

// progress says every minute how much time is left, until the returned function is called.
func (s *signIn) progress(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		minute := time.NewTicker(time.Minute)
		defer minute.Stop()
		for {
			select {
			case <-minute.C:
				if end, ok := ctx.Deadline(); ok {
					fmt.Fprintf(s.say, "Still waiting; %s left.\n", inMinutes(time.Until(end)))
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// inMinutes is d in whole minutes, or in seconds if it is shorter than two.
func inMinutes(d time.Duration) string {
	if d < 2*time.Minute {
		return plural(int(d.Round(time.Second).Seconds()), "second")
	}
	return plural(int(d.Round(time.Minute).Minutes()), "minute")
}
