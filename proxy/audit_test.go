package proxy

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/audit"
)

// Nothing that a request or an answer carries beside its method, host and path is in the audit log, whatever the rules
// decide.
func TestAuditHoldsNothingOfTheContent(t *testing.T) {
	t.Parallel()
	const mark = "xyzzy-content"
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("X-Answer", mark)
		w.Header().Set("Trailer", "X-Trailer")
		w.Header().Set("Location", "https://"+mark+".localhost/?"+mark)
		w.WriteHeader(http.StatusFound)
		fmt.Fprint(w, mark)
		w.Header().Set("X-Trailer", mark)
	})
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port)+
		fmt.Sprintf("  - {name: no, match: {host: no.localhost, port: %s}, deny: not here}\n", up.port)+
		fmt.Sprintf("  - {name: pass, match: {host: pass.localhost, port: %s}}\n", up.port))
	want := 0
	for _, h2 := range []bool{false, true} {
		c := p.client(t, h2)
		for _, host := range []string{"api.localhost", "no.localhost", "pass.localhost"} {
			for _, path := range []string{"/a?q=" + mark, "/a?" + mark, "/a?=" + mark + "&api_key=" + mark, "/a/%3f?x=%78yzzy-content#" + mark} {
				req, err := http.NewRequest(http.MethodPost, up.url(host, path), strings.NewReader(mark))
				if err != nil {
					t.Fatal(err)
				}
				req.URL.User = nil
				req.Header.Set("Authorization", "Basic "+mark)
				req.Header.Set("Cookie", "session="+mark)
				req.Header.Set("X-"+mark, mark)
				req.Header.Set("Referer", "https://api.localhost/?"+mark)
				req.Header.Set("User-Agent", mark)
				req.Trailer = http.Header{"X-Trailer": {mark}}
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				want++
			}
		}
	}
	events := p.events.wait(t, want)
	for _, e := range events {
		line, err := json.Marshal(e)
		if err != nil || strings.Contains(string(line), mark) {
			t.Errorf("the event has what the request carried (%v): %s", err, line)
		}
		if e.Path != "/a" && e.Path != "/a/%3f" {
			t.Errorf("the path is %q", e.Path)
		}
	}
	p.stop()
	if err := p.log.Close(); err != nil {
		t.Fatal(err)
	}
	if log := p.logged.String(); strings.Contains(log, mark) || strings.Count(log, `"decision":"inject"`) != want/3 {
		t.Errorf("the log is\n%s", log)
	}
}

// A path as long as a header does not make a line as long.
func TestAuditLinesAreBounded(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, false, func(http.ResponseWriter, *http.Request) {})
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
	mustGet(t, p.client(t, false), up.url("api.localhost", "/"+strings.Repeat("x", 100<<10)))
	events := p.events.wait(t, 1)
	if i := slices.IndexFunc(events, func(e audit.Event) bool {
		return len(e.Path) > 1100 || !strings.HasSuffix(e.Path, "… (102401 bytes)")
	}); i >= 0 {
		t.Errorf("the path has %d bytes and ends in %q", len(events[i].Path), events[i].Path[len(events[i].Path)-30:])
	}
}
