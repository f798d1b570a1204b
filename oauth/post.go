package oauth

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/credproxy/credproxy/secrets"
)

// post sends form to an endpoint other than the token endpoint, as the client that c is. at names the endpoint in
// errors. body is what came with a status of 2xx, at most 64 KiB.
func (c *Client) post(ctx context.Context, at, endpoint string, secret secrets.Value, form url.Values) (body []byte, failed *Error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	e := &Error{at: at}
	if u, err := url.Parse(endpoint); err == nil {
		e.Host = u.Host
	}
	if c.HTTP == nil || CheckURL(endpoint) != nil {
		e.Why = "cannot be asked"
		return nil, e
	}
	sent := []secrets.Value{secret}
	for _, name := range []string{"token", "device_code"} {
		sent = append(sent, secrets.NewValue(form.Get(name)))
	}
	basic, err := c.identify(form, secret)
	if err != nil {
		e.Why = err.Error()
		return nil, e
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		e.Why = "cannot be asked"
		return nil, e
	}
	req.Header = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Accept": {"application/json"}, "User-Agent": {"credproxy"}}
	if basic {
		req.SetBasicAuth(url.QueryEscape(c.ID), url.QueryEscape(secret.Reveal())) // RFC 6749 section 2.3.1
	}
	hc := http.Client{Transport: cmp.Or(c.HTTP.Transport, http.DefaultTransport), Timeout: c.HTTP.Timeout, CheckRedirect: noRedirect}
	resp, err := hc.Do(req)
	if err == nil {
		defer resp.Body.Close()
		e.Status = resp.StatusCode
		body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	}
	if err != nil {
		return nil, e.lost(err, sent)
	}
	if e.judge(body, sent); e.Why != "" || e.Code != "" {
		return nil, e
	}
	return body, nil
}

// identify says in form who the client is, or reports that it does so with a Basic header.
func (c *Client) identify(form url.Values, secret secrets.Value) (basic bool, err error) {
	form.Set("client_id", c.ID)
	switch c.Auth {
	case AuthBasic:
		form.Del("client_id")
		return true, nil
	case AuthPost:
		form.Set("client_secret", secret.Reveal())
	case AuthPrivateKeyJWT:
		if c.Assertion == nil {
			return false, errors.New("there is no assertion that says who the client is")
		}
		assertion, err := c.Assertion()
		if err != nil {
			return false, err
		}
		form.Set("client_assertion", assertion.Reveal())
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	}
	return false, nil
}

// lost makes e say why there is no answer, without the address.
func (e *Error) lost(err error, sent []secrets.Value) *Error {
	var lost *url.Error
	switch {
	case errors.Is(err, context.Canceled):
		e.Why, e.cause = "interrupted", context.Canceled
	case timedOut(err):
		e.timeout, e.Why = true, "no answer in time"
	case errors.As(err, &lost):
		e.Why = safe(lost.Err.Error(), sent)
	default:
		e.Why = "the answer broke off"
	}
	return e
}

// judge makes e say what is wrong with an answer, if anything.
func (e *Error) judge(body []byte, sent []secrets.Value) {
	var refused struct {
		Code        string `json:"error"`
		Description string `json:"error_description"`
	}
	known := json.Unmarshal(body, &refused) == nil && refused.Code != ""
	switch {
	case e.Status >= 300 && e.Status <= 399:
		e.Why = "answered with a redirect, which is never followed"
	case len(body) > maxAnswer:
		e.Why = "the answer is larger than 64 KiB"
	case known:
		if e.Code, e.Description = code(refused.Code, sent), safe(refused.Description, sent); e.Code == "" {
			e.Code = "error"
		}
	case e.Status < 200 || e.Status > 299:
		e.Why = "refused without a reason"
	}
}
