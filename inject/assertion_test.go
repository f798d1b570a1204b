package inject_test

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/credproxy/credproxy/internal/testneed"
	"github.com/golang-jwt/jwt/v5"
)

// An assertionServer is an authorization server that gives tokens for assertions, each of which it takes once
// (RFC 7523 section 3).
type assertionServer struct {
	*httptest.Server
	public crypto.PublicKey
	field  string // of the form, in which the assertion stands
	grant  string

	mu     sync.Mutex
	code   string          // of a refusal; empty: invalid_grant
	again  int             // how often to fail with 503, after the assertion was spent
	spent  map[string]bool // by jti
	issued int
	forms  []url.Values
	tokens []*jwt.Token
	wrong  string // why the last assertion was refused
}

func newAssertionServer(t *testing.T, public crypto.PublicKey, field, grant string) *assertionServer {
	t.Helper()
	a := &assertionServer{public: public, field: field, grant: grant, spent: make(map[string]bool)}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *assertionServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	a.mu.Lock()
	defer a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	a.forms = append(a.forms, r.PostForm)
	token, err := a.verify(r)
	if err != nil {
		a.wrong = err.Error()
		w.WriteHeader(http.StatusBadRequest)
		_, _ = fmt.Fprintf(w, `{"error":%q}`, cmp.Or(a.code, "invalid_grant"))
		return
	}
	a.tokens = append(a.tokens, token)
	if a.again > 0 {
		a.again--
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	a.issued++
	_, _ = fmt.Fprintf(w, `{"access_token":"access-%d","token_type":"Bearer","expires_in":3600}`, a.issued)
}

// verify is what RFC 7523 section 3 asks of a server. a.mu is held.
func (a *assertionServer) verify(r *http.Request) (*jwt.Token, error) {
	if got := r.PostForm.Get("grant_type"); got != a.grant {
		return nil, fmt.Errorf("grant_type %q", got)
	}
	token, err := jwt.Parse(r.PostForm.Get(a.field), func(*jwt.Token) (any, error) { return a.public, nil },
		jwt.WithAudience(a.URL+"/token"), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		jwt.WithValidMethods([]string{"RS256", "PS512", "ES256", "EdDSA"}))
	if err != nil {
		return nil, err
	}
	id, _ := token.Claims.(jwt.MapClaims)["jti"].(string)
	if id == "" || a.spent[id] {
		return nil, fmt.Errorf("jti %q is missing or was used before", id)
	}
	a.spent[id] = true
	return token, nil
}

// last is the last assertion that was good, and the form in which the last one came.
func (a *assertionServer) last(t *testing.T) (header, claims map[string]any, form url.Values) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.tokens) == 0 {
		t.Fatalf("the server has seen no good assertion (%s)", a.wrong)
	}
	token := a.tokens[len(a.tokens)-1]
	return token.Header, token.Claims.(jwt.MapClaims), a.forms[len(a.forms)-1]
}

func newRSA(t *testing.T) (crypto.Signer, string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	private, _ := pemPair(t, key)
	return key, private
}

func newEC(t *testing.T) (crypto.Signer, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, _ := pemPair(t, key)
	return key, private
}

// serviceAccount is the JSON of a Google service account, as it is downloaded.
func serviceAccount(t *testing.T, private, tokenURL string) string {
	t.Helper()
	text, err := json.MarshalIndent(map[string]string{
		"type": "service_account", "project_id": "acme", "private_key_id": "kid-of-json", "private_key": private,
		"client_email": "robot@acme.iam.gserviceaccount.com", "client_id": "1234567890", "token_uri": tokenURL,
		"auth_uri": "https://accounts.google.com/o/oauth2/auth", "universe_domain": "googleapis.com",
	}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// pyVerify has PyJWT verify an assertion for audience, and a copy of it that was changed.
func pyVerify(t *testing.T, assertion, audience, algorithm string, key crypto.Signer) map[string]any {
	t.Helper()
	python := testneed.PythonModule(t, "jwt, cryptography")
	_, public := pemPair(t, key)
	var in bytes.Buffer
	for _, token := range []string{assertion, strings.Replace(assertion, ".", ".e", 1)} {
		line := map[string]any{"token": token, "key": public, "algorithm": algorithm, "audience": audience, "require": []string{"iat", "exp", "jti", "iss"}}
		if err := json.NewEncoder(&in).Encode(line); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), python, "testdata/jwt_verify.py")
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = &in, &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the verifier: %v\n%s", err, &stderr)
	}
	verdicts := json.NewDecoder(bytes.NewReader(out))
	var good, changed struct {
		Claims map[string]any
		Error  string
	}
	if err := verdicts.Decode(&good); err != nil {
		t.Fatal(err)
	}
	if err := verdicts.Decode(&changed); err != nil {
		t.Fatal(err)
	}
	if good.Error != "" || changed.Error == "" {
		t.Errorf("PyJWT says %q of the assertion and %q of one that was changed, want an error for the second only", good.Error, changed.Error)
	}
	return good.Claims
}
