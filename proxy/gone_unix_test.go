//go:build unix

package proxy

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A client that leaves while its secret is still being fetched is the client's doing, and not a slow secret.
func TestClientGoneBeforeTheSecretCame(t *testing.T) {
	t.Parallel()
	overBoth(t, func(t *testing.T, h2 bool) {
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, h2, func(w http.ResponseWriter, r *http.Request) { t.Error("a request reached the upstream") })
		begun, finish := filepath.Join(t.TempDir(), "begun"), filepath.Join(t.TempDir(), "finish")
		for _, pipe := range []string{begun, finish} {
			if err := syscall.Mkfifo(pipe, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		p := startProxy(t, ca, fmt.Sprintf("  - name: api\n    match: {host: api.localhost, port: %s}\n    inject: {type: bearer, token: {exec: [sh, -c, 'echo >%s; cat %s']}}\n", up.port, begun, finish))
		ctx, cancel := context.WithCancel(t.Context())
		req, _ := http.NewRequestWithContext(ctx, "GET", up.url("api.localhost", "/"), nil)
		c, ended := p.client(t, h2), make(chan struct{})
		go func() { _, _ = c.Do(req); close(ended) }()
		if _, err := os.ReadFile(begun); err != nil { // waits for the command
			t.Error(err)
		}
		cancel()
		within(t, ended, "the end of the client's request")
		if e := p.events.wait(t, 1)[0]; e.Error != "client_gone" {
			t.Errorf("audit: %+v", e)
		}
		if err := os.WriteFile(finish, nil, 0o600); err != nil { // lets the command end
			t.Error(err)
		}
	})
}
