package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// A knock is an error as the one of a door.
type knock struct{ silent, drop bool }

func (knock) Error() string  { return "who is there?" }
func (knock) Slug() string   { return proxyAuth }
func (knock) Hint() string   { return "say it" }
func (knock) Remark() string { return "from somewhere" }
func (k knock) Silent() bool { return k.silent }
func (k knock) Drop() bool   { return k.drop }

// What a door says about strangers decides what they, and the audit log, get to see.
func TestStrangers(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	p := startProxy(t, ca, "  []\n", func(cfg *Config, _ *limits) {
		cfg.Clients = func(*http.Request) (string, bool) { return "", false }
		cfg.Stranger = func(r *http.Request) error {
			return knock{silent: strings.Contains(r.Host, "silent"), drop: strings.Contains(r.Host, "drop")}
		}
	})
	for _, form := range []string{"CONNECT %s:443 HTTP/1.1\r\nHost: %[1]s:443\r\n\r\n", "GET http://%s/ HTTP/1.1\r\nHost: %[1]s\r\n\r\n"} {
		for _, host := range []string{"told.test", "silent.test", "silent-drop.test"} {
			conn := p.dialRaw(t)
			fmt.Fprintf(conn, form, host)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if strings.Contains(host, "drop") {
				if err != io.ErrUnexpectedEOF {
					t.Errorf("%s: got %v, %v, want a closed connection", host, resp, err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if problem := refused(t, resp, 407, proxyAuth); problem.Detail != "who is there?" || problem.Hint != "say it" {
				t.Errorf("%s: got %+v", host, problem)
			}
		}
	}
	p.stop()
	events := p.events.wait(t, 2)
	for _, e := range events {
		if e.Reason != "who is there? (from somewhere)" || !strings.HasPrefix(e.Host, "told.test") || e.Error != proxyAuth {
			t.Errorf("event %+v", e)
		}
	}
	if p.events.mu.Lock(); len(p.events.all) != 2 {
		t.Errorf("%d events, want 2: %+v", len(p.events.all), p.events.all)
	}
	p.events.mu.Unlock()
}

// Whose tunnel is not known any more gets nothing through it.
func TestTunnelOfAClientThatIsNotKnownAnyMore(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "in") })
		known := make(chan bool, 3)
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port), func(cfg *Config, _ *limits) {
			cfg.Known = func(connect *http.Request) bool {
				if connect.Method != http.MethodConnect || connect.Header.Get("Proxy-Authorization") != "" {
					t.Errorf("asked about %s with %q", connect.Method, connect.Header.Get("Proxy-Authorization"))
				}
				return <-known
			}
		})
		c := p.client(t, h2)
		known <- true
		if _, body := mustGet(t, c, up.url("api.localhost", "/")); body != "in" {
			t.Errorf("got %q", body)
		}
		known <- false
		req, err := http.NewRequest(http.MethodGet, up.url("api.localhost", "/"), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Proxy-Authorization", "Basic cnVuOnRva2Vu") // inside the tunnel it says nothing
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		refused(t, resp, 403, clientUnknown)
		if up.conns.Load() != 1 {
			t.Errorf("%d connections to the upstream, want 1", up.conns.Load())
		}
	})
}
