package cli

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/credproxy/credproxy/audit"
	"github.com/credproxy/credproxy/oauth"
)

// logEvery is how often the log tells of one kind of failure of one rule: a client may try again a thousand times a
// second.
const logEvery = 10 * time.Second

// A failureLog tells the log what goes wrong with requests and tokens, under the slugs that clients get. It is safe for
// concurrent use.
type failureLog struct {
	log *slog.Logger
	now func() time.Time

	mu   sync.Mutex
	told map[failureKind]*telling // as many as there are rules and slugs
}

type failureKind struct{ rule, slug string }

// A telling is when a kind of failure was logged, and how often it came since.
type telling struct {
	at    time.Time
	since int
}

func newFailureLog(log *slog.Logger) *failureLog {
	return &failureLog{log: log, now: time.Now, told: make(map[failureKind]*telling)}
}

// quiet are refusals that are no news: the rules ask for them, or the client left, or it is "credproxy env", which asks
// whether there is a proxy.
var quiet = map[string]bool{"denied": true, "no_rule": true, "credential_exists": true, "client_gone": true, "bad_request": true}

// request is an audit listener.
func (f *failureLog) request(e audit.Event) {
	switch {
	case e.Decision == "refuse" && quiet[e.Error]:
		f.write(e, slog.LevelInfo, "request refused", slog.String("reason", e.Reason))
	case e.Decision == "refuse":
		f.write(e, slog.LevelWarn, "request refused", slog.String("reason", e.Reason))
	case e.Trial != "":
		f.write(e, slog.LevelInfo, "no rule matches: default: deny would refuse it", slog.String("would_be", e.Trial))
	case e.Decision == "inject" && e.Status == http.StatusUnauthorized:
		f.write(e, slog.LevelWarn, "the server answered 401 to the credential", slog.Any("secrets", e.Secrets))
	}
}

func (f *failureLog) write(e audit.Event, level slog.Level, text string, more slog.Attr) {
	ctx := context.Background()
	if !f.log.Enabled(ctx, level) {
		return
	}
	left, ok := f.due(failureKind{e.Rule, e.Error})
	if !ok {
		return
	}
	var attrs []slog.Attr
	add := func(name, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(name, value))
		}
	}
	add("error", e.Error)
	add("host", e.Host)
	add("rule", e.Rule)
	add("client", e.Client)
	attrs = append(attrs, slog.Int("status", e.Status), more)
	if left > 0 {
		attrs = append(attrs, slog.Int("not_logged", left))
	}
	f.log.LogAttrs(ctx, level, text, attrs...)
}

// due reports whether a failure is to be logged, and how many of its kind were not since the last that was.
func (f *failureLog) due(kind failureKind) (left int, ok bool) {
	now := f.now()
	f.mu.Lock()
	defer f.mu.Unlock()
	last := f.told[kind]
	if last == nil {
		last = new(telling)
		f.told[kind] = last
	} else if since := now.Sub(last.at); since >= 0 && since < logEvery {
		last.since++
		return 0, false
	}
	left = last.since
	*last = telling{at: now}
	return left, true
}

// token is told of each access token that could not be had, and how long none will be asked for.
func (f *failureLog) token(err error, wait time.Duration) {
	known, ok := errors.AsType[slugged](err)
	if !ok || errors.Is(err, context.Canceled) { // an error without a slug is not fit to be shown; the other is our own end
		return
	}
	if _, paced := errors.AsType[*oauth.Error](err); !paced { // after other failures each request tries again
		if _, ok := f.due(failureKind{slug: known.Slug()}); !ok {
			return
		}
	}
	f.log.Warn("no new access token", "error", known.Slug(), "reason", known.Error(), "hint", known.Hint(), "next_try_in", wait.Round(time.Second))
}
