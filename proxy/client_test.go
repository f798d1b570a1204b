package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/credproxy/credproxy/internal/testneed"
)

// Tests here run real clients, as programs of their own.

// saveRoot writes the CA's certificate as PEM and returns the file.
func (ca *testCA) saveRoot(t *testing.T) string {
	t.Helper()
	return writePEM(t, "ca.pem", "CERTIFICATE", ca.cert.Raw)
}

// saveLeaf writes a certificate for host and its key as PEM files.
func (ca *testCA) saveLeaf(t *testing.T, host string) (cert, key string) {
	t.Helper()
	leaf, err := ca.leaf(host)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return writePEM(t, "cert.pem", "CERTIFICATE", leaf.Certificate[0]), writePEM(t, "key.pem", "PRIVATE KEY", der)
}

func writePEM(t *testing.T, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// startServer runs a program that prints its port and serves until its input ends.
func startServer(t *testing.T, name string, args ...string) (port string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	var stderr lockedBuffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		limit := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		defer limit.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, stderr.String())
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, stderr.String())
	}
	return strings.TrimSpace(line)
}

// runClient runs a program with p as its proxy and returns what it printed. It must succeed.
func runClient(t *testing.T, p *testProxy, name string, args ...string) []byte {
	t.Helper()
	out, err := tryClient(t, p, "", name, args...)
	if err != nil {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	return out
}

// tryClient is runClient for a program that may fail. user is a name and password for the proxy, or "".
func tryClient(t *testing.T, p *testProxy, user, name string, args ...string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	proxy, root := "http://"+user+p.addr, p.ca.saveRoot(t)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "SSL_CERT_FILE=" + root, "CURL_CA_BUNDLE=" + root}
	for _, scheme := range []string{"http", "https", "ws", "wss"} {
		cmd.Env = append(cmd.Env, scheme+"_proxy="+proxy)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%w: %s", err, stderr.Bytes())
	}
	return out, nil
}

// curl over both protocols on both legs: methods, uploads with Expect, HEAD, compressed answers, ranges, an answer
// without a body that carries a length, and an error that curl must see.
func TestCurl(t *testing.T) {
	t.Parallel()
	curl := testneed.Program(t, "curl")
	overLegs(t, func(t *testing.T, client, upstream bool) {
		ca := newTestCA(t, "upstream")
		up := startUpstream(t, ca, upstream, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer "+canary {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			switch r.URL.Path {
			case "/304":
				w.Header().Set("Content-Length", "99")
				w.WriteHeader(http.StatusNotModified)
			case "/dies":
				_, _ = io.WriteString(w, "begin")
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			case "/file":
				http.ServeContent(w, r, "file", time.Time{}, strings.NewReader("0123456789"))
			default:
				body, _ := io.ReadAll(r.Body)
				fmt.Fprintf(w, "%s %d", r.Method, len(body))
			}
		})
		p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port))
		version := map[bool]string{false: "--http1.1", true: "--http2"}[client]
		big := filepath.Join(t.TempDir(), "big")
		if err := os.WriteFile(big, make([]byte, 2<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			name, path string
			args       []string
			want       string // body, status, protocol
		}{
			{"GET", "/", nil, "GET 0 200"},
			{"POST", "/", []string{"-d", "a=b"}, "POST 3 200"},
			{"upload", "/", []string{"-T", big}, "PUT 2097152 200"},
			{"upload with Expect", "/", []string{"-T", big, "-H", "Expect: 100-continue"}, "PUT 2097152 200"},
			{"upload without length", "/", []string{"-T", big, "-H", "Content-Length:", "-H", "Transfer-Encoding: chunked"}, "PUT 2097152 200"},
			{"range", "/file", []string{"-r", "2-4"}, "234 206"},
			{"own credential", "/", []string{"-H", "Authorization: Bearer mine"}, "GET 0 200"},
			{"no body but a length", "/304", nil, " 304"},
			{"HEAD", "/file", []string{"--head", "-o", os.DevNull}, " 200"},
		} {
			args := append([]string{"-sS", version, "-w", " %{http_code} %{http_version}"}, tt.args...)
			got := string(runClient(t, p, curl, append(args, up.url("api.localhost", tt.path))...))
			if want := tt.want + map[bool]string{false: " 1.1", true: " 2"}[client]; got != want {
				t.Errorf("%s: got %q, want %q", tt.name, got, want)
			}
		}
		if out, err := tryClient(t, p, "", curl, "-sS", version, up.url("api.localhost", "/dies")); err == nil || string(out) != "begin" {
			t.Errorf("a body that broke off: %q, %v; want an error", out, err)
		}
	})
}

// Trap 20: a client that waits for a challenge, on the same connection or on a new one, and clients that do not wait.
func TestCurlProxyAuthentication(t *testing.T) {
	t.Parallel()
	curl := testneed.Program(t, "curl")
	ca := newTestCA(t, "upstream")
	up := startUpstream(t, ca, true, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "in") })
	port := plainUpstream(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "in") })
	p := startProxy(t, ca, bearerRule(t, "api.localhost", up.port), func(cfg *Config, _ *limits) {
		cfg.Clients = func(r *http.Request) (string, bool) {
			return "run", r.Header.Get("Proxy-Authorization") == "Basic cnVuOnRva2Vu"
		}
	})
	for _, url := range []string{up.url("api.localhost", "/"), "https://other.localhost:" + up.port + "/", "http://127.0.0.1:" + port + "/"} {
		for _, method := range []string{"--proxy-basic", "--proxy-anyauth"} {
			args := []string{"-sS", method, "--proxy-user", "run:token", url}
			if strings.Contains(url, "other.") {
				args = append(args, "--cacert", ca.saveRoot(t)) // not intercepted
			}
			if out := runClient(t, p, curl, args...); string(out) != "in" {
				t.Errorf("%s %s: got %q", method, url, out)
			}
		}
		out, err := tryClient(t, p, "", curl, "-sS", "-o", os.DevNull, "-w", "%{http_connect} %{http_code}", "--proxy-anyauth", "--proxy-user", "run:wrong", url)
		if !strings.Contains(string(out), "407") {
			t.Errorf("%s with a wrong token: %q, %v; want 407", url, out, err)
		}
	}
}

// Python's aiohttp with trust_env=True as client and server: plain requests, streams and WebSockets.
func TestAiohttp(t *testing.T) {
	t.Parallel()
	python := testneed.PythonModule(t, "aiohttp")
	ca := newTestCA(t, "upstream")
	cert, key := ca.saveLeaf(t, "api.localhost")
	port := startServer(t, python, "testdata/aiohttp_echo.py", "server", cert, key)
	p := startProxy(t, ca, bearerRule(t, "api.localhost", port)+"    on_existing: fail\n", func(cfg *Config, _ *limits) {
		cfg.Clients = func(r *http.Request) (string, bool) {
			return "run", r.Header.Get("Proxy-Authorization") == "Basic cnVuOnRva2Vu"
		}
	})
	out, err := tryClient(t, p, "run:token@", python, "testdata/aiohttp_echo.py", "client", "https://api.localhost:"+port)
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	bearer := backwards("Bearer " + canary)
	data, err := json.Marshal(map[string]any{
		"get": []any{200, bearer, "GET", 0}, "post": []any{200, bearer, "POST", 100000}, "chunked": []any{200, bearer, "POST", 30},
		"stream": []string{"0", "1", "2"}, "refused": []any{403, "credential_exists"},
		"websocket":  []any{bearer, "echo hello", "ZWNobyAA/w==", "echo " + strings.Repeat("x", 200000)},
		"close code": 4321,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("got\n%.2000s\nwant\n%.2000s", g, w)
	}
}
