package proxy

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// The refused answer's body may never end. The answer to the request that was sent again does not wait for it.
func TestRetryDoesNotWaitForTheRefusedBody(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		value := filepath.Join(t.TempDir(), "value")
		write := func(s string) {
			if err := os.WriteFile(value, []byte(s), 0o600); err != nil {
				t.Error(err)
			}
		}
		write("stale")
		ended := make(chan struct{})
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") == "Bearer fresh" {
				fmt.Fprint(w, "welcome")
				return
			}
			write("fresh")
			w.WriteHeader(http.StatusUnauthorized)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			close(ended)
		})
		p := startProxy(t, ca, fmt.Sprintf("  - name: api\n    match: {host: api.localhost, port: %s}\n    inject: {type: bearer, token: {exec: [cat, %q], ttl: 1h}}\n", up.port, value))
		if resp, body := mustGet(t, p.client(t, h2), up.url("api.localhost", "/")); resp.StatusCode != 200 || body != "welcome" {
			t.Errorf("got %s %q", resp.Status, body)
		}
		within(t, ended, "the end of the refused answer at the upstream")
	})
}
