package proxy

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"unicode/utf16"

	//lint:ignore SA1019 NTLM is made of MD4.
	"golang.org/x/crypto/md4"
)

// An ntlmServer is an upstream that verifies NTLMv2 by itself, once for each connection, and keeps what came on which.
type ntlmServer struct {
	*httptest.Server
	t    testing.TB
	port string

	before   http.HandlerFunc // sees each request first; may be nil
	password string
	ca       *testCA
	minting  sync.Mutex // so that a name has one certificate

	mu    sync.Mutex
	conns map[string]*ntlmConn

	counting sync.Mutex // apart from mu, because Hijack counts too
	open     int
	empty    *sync.Cond // open has become less
}

// An ntlmConn is one connection.
type ntlmConn struct {
	challenge []byte
	user      string // who it is; empty: nobody yet
	proofs    int
	requests  []string // method, host, size of the body, what else is of interest
}

func startNTLM(t testing.TB, ca *testCA, before http.HandlerFunc) *ntlmServer {
	t.Helper()
	s := &ntlmServer{t: t, before: before, password: canary, ca: ca, conns: map[string]*ntlmConn{}}
	s.empty = sync.NewCond(&s.counting)
	s.Server = httptest.NewUnstartedServer(s)
	s.EnableHTTP2 = true // which NTLM cannot go over
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		s.counting.Lock()
		defer s.counting.Unlock()
		switch state {
		case http.StateNew:
			s.open++
		case http.StateClosed, http.StateHijacked:
			s.open--
			s.empty.Broadcast()
		}
	}
	s.TLS = &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { return s.cert(hello.ServerName) }}
	s.StartTLS()
	t.Cleanup(s.Close)
	_, s.port, _ = net.SplitHostPort(s.Listener.Addr().String())
	return s
}

func (s *ntlmServer) cert(name string) (*tls.Certificate, error) {
	s.minting.Lock()
	defer s.minting.Unlock()
	return s.ca.leaf(name)
}

// endPoint is what a client has to say about a certificate that is signed with SHA-256 (RFC 5929 section 4.1), as MS-NLMP wants it.
func endPoint(der []byte) []byte {
	sum := sha256.Sum256(der)
	data := append([]byte("tls-server-end-point:"), sum[:]...)
	all := md5.Sum(append([]byte{16: byte(len(data)), 19: 0}, data...))
	return all[:]
}

func (s *ntlmServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client left
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conns[r.RemoteAddr]
	if c == nil {
		c = &ntlmConn{}
		s.conns[r.RemoteAddr] = c
	}
	name, _, _ := strings.Cut(r.Host, ":")
	c.requests = append(c.requests, strings.TrimSpace(fmt.Sprintf("%s %s %d %s", r.Method, name, len(body), r.Header.Get("Cookie"))))
	if s.before != nil {
		answered := &answeredWriter{ResponseWriter: w}
		if s.before(answered, r); answered.done {
			return
		}
	}
	message, isNTLM := ntlmMessage(r)
	if isNTLM && r.ProtoMajor != 1 {
		s.t.Errorf("NTLM over %s", r.Proto)
	}
	switch {
	case isNTLM && len(message) > 12 && message[8] == 1:
		c.challenge, c.user = make([]byte, 8), ""
		_, _ = rand.Read(c.challenge)
		w.Header().Set("WWW-Authenticate", "NTLM "+base64.StdEncoding.EncodeToString(ntlmChallenge(c.challenge)))
		w.WriteHeader(http.StatusUnauthorized)
		return
	case isNTLM:
		c.proofs++
		c.user = s.verify(message, c.challenge, r.TLS.ServerName)
		c.challenge = nil
	}
	if c.user == "" {
		w.Header().Set("WWW-Authenticate", "NTLM")
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	fmt.Fprintf(w, "%s %d %s", r.Method, len(body), c.user)
}

// An answeredWriter knows whether it was used.
type answeredWriter struct {
	http.ResponseWriter
	done bool
}

func (w *answeredWriter) WriteHeader(status int) { w.done = true; w.ResponseWriter.WriteHeader(status) }

func ntlmMessage(r *http.Request) ([]byte, bool) {
	encoded, ok := strings.CutPrefix(r.Header.Get("Authorization"), "NTLM ")
	message, err := base64.StdEncoding.DecodeString(encoded)
	return message, ok && err == nil
}

// ntlmChallenge is a CHALLENGE_MESSAGE (MS-NLMP section 2.2.1.2).
func ntlmChallenge(challenge []byte) []byte {
	info := append([]byte{2, 0, 12, 0}, utf16le("DOMAIN")...)
	info = append(info, 7, 0, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0)
	b := append([]byte("NTLMSSP\x00\x02\x00\x00\x00"), make([]byte, 8)...)
	b = binary.LittleEndian.AppendUint32(b, 0xa0888201)
	b = append(append(b, challenge...), make([]byte, 8)...)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(info)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(info)))
	b = binary.LittleEndian.AppendUint32(b, 48)
	return append(b, info...)
}

// verify returns who m, an AUTHENTICATE_MESSAGE (section 2.2.1.3), is from, or nothing. It must be bound to the certificate for name.
func (s *ntlmServer) verify(m, challenge []byte, name string) string {
	field := func(at int) []byte {
		if len(m) < at+8 {
			return nil
		}
		length, offset := int(binary.LittleEndian.Uint16(m[at:])), int(binary.LittleEndian.Uint32(m[at+4:]))
		if offset+length > len(m) {
			return nil
		}
		return m[offset : offset+length]
	}
	response, domain, user := field(20), field(28), field(36)
	if len(response) < 44 || challenge == nil {
		return ""
	}
	proof, temp := response[:16], response[16:]
	if !hmac.Equal(proof, ntProof(s.password, fromUTF16(user), fromUTF16(domain), challenge, temp)) {
		return ""
	}
	cert, err := s.cert(name)
	if err != nil || !bytes.Contains(temp[28:], append([]byte{10, 0, 16, 0}, endPoint(cert.Certificate[0])...)) {
		s.t.Errorf("no channel binding in %x, %v", temp[28:], err)
	}
	return strings.Trim(fromUTF16(domain)+`\`+fromUTF16(user), `\`)
}

// ntProof is NTProofStr (MS-NLMP section 3.3.2).
func ntProof(password, user, domain string, challenge, temp []byte) []byte {
	h := md4.New()
	h.Write(utf16le(password))
	key := hmacMD5(h.Sum(nil), utf16le(strings.ToUpper(user)+domain))
	return hmacMD5(key, append(bytes.Clone(challenge), temp...))
}

func hmacMD5(key, data []byte) []byte {
	mac := hmac.New(md5.New, key)
	mac.Write(data)
	return mac.Sum(nil)
}

func utf16le(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

func fromUTF16(b []byte) string {
	var units []uint16
	for ; len(b) > 1; b = b[2:] {
		units = append(units, binary.LittleEndian.Uint16(b))
	}
	return string(utf16.Decode(units))
}

// The server of these tests is right about MS-NLMP section 4.2.4.
func TestNTLMServerKnowsTheVectors(t *testing.T) {
	t.Parallel()
	temp, _ := hex.DecodeString("01010000000000000000000000000000aaaaaaaaaaaaaaaa0000000002000c0044006f006d00610069006e0001000c0053006500720076006500720000000000" + "00000000")
	got := hex.EncodeToString(ntProof("Password", "User", "Domain", []byte{1, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}, temp))
	if want := "68cd0ab851e51c96aabc927bebef6a1c"; got != want {
		t.Errorf("NTProofStr %s, want %s", got, want)
	}
}
