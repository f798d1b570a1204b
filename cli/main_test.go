package cli

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/credproxy/credproxy/sandbox"
	"github.com/credproxy/credproxy/secrets"
	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain makes this binary the credproxy of the scripts, and the programs that they run behind it.
func TestMain(m *testing.M) {
	if code, ok := secrets.RunHelper(); ok { // credproxy starts itself as the keyring helper
		os.Exit(code)
	}
	if code, ok := sandbox.RunInit(); ok { // or as the first process of a sandbox
		os.Exit(code)
	}
	testscript.Main(m, map[string]func(){
		"credproxy": func() { os.Exit(Main(os.Args[1:])) },
		"fetch":     func() { os.Exit(fetch(os.Args[1:])) },
		"printenv":  func() { os.Exit(printVariables(os.Args[1:])) },
		"quit":      func() { os.Exit(quit(os.Args[1:])) },
		"person":    func() { os.Exit(person(os.Args[1:])) },
	})
}

// quickExit keeps the race detector from sleeping for a second at the end of each process.
const quickExit = "GORACE=atexit_sleep_ms=0"

// fetch [-X METHOD] URL is a client as simple as they come: it knows HTTPS_PROXY, NO_PROXY and SSL_CERT_FILE, and prints
// status and body. Go's own rules are not used because they never send localhost to a proxy.
func fetch(args []string) int {
	method := http.MethodGet
	if len(args) == 3 && args[0] == "-X" {
		method, args = args[1], args[2:]
	}
	roots := x509.NewCertPool()
	if data, err := os.ReadFile(os.Getenv("SSL_CERT_FILE")); err == nil {
		roots.AppendCertsFromPEM(data)
	}
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		Proxy: func(req *http.Request) (*url.URL, error) {
			via := os.Getenv(strings.ToUpper(req.URL.Scheme) + "_PROXY")
			if via == "" || slices.Contains(strings.Split(os.Getenv("NO_PROXY"), ","), req.URL.Hostname()) {
				return nil, nil
			}
			return url.Parse(via)
		},
	}}
	req, err := http.NewRequest(method, args[0], nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, "fetch:", err)
		return 1
	}
	resp, err := client.Do(req)
	if err != nil {
		fmt.Fprintln(os.Stderr, "fetch:", err)
		return 1
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		fmt.Fprintln(os.Stderr, "fetch:", err)
		return 1
	}
	return 0
}

// printVariables prints the named variables, or all, and says which names stand in the environment twice.
func printVariables(names []string) int {
	seen := map[string]bool{}
	for _, line := range os.Environ() {
		name, _, _ := strings.Cut(line, "=")
		if seen[name] {
			fmt.Println("twice:", name)
		}
		seen[name] = true
		if len(names) == 0 || slices.Contains(names, name) {
			fmt.Println(line)
		}
	}
	return 0
}

// quit N exits with status N. quit signal prints ready, then each signal that it gets, and ends at the first
// terminated with how many interrupts there were as exit status.
func quit(args []string) int {
	if args[0] != "signal" {
		var code int
		if _, err := fmt.Sscan(args[0], &code); err != nil {
			return 99
		}
		return code
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	fmt.Println("ready")
	interrupts := 0
	for sig := range signals {
		fmt.Println("got", sig)
		switch sig {
		case syscall.SIGINT:
			interrupts++
		case syscall.SIGTERM:
			return interrupts
		}
	}
	return 0
}

// lines sends what r gives, line by line, until it ends.
func lines(r io.Reader) <-chan string {
	out := make(chan string, 256)
	go func() {
		defer close(out)
		for s := bufio.NewScanner(r); s.Scan(); {
			out <- s.Text()
		}
	}()
	return out
}
