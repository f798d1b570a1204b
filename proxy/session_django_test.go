package proxy

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/internal/testneed"
)

// Django's admin site is signed in to as it stands: a form with a hidden field and its cookie, a session in a database, a
// redirect to the login page when it is over.
func TestSessionDjango(t *testing.T) {
	t.Parallel()
	python := testneed.PythonModule(t, "django")
	port := startServer(t, python, "testdata/django_site.py", t.TempDir(), canary)
	rule := func(name, password string) string {
		return strings.NewReplacer("$PORT", port, "$NAME", name, "$PASSWORD", secretFile(t, password)).Replace(`
  - name: $NAME
    match: {host: $NAME.localhost, port: $PORT}
    inject:
      type: session
      login:
        url: http://localhost:$PORT/admin/login/?next=/admin/
        form: {username: ada, password: "$PASSWORD", next: /admin/}
        csrf: {field: csrfmiddlewaretoken}
      keep: {cookie: sessionid}
      expired: {location: /admin/login}
`)
	}
	p := startProxy(t, newTestCA(t, "upstream"), rule("app", canary)+rule("wrong", "wrong"))
	c := p.client(t, false)
	get := func(path string) string {
		t.Helper()
		resp, body := mustGet(t, c, "http://app.localhost:"+port+path)
		if all := fmt.Sprint(resp.Header); resp.StatusCode != http.StatusOK || strings.Contains(all, "sessionid") {
			t.Errorf("%s: got %s %s", path, resp.Status, all)
		}
		return body
	}
	for range 3 {
		if body := get("/admin/"); !strings.Contains(body, "Welcome") || !strings.Contains(body, "ada") {
			t.Errorf("the site does not greet ada: %s", body)
		}
	}
	if n := get("/logins"); n != "1" {
		t.Errorf("%s logins, want 1", n)
	}
	get("/flush")
	if body := get("/admin/auth/user/"); !strings.Contains(body, "ada@example.com") {
		t.Errorf("the site does not list ada: %s", body)
	}
	if n := get("/logins"); n != "2" {
		t.Errorf("%s logins, want 2", n)
	}
	resp, err := c.Get("http://wrong.localhost:" + port + "/admin/")
	if err != nil {
		t.Fatal(err)
	}
	refused(t, resp, 502, "token_refresh_failed")
}
