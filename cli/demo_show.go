package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/credproxy/credproxy/rules"
	"github.com/credproxy/credproxy/secrets"
)

func (d *demo) sampleRoots() string { return d.sample.api.authority.Path() }

// writeRules replaces the rules file in one step, as editors do.
func (d *demo) writeRules(edited bool) error { return replaceFile(d.rulesPath(), d.rulesText(edited)) }

func (d *demo) rulesText(edited bool) []byte {
	return demoRules(d.list, d.sample.api.port, edited)
}

// showKinds is the first table: each request directly and through the proxy.
func (d *demo) showKinds(ctx context.Context) error {
	d.table.head("THE SAME REQUEST", "DIRECT", "PROXY")
	for _, c := range d.list {
		if c.title == "" {
			continue
		}
		line, err := d.showKind(ctx, c)
		if err != nil {
			return err
		}
		d.table.line(line)
	}
	return nil
}

func (d *demo) showKind(ctx context.Context, c demoCase) (demoLine, error) {
	line := demoLine{title: c.title, note: c.note}
	direct, err := d.send(ctx, d.client, d.request(c, ""))
	line.a = line.expect("direct", direct, err, http.StatusUnauthorized)
	if ctx.Err() != nil {
		return line, ctx.Err()
	}
	before := d.sample.hosts[c.host].counts()
	proxied, err := d.send(ctx, d.client, d.request(c, d.proxy))
	line.b = line.expect("through the proxy", proxied, err, orDefault(c.proxied, http.StatusOK))
	after := d.sample.hosts[c.host].counts()
	if c.answer != "" && after != before {
		line.fail("the request reached the API")
	}
	if !strings.Contains(proxied.text, c.answer) {
		line.fail("the answer does not say: %s", c.answer)
	}
	if c.repeats && !strings.Contains(proxied.text, "you sent Bearer ****") {
		line.fail("the answer does not say what the API got, in asterisks")
	}
	return line, ctx.Err()
}

// request is the request of c. The client trusts one CA: where the proxy looks into the request the proxy's, otherwise
// the API's.
func (d *demo) request(c demoCase, proxy string) demoRequest {
	r := demoRequest{method: c.method, url: d.url(c.host, orDefault(c.path, "/")), header: c.header, proxy: proxy, roots: d.sampleRoots()}
	r.method = orDefault(r.method, http.MethodGet)
	if proxy != "" && !c.tunnelled() {
		r.roots = d.stack.Authority.Path()
	}
	return r
}

func orDefault[T comparable](v, assumed T) T {
	var zero T
	if v == zero {
		return assumed
	}
	return v
}

func (l *demoLine) fail(format string, args ...any) {
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

// expect compares an answer with what is claimed, and returns what to show of it.
func (l *demoLine) expect(who string, a demoAnswer, err error, want int) string {
	if err != nil {
		l.fail("%s: %v", who, err)
		return "-"
	}
	if a.status != want {
		l.fail("%s: got %d, want %d", who, a.status, want)
	}
	return strconv.Itoa(a.status)
}

// showLive is the second table: what changes while the proxy runs.
func (d *demo) showLive(ctx context.Context) error {
	d.table.head("WHILE THE PROXY RUNS", "BEFORE", "AFTER")
	for _, show := range []func(context.Context) (demoLine, error){d.showEdit, d.showBroken, d.showExpiry, d.showRevoked} {
		line, err := show(ctx)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		d.table.line(line)
	}
	return nil
}

func (d *demo) find(host string) demoCase {
	for _, c := range d.list {
		if c.host == host {
			return c
		}
	}
	return demoCase{}
}

// through sends the request of a case through the proxy.
func (d *demo) through(ctx context.Context, l *demoLine, host string, want int) string {
	a, err := d.send(ctx, d.client, d.request(d.find(host), d.proxy))
	return l.expect("through the proxy", a, err, want)
}

func (d *demo) showEdit(ctx context.Context) (demoLine, error) {
	line := demoLine{title: "edit the rules: add a credential"}
	line.a = d.through(ctx, &line, editedHost, http.StatusUnauthorized)
	saved := time.Now()
	if err := d.writeRules(true); err != nil {
		return line, err
	}
	change, err := d.awaitChange(ctx, func(c rulesChange) bool { return c.err == nil })
	if err != nil {
		line.fail("%v", err)
		return line, nil
	}
	line.note = fmt.Sprintf("in force after %d ms", change.at.Sub(saved).Milliseconds())
	line.b = d.through(ctx, &line, editedHost, http.StatusOK)
	return line, nil
}

func (d *demo) showBroken(ctx context.Context) (demoLine, error) {
	line := demoLine{title: "break the rules file"}
	line.a = d.through(ctx, &line, editedHost, http.StatusOK)
	broken := strings.Replace(string(d.rulesText(true)), " prefix:", " prefx:", 1)
	// In place, as some editors do.
	if err := os.WriteFile(d.rulesPath(), []byte(broken), 0o600); err != nil {
		return line, err
	}
	change, err := d.awaitChange(ctx, func(c rulesChange) bool { return c.err != nil })
	if err != nil {
		line.fail("%v", err)
		return line, nil
	}
	if file, ok := errors.AsType[*rules.FileError](change.err); ok && len(file.Mistakes) > 0 {
		m := file.Mistakes[0]
		m.Path = filepath.Base(m.Path)
		line.detail = m.String()
	} else {
		line.fail("the error has no position: %v", change.err)
	}
	line.note = "the last good rules stay"
	line.b = d.through(ctx, &line, editedHost, http.StatusOK)
	if err := d.writeRules(true); err != nil {
		return line, err
	}
	if _, err := d.awaitChange(ctx, func(c rulesChange) bool { return c.err == nil }); err != nil {
		line.fail("after the repair: %v", err)
	}
	return line, nil
}

// awaitChange waits for a reload that is as wanted.
func (d *demo) awaitChange(ctx context.Context, wanted func(rulesChange) bool) (rulesChange, error) {
	limit := time.NewTimer(orDefault(d.patience, demoTimeout))
	defer limit.Stop()
	for {
		select {
		case c := <-d.changes:
			if wanted(c) {
				return c, nil
			}
		case <-limit.C:
			return rulesChange{}, errors.New("the proxy did not notice the change")
		case <-ctx.Done():
			return rulesChange{}, ctx.Err()
		}
	}
}

func (d *demo) showExpiry(ctx context.Context) (demoLine, error) {
	line := demoLine{title: "let an OAuth access token expire"}
	old, spentToken, spent := d.sample.login.state(refreshClient)
	if err := d.awaitExpiry(ctx, &line, old); err != nil {
		return line, err
	}
	// A machine on which storing takes longer than the token lives would need two.
	d.sample.login.lengthen(refreshClient, time.Minute)
	line.b = d.through(ctx, &line, refreshHost, http.StatusOK)
	fresh, current, now := d.sample.login.state(refreshClient)
	if used := d.sample.hosts[refreshHost].counts().authorization; fresh == old || used != "Bearer "+fresh {
		line.fail("the API did not get a new access token")
	}
	if now != spent+1 || current.Equal(spentToken) {
		line.fail("%d refresh tokens were spent, want 1", now-spent)
	}
	if err := d.checkStored(ctx, current); err != nil {
		line.fail("%v", err)
	}
	line.note = "a new one came; the refresh token rotated, and is stored"
	return line, nil
}

// awaitExpiry asks the API until it takes token no more.
func (d *demo) awaitExpiry(ctx context.Context, line *demoLine, token string) error {
	limit := time.NewTimer(orDefault(d.patience, demoTimeout))
	defer limit.Stop()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		a, err := d.sendToken(ctx, refreshHost, token)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil || a.status == http.StatusUnauthorized {
			line.a = line.expect("with the old token", a, err, http.StatusUnauthorized)
			return nil
		}
		select {
		case <-again.C:
		case <-limit.C:
			line.fail("the access token does not expire")
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sendToken asks the API directly with an access token, which must not be in a process's arguments.
func (d *demo) sendToken(ctx context.Context, host, token string) (demoAnswer, error) {
	r := d.request(d.find(host), "")
	r.header = []string{"Authorization: Bearer " + token}
	return d.send(ctx, goClient{api: d.sample.api.address}, r)
}

// checkStored reads the refresh token as another process would: from disk.
func (d *demo) checkStored(ctx context.Context, want secrets.Value) error {
	keyring, err := d.openKeyring()
	if err != nil {
		return err
	}
	resolver := secrets.NewResolver(secrets.Config{Store: keyring})
	defer resolver.Close()
	got, err := resolver.Resolve(ctx, secrets.Ref{Scheme: "keyring", Name: refreshClient})
	if err != nil {
		return err
	}
	if !got.Equal(want) {
		return errors.New("the keyring does not hold the rotated refresh token")
	}
	return nil
}

func (d *demo) showRevoked(ctx context.Context) (demoLine, error) {
	line := demoLine{title: "revoke one at the server"}
	d.through(ctx, &line, revokedHost, http.StatusOK) // so that the proxy has a token
	old, _, _ := d.sample.login.state(revokedClient)
	d.sample.login.revoke(old)
	a, err := d.sendToken(ctx, revokedHost, old)
	line.a = line.expect("with the old token", a, err, http.StatusUnauthorized)
	before := d.sample.hosts[revokedHost].counts()
	line.b = d.through(ctx, &line, revokedHost, http.StatusOK)
	after := d.sample.hosts[revokedHost].counts()
	if refused, accepted := after.refused-before.refused, after.accepted-before.accepted; refused != 1 || accepted != 1 {
		line.fail("the API answered 401 %d times and 200 %d times, want once each", refused, accepted)
	}
	line.note = "upstream 401, so refreshed and sent again"
	return line, nil
}
