package oauth

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/credproxy/credproxy/secrets"
)

// An Error says why there is no access token. It never carries a secret, nor a body that a server sent.
type Error struct {
	Host        string // of the token endpoint
	Code        string // RFC 6749 section 5.2, such as invalid_grant; empty if the server gave none
	Description string // what the server says about Code: printable ASCII, at most 200 bytes, or empty
	Status      int    // of the HTTP answer; 0 if there was none
	Why         string // what went wrong, if the server did not say it in Code
	Next        string // what to do about it
	SignIn      bool   // a person has to sign in again, whatever Code is

	at      string // what Host was asked as; empty: token endpoint
	timeout bool
	signed  bool          // Code is about an assertion, so a new sign-in is no help
	again   bool          // trying again at once may help
	lockout bool          // each try counts against an account
	after   time.Duration // Retry-After (RFC 9110 section 10.2.3)
	cause   error
}

func (e *Error) Error() string {
	parts := make([]string, 0, 4)
	if e.Host != "" {
		parts = append(parts, cmp.Or(e.at, "token endpoint")+" "+e.Host)
	}
	if e.Status != 0 {
		parts = append(parts, fmt.Sprintf("HTTP status %d", e.Status))
	}
	for _, s := range []string{e.Code, e.Description, e.Why} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ": ")
}

// Unwrap gives the end of the caller's context to errors.Is, if that is what ended the wait.
func (e *Error) Unwrap() error { return e.cause }

// Slug is token_expired if a person has to sign in again, token_timeout, or token_refresh_failed.
func (e *Error) Slug() string {
	switch {
	case e.SignIn, (e.Code == "invalid_grant" || e.Code == "bad_refresh_token") && !e.signed: // the second is GitHub's word for it
		return "token_expired"
	case e.timeout:
		return "token_timeout"
	}
	return "token_refresh_failed"
}

// Hint is what to do about it.
func (e *Error) Hint() string { return e.Next }

func signedOut(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Slug() == "token_expired"
}

// A laterError is the failure of the last renewal while the next is not due.
type laterError struct {
	err  error // has an *Error in its chain
	wait time.Duration
}

func (e *laterError) Error() string {
	return fmt.Sprintf("%v; next try in %s", e.err, max(e.wait.Round(time.Second), time.Second))
}

func (e *laterError) Unwrap() error { return e.err }
func (e *laterError) Slug() string  { return e.last().Slug() }
func (e *laterError) Hint() string  { return e.last().Hint() }

func (e *laterError) last() *Error {
	var last *Error
	errors.As(e.err, &last)
	return last
}

const maxDescription = 200

// safe makes text that comes from outside fit for an error: bounded, of the characters that RFC 6749 section 5.2
// allows, and empty if it gives away a part of a secret.
func safe(text string, sent []secrets.Value) string {
	for _, v := range sent {
		if reveals(text, v.Reveal()) {
			return ""
		}
	}
	if len(text) > maxDescription {
		text = text[:maxDescription]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, text)
}

// reveals reports whether text contains eight bytes in a row of secret, or all of a shorter one, in any form in which a
// server may have got it or print it: as it is in any case, percent-encoded, in hex, or in base64, alone or as a part of
// a Basic header.
func reveals(text, secret string) bool {
	if secret == "" {
		return false
	}
	escaped := url.QueryEscape(secret)
	lower := strings.ToLower(text)
	for _, form := range []string{secret, escaped, hex.EncodeToString([]byte(secret))} {
		if shares(lower, strings.ToLower(form)) {
			return true
		}
	}
	standard := strings.NewReplacer("-", "+", "_", "/").Replace(text)
	for before := range 3 { // what stands before the secret decides how its bits fall
		for _, form := range []string{secret, escaped} {
			if inside := insideBase64(form, before); inside != "" && shares(standard, inside) {
				return true
			}
		}
	}
	return false
}

// insideBase64 is the base64 of s that does not depend on what stands around it, if before bytes (modulo 3) come first.
func insideBase64(s string, before int) string {
	skip := (3 - before) % 3 // bytes that share their letters with those before
	if len(s) < skip+3 {
		return ""
	}
	s = s[skip:]
	return base64.StdEncoding.EncodeToString([]byte(s[:len(s)/3*3]))
}

// shares reports whether text contains eight bytes in a row of form, or all of a shorter one.
func shares(text, form string) bool {
	const window = 8
	for i := 0; i == 0 || i+window <= len(form); i++ {
		if strings.Contains(text, form[i:min(i+window, len(form))]) {
			return true
		}
	}
	return false
}

// code is an error code from outside, or empty if it does not look like one.
func code(s string, sent []secrets.Value) string {
	for _, r := range s {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_-.", r) {
			return ""
		}
	}
	if len(s) > 64 {
		return ""
	}
	return safe(s, sent)
}

func serverTrouble(status int) bool {
	return status >= http.StatusInternalServerError
}
