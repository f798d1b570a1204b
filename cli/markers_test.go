package cli

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/certs"
	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/rules"
)

// No rule may put a marker into a variable that run and env set.
func TestMarkersKeepOffOurVariables(t *testing.T) {
	t.Parallel()
	load := func(name string) error {
		text := "version: 1\nrules: [{name: a, match: {host: a.test}, inject: {type: placeholder, placeholder: __slack__, value: keyring:a, in: header, env: " + name + "}}]\n"
		_, err := rules.Parse("rules.yaml", []byte(text), inject.Env{})
		return err
	}
	names := []string{"CREDPROXY_RUN", "CREDPROXY_PASSPHRASE"}
	for _, v := range (clientEnv{}).variables() {
		names = append(names, v.name)
	}
	for _, name := range names {
		if load(name) == nil {
			t.Errorf("a marker may stand in %s", name)
		}
	}
	if err := load("SLACK_BOT_TOKEN"); err != nil {
		t.Error(err)
	}
}

// A wired world has a server that sends what it got to arrived: the target, Authorization and the body.
func wiredWorld(t *testing.T, inject string) (w world, arrived chan string) {
	t.Helper()
	dir := t.TempDir()
	authority, err := certs.Open(filepath.Join(dir, "upstream"))
	if err != nil {
		t.Fatal(err)
	}
	arrived = make(chan string, 8)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.ContentLength >= 0 && r.ContentLength != int64(len(body)) {
			t.Errorf("%d of %d bytes of body, %v", len(body), r.ContentLength, err)
		}
		arrived <- fmt.Sprintf("%s %s %v %s", r.Proto, r.RequestURI, r.Header["Authorization"], body)
	}))
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return authority.Leaf("localhost") }}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	w = world{home: filepath.Join(dir, "home"), roots: authority.Path()}
	_, w.port, _ = net.SplitHostPort(server.Listener.Addr().String())
	file := filepath.Join(dir, "rules.yaml")
	text := "version: 1\nrules: [{name: service, match: {host: localhost, port: $PORT}, inject: " + inject + "}]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := installRules(file, w.home, w.port); err != nil {
		t.Fatal(err)
	}
	return w, arrived
}

// TestPlaceholderClients runs real programs that take their key from the environment and know of no marker.
func TestPlaceholderClients(t *testing.T) {
	t.Parallel()
	const rule = "{type: placeholder, placeholder: sk__service, value: env:SERVICE_KEY, in: [header, basic, path, query, body], env: SERVICE_KEY}"
	requests := `
import os, sys, requests
key, url = os.environ["SERVICE_KEY"], sys.argv[1]
requests.post(url + "/hooks/" + key, params={"a": "b c", "key": key}, json={"key": key, "n": 1}, headers={"Authorization": "Bearer " + key})
requests.post(url, data={"key": key, "n": "1"}, auth=("me", key))
requests.put(url, data=(p for p in [b'<k>', key.encode(), b'</k>']), headers={"Content-Type": "text/xml"})`
	curl := func(args string) []string { return []string{"-c", "exec curl -sS " + args} }
	for _, test := range []struct {
		name, secret string
		program      func(*testing.T) string
		args         []string
		want         []string
	}{
		{"curl over HTTP/1.1", "s3/k\"et", program("curl"), curl(`--http1.1 -H "Authorization: Bearer $SERVICE_KEY" "$0/a/$SERVICE_KEY?b=$SERVICE_KEY" --json "{\"k\": \"$SERVICE_KEY\"}"`),
			[]string{`/a/s3%2Fk%22et?b=s3%2Fk%22et [Bearer s3/k"et] {"k": "s3/k\"et"}`}},
		{"curl over HTTP/2", "s3/k\"et", program("curl"), curl(`--http2 -u "me:$SERVICE_KEY" "$0/" -d "k=$SERVICE_KEY"`),
			[]string{`/ [` + basicPair(`me:s3/k"et`) + `] k=s3%2Fk%22et`}},
		{"requests", "s3/key", python("requests"), []string{"-c", requests}, []string{
			`/hooks/s3%2Fkey?a=b+c&key=s3%2Fkey [Bearer s3/key] {"key": "s3/key", "n": 1}`,
			`/ [` + basicPair("me:s3/key") + `] key=s3%2Fkey&n=1`,
			`/ [] <k>s3/key</k>`,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			path := test.program(t)
			if strings.HasSuffix(path, "curl") {
				path = program("sh")(t)
			}
			w, arrived := wiredWorld(t, rule)
			cmd := w.command(t, append([]string{"run", "--", path}, append(test.args, "https://localhost:"+w.port)...)...)
			cmd.Env = append(cmd.Env, "SERVICE_KEY="+test.secret)
			if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
				t.Fatalf("got %q, %v", out, err)
			}
			close(arrived)
			var got []string
			for line := range arrived {
				_, line, _ := strings.Cut(line, " ")
				got = append(got, line)
			}
			if fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("the server got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
			audit, err := os.ReadFile(filepath.Join(w.home, ".local", "state", "credproxy", "audit.log"))
			if err != nil || strings.Contains(string(audit), "s3") || strings.Count(string(audit), `"decision":"inject"`) != len(test.want) {
				t.Errorf("the audit log is %v\n%s", err, audit)
			}
		})
	}
}

func basicPair(pair string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(pair))
}
