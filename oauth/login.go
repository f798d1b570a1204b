package oauth

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/credproxy/credproxy/secrets"
	"golang.org/x/net/html"
)

// maxPage bounds a login page, which is larger than the answer to a login.
const maxPage = 512 << 10

// A Login signs in as a site's own page or script does, and keeps the cookie or the token that comes back. It keeps
// nothing between requests.
type Login struct {
	HTTP     *http.Client // required; its redirect policy and cookies are not used
	URL      string       // as CheckURL accepts it
	Kind     string       // Content-Type of the body
	Header   http.Header  // further headers; nil: none
	Cookie   string       // name of the cookie to keep; empty: Token is kept
	Token    Pointer      // of the token in the answer
	Lifetime time.Duration
	Success  []int                      // the statuses that mean success; empty: 2xx, and 3xx for a cookie
	Away     func(location string) bool // whether an answer leads to the login page; nil: none does
	Page     string                     // where the hidden field is, as CheckURL accepts it
	Hidden   string                     // name of the hidden field (or meta element) that the login sends back; empty: none
	Now      func() time.Time           // nil: time.Now
}

// Session signs in: at most 15 seconds, one try. body makes the request's body; hidden is the value of the hidden field.
// Redirects are not followed, and a redirect with the cookie is the usual success of a form. The error, if any, is an
// *Error. A login that was refused is not tried again soon by a Cache: some servers lock the account after a few.
func (l *Login) Session(ctx context.Context, body func(hidden string) (secrets.Value, error)) (Token, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	u, err := url.Parse(l.URL)
	if err != nil || l.HTTP == nil {
		return Token{}, &Error{Why: "the request could not be made"}
	}
	t, failed := l.session(ctx, u, body)
	if failed == nil {
		return t, nil
	}
	if e, ok := errors.AsType[*Error](failed); ok {
		e.Host, e.at = u.Host, "login at"
	}
	return Token{}, failed
}

// LoginPaused is the error of a login at host that was not tried, so that a Cache does not ask again soon either.
func LoginPaused(host, why, next string) *Error {
	return &Error{Host: host, at: "login at", Why: why, Next: next, lockout: true}
}

func (l *Login) session(ctx context.Context, u *url.URL, body func(hidden string) (secrets.Value, error)) (Token, error) {
	header := http.Header{"Content-Type": {l.Kind}, "User-Agent": {"credproxy"}, "Accept": {"application/json, text/html;q=0.9, */*;q=0.8"}}
	maps.Copy(header, l.Header)
	var cookies []setCookie
	hidden := ""
	if l.Hidden != "" {
		var err error
		if hidden, cookies, err = l.visit(ctx); err != nil {
			return Token{}, err
		}
		header["Cookie"] = []string{cookieHeader(cookies)}
		header["Referer"] = []string{l.Page} // which some servers want to see together with the hidden field
		header["Origin"] = []string{u.Scheme + "://" + u.Host}
	}
	content, err := body(hidden)
	if err != nil {
		return Token{}, err
	}
	asked := l.now().Round(0)
	resp, answer, err := l.ask(ctx, http.MethodPost, l.URL, header, strings.NewReader(content.Reveal()), maxAnswer)
	if err != nil {
		return Token{}, err
	}
	e := &Error{Status: resp.StatusCode, after: retryAfter(resp.Header)}
	if why := l.refusal(resp); why != "" {
		e.Why, e.lockout = why, counts(resp.StatusCode)
		return Token{}, e
	}
	var t Token
	if l.Cookie == "" {
		t, e.Why = l.token(answer)
	} else {
		t, e.Why = l.cookie(resp, cookies, asked)
	}
	if e.Why != "" {
		e.lockout = true // a wrong password looks like this at many sites
		return Token{}, e
	}
	if l.Lifetime > 0 && (t.Expiry.IsZero() || t.Expiry.After(asked.Add(l.Lifetime))) {
		t.Expiry = asked.Add(l.Lifetime)
	}
	return t, nil
}

func (l *Login) now() time.Time {
	if l.Now != nil {
		return l.Now()
	}
	return time.Now()
}

// counts reports whether an answer with that status is about the password, so that a further try could lock the account.
func counts(status int) bool {
	return status < http.StatusInternalServerError && status != http.StatusTooManyRequests && status != http.StatusRequestTimeout
}

// refusal says why resp is no success, or nothing.
func (l *Login) refusal(resp *http.Response) string {
	redirect := resp.StatusCode >= 300 && resp.StatusCode <= 399
	switch {
	case len(l.Success) > 0 && !slices.Contains(l.Success, resp.StatusCode):
		return "the login was refused: the status is none of those that mean success"
	case resp.StatusCode >= 400 || resp.StatusCode < 200 || redirect && l.Cookie == "":
		return "the login was refused"
	case redirect && l.Away != nil && l.Away(resp.Header.Get("Location")):
		return "the login was refused: it leads to the login page again"
	}
	return ""
}

// token is what Token names in an answer.
func (l *Login) token(answer []byte) (t Token, why string) {
	if len(answer) > maxAnswer {
		return Token{}, "the answer is larger than 64 KiB"
	}
	if !json.Valid(answer) {
		return Token{}, "the answer is not JSON"
	}
	switch text, ok := word(l.Token.In(answer)); {
	case text == "" || !ok:
		return Token{}, "the answer has no text where the rule's pointer points"
	case len(text) > maxToken:
		return Token{}, "the token is larger than 16 KiB"
	case !visible(text, '!'):
		return Token{}, "the token has characters that a header cannot carry"
	default:
		return Token{Access: secrets.NewValue(text)}, ""
	}
}

// cookie is the one that the answer sets, or, if it is a success beyond doubt, that the page before it has set.
func (l *Login) cookie(resp *http.Response, before []setCookie, asked time.Time) (t Token, why string) {
	all := cookiesIn(resp.Header, asked)
	if len(l.Success) > 0 || resp.StatusCode >= 300 {
		all = append(before, all...)
	}
	i := -1
	for j, c := range all { // the last one counts (RFC 6265 section 5.3)
		if c.name == l.Cookie {
			i = j
		}
	}
	switch {
	case i < 0:
		return Token{}, "the answer sets no cookie of that name"
	case all[i].gone || all[i].value == "":
		return Token{}, "the answer takes the cookie away"
	case len(all[i].value) > maxToken:
		return Token{}, "the cookie is larger than 16 KiB"
	case !visible(all[i].value, '!'):
		return Token{}, "the cookie has characters that a header cannot carry"
	}
	return Token{Access: secrets.NewValue(all[i].value), Expiry: all[i].expiry}, ""
}

// visit reads the login page: the hidden field, and the cookies that belong to it.
func (l *Login) visit(ctx context.Context) (hidden string, cookies []setCookie, err error) {
	header := http.Header{"User-Agent": {"credproxy"}, "Accept": {"text/html, */*;q=0.8"}}
	resp, page, err := l.ask(ctx, http.MethodGet, l.Page, header, nil, maxPage)
	if err != nil {
		return "", nil, err
	}
	e := &Error{Status: resp.StatusCode, after: retryAfter(resp.Header)}
	switch {
	case resp.StatusCode != http.StatusOK:
		e.Why = "the login page is not there"
	case len(page) > maxPage:
		e.Why = "the login page is larger than 512 KiB"
	default:
		if hidden = hiddenField(page, l.Hidden); hidden == "" {
			e.Why = "the login page has no field of that name"
			break
		}
		return hidden, cookiesIn(resp.Header, l.now()), nil
	}
	return "", nil, e
}

// hiddenField is the value of the input or meta element called name, or empty.
func hiddenField(page []byte, name string) string {
	z := html.NewTokenizer(bytes.NewReader(page))
	for {
		switch kind := z.Next(); kind {
		case html.ErrorToken:
			return ""
		case html.StartTagToken, html.SelfClosingTagToken:
			t := z.Token()
			attr := make(map[string]string, len(t.Attr))
			for _, a := range t.Attr {
				attr[a.Key] = a.Val
			}
			if value := attr[map[string]string{"input": "value", "meta": "content"}[t.Data]]; attr["name"] == name && value != "" {
				return value
			}
		}
	}
}

// ask makes one request and reads its answer, and one byte more than limit if there is more.
func (l *Login) ask(ctx context.Context, method, to string, header http.Header, body io.Reader, limit int64) (*http.Response, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, to, body)
	if err != nil {
		return nil, nil, &Error{Why: "the request could not be made"}
	}
	req.Header = header
	plain := http.Client{Transport: cmp.Or(l.HTTP.Transport, http.DefaultTransport), Timeout: l.HTTP.Timeout, CheckRedirect: noRedirect}
	resp, err := plain.Do(req)
	if err != nil {
		return nil, nil, unanswered(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil && (l.Cookie == "" || method == http.MethodGet) { // a cookie stands in the head
		return nil, nil, unanswered(err)
	}
	return resp, answer, nil
}

// unanswered is an error of the network. Its own text may hold an address with a secret in it.
func unanswered(err error) *Error {
	switch {
	case timedOut(err):
		return &Error{timeout: true, Why: "no answer in time"}
	case errors.Is(err, context.Canceled):
		return &Error{Why: "interrupted", cause: context.Canceled}
	}
	var lost *url.Error
	if errors.As(err, &lost) {
		return &Error{Why: safe(lost.Err.Error(), nil)}
	}
	return &Error{Why: "the answer broke off"}
}

func retryAfter(h http.Header) time.Duration {
	s, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || s <= 0 {
		return 0
	}
	return time.Duration(min(s, 3600)) * time.Second
}
