package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// A demoClient is an app without a secret in it.
type demoClient interface {
	send(ctx context.Context, r demoRequest) (demoAnswer, error)
}

type demoRequest struct {
	method, url string
	header      []string // "Name: value"
	proxy       string   // URL; empty: straight to the sample API
	roots       string   // PEM file of the one CA that the client trusts
}

type demoAnswer struct {
	status int
	text   string // all that the client received
}

const demoTimeout = 10 * time.Second

// chooseClient takes curl if it is there and works.
func (d *demo) chooseClient(ctx context.Context) error {
	d.client = goClient{api: d.sample.api.address}
	if d.curl == "" {
		d.table.say("client      Go's net/http (curl is not on PATH)")
		return ctx.Err()
	}
	c := curlClient{path: d.curl, api: d.sample.api.port, started: d.started.record}
	r := demoRequest{method: http.MethodGet, url: d.url(d.list[0].host, "/"), roots: d.sampleRoots()}
	if _, err := c.send(ctx, r); err != nil {
		// Some are sandboxed and cannot read temporary files.
		d.table.say("client      Go's net/http (%s does not work here: %v)", d.curl, err)
		return ctx.Err()
	}
	d.client = c
	d.table.say("client      %s, with an empty environment", d.curl)
	return nil
}

func (d *demo) url(host, path string) string {
	return "https://" + net.JoinHostPort(host+".localhost", d.sample.api.port) + path
}

// send has the client send a request and keeps what it received.
func (d *demo) send(ctx context.Context, client demoClient, r demoRequest) (demoAnswer, error) {
	a, err := client.send(ctx, r)
	d.heard.WriteString(a.text)
	if ctx.Err() != nil {
		return a, ctx.Err()
	}
	return a, err
}

// A curlClient is one curl for each request.
type curlClient struct {
	path    string
	api     string // port of the sample API
	started func(args []string)
}

func (c curlClient) send(ctx context.Context, r demoRequest) (demoAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*demoTimeout)
	defer cancel()
	args, err := c.args(r)
	if err != nil {
		return demoAnswer{}, err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, c.path, args...)
	cmd.Env = []string{} // no proxy variables, no settings
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	c.started(cmd.Args)
	if err := cmd.Run(); err != nil {
		if cmd.ProcessState != nil && cmd.ProcessState.ExitCode() < 0 {
			awaitEnd(ctx) // ^C reaches both of us; let ours be seen first
		}
		said, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
		if said == "" {
			said = err.Error()
		}
		return demoAnswer{text: stdout.String() + stderr.String()}, errors.New(said)
	}
	text := stdout.String()
	status, err := strconv.Atoi(text[strings.LastIndexByte(text, '\n')+1:])
	if err != nil {
		return demoAnswer{text: text}, errors.New("curl printed no status")
	}
	return demoAnswer{status: status, text: text + stderr.String()}, nil
}

// awaitEnd gives ctx a moment to end.
func awaitEnd(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	<-ctx.Done()
}

func (c curlClient) args(r demoRequest) ([]string, error) {
	u, err := url.Parse(r.url)
	if err != nil {
		return nil, err
	}
	limit := strconv.Itoa(int(demoTimeout.Seconds()))
	// -q: no .curlrc, and it must be the first.
	args := []string{"-q", "-sS", "-i", "-w", `\n%{http_code}`, "--connect-timeout", limit, "--max-time", limit, "--cacert", r.roots}
	if runtime.GOOS == "windows" {
		args = append(args, "--ssl-no-revoke") // the demo's CAs publish no revocation lists
	}
	if r.proxy == "" {
		// Not every curl knows that names below localhost are this machine (RFC 6761 section 6.3).
		args = append(args, "--resolve", u.Hostname()+":"+c.api+":127.0.0.1")
	} else {
		args = append(args, "--proxy", r.proxy)
	}
	if r.method != http.MethodGet {
		args = append(args, "-X", r.method)
	}
	for _, h := range r.header {
		args = append(args, "-H", h)
	}
	return append(args, r.url), nil
}

// A goClient is a new client for each request, as a program is that was just started.
type goClient struct{ api string }

func (c goClient) send(ctx context.Context, r demoRequest) (demoAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	transport, err := c.transport(r)
	if err != nil {
		return demoAnswer{}, err
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, r.method, r.url, nil)
	if err != nil {
		return demoAnswer{}, err
	}
	for _, h := range r.header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return demoAnswer{}, err
	}
	defer resp.Body.Close()
	resp.Body = io.NopCloser(io.LimitReader(resp.Body, 1<<20))
	text, err := httputil.DumpResponse(resp, true)
	if err != nil {
		return demoAnswer{}, fmt.Errorf("reading the answer: %w", err)
	}
	return demoAnswer{status: resp.StatusCode, text: string(text)}, nil
}

func (c goClient) transport(r demoRequest) (*http.Transport, error) {
	roots, err := readRoots(r.roots)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		ForceAttemptHTTP2: true,
	}
	dialer := &net.Dialer{Timeout: demoTimeout}
	if r.proxy == "" {
		t.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, c.api)
		}
		return t, nil
	}
	proxy, err := url.Parse(r.proxy)
	if err != nil {
		return nil, err
	}
	t.Proxy, t.DialContext = http.ProxyURL(proxy), dialer.DialContext
	return t, nil
}

func readRoots(path string) (*x509.CertPool, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(data) {
		return nil, errors.New("there is no certificate in " + path)
	}
	return roots, nil
}
