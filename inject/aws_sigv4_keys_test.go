package inject

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/credproxy/credproxy/secrets"
)

// processJSON is what a credential_process prints.
func processJSON(id string, expires time.Time) string {
	return fmt.Sprintf("{\n  \"Version\": 1, \"AccessKeyId\": %q, \"SecretAccessKey\": \"s3cr/et\", \"SessionToken\": \"t/k+n\", \"AccountId\": \"1\", \"Expiration\": %q\n}\n",
		id, expires.UTC().Format(time.RFC3339))
}

// A processTest is a credential whose keys a command prints, with a clock that stands still.
type processTest struct {
	*sigV4
	file string // what the command prints
	runs string // a line for each run
	at   time.Time
}

func newProcessTest(t *testing.T) *processTest {
	t.Helper()
	dir := t.TempDir()
	p := &processTest{file: filepath.Join(dir, "keys"), runs: filepath.Join(dir, "runs"), at: time.Now()}
	args, err := json.Marshal([]string{"sh", "-c", `echo run >>"$1"; cat "$0"`, p.file, p.runs})
	if err != nil {
		t.Fatal(err)
	}
	env := Env{Secrets: secrets.NewResolver(secrets.Config{})}
	t.Cleanup(env.Secrets.Close)
	p.sigV4 = &sigV4{
		env: env, region: "us-east-1", service: "s3", now: func() time.Time { return p.at },
		process: secrets.Ref{Scheme: "exec", Name: string(args), TTL: 24 * time.Hour},
	}
	return p
}

func (p *processTest) prints(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(p.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// signs returns whose keys a request is signed with.
func (p *processTest) signedBy(t *testing.T) (id string, used []secrets.Value, err error) {
	t.Helper()
	req := &http.Request{Method: "GET", URL: &url.URL{Scheme: "https", Host: "b.s3.amazonaws.com", Path: "/"}, Host: "b.s3.amazonaws.com", Header: http.Header{}}
	used, err = p.Apply(req.WithContext(t.Context()))
	_, rest, _ := strings.Cut(req.Header.Get("Authorization"), "Credential=")
	id, _, _ = strings.Cut(rest, "/")
	return id, used, err
}

func (p *processTest) wantRuns(t *testing.T, want int) {
	t.Helper()
	runs, err := os.ReadFile(p.runs)
	if err != nil || strings.Count(string(runs), "\n") != want {
		t.Errorf("the command ran %d times, %v, want %d", strings.Count(string(runs), "\n"), err, want)
	}
}

// Keys with an end are fetched anew before it, however long the reference may be kept, and not used after it.
func TestSigV4ProcessKeysEnd(t *testing.T) {
	t.Parallel()
	p := newProcessTest(t)
	start := p.at
	p.prints(t, processJSON("FIRST", start.Add(time.Hour)))
	id, used, err := p.signedBy(t)
	if err != nil || id != "FIRST" || len(used) != 3 || used[1].Reveal() != "s3cr/et" || used[2].Reveal() != "t/k+n" {
		t.Fatalf("signed by %q with %d values, %v", id, len(used), err)
	}
	p.prints(t, processJSON("SECOND", start.Add(2*time.Hour)))
	p.at = start.Add(time.Hour - renewBefore - time.Second)
	if id, _, err := p.signedBy(t); err != nil || id != "FIRST" {
		t.Errorf("signed by %q, %v, while the keys are good", id, err)
	}
	p.wantRuns(t, 1)
	p.at = start.Add(time.Hour - renewBefore)
	if id, _, err := p.signedBy(t); err != nil || id != "SECOND" {
		t.Errorf("signed by %q, %v, shortly before the end", id, err)
	}
	p.wantRuns(t, 2)
	p.at = start.Add(2*time.Hour - time.Second)
	if id, _, err := p.signedBy(t); err != nil || id != "SECOND" {
		t.Errorf("signed by %q, %v, where the command has nothing new yet", id, err)
	}
	p.at = start.Add(2 * time.Hour)
	_, used, err = p.signedBy(t)
	known, ok := errors.AsType[*secrets.Error](err)
	if !ok || used != nil || known.Slug() != "secret_invalid" || known.Error() != "use exec:sh: not usable as a secret: the keys have expired" ||
		!strings.Contains(known.Hint(), "run the command by hand") {
		t.Errorf("after the end: %v", err)
	}
	p.wantRuns(t, 2) // not for every request: a command that has nothing new is asked again after 30 seconds
}

func TestSigV4ProcessKeysRefused(t *testing.T) {
	t.Parallel()
	good := processJSON("ID", time.Now().Add(time.Hour))
	tests := []struct{ name, text, want string }{
		{"no JSON", "AKIAEXAMPLE hush", "it is not the JSON that a credential_process prints"},
		{"a list", "[]", "it is not the JSON that a credential_process prints"},
		{"a number for a key", strings.Replace(good, `"s3cr/et"`, "12", 1), "it is not the JSON that a credential_process prints"},
		{"another version", strings.Replace(good, ": 1,", ": 2,", 1), "its Version is not 1"},
		{"no version", strings.Replace(good, `"Version"`, `"V"`, 1), "its Version is not 1"},
		{"no id", strings.Replace(good, `"AccessKeyId"`, `"V"`, 1), "its AccessKeyId is not usable: it is empty"},
		{"no key", strings.Replace(good, `"SecretAccessKey"`, `"V"`, 1), "its SecretAccessKey is not usable: it is empty"},
		{"an id with a slash", strings.Replace(good, `"ID"`, `"I/D"`, 1), "its AccessKeyId is not usable: an access key's id has no spaces, slashes, commas, semicolons or equals signs"},
		{"a token with a line break", strings.Replace(good, "t/k+n", `t\nX-Evil: 1`, 1), "its SessionToken is not usable: it contains a line break or another control character"},
		{"a key with a NUL", strings.Replace(good, "s3cr/et", `s3cr\u0000et`, 1), "its SecretAccessKey is not usable: it contains a line break or another control character"},
		{"no time", strings.Replace(good, `"Expiration": "2`, `"Expiration": "soon, 2`, 1), "its Expiration is not a time such as 2030-01-02T15:04:05Z"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newProcessTest(t)
			p.prints(t, tt.text)
			_, used, err := p.signedBy(t)
			known, ok := errors.AsType[*secrets.Error](err)
			if !ok || used != nil || known.Slug() != "secret_invalid" || known.Why != tt.want || !strings.Contains(known.Hint(), "credential_process") {
				t.Errorf("got %v, want secret_invalid: %s", err, tt.want)
			}
			if err != nil && (strings.Contains(err.Error(), "s3cr") || strings.Contains(err.Error(), "hush")) {
				t.Errorf("the error gives the secret away: %v", err)
			}
		})
	}
}

// Keys without a token, such as a user's, send none.
func TestSigV4ProcessKeysWithoutAToken(t *testing.T) {
	t.Parallel()
	p := newProcessTest(t)
	p.prints(t, `{"Version": 1, "AccessKeyId": "ID", "SecretAccessKey": "hush"}`)
	if id, used, err := p.signedBy(t); err != nil || id != "ID" || len(used) != 2 {
		t.Errorf("signed by %q, %d values, %v", id, len(used), err)
	}
}

// An answer drops keys that may be stale: the next request reads them again.
func TestSigV4StaleKeys(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		status int
		code   string
		want   bool // they are read again
	}{
		{"401", 401, "", true},
		{"403", 403, "", true},
		{"an expired token", 400, "ExpiredTokenException:http://internal.amazon.com/", true},
		{"an unknown key", 400, "UnrecognizedClientException", true},
		{"a bad request", 400, "ValidationException", false},
		{"a bad request without a name", 400, "", false},
		{"not found", 404, "ExpiredToken", false},
		{"fine", 200, "ExpiredToken", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newProcessTest(t)
			p.prints(t, processJSON("OLD", p.at.Add(time.Hour)))
			_, used, err := p.signedBy(t)
			if err != nil {
				t.Fatal(err)
			}
			p.prints(t, processJSON("NEW", p.at.Add(time.Hour)))
			resp := &http.Response{StatusCode: tt.status, Header: http.Header{"X-Amzn-Errortype": {tt.code}}}
			if again := p.Answer(resp, used, 1); again != tt.want {
				t.Errorf("again %v, want %v", again, tt.want)
			}
			if p.Answer(resp, used, 2) {
				t.Error("again after the second time")
			}
			if id, _, err := p.signedBy(t); err != nil || (id == "NEW") != tt.want {
				t.Errorf("then signed by %q, %v", id, err)
			}
		})
	}
}

// Keys that are not temporary are read again where it says that they are no good, and not after each refusal: most of
// what is forbidden is so for good keys, and a keyring may be locked by then.
func TestSigV4StaleFixedKeys(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status int
		code   string
		want   bool
	}{{401, "", true}, {403, "", false}, {403, "AccessDeniedException", false}, {403, "InvalidClientTokenId", true}, {400, "", false}} {
		path := filepath.Join(t.TempDir(), "key")
		args, err := json.Marshal([]string{"cat", path})
		if err != nil {
			t.Fatal(err)
		}
		a := testSigV4(t, s3ID, s3Secret, "", s3Time)
		a.secret, a.region, a.service = secrets.Ref{Scheme: "exec", Name: string(args)}, "r", "s"
		sign := func(secret string) []secrets.Value {
			if err := os.WriteFile(path, []byte(secret), 0o600); err != nil {
				t.Fatal(err)
			}
			req := &http.Request{Method: "GET", URL: &url.URL{Scheme: "https", Host: "h.test"}, Host: "h.test", Header: http.Header{}}
			used, err := a.Apply(req.WithContext(t.Context()))
			if err != nil {
				t.Fatal(err)
			}
			return used
		}
		again := a.Answer(&http.Response{StatusCode: tt.status, Header: http.Header{"X-Amzn-Errortype": {tt.code}}}, sign("old"), 1)
		if fresh := sign("new")[0].Reveal() == "new"; again != tt.want || fresh != tt.want {
			t.Errorf("%d %s: again %v, read again %v; want %v", tt.status, tt.code, again, fresh, tt.want)
		}
	}
}

// A new secret under the same id counts at once: the key of the day is not the old one's.
func TestSigV4NewSecret(t *testing.T) {
	t.Parallel()
	p := newProcessTest(t)
	p.prints(t, processJSON("ID", p.at.Add(time.Hour)))
	sign := func() string {
		req := &http.Request{Method: "GET", URL: &url.URL{Scheme: "https", Host: "h.test"}, Host: "h.test", Header: http.Header{}}
		used, err := p.Apply(req.WithContext(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		p.Reject(used)
		return signatureOf(req)
	}
	first := sign()
	p.prints(t, strings.Replace(processJSON("ID", p.at.Add(time.Hour)), "s3cr/et", "another", 1))
	if second := sign(); second == first || len(second) != 64 {
		t.Errorf("signatures %s and %s", first, second)
	}
}

// A server whose clock is elsewhere gets signatures by its clock, within bounds and alone.
func TestSigV4Clocks(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	a := testSigV4(t, s3ID, s3Secret, "", at)
	a.region, a.service = "us-east-1", "dynamodb"
	request := func(host string) (*http.Request, []secrets.Value) {
		req := &http.Request{Method: "GET", URL: &url.URL{Scheme: "https", Host: host}, Host: host, Header: http.Header{}}
		used, err := a.Apply(req.WithContext(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		return req, used
	}
	steps := []struct {
		name, host string
		status     int
		server     string // its Date, as far ahead of ours as here, or the header itself
		age        string
		sent       int           // 0: 1
		moved      time.Duration // our clock is set, before
		again      bool
		ahead      time.Duration // of the next signature for the host
	}{
		{name: "clocks agree", status: 403, server: "1m"},
		{name: "within the tolerance", status: 403, server: "-4m"},
		{name: "two hours behind", status: 403, server: "2h", again: true, ahead: 2 * time.Hour},
		{name: "a refusal for another reason", status: 403, server: "2h1m", ahead: 2 * time.Hour},
		{name: "another host", host: "other.test", status: 400, server: "0s"},
		{name: "elsewhere now", status: 400, server: "-20m", again: true, ahead: -20 * time.Minute},
		{name: "on the second time it is learnt", status: 401, server: "3h", sent: 2, ahead: 3 * time.Hour},
		{name: "too far ahead", status: 403, server: "24h1s", ahead: 3 * time.Hour},
		{name: "too far behind", status: 403, server: "-24h1s", ahead: 3 * time.Hour},
		{name: "in another age", status: 403, server: "Fri, 31 Dec 9999 23:59:59 GMT", ahead: 3 * time.Hour},
		{name: "from a cache", status: 403, server: "-1h", age: "60", ahead: 3 * time.Hour},
		{name: "no date", status: 403, server: "-", ahead: 3 * time.Hour},
		{name: "an answer that is fine", status: 200, server: "0s", ahead: 3 * time.Hour},
		{name: "a server's fault", status: 500, server: "0s", ahead: 3 * time.Hour},
		{name: "our clock is set right", moved: 3 * time.Hour, status: 403, server: "3h1s", again: true},
	}
	for _, step := range steps {
		host := step.host
		if host == "" {
			host = "api.test"
		}
		a.now = func() time.Time { return at.Add(step.moved) }
		req, used := request(host)
		date := step.server
		if skew, err := time.ParseDuration(date); err == nil {
			date = at.Add(skew).Format(http.TimeFormat)
		}
		resp := &http.Response{StatusCode: step.status, Request: req, Header: http.Header{"Date": {date}, "Age": {step.age}}}
		if again := a.Answer(resp, used, max(step.sent, 1)); again != step.again {
			t.Errorf("%s: again %v, want %v", step.name, again, step.again)
		}
		next, usedNext := request(host)
		if got, want := next.Header.Get(amzDate), at.Add(step.moved+step.ahead).Format(longDate); got != want {
			t.Errorf("%s: then signed for %s, want %s", step.name, got, want)
		}
		if learnt := next.Header.Get(amzDate) != req.Header.Get(amzDate); learnt && len(used) == len(usedNext) && used[len(used)-1].Equal(usedNext[len(used)-1]) {
			t.Errorf("%s: what is used is the same, so it would not be sent again", step.name)
		}
	}
	for i := range 10 * maxClocks {
		a.clocks.learn(fmt.Sprint(i), at.Add(time.Hour), at)
	}
	if n := len(a.clocks.skew); n > maxClocks {
		t.Errorf("%d clocks are kept, want at most %d", n, maxClocks)
	}
}
