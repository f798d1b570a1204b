package cli

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/oauth"
)

// A signInRequest is a sign-in at the login server that waits for its person or for its client.
type signInRequest struct {
	client, redirect, challenge string
	agreed                      bool
}

// person registers a client that a person signs in with: with a browser, or with a code for one.
func (s *sample) person(name string, device bool) (inject string) {
	s.login.register(name, loginClient{auth: "none", person: true, life: time.Minute})
	kind, where, address := "oauth2_authorization_code", "auth_url", s.login.address("/authorize")
	if device {
		kind, where, address = "oauth2_device_code", "device_url", s.login.address("/device")
	}
	return fmt.Sprintf("{type: %s, %s: %q, token_url: %q, client_id: %s, refresh_token: keyring:%s}", kind, where, address, s.login.tokenURL(), name, name)
}

func (l *login) address(path string) string { return "https://" + l.server.address + path }

// authorize sends the browser back with a code (RFC 6749 section 4.1.2). Whoever comes has signed in.
func (l *login) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	back, err := url.Parse(q.Get("redirect_uri"))
	l.mu.Lock()
	defer l.mu.Unlock()
	client := l.clients[q.Get("client_id")]
	if err != nil || client == nil || !client.person || back.Scheme != "http" || back.Hostname() != "127.0.0.1" || back.Path != "/callback" ||
		q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" || q.Get("state") == "" {
		http.Error(w, "invalid_request", http.StatusBadRequest)
		return
	}
	code := l.pend(signInRequest{q.Get("client_id"), back.String(), q.Get("code_challenge"), true})
	back.RawQuery = url.Values{"code": {code}, "state": {q.Get("state")}}.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

// device starts a sign-in without a browser (RFC 8628 section 3.2). The user code is that of the request here.
func (l *login) device(r *http.Request) (int, map[string]any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	id := r.PostForm.Get("client_id")
	if client := l.clients[id]; client == nil || !client.person {
		return http.StatusUnauthorized, map[string]any{"error": "invalid_client"}
	}
	code := l.pend(signInRequest{client: id})
	user := code[:4] + "-" + code[4:8]
	l.users[user] = code
	return http.StatusOK, map[string]any{"device_code": code, "user_code": user, "verification_uri": l.address("/verify"), "expires_in": 60, "interval": 1}
}

// verify takes the user code that a person enters.
func (l *login) verify(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	request := l.pending[l.users[r.URL.Query().Get("user_code")]]
	if request == nil {
		http.Error(w, "no such code", http.StatusNotFound)
		return
	}
	request.agreed = true
}

// pend keeps a request under a new code.
func (l *login) pend(request signInRequest) (code string) {
	code = randomToken()
	l.issued(code)
	l.pending[code] = &request
	return code
}

// signedIn spends a code, and reports whether client may have tokens for it. If not, it returns the error.
func (l *login) signedIn(id string, form url.Values) (refusal string) {
	code := form.Get("code") + form.Get("device_code")
	request := l.pending[code]
	sum := sha256.Sum256([]byte(form.Get("code_verifier")))
	switch {
	case request == nil || request.client != id || request.redirect != form.Get("redirect_uri"),
		request.challenge != "" && request.challenge != base64.RawURLEncoding.EncodeToString(sum[:]):
		return "invalid_grant"
	case !request.agreed:
		return "authorization_pending"
	}
	delete(l.pending, code)
	return ""
}

// signIn signs the demo's own person in for every rule that wants one, as "credproxy login" does.
func (d *demo) signIn(ctx context.Context) error {
	keyring, err := d.openKeyring()
	if err != nil {
		return err
	}
	set := d.stack.Rules.Current()
	found := logins(set)
	for _, rule := range set.Rules() {
		l := found[rule.Name]
		if l == nil {
			continue
		}
		if err := d.signInFor(ctx, rule.Name, l, func(got oauth.SignIn) error {
			_, err := keyring.PutRef(ctx, l.Kept, got.Value())
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) signInFor(ctx context.Context, name string, l *inject.Login, keep func(oauth.SignIn) error) error {
	p := d.newPerson()
	sign := &signIn{rule: name, login: l, flags: loginFlags{timeout: 20 * time.Second}, say: p, browse: p.browse, keep: keep}
	return errors.Join(sign.run(ctx), p.wait())
}

// A demoPerson reads what it is told and does it.
type demoPerson struct {
	client *http.Client
	went   chan error
	trips  int
}

func (d *demo) newPerson() *demoPerson {
	roots := x509.NewCertPool()
	roots.AddCert(d.sample.login.server.authority.Certificate())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}
	return &demoPerson{client: &http.Client{Transport: transport, Timeout: 20 * time.Second}, went: make(chan error, 2)}
}

// browse goes to address, and wherever that leads.
func (p *demoPerson) browse(address string) error {
	p.trips++
	go func() {
		resp, err := p.client.Get(address)
		if err == nil {
			err = resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				err = errors.New("the browser shows " + resp.Status)
			}
		}
		p.went <- err
	}()
	return nil
}

// wait waits until the browser has shown its last page.
func (p *demoPerson) wait() error {
	var errs []error
	for range p.trips {
		errs = append(errs, <-p.went)
	}
	return errors.Join(errs...)
}

var enterCode = regexp.MustCompile(`Enter the code  (\S+)  at  (\S+)`)

// Write is what the person reads.
func (p *demoPerson) Write(text []byte) (int, error) {
	if m := enterCode.FindStringSubmatch(string(text)); m != nil {
		return len(text), p.browse(m[2] + "?" + url.Values{"user_code": {m[1]}}.Encode())
	}
	return io.Discard.Write(text)
}
