//go:build linux

package proxy

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/credproxy/credproxy/clients"
)

// BenchmarkDoor is what it costs to know who is asking, for each request on a kept connection, against a proxy that does
// not ask: with a token, and as the proxy's own user.
func BenchmarkDoor(b *testing.B) {
	ca := newTestCA(b, "upstream")
	up := startUpstream(b, ca, false, kilobyte)
	dir := b.TempDir()
	store := clients.Open(dir)
	token, err := store.Add("ci", false)
	if err != nil {
		b.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "ci"), old, old); err != nil {
		b.Fatal(err)
	}
	behind := func(name string, d *clients.Door, user *url.Userinfo) *contender {
		options := []proxyOption{fileAudit(b)}
		if d != nil {
			options = append(options, func(cfg *Config, _ *limits) {
				cfg.Clients, cfg.Conn, cfg.Known, cfg.Stranger = d.Ask, d.Conn, d.Known, d.Stranger
			})
		}
		p := startProxy(b, ca, bearerRule(b, "api.localhost", up.port), options...)
		client := benchClient(b, p.addr, p.ca, 1)
		client.Transport.(*http.Transport).Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: p.addr, User: user})
		return &contender{name: name, do: func(n int) {
			for range n {
				fetch(b, client, up.url("api.localhost", "/"))
			}
		}}
	}
	compare(b,
		behind("open", nil, nil),
		behind("token", &clients.Door{Tokens: store.Check}, url.UserPassword("ci", token)),
		behind("own-user", &clients.Door{OwnUser: true}, nil))
}
