package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"github.com/credproxy/credproxy/secrets"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	firstInterval = 5 * time.Second // between two questions, if the server does not say (RFC 8628 section 3.2)
	slowDown      = 5 * time.Second // more for each slow_down (RFC 8628 section 3.5)
	longPause     = time.Minute
	maxAddress    = 2 << 10
	maxUserCode   = 64
)

// A Device is a sign-in with a browser elsewhere (RFC 8628). Get one from StartDevice. What is shown to the person is
// printable ASCII.
type Device struct {
	UserCode string
	URI      string        // where the person enters UserCode: https, or http to loopback
	Complete string        // the same with UserCode in it, or empty
	Life     time.Duration // how long UserCode is good

	client   Client
	code     secrets.Value
	interval time.Duration
}

// StartDevice makes a device authorization request (RFC 8628 section 3.1) at endpoint. extra is further parameters.
// secret is empty for a client that has none. The error, if any, is an *Error.
func (c *Client) StartDevice(ctx context.Context, endpoint string, secret secrets.Value, extra map[string]string) (*Device, error) {
	const at = "device authorization endpoint"
	form := url.Values{}
	for name, value := range extra {
		form.Set(name, value)
	}
	c.describe(form)
	body, failed := c.post(ctx, at, endpoint, secret, form)
	if failed != nil {
		return nil, failed
	}
	d, why := readDevice(body)
	if why != "" {
		e := &Error{at: at, Why: why}
		if u, err := url.Parse(endpoint); err == nil {
			e.Host = u.Host
		}
		return nil, e
	}
	d.client = *c
	d.client.attended = true
	return d, nil
}

// readDevice reads a device authorization response (RFC 8628 section 3.2), and says what is wrong with it.
func readDevice(body []byte) (d *Device, why string) {
	var doc struct {
		Device   string          `json:"device_code"`
		User     string          `json:"user_code"`
		URI      string          `json:"verification_uri"`
		URL      string          `json:"verification_url"` // Google's word for it
		Complete string          `json:"verification_uri_complete"`
		Expires  json.RawMessage `json:"expires_in"`
		Interval json.RawMessage `json:"interval"`
	}
	if json.Unmarshal(body, &doc) != nil {
		return nil, "the answer is not what RFC 8628 says"
	}
	if doc.URI == "" {
		doc.URI = doc.URL
	}
	d = &Device{
		UserCode: doc.User, URI: doc.URI, Complete: doc.Complete, code: secrets.NewValue(doc.Device),
		Life: seconds(doc.Expires, 0), interval: seconds(doc.Interval, firstInterval),
	}
	if !opens(d.Complete) {
		d.Complete = "" // a convenience
	}
	switch {
	case len(doc.Device) > maxToken || !visible(doc.Device, ' '):
		return nil, "the answer has no usable device_code"
	case len(d.UserCode) > maxUserCode || !visible(d.UserCode, ' '):
		return nil, "the answer has no user_code that can be shown"
	case !opens(d.URI):
		return nil, "the answer has no verification_uri with https"
	case d.Life <= 0:
		return nil, "the answer has no expires_in"
	}
	return d, ""
}

// opens reports whether a person may be sent to address.
func opens(address string) bool {
	return len(address) <= maxAddress && visible(address, '!') && CheckURL(address) == nil
}

// seconds is a positive number of seconds, or at some servers a string that holds one.
func seconds(raw json.RawMessage, assumed time.Duration) time.Duration {
	s, err := strconv.ParseFloat(strings.Trim(string(raw), `"`), 64)
	if err != nil || math.IsNaN(s) || s <= 0 {
		return assumed
	}
	return time.Duration(min(max(s, 1), maxLifetime.Seconds()) * float64(time.Second))
}

// Wait asks until the person has signed in, has refused, or ctx ends (RFC 8628 section 3.4). While the server cannot be
// reached it asks less often. The error, if any, is an *Error; at the end of ctx it wraps ctx's own.
func (d *Device) Wait(ctx context.Context, secret secrets.Value) (SignIn, error) {
	asked := d.client
	asked.Scopes, asked.Audience = nil, ""
	for every := d.interval; ; {
		timer := time.NewTimer(every)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return SignIn{}, ended(ctx)
		}
		t, refresh, err := asked.grant(ctx, secret, "urn:ietf:params:oauth:grant-type:device_code", proofs{"device_code": fixed(d.code)})
		if err == nil {
			return newSignIn(t, refresh, asked.now()), nil
		}
		if ctx.Err() != nil {
			return SignIn{}, ended(ctx)
		}
		var e *Error
		switch {
		case !errors.As(err, &e):
			return SignIn{}, err
		case e.Code == "authorization_pending":
		case e.Code == "slow_down":
			every += slowDown
		case e.Code == "" && (e.timeout || e.again) || e.Status >= http.StatusInternalServerError:
			every = max(every, min(2*every, longPause))
		default:
			return SignIn{}, d.explained(e)
		}
	}
}

func ended(ctx context.Context) error {
	return &Error{Why: "nobody has signed in so far", timeout: true, cause: ctx.Err()}
}

// explained says in words what e's code is (RFC 8628 section 3.5).
func (d *Device) explained(e *Error) error {
	out := *e
	switch e.Code {
	case "access_denied":
		out.Why = "the sign-in was refused"
	case "expired_token":
		out.Why = "the code was not entered in time"
	}
	return &out
}
