package cli

import (
	"fmt"
	"net/http"
	"time"

	"github.com/credproxy/credproxy/secrets"
)

// session is the form of a site that people sign in to: it sets a cookie and leads to the first page.
func (l *login) session(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := r.PostForm.Get("site")
	site := l.clients[name]
	if site == nil || site.user == "" || r.PostForm.Get("username") != site.user || !site.pass.Equal(secrets.NewValue(r.PostForm.Get("password"))) {
		http.Error(w, "wrong name or password", http.StatusForbidden)
		return
	}
	http.SetCookie(w, &http.Cookie{Name: "sid", Value: l.issue(name, site), Path: "/", Secure: true, HttpOnly: true, MaxAge: 60})
	http.Redirect(w, r, "/home", http.StatusSeeOther)
}

// session registers a site with a user.
func (s *sample) session(name string) (inject string) {
	s.login.register(name, loginClient{user: "ada", pass: s.secret(name), life: time.Minute})
	return fmt.Sprintf("{type: session, login: {url: %q, form: {site: %s, username: ada, password: keyring:%s}}, keep: {cookie: sid}}",
		"https://"+s.login.server.address+"/session", name, name)
}

// signedIn accepts the cookie of who has signed in to site, beside the client's own.
func (s *sample) signedIn(site string) func(*http.Request) bool {
	return func(r *http.Request) bool {
		all := r.Cookies()
		return len(all) == 2 && all[0].Name == "theme" && all[1].Name == "sid" && s.login.accepts(site, all[1].Value)
	}
}
