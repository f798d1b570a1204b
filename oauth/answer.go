package oauth

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	maxAnswer = 64 << 10
	maxToken  = 16 << 10

	// An access token is renewed at least once a day, whatever the server says of its life.
	maxLifetime = 24 * time.Hour
	minLifetime = time.Second

	maxAttended = 10 * 365 * 24 * time.Hour // of a token that nothing but a person can renew
)

// An answer is what a token endpoint said. It is also the transport that hears it: it stands between x/oauth2 and
// the network, which would follow redirects, read a form where JSON is due, and lose a rotated refresh token
// whenever another field of the same answer is bad.
type answer struct {
	base    http.RoundTripper
	fields  map[string]Pointer // where they are not where RFC 6749 has them
	now     time.Time
	longest time.Duration // that a token is believed to live; 0: maxLifetime

	status   int
	after    time.Duration
	refresh  string // the refresh token that the server sent, if any
	lifetime time.Duration
	expires  bool   // the server gave a lifetime
	fault    string // why the answer cannot be used
}

// RoundTrip sends req and gives x/oauth2 an answer that is JSON, bounded and of the right types.
func (a *answer) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Accept", "application/json") // GitHub sends a form without
	req.Header.Set("User-Agent", "credproxy")
	resp, err := a.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	a.status = resp.StatusCode
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s > 0 {
		a.after = time.Duration(min(s, 3600)) * time.Second
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	clean := a.read(body)
	resp.Body = io.NopCloser(bytes.NewReader(clean))
	resp.ContentLength = int64(len(clean))
	resp.Header = http.Header{"Content-Type": {"application/json"}}
	return resp, nil
}

// read takes the answer apart and returns it as RFC 6749 sections 5.1 and 5.2 have it.
func (a *answer) read(body []byte) []byte {
	success := a.status >= 200 && a.status <= 299
	fields, twice, err := members(body)
	switch {
	case a.status >= 300 && a.status <= 399:
		a.fault = "answered with a redirect, which is never followed"
	case len(body) > maxAnswer:
		a.fault = "the answer is larger than 64 KiB"
	case err != nil && success:
		a.fault = "the answer is not a JSON object"
	}
	if a.fault != "" {
		return []byte("{}")
	}
	raw := func(name string) json.RawMessage {
		switch p, elsewhere := a.fields[name]; {
		case success && elsewhere:
			return p.In(body)
		case twice[name]:
			a.blame("the answer has two of " + name)
			return nil
		}
		return fields[name]
	}
	clean := make(map[string]string)
	for _, name := range []string{"access_token", "token_type", "refresh_token", "error", "error_description"} {
		text, ok := word(raw(name))
		switch {
		case text != "":
			clean[name] = text
		case !ok && name == "error": // some send an object
			clean[name] = "error"
		case !ok && success:
			a.blame(name + " is not a string")
		}
	}
	if message, _ := word(raw("message")); !success && clean["error_description"] == "" { // what GitHub and others call it
		clean["error_description"] = message
	}
	if clean["error"] == "" && success {
		a.check(clean, raw)
	}
	out, err := json.Marshal(clean)
	if err != nil { // a map of strings always has a JSON form
		return []byte("{}")
	}
	return out
}

// check judges a successful answer. The refresh token first: it has replaced ours, whatever else is wrong.
func (a *answer) check(clean map[string]string, raw func(name string) json.RawMessage) {
	if r := clean["refresh_token"]; visible(r, ' ') {
		a.refresh = r
	} else if r != "" {
		a.blame("refresh_token has characters that RFC 6749 does not allow")
	}
	switch access := clean["access_token"]; {
	case access == "":
		a.blame("the answer has no access_token")
	case len(access) > maxToken:
		a.blame("access_token is larger than 16 KiB")
	case !visible(access, '!'):
		a.blame("access_token has characters that a header cannot carry")
	}
	if t := clean["token_type"]; t != "" && !strings.EqualFold(t, "bearer") {
		a.blame("token_type is not Bearer")
	}
	if _, ok := a.fields[fieldExpiresAt]; ok {
		a.lifetime, a.expires = a.until(raw(fieldExpiresAt))
		return
	}
	a.lifetime, a.expires = a.life(raw("expires_in"))
}

// life reads expires_in, which is a number of seconds, or at some servers a string that holds one.
func (a *answer) life(raw json.RawMessage) (time.Duration, bool) {
	text := strings.Trim(string(raw), `"`)
	if text == "" || text == "null" {
		return 0, false
	}
	s, err := strconv.ParseFloat(text, 64)
	if err != nil && !math.IsInf(s, 0) || math.IsNaN(s) {
		a.blame("expires_in is not a number of seconds")
		return 0, false
	}
	return a.bounded(s), true
}

// until reads a time of expiry: RFC 3339, or seconds since 1970.
func (a *answer) until(raw json.RawMessage) (time.Duration, bool) {
	text := strings.Trim(string(raw), `"`)
	if text == "" || text == "null" {
		return 0, false
	}
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return a.bounded(at.Sub(a.now).Seconds()), true
	}
	s, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(s) {
		a.blame("expires_at is no time")
		return 0, false
	}
	return a.bounded(s - float64(a.now.Unix())), true
}

// bounded is a life of s seconds as far as it is believed.
func (a *answer) bounded(s float64) time.Duration {
	return time.Duration(min(max(s, minLifetime.Seconds()), cmp.Or(a.longest, maxLifetime).Seconds()) * float64(time.Second))
}

// blame notes the first fault.
func (a *answer) blame(fault string) {
	if a.fault == "" {
		a.fault = fault
	}
}

// word is raw as a string; ok is false if it is something else. Absent and null are the empty string.
func word(raw json.RawMessage) (s string, ok bool) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", true
	}
	return s, json.Unmarshal(raw, &s) == nil
}

// visible reports whether s is not empty and all ASCII from lowest to ~.
func visible(s string, lowest byte) bool {
	for i := range len(s) {
		if s[i] < lowest || s[i] > '~' {
			return false
		}
	}
	return s != ""
}
