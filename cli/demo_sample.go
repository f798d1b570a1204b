package cli

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/credproxy/credproxy/certs"
	"github.com/credproxy/credproxy/secrets"
)

// A sample is the demo's other side: an API with one host per credential kind, and a login server that gives access
// tokens. They have a CA each, which no one trusts unless told to.
type sample struct {
	api    *sampleServer
	login  *login
	hosts  map[string]*sampleHost // by name below .localhost
	stored []storedSecret

	mu     sync.Mutex
	values []string // of everything that must not leak
}

// sampleFolder is where the API's CA is, seen from the rules file.
const sampleFolder = "sample-api"

type storedSecret struct {
	name  string
	value secrets.Value
}

func startSample(dir string) (s *sample, err error) {
	s = &sample{hosts: make(map[string]*sampleHost)}
	if s.api, err = listenSample(filepath.Join(dir, sampleFolder)); err != nil {
		return nil, err
	}
	server, err := listenSample(filepath.Join(dir, "sample-login"))
	if err != nil {
		return nil, errors.Join(err, s.api.close())
	}
	s.login = newLogin(server, s.note)
	return s, nil
}

// serve answers requests from now on. The cases are the hosts of the API.
func (s *sample) serve(cases []demoCase) {
	for _, c := range cases {
		s.hosts[c.host] = &sampleHost{accepts: c.accepts, repeats: c.repeats, asks: orDefault(c.asks, `Bearer realm="sample"`)}
	}
	s.api.serve(http.HandlerFunc(s.answer))
	s.login.server.serve(s.login)
}

func (s *sample) close() error { return errors.Join(s.api.close(), s.login.server.close()) }

// secret makes a random secret that is to be stored under name.
func (s *sample) secret(name string) secrets.Value {
	v := randomToken()
	s.note(v)
	s.stored = append(s.stored, storedSecret{name, secrets.NewValue(v)})
	return s.stored[len(s.stored)-1].value
}

// last is the secret that was made last.
func (s *sample) last() secrets.Value { return s.stored[len(s.stored)-1].value }

// privateKey makes a key pair. The private one is to be stored under name.
func (s *sample) privateKey(name string) ed25519.PublicKey {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err) // Go's source of randomness does not fail
	}
	s.storeKey(name, private)
	return public
}

// rsaKey is privateKey for where nothing newer is spoken.
func (s *sample) rsaKey(name string) *rsa.PublicKey {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err) // as above
	}
	s.storeKey(name, private)
	return &private.PublicKey
}

func (s *sample) storeKey(name string, private any) {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		panic(err) // every key that is made here has a PKCS #8 form
	}
	s.note(base64.StdEncoding.EncodeToString(der))
	s.stored = append(s.stored, storedSecret{name, secrets.NewValue(string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))})
}

// note adds a value to those that must not leak.
func (s *sample) note(value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values = append(s.values, value)
}

// mustNotLeak lists every secret and token there was so far.
func (s *sample) mustNotLeak() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.values...)
}

// answer is the API: 200 with the exact credential, otherwise 401.
func (s *sample) answer(w http.ResponseWriter, r *http.Request) {
	name, _, _ := net.SplitHostPort(r.Host)
	host := s.hosts[strings.TrimSuffix(name, ".localhost")]
	if host == nil {
		http.Error(w, "no such host", http.StatusMisdirectedRequest)
		return
	}
	status, text := http.StatusUnauthorized, "who are you?"
	if host.accepts(r) {
		status, text = http.StatusOK, "hello from "+name
		if host.repeats {
			text += ", you sent " + r.Header.Get("Authorization")
		}
	}
	host.saw(status, r.Header.Get("Authorization"))
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", host.asks)
	}
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

// A sampleHost is one host of the API.
type sampleHost struct {
	accepts func(*http.Request) bool
	repeats bool
	asks    string // with a 401

	mu   sync.Mutex
	seen sampleCounts
}

// sampleCounts is what a host has seen so far.
type sampleCounts struct {
	accepted, refused int
	authorization     string // of the last request that was accepted
}

func (h *sampleHost) saw(status int, authorization string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if status == http.StatusOK {
		h.seen.accepted++
		h.seen.authorization = authorization
	} else {
		h.seen.refused++
	}
}

func (h *sampleHost) counts() sampleCounts {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen
}

// A sampleServer is an HTTPS server on a random port of 127.0.0.1, for every name.
type sampleServer struct {
	address   string // host:port
	port      string
	authority *certs.Authority

	listener net.Listener
	http     *http.Server
	served   chan error // nil: it does not serve yet
}

func listenSample(dir string) (*sampleServer, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	authority, err := certs.Open(dir)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &sampleServer{address: l.Addr().String(), port: port, authority: authority, listener: l}, nil
}

func (s *sampleServer) serve(h http.Handler) {
	s.http = &http.Server{
		Handler:           h,
		TLSConfig:         &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: s.certificate},
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0), // clients that mistrust it are part of the show
	}
	s.served = make(chan error, 1)
	go func() { s.served <- s.http.ServeTLS(s.listener, "", "") }()
}

func (s *sampleServer) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if hello.ServerName == "" { // by address, which has no place in SNI (RFC 6066 section 3)
		return s.authority.Leaf("127.0.0.1")
	}
	return s.authority.Leaf(hello.ServerName)
}

// close ends the server and waits for it.
func (s *sampleServer) close() error {
	if s.served == nil {
		return s.listener.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if s.http.Shutdown(ctx) != nil {
		_ = s.http.Close() // it closes what is left
	}
	if err := <-s.served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
