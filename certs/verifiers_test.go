package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/credproxy/credproxy/internal/testneed"
)

// A forgery is a certificate as a thief of an intermediate's key could sign it, and a host that it is shown for.
type forgery struct {
	name   string
	domain string   // whose intermediate signs
	sans   []string // names and addresses in the certificate
	cn     string
	host   string
	want   bool // a client believes it
	subCA  bool // through another CA below the intermediate

	port string
}

func forgeries() []forgery {
	const exact, wide, address = "api.good.test", "wide.test", "127.0.0.1"
	return []forgery{
		{name: "the host", domain: exact, sans: []string{exact}, host: exact, want: true},
		{name: "a host of a wildcard", domain: wide, sans: []string{"a.b.wide.test"}, host: "a.b.wide.test", want: true},
		{name: "the address", domain: address, sans: []string{address}, host: address, want: true},
		{name: "the IPv6 address", domain: "::1", sans: []string{"::1"}, host: "::1", want: true},
		{name: "another host", domain: exact, sans: []string{"evil.test"}, host: "evil.test"},
		{name: "the parent", domain: exact, sans: []string{"good.test"}, host: "good.test"},
		{name: "a sibling", domain: exact, sans: []string{"www.good.test"}, host: "www.good.test"},
		{name: "a name that only ends alike", domain: wide, sans: []string{"notwide.test"}, host: "notwide.test"},
		{name: "a wildcard above", domain: exact, sans: []string{"*.good.test"}, host: exact},
		{name: "the host and another", domain: exact, sans: []string{exact, "evil.test"}, host: "evil.test"},
		{name: "an address by the host's", domain: exact, sans: []string{address}, host: address},
		{name: "the host and an address", domain: exact, sans: []string{exact, address}, host: address},
		{name: "another address by the address's", domain: address, sans: []string{"127.0.0.2"}, host: "127.0.0.2"},
		{name: "the address and one of the other family", domain: address, sans: []string{address, "::1"}, host: address},
		{name: "a host by the address's", domain: address, sans: []string{"evil.test"}, host: "evil.test"},
		{name: "a name in the subject alone", domain: exact, cn: "evil.test", host: "evil.test"},
		{name: "another name in the subject", domain: exact, sans: []string{exact}, cn: "evil.test", host: "evil.test"},
		{name: "a CA below", domain: exact, sans: []string{"evil.test"}, host: "evil.test", subCA: true},
		{name: "the host by a CA below", domain: exact, sans: []string{exact}, host: exact, subCA: true},
	}
}

// address is where its server listens.
func (f forgery) address() string {
	if net.ParseIP(f.host) != nil {
		return f.host
	}
	return "127.0.0.1"
}

// sign makes the chain of f with the key of its intermediate.
func (f forgery) sign(t *testing.T, a *Authority) tls.Certificate {
	t.Helper()
	if err := a.Prepare(t.Context(), []string{f.domain}); err != nil {
		t.Fatal(err)
	}
	by, err := a.folder.loadIssuer(a.current().identity, f.domain)
	if err != nil {
		t.Fatal(err)
	}
	chain := [][]byte{by.cert.Raw}
	if f.subCA {
		key := newKey(t)
		der := signed(t, &x509.Certificate{
			Subject: pkix.Name{CommonName: "sub"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		}, by.cert, key, by.key)
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		by, chain = &issuer{cert, key}, append([][]byte{der}, chain...)
	}
	leaf := &x509.Certificate{
		Subject: pkix.Name{CommonName: f.cn}, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range f.sans {
		if ip := net.ParseIP(name); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, name)
		}
	}
	key := newKey(t)
	der := signed(t, leaf, by.cert, key, by.key)
	return tls.Certificate{Certificate: append([][]byte{der}, chain...), PrivateKey: key}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func signed(t *testing.T, c, parent *x509.Certificate, key, by *ecdsa.PrivateKey) []byte {
	t.Helper()
	serial, err := newSerial()
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore, c.NotAfter = serial, time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// serveForgeries starts a server for each and returns the list for the verifiers: number, host, address and port on each line.
func serveForgeries(t *testing.T, a *Authority, list []forgery) (file string) {
	t.Helper()
	var b strings.Builder
	for i := range list {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "hello") }))
		l, err := net.Listen("tcp", net.JoinHostPort(list[i].address(), "0"))
		if err != nil {
			t.Fatal(err)
		}
		s.Listener.Close()
		s.Listener = l
		s.TLS = &tls.Config{Certificates: []tls.Certificate{list[i].sign(t, a)}}
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.StartTLS()
		t.Cleanup(s.Close)
		_, list[i].port, _ = net.SplitHostPort(l.Addr().String())
		fmt.Fprintf(&b, "%d %s %s %s\n", i, list[i].host, list[i].address(), list[i].port)
	}
	file = filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A verifier prints the numbers of the servers that it believes.
type verifier struct {
	name string
	run  func(t *testing.T, root, list string) *exec.Cmd
}

// each runs a shell command for each server, with $HOST, $AT and $PORT, where it listens, and the forms of them that programs want.
func each(program, command string) func(*testing.T, string, string) *exec.Cmd {
	return func(t *testing.T, root, list string) *exec.Cmd {
		testneed.Program(t, program)
		cmd := exec.Command("sh", "-c", `while read N HOST AT PORT; do
			case $AT in *:*) ATB="[$AT]";; *) ATB=$AT;; esac
			case $HOST in *:*) URL="[$HOST]"; IP=ip;; 127.*) URL=$HOST; IP=ip;; *) URL=$HOST; IP=hostname;; esac
			if `+command+` >/dev/null 2>&1 </dev/null; then echo "$N"; fi
		done <"$LIST"`)
		cmd.Env = append(os.Environ(), "ROOT="+root, "LIST="+list)
		return cmd
	}
}

// script runs a program that takes the root and the list.
func script(program, file, text string, args ...string) func(*testing.T, string, string) *exec.Cmd {
	return func(t *testing.T, root, list string) *exec.Cmd {
		path := filepath.Join(t.TempDir(), file)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return exec.Command(testneed.Program(t, program), append(args, path, root, list)...)
	}
}

var verifiers = []verifier{
	{"curl", each("curl", `curl -sS --cacert "$ROOT" --connect-to "$URL:$PORT:$ATB:$PORT" "https://$URL:$PORT/"`)},
	{"openssl", each("openssl", `openssl s_client -verify_return_error -x509_strict -CAfile "$ROOT" -no-CApath -no-CAstore -connect "$ATB:$PORT" -verify_$IP "$HOST"`)},
	{"gnutls", each("gnutls-cli", `gnutls-cli --x509cafile "$ROOT" --verify-hostname "$HOST" --disable-sni -p "$PORT" "$AT"`)},
	{"python", script("python3", "verify.py", pythonVerifier)},
	{"node", script("node", "verify.js", nodeVerifier)},
	{"java", script("java", "Verify.java", javaVerifier)},
}

const pythonVerifier = `
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[1])
context.verify_flags |= ssl.VERIFY_X509_STRICT
for line in open(sys.argv[2]):
    n, host, at, port = line.split()
    with socket.create_connection((at, int(port))) as s:
        try:
            with context.wrap_socket(s, server_hostname=host):
                print(n)
        except ssl.SSLCertVerificationError:
            pass
`

const nodeVerifier = `
const fs = require('fs'), tls = require('tls')
const ca = fs.readFileSync(process.argv[2])
for (const line of fs.readFileSync(process.argv[3], 'utf8').trim().split('\n')) {
  const [n, name, host, port] = line.split(' ')
  const options = {port, ca, host, checkServerIdentity: (_, cert) => tls.checkServerIdentity(name, cert)}
  if (name !== host) options.servername = name
  const s = tls.connect(options, () => { console.log(n); s.end() })
  s.on('error', () => {})
}
`

const javaVerifier = `
import java.io.*;
import java.net.*;
import java.nio.file.*;
import java.security.KeyStore;
import java.security.cert.*;
import javax.net.ssl.*;

public class Verify {
    public static void main(String[] args) throws Exception {
        KeyStore roots = KeyStore.getInstance(KeyStore.getDefaultType());
        roots.load(null);
        try (InputStream in = new FileInputStream(args[0])) {
            roots.setCertificateEntry("root", CertificateFactory.getInstance("X.509").generateCertificate(in));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(roots);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        for (String line : Files.readAllLines(Path.of(args[1]))) {
            String[] words = line.split(" ");
            int port = Integer.parseInt(words[3]);
            try (Socket plain = new Socket(words[2], port)) {
                SSLSocket s = (SSLSocket) context.getSocketFactory().createSocket(plain, words[1], port, true);
                SSLParameters parameters = s.getSSLParameters();
                parameters.setEndpointIdentificationAlgorithm("HTTPS");
                s.setSSLParameters(parameters);
                s.startHandshake();
                System.out.println(words[0]);
            } catch (SSLException e) {
                // not believed
            }
        }
    }
}
`

// TestStolenIntermediate: what a thief of an intermediate's key signs beyond its host is believed by no client.
func TestStolenIntermediate(t *testing.T) {
	t.Parallel()
	a := open(t, t.TempDir()+"/ca")
	list := slices.DeleteFunc(forgeries(), func(f forgery) bool {
		l, err := net.Listen("tcp", net.JoinHostPort(f.address(), "0"))
		if err != nil { // no IPv6 on this machine
			return true
		}
		l.Close()
		return false
	})
	file := serveForgeries(t, a, list)
	t.Run("go", func(t *testing.T) {
		t.Parallel()
		var believed strings.Builder
		for i, f := range list {
			conn, err := tls.Dial("tcp", net.JoinHostPort(f.address(), f.port), &tls.Config{RootCAs: pool(a), ServerName: f.host})
			if err == nil {
				conn.Close()
				fmt.Fprintln(&believed, i)
			}
		}
		judge(t, list, believed.String())
	})
	for _, v := range verifiers {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			cmd := v.run(t, a.Path(), file)
			var said bytes.Buffer
			cmd.Stderr = &said
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, said.String())
			}
			judge(t, list, string(out))
		})
	}
}

func judge(t *testing.T, list []forgery, believed string) {
	t.Helper()
	yes := make(map[string]bool)
	for _, n := range strings.Fields(believed) {
		yes[n] = true
	}
	for i, f := range list {
		if got := yes[fmt.Sprint(i)]; got != f.want {
			t.Errorf("%s: believed: %v, want %v", f.name, got, f.want)
		}
	}
}
