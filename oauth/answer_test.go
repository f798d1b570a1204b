package oauth_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
)

func TestTokenFields(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	const nested = `{"ok":true,"authed_user":{"access_token":"abc","refresh_token":"next","expires_in":43200,"list":[1,{"a/b":"deep","m~n":"tilde"}]},"expiresAt":"2026-11-01T12:30:00Z","epoch":1793536200,"token_type":"user"}`
	tests := []struct {
		name, answer string
		fields       map[string]oauth.Pointer
		access, next string
		life         time.Duration
		why          string // of the error
	}{
		{"nested", nested, map[string]oauth.Pointer{"access_token": "/authed_user/access_token", "refresh_token": "/authed_user/refresh_token", "expires_in": "/authed_user/expires_in", "token_type": "/none"}, "abc", "next", 12 * time.Hour, ""},
		{"in a list, with escapes", nested, map[string]oauth.Pointer{"access_token": "/authed_user/list/1/a~1b", "token_type": "/none"}, "deep", "", 0, ""},
		{"a tilde", nested, map[string]oauth.Pointer{"access_token": "/authed_user/list/1/m~0n", "token_type": "/none"}, "tilde", "", 0, ""},
		{"expires_at as RFC 3339", nested, map[string]oauth.Pointer{"access_token": "/authed_user/access_token", "expires_at": "/expiresAt", "token_type": "/none"}, "abc", "", 30 * time.Minute, ""},
		{"expires_at in seconds", nested, map[string]oauth.Pointer{"access_token": "/authed_user/access_token", "expires_at": "/epoch", "token_type": "/none"}, "abc", "", 30 * time.Minute, ""},
		{"expires_at is no time", nested, map[string]oauth.Pointer{"access_token": "/authed_user/access_token", "expires_at": "/authed_user/access_token", "token_type": "/none"}, "", "", 0, "expires_at is no time"},
		{"the type that is there", nested, map[string]oauth.Pointer{"access_token": "/authed_user/access_token"}, "", "", 0, "token_type is not Bearer"},
		{"nothing there", nested, map[string]oauth.Pointer{"access_token": "/authed_user/none/deeper"}, "", "", 0, "the answer has no access_token"},
		{"not a string", nested, map[string]oauth.Pointer{"access_token": "/authed_user"}, "", "", 0, "access_token is not a string"},
		{"an index with a zero in front", nested, map[string]oauth.Pointer{"access_token": "/authed_user/list/01/a~1b"}, "", "", 0, "the answer has no access_token"},
		{"beyond the list", nested, map[string]oauth.Pointer{"access_token": "/authed_user/list/2"}, "", "", 0, "the answer has no access_token"},
		{"twice, where the rule looks", `{"d":{"t":"a","t":"b"}}`, map[string]oauth.Pointer{"access_token": "/d/t"}, "", "", 0, "the answer has no access_token"},

		{"access_token twice", `{"access_token":"a","access_token":"b"}`, nil, "", "", 0, "the answer has two of access_token"},
		{"the same twice", `{"access_token":"a","access_token":"a"}`, nil, "", "", 0, "the answer has two of access_token"},
		{"twice in another spelling", `{"access_token":"a","access\u005ftoken":"b"}`, nil, "", "", 0, "the answer has two of access_token"},
		{"token_type twice", `{"access_token":"a","token_type":"mac","token_type":"bearer"}`, nil, "", "", 0, "the answer has two of token_type"},
		{"expires_in twice, beside a new refresh token", `{"access_token":"a","refresh_token":"next","expires_in":1,"expires_in":2}`, nil, "", "next", 0, "the answer has two of expires_in"},
		{"refresh_token twice", `{"access_token":"a","refresh_token":"x","refresh_token":"y"}`, nil, "", "", 0, "the answer has two of refresh_token"},
		{"something else twice", `{"access_token":"a","foo":1,"foo":2}`, nil, "a", "", 0, ""},
		{"other capitals", `{"access_token":"a","Access_Token":"b"}`, nil, "a", "", 0, ""},
		{"null", `null`, nil, "", "", 0, "the answer is not a JSON object"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := clientFor(t, answeringJSON(http.StatusOK, tt.answer))
			c.Fields, c.Now = tt.fields, func() time.Time { return now }
			token, next, err := c.Refresh(t.Context(), secrets.Value{}, secrets.NewValue("old"))
			if next.Reveal() != tt.next {
				t.Errorf("next refresh token %q, want %q", next.Reveal(), tt.next)
			}
			if tt.why != "" {
				if e, ok := errors.AsType[*oauth.Error](err); !ok || !strings.Contains(e.Why, tt.why) {
					t.Errorf("got %v, want %q", err, tt.why)
				}
				return
			}
			if err != nil || token.Access.Reveal() != tt.access {
				t.Fatalf("got %q, %v; want %q", token.Access.Reveal(), err, tt.access)
			}
			want := time.Time{}
			if tt.life != 0 {
				want = now.Add(tt.life)
			}
			if !token.Expiry.Equal(want) {
				t.Errorf("expires at %v, want %v", token.Expiry, want)
			}
		})
	}
}
