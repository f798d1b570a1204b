package oauth

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/credproxy/credproxy/secrets"
)

// An Installation is a GitHub App that somebody has installed. Its tokens are no OAuth 2.0 as RFC 6749 has it: they come
// for a JWT that the app signs, from GitHub's own API.
type Installation struct {
	HTTP         *http.Client      // as for a Client
	URL          string            // of the access tokens, as CheckURL accepts it
	Repositories []string          // nil: all that the installation has
	Permissions  map[string]string // nil: all that the installation has
}

// Token asks for an installation's token, with the same bounds and tries as a Client. jwt says which app asks. The error,
// if any, is an *Error, or jwt's own.
func (i *Installation) Token(ctx context.Context, jwt Sign) (Token, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	body, err := json.Marshal(struct {
		Repositories []string          `json:"repositories,omitempty"`
		Permissions  map[string]string `json:"permissions,omitempty"`
	}{i.Repositories, i.Permissions})
	if err != nil || i.HTTP == nil {
		return Token{}, &Error{Why: "the request could not be made"}
	}
	t, _, err := inTries(ctx, func() (Token, secrets.Value, error) {
		app, err := jwt()
		if err != nil {
			return Token{}, secrets.Value{}, err
		}
		t, err := i.once(ctx, app, body)
		return t, secrets.Value{}, err
	})
	return t, err
}

func (i *Installation) once(ctx context.Context, app secrets.Value, body []byte) (Token, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, i.URL, bytes.NewReader(body))
	if err != nil {
		return Token{}, &Error{Why: "the request could not be made"}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+app.Reveal())
	req.Header.Set("X-GitHub-Api-Version", "2022-11-28")
	now := time.Now()
	a := &answer{
		base: cmp.Or(i.HTTP.Transport, http.DefaultTransport), now: now,
		fields: map[string]Pointer{"access_token": "/token", fieldExpiresAt: "/expires_at"},
	}
	hc := http.Client{Transport: a, Timeout: i.HTTP.Timeout, CheckRedirect: noRedirect}
	resp, err := hc.Do(req)
	var clean struct {
		Access      string `json:"access_token"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if err == nil {
		defer resp.Body.Close()
		err = json.NewDecoder(resp.Body).Decode(&clean) // bounded and made by answer
	}
	sent := []secrets.Value{app}
	switch {
	case err != nil || a.fault != "":
		return Token{}, failure(a, i.URL, err, sent)
	case clean.Access == "":
		e := failure(a, i.URL, nil, sent)
		e.Why = ""
		if e.Code, e.Description = code(clean.Error, sent), safe(clean.Description, sent); e.Code == "" && e.Description == "" {
			e.Why = "no token was given, and no reason"
		}
		return Token{}, e
	}
	t := Token{Access: secrets.NewValue(clean.Access), Type: "Bearer"}
	if a.expires {
		t.Expiry = now.Round(0).Add(a.lifetime)
	}
	return t, nil
}
