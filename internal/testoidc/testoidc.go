// Package testoidc runs real authorization servers for tests, each a Node.js program from npm: oidc-provider, which is
// certified for OpenID Connect and strict, and oauth2-mock-server, whose answers a test may change.
package testoidc

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/credproxy/credproxy/internal/testneed"
)

// A Config says what a Provider knows. The names of its JSON are those that provider.mjs reads.
type Config struct {
	Clients      []map[string]any `json:"clients"` // RFC 7591 client metadata
	Scopes       []string         `json:"scopes,omitempty"`
	TTL          map[string]int   `json:"ttl,omitempty"` // in seconds, by oidc-provider's names: AccessToken, ClientCredentials, …
	KeepRefresh  bool             `json:"-"`             // refresh tokens are not rotated
	TLS          bool             `json:"-"`             // https, where clients may show certificates
	TrustClients bool             `json:"trustClients,omitempty"`
	DeviceFlow   map[string]any   `json:"deviceFlow,omitempty"`
}

// A Server is an authorization server on loopback, until the end of the test.
type Server struct {
	Issuer string
	Client *http.Client // believes the server's certificate, if it has one
	CA     string       // that certificate as PEM

	stdin io.Writer
	mu    sync.Mutex
	seen  []Event
	more  chan struct{} // closed and replaced with each event
}

// An Event is what the server says about something that happened, such as grant.success.
type Event struct {
	Event  string         `json:"event"`
	Grant  string         `json:"grant"` // the grant_type
	Client string         `json:"client"`
	Error  string         `json:"error"`
	Claims map[string]any `json:"claims"` // of an assertion
	Header map[string]any `json:"header"`
	Form   []string       `json:"form"` // names of the token request's parameters
}

// Provider starts an oidc-provider.
func Provider(t testing.TB, c Config) *Server {
	t.Helper()
	config := struct {
		Config
		Rotate bool   `json:"rotate"`
		Cert   string `json:"cert,omitempty"`
		Key    string `json:"key,omitempty"`
	}{Config: c, Rotate: !c.KeepRefresh}
	client := &http.Client{}
	if c.TLS {
		// A certificate for 127.0.0.1 that httptest has made.
		s := httptest.NewTLSServer(http.NotFoundHandler())
		s.Close()
		client = s.Client()
		config.Cert = encodePEM("CERTIFICATE", s.Certificate().Raw)
		key, err := x509.MarshalPKCS8PrivateKey(s.TLS.Certificates[0].PrivateKey)
		if err != nil {
			t.Fatalf("encoding the server's key: %v", err)
		}
		config.Key = encodePEM("PRIVATE KEY", key)
	}
	server := start(t, "provider.mjs", config, client)
	server.CA = config.Cert
	return server
}

// Mock starts an oauth2-mock-server.
func Mock(t testing.TB) *Server {
	t.Helper()
	return start(t, "mock.mjs", struct{}{}, &http.Client{})
}

func encodePEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// folder is where the programs and their packages are.
func folder(t testing.TB) string {
	t.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("this file has no name")
	}
	dir := filepath.Join(filepath.Dir(file), "testdata")
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "oidc-provider")); err != nil {
		testneed.Missing(t, "npm packages:", "npm ci --prefix internal/testoidc/testdata")
	}
	return dir
}

func start(t testing.TB, program string, config any, client *http.Client) *Server {
	t.Helper()
	node, dir := testneed.Program(t, "node"), folder(t)
	first, err := json.Marshal(config)
	if err != nil {
		t.Fatalf("encoding the configuration: %v", err)
	}
	cmd := exec.Command(node, filepath.Join(dir, program))
	cmd.Env = append(os.Environ(), "NODE_ENV=test")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &Server{Client: client, stdin: stdin, more: make(chan struct{})}
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 1<<20)
	read := make(chan struct{})
	t.Cleanup(func() {
		_ = stdin.Close()
		<-read
		_ = cmd.Wait()
	})
	if _, err := stdin.Write(append(first, '\n')); err != nil {
		t.Errorf("configuring %s: %v", program, err)
	}
	var ready struct{ Issuer string }
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &ready) != nil || ready.Issuer == "" {
		close(read)
		_ = stdin.Close()
		_ = cmd.Wait()
		t.Fatalf("%s did not start: %s", program, stderr.String())
	}
	s.Issuer = ready.Issuer
	go func() {
		defer close(read)
		s.follow(lines)
	}()
	return s
}

// follow collects events until the program ends.
func (s *Server) follow(lines *bufio.Scanner) {
	for lines.Scan() {
		var e Event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		s.mu.Lock()
		s.seen = append(s.seen, e)
		close(s.more)
		s.more = make(chan struct{})
		s.mu.Unlock()
	}
}

// Events lists what happened so far under name.
func (s *Server) Events(name string) []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.named(name)
}

func (s *Server) named(name string) (out []Event) {
	for _, e := range s.seen {
		if e.Event == name {
			out = append(out, e)
		}
	}
	return out
}

// Await waits until n events happened under name, and lists them.
func (s *Server) Await(t testing.TB, name string, n int) []Event {
	t.Helper()
	for {
		s.mu.Lock()
		got, more := s.named(name), s.more
		s.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-more:
		case <-t.Context().Done():
			t.Fatalf("%d events %s, want %d", len(got), name, n)
		}
	}
}

// An Answer changes the next answer of a Mock's token endpoint.
type Answer struct {
	Status int            `json:"status,omitempty"`
	Set    map[string]any `json:"set,omitempty"`
	Unset  []string       `json:"unset,omitempty"`
}

// Next says what the Mock's token endpoint answers next.
func (s *Server) Next(t testing.TB, a Answer) {
	t.Helper()
	line, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	before := len(s.Events("next"))
	if _, err := s.stdin.Write(append(line, '\n')); err != nil {
		t.Fatalf("telling the server: %v", err)
	}
	s.Await(t, "next", before+1)
}
