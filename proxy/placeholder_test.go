package proxy

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// markerRule replaces __slack__ by the canary, in the places of in.
func markerRule(t testing.TB, port, in string) string {
	return fmt.Sprintf("  - name: api\n    match: {host: api.localhost, port: %s}\n"+
		"    inject: {type: placeholder, placeholder: __slack__, value: %q, in: %s}\n", port, secretFile(t, canary), in)
}

// What arrives has the value in the declared places and the marker in all others, and the audit log has the marker.
func TestPlaceholder(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		got := make(chan string, 8)
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil || r.ContentLength >= 0 && r.ContentLength != int64(len(body)) {
				t.Errorf("%d of %d bytes of body, %v", len(body), r.ContentLength, err)
			}
			got <- fmt.Sprint(r.RequestURI, r.Header["X-A"], r.Header["Authorization"], string(body), r.Trailer)
		})
		basic := func(pair string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(pair)) }
		type sent struct{ path, xa, auth, body string }
		all := sent{"/a/__slack__/b?q=__slack__", "__slack__", basic("me:__slack__"), `{"__slack__": "__slack__"}`}
		arrives := func(s sent) string {
			return fmt.Sprint(s.path, []string{s.xa}, []string{s.auth}, s.body, http.Header{"X-Sum": {"__slack__"}})
		}
		for _, tt := range []struct {
			in, decision string
			send, want   sent
		}{
			{"header", "inject", all, sent{all.path, canary, all.auth, all.body}},
			{"basic", "inject", all, sent{all.path, all.xa, basic("me:" + canary), all.body}},
			{"path", "inject", all, sent{"/a/" + canary + "/b?q=__slack__", all.xa, all.auth, all.body}},
			{"query", "inject", all, sent{"/a/__slack__/b?q=" + canary, all.xa, all.auth, all.body}},
			{"body", "inject", all, sent{all.path, all.xa, all.auth, `{"__slack__": "` + canary + `"}`}},
			{"[header, basic, path, query, body]", "pass", sent{"/a", "__Slack__", "Bearer x", "{}"}, sent{"/a", "__Slack__", "Bearer x", "{}"}},
		} {
			p := startProxy(t, ca, markerRule(t, up.port, tt.in))
			req, err := http.NewRequestWithContext(t.Context(), "POST", up.url("api.localhost", tt.send.path), io.MultiReader(strings.NewReader(tt.send.body)))
			if err != nil {
				t.Fatal(err)
			}
			req.Trailer = http.Header{"X-Sum": {"__slack__"}}
			req.Header = http.Header{"Content-Type": {"application/json"}, "X-A": {tt.send.xa}, "Authorization": {tt.send.auth}}
			resp, err := p.client(t, h2).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := readAll(resp); err != nil || resp.StatusCode != 200 {
				t.Fatalf("%s: %s, %v", tt.in, resp.Status, err)
			}
			if got, want := <-got, arrives(tt.want); got != want {
				t.Errorf("%s: the upstream got\n%s\nwant\n%s", tt.in, got, want)
			}
			path, _, _ := strings.Cut(tt.send.path, "?")
			e := p.events.wait(t, 1)[0]
			if e.Path != path || e.Decision != tt.decision || e.Rule != "api" || (len(e.Secrets) == 1) != (tt.decision == "inject") {
				t.Errorf("%s: audit %+v, want path %s and decision %s", tt.in, e, path, tt.decision)
			}
		}
	})
}

// After a 401 the secret is read again and put into the client's own request once more.
func TestPlaceholderAfter401(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		value := filepath.Join(t.TempDir(), "value")
		write := func(s string) {
			if err := os.WriteFile(value, []byte(s), 0o600); err != nil {
				t.Error(err)
			}
		}
		ca := newTestCA(t, "upstream")
		got := make(chan string, 8)
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			got <- fmt.Sprint(r.RequestURI, r.Header["X-A"], string(body))
			if !strings.Contains(r.RequestURI, "fresh") {
				write("fresh?value")
				w.WriteHeader(http.StatusUnauthorized)
			}
		})
		for _, tt := range []struct{ method, body, wantBody string }{{"GET", "", ""}, {"POST", "k=__slack__", "k=%s"}} {
			write("stale?value")
			p := startProxy(t, ca, fmt.Sprintf("  - name: api\n    match: {host: api.localhost, port: %s}\n"+
				"    inject: {type: placeholder, placeholder: __slack__, value: {exec: [cat, %q], ttl: 1h}, in: [header, path, query, body]}\n", up.port, value))
			for i, values := range [][]string{{"stale", "fresh"}, {"fresh"}} {
				req, err := http.NewRequestWithContext(t.Context(), tt.method, up.url("api.localhost", "/a/__slack__?q=__slack__"), strings.NewReader(tt.body))
				if err != nil {
					t.Fatal(err)
				}
				req.Header = http.Header{"X-A": {"__slack__"}, "Content-Type": {"application/x-www-form-urlencoded"}}
				resp, err := p.client(t, h2).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := readAll(resp); err != nil || resp.StatusCode != 200 {
					t.Errorf("%s %d: got %s, %v", tt.method, i, resp.Status, err)
				}
				for _, v := range values {
					escaped := v + "%3Fvalue"
					want := "/a/" + escaped + "?q=" + escaped + "[" + v + "?value]" + strings.ReplaceAll(tt.wantBody, "%s", escaped)
					if got := <-got; got != want {
						t.Errorf("%s %d: the upstream got %q, want %q", tt.method, i, got, want)
					}
				}
			}
		}
	})
}

// A marker cannot lead elsewhere, nor stand where the message is framed.
func TestPlaceholderAttacks(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "upstream")
	got := make(chan string, 8)
	up := startUpstream(t, ca, false, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- fmt.Sprint(r.RequestURI, r.Host, r.TransferEncoding, r.Header["X-A"], string(body))
	})
	p := startProxy(t, ca, markerRule(t, up.port, "[header, basic, path, query, body]"))
	host := "api.localhost:" + up.port
	send := func(text string) *http.Response {
		t.Helper()
		return rawRequest(t, p.connectTLS(t, host, "api.localhost", "http/1.1"), strings.ReplaceAll(text, "$HOST", host))
	}
	for _, other := range []string{"__slack__", "__slack__.api.localhost:" + up.port, "api.localhost:__slack__"} {
		resp := send("GET / HTTP/1.1\r\nHost: " + other + "\r\n\r\n")
		if body, err := readAll(resp); err != nil || resp.StatusCode < 400 || strings.Contains(body, canary) {
			t.Errorf("Host %s: %s %s, %v", other, resp.Status, body, err)
		}
	}
	resp := send("POST /?__slack__ HTTP/1.1\r\nHost: $HOST\r\nX-A: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5;a=__slack__\r\nhello\r\n0;__slack__\r\nX-Sum: __slack__\r\n\r\n")
	if _, err := readAll(resp); err != nil || resp.StatusCode != 200 {
		t.Errorf("got %s, %v", resp.Status, err)
	}
	if got, want := <-got, "/?__slack__"+host+"[chunked] [a]hello"; got != want {
		t.Errorf("the upstream got %q, want %q", got, want)
	}
	resp = send("POST / HTTP/1.1\r\nHost: $HOST\r\nX-A: a\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n\"__slack__\"GET /smuggled HTTP/1.1\r\n\r\n")
	if _, err := readAll(resp); err != nil || resp.StatusCode != 200 {
		t.Errorf("got %s, %v", resp.Status, err)
	}
	if got, want := <-got, "/"+host+"[] [a]\""+canary+"\""; got != want {
		t.Errorf("the upstream got %q, want %q", got, want)
	}
	refused(t, send("POST / HTTP/1.1\r\nHost: $HOST\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n\"__slack__;"), 400, "bad_body")
	refused(t, send("POST / HTTP/1.1\r\nHost: $HOST\r\nContent-Length: 9999999\r\n\r\n"), 413, "body_too_large")
	refused(t, send("GET / HTTP/1.1\r\nHost: $HOST\r\nX-A: "+strings.Repeat("__slack__", 3000)+"\r\n\r\n"), 431, "header_too_large")
	if len(got) > 0 {
		t.Errorf("one request too many: %s", <-got)
	}
}
