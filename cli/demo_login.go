package cli

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/credproxy/credproxy/secrets"
)

// A login is a token endpoint (RFC 6749 section 3.2) with short-lived access tokens. Each refresh token works once;
// one that comes twice kills all that came from the same sign-in (RFC 9700 section 4.14.2).
type login struct {
	server *sampleServer
	issued func(token string) // told of each token

	mu      sync.Mutex
	clients map[string]*loginClient
	access  map[string]accessToken
	pending map[string]*signInRequest // by code
	users   map[string]string         // codes by user code
}

// A loginClient is a registered client and its sign-in.
type loginClient struct {
	secret  secrets.Value
	auth    string // basic, post, private_key_jwt or none
	scope   string // that it must ask for
	refresh secrets.Value
	key     ed25519.PublicKey // of its assertions
	subject secrets.Value     // another server's token, that it may exchange
	user    string            // a person who gives the client name and password
	pass    secrets.Value
	app     *rsa.PublicKey // of a GitHub App
	person  bool           // people sign in with it
	life    time.Duration  // of access tokens, in whole seconds

	spent  map[string]bool // refresh tokens and assertions that were used
	dead   bool
	latest string // access token
}

type accessToken struct {
	client  string
	expires time.Time
}

func newLogin(server *sampleServer, issued func(string)) *login {
	return &login{
		server: server, issued: issued,
		clients: make(map[string]*loginClient), access: make(map[string]accessToken),
		pending: make(map[string]*signInRequest), users: make(map[string]string),
	}
}

func (l *login) tokenURL() string { return l.address("/token") }

func (l *login) register(id string, c loginClient) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.spent = make(map[string]bool)
	l.clients[id] = &c
}

// accepts reports whether token was given to client and is still good.
func (l *login) accepts(client, token string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	t, ok := l.access[token]
	return ok && t.client == client && time.Now().Before(t.expires)
}

// revoke makes token worthless at once.
func (l *login) revoke(token string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.access, token)
}

// lengthen sets how long access tokens of client live from now on.
func (l *login) lengthen(client string, life time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clients[client].life = life
}

// state returns client's newest access token, its refresh token, and how many came before that.
func (l *login) state(client string) (access string, refresh secrets.Value, spent int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.clients[client]
	return c.latest, c.refresh, len(c.spent)
}

func (l *login) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	status, answer := http.StatusNotFound, map[string]any{"error": "invalid_request"}
	id, isApp := strings.CutPrefix(r.URL.Path, "/app/installations/")
	switch what := r.Method + " " + r.URL.Path; {
	case what == "GET /authorize":
		l.authorize(w, r)
		return
	case what == "GET /verify":
		l.verify(w, r)
		return
	case what == "POST /session" && r.ParseForm() == nil:
		l.session(w, r)
		return
	case r.Method == http.MethodPost && isApp:
		status, answer = l.install(r, strings.TrimSuffix(id, "/access_tokens"))
	case what == "POST /token" && r.ParseForm() == nil:
		status, answer = l.grant(r)
	case what == "POST /device" && r.ParseForm() == nil:
		status, answer = l.device(r)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(answer) // a client that has gone does not want it
}

func (l *login) grant(r *http.Request) (int, map[string]any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	refuse := func(status int, code string) (int, map[string]any) { return status, map[string]any{"error": code} }
	id, client := l.authenticate(r)
	if client == nil {
		return refuse(http.StatusUnauthorized, "invalid_client")
	}
	answer := map[string]any{"token_type": "Bearer", "expires_in": int(client.life.Seconds())}
	switch kind := r.PostForm.Get("grant_type"); {
	case kind == "client_credentials" && client.auth != "none":
		if r.PostForm.Get("scope") != client.scope {
			return refuse(http.StatusBadRequest, "invalid_scope")
		}
	case client.person && (kind == "authorization_code" || kind == "urn:ietf:params:oauth:grant-type:device_code"):
		if refusal := l.signedIn(id, r.PostForm); refusal != "" {
			return refuse(http.StatusBadRequest, refusal)
		}
		client.refresh = secrets.NewValue(randomToken())
		l.issued(client.refresh.Reveal())
		answer["refresh_token"] = client.refresh.Reveal()
	case kind == "refresh_token" && client.auth == "none":
		if !client.rotate(r.PostForm.Get("refresh_token")) {
			if client.dead {
				delete(l.access, client.latest)
			}
			return refuse(http.StatusBadRequest, "invalid_grant")
		}
		l.issued(client.refresh.Reveal())
		answer["refresh_token"] = client.refresh.Reveal()
	case kind == "urn:ietf:params:oauth:grant-type:jwt-bearer" && client.key != nil:
		l.issued(r.PostForm.Get("assertion"))
		if !client.asserts(r.PostForm.Get("assertion"), id, l.tokenURL()) {
			return refuse(http.StatusBadRequest, "invalid_grant")
		}
	case kind == "urn:ietf:params:oauth:grant-type:token-exchange" && !client.subject.IsZero():
		if !client.exchanges(r.PostForm.Get("subject_token"), r.PostForm.Get("subject_token_type")) {
			return refuse(http.StatusBadRequest, "invalid_request")
		}
		answer["issued_token_type"] = "urn:ietf:params:oauth:token-type:access_token"
	case kind == "password" && client.user != "":
		if r.PostForm.Get("username") != client.user || !client.pass.Equal(secrets.NewValue(r.PostForm.Get("password"))) {
			return refuse(http.StatusBadRequest, "invalid_grant")
		}
	default:
		return refuse(http.StatusBadRequest, "unsupported_grant_type")
	}
	answer["access_token"] = l.issue(id, client)
	return http.StatusOK, answer
}

// issue makes an access token for client id. l.mu is held.
func (l *login) issue(id string, client *loginClient) string {
	client.latest = randomToken()
	l.issued(client.latest)
	l.access[client.latest] = accessToken{id, time.Now().Add(client.life)}
	return client.latest
}

// install answers as GitHub does to an app that asks for a token of its installation id.
func (l *login) install(r *http.Request, id string) (int, map[string]any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	l.issued(token)
	client := l.clients[id]
	if client == nil || client.app == nil || !signedByApp(token, id, client.app) {
		return http.StatusUnauthorized, map[string]any{"message": "A JSON web token could not be decoded"}
	}
	return http.StatusCreated, map[string]any{"token": l.issue(id, client), "expires_at": time.Now().Add(client.life).UTC().Format(time.RFC3339)}
}

// signedByApp reports whether token is a JWT of app id, signed with RS256 and good now, for ten minutes at most.
func signedByApp(token, id string, key *rsa.PublicKey) bool {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	var claims struct {
		Issuer  string `json:"iss"`
		Begins  int64  `json:"iat"`
		Expires int64  `json:"exp"`
	}
	if err != nil || rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], signature) != nil || !part(parts[1], &claims) {
		return false
	}
	now := time.Now().Unix()
	return claims.Issuer == id && claims.Begins <= now && now < claims.Expires && claims.Expires <= now+600
}

// authenticate finds the client, which must say who it is in its own way and no other (RFC 6749 section 2.3.1).
func (l *login) authenticate(r *http.Request) (string, *loginClient) {
	auth, id, secret := "none", r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	if secret != "" {
		auth = "post"
	}
	assertion := r.PostForm.Get("client_assertion")
	if assertion != "" {
		auth = "private_key_jwt"
		l.issued(assertion)
	}
	if user, password, ok := r.BasicAuth(); ok {
		if secret != "" {
			return "", nil
		}
		auth = "basic"
		var err, err2 error
		id, err = url.QueryUnescape(user)
		secret, err2 = url.QueryUnescape(password)
		if err != nil || err2 != nil {
			return "", nil
		}
	}
	client := l.clients[id]
	if client == nil || client.auth != auth || !client.secret.Equal(secrets.NewValue(secret)) {
		return "", nil
	}
	if auth == "private_key_jwt" && !client.asserts(assertion, id, l.tokenURL()) {
		return "", nil
	}
	return id, client
}

// rotate spends a refresh token.
func (c *loginClient) rotate(token string) bool {
	if c.spent[token] {
		c.dead = true
	}
	if c.dead || !c.refresh.Equal(secrets.NewValue(token)) {
		return false
	}
	c.spent[token] = true
	c.refresh = secrets.NewValue(randomToken())
	return true
}

// asserts spends an assertion of client id for audience: signed with its key, good now, and never seen before (RFC 7523
// section 3).
func (c *loginClient) asserts(assertion, id, audience string) bool {
	parts := strings.Split(assertion, ".")
	if len(parts) != 3 {
		return false
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	var claims struct {
		Issuer   string `json:"iss"`
		Subject  string `json:"sub"`
		Audience string `json:"aud"`
		Expires  int64  `json:"exp"`
		ID       string `json:"jti"`
	}
	if err != nil || !ed25519.Verify(c.key, []byte(parts[0]+"."+parts[1]), signature) || !part(parts[1], &claims) {
		return false
	}
	now := time.Now().Unix()
	good := claims.Issuer == id && claims.Subject == id && claims.Audience == audience && now < claims.Expires && claims.ID != "" && !c.spent[claims.ID]
	c.spent[claims.ID] = true
	return good
}

// exchanges reports whether token is what the client may exchange (RFC 8693 section 2.1).
func (c *loginClient) exchanges(token, kind string) bool {
	return kind == "urn:ietf:params:oauth:token-type:jwt" && c.subject.Equal(secrets.NewValue(token))
}
