package testoidc

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"

	"golang.org/x/net/html"
)

// A Person is somebody with a browser who signs in as Name and agrees to everything, unless Refuses.
type Person struct {
	Name    string
	Refuses bool
	Client  *http.Client // of the Server; its redirects are followed one by one
}

// maxPages bounds how many pages and redirects a Person goes through.
const maxPages = 30

// Visit opens page and fills in every form that comes, until the server sends the browser to another origin, whose
// address it returns unopened, or has no more forms: then it returns the status and text of the last page.
func (p Person) Visit(page string) (leftFor, text string, err error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return "", "", err
	}
	browser := &http.Client{Jar: jar, Transport: p.Client.Transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	next, err := http.NewRequest(http.MethodGet, page, nil)
	if err != nil {
		return "", "", err
	}
	home := next.URL.Host
	for range maxPages {
		if next.URL.Host != home {
			return next.URL.String(), "", nil
		}
		resp, err := browser.Do(next)
		if err != nil {
			return "", "", err
		}
		body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		_ = resp.Body.Close()
		if err != nil {
			return "", "", err
		}
		if next, err = p.step(resp, body); err != nil {
			return "", "", err
		}
		if next == nil {
			return "", resp.Status + ": " + string(body), nil
		}
	}
	return "", "", fmt.Errorf("more than %d pages", maxPages)
}

// step is what p's browser does next, or nil at the end.
func (p Person) step(resp *http.Response, body []byte) (*http.Request, error) {
	to, here := resp.Header.Get("Location"), resp.Request.URL
	f := findForm(body)
	switch {
	case to != "":
	case f == nil || resp.StatusCode >= http.StatusBadRequest:
		return nil, nil
	case p.Refuses && f.fields.Get("prompt") == "consent":
		to = strings.TrimSuffix(f.action, "/") + "/abort"
	default:
		for _, name := range f.asked {
			f.fields.Set(name, p.Name)
		}
		if p.Refuses && f.fields.Has("confirm") { // that a device may sign in
			f.fields.Set("abort", "yes")
		}
		action, err := here.Parse(f.action)
		if err != nil {
			return nil, err
		}
		req, err := http.NewRequest(http.MethodPost, action.String(), strings.NewReader(f.fields.Encode()))
		if err == nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		return req, err
	}
	target, err := here.Parse(to)
	if err != nil {
		return nil, err
	}
	return http.NewRequest(http.MethodGet, target.String(), nil)
}

// A form is the first one of a page.
type form struct {
	action string
	fields url.Values // with their values
	asked  []string   // without
}

func findForm(page []byte) *form {
	var f *form
	tokens := html.NewTokenizer(strings.NewReader(string(page)))
	for {
		kind := tokens.Next()
		if kind == html.ErrorToken {
			return f
		}
		t := tokens.Token()
		switch {
		case kind == html.EndTagToken && t.Data == "form" && f != nil:
			return f
		case t.Data == "form" && f == nil:
			f = &form{action: attribute(t, "action"), fields: url.Values{}}
		case t.Data == "input" && f != nil && attribute(t, "name") != "":
			if value := attribute(t, "value"); value != "" {
				f.fields.Set(attribute(t, "name"), value)
			} else {
				f.asked = append(f.asked, attribute(t, "name"))
			}
		}
	}
}

func attribute(t html.Token, name string) string {
	for _, a := range t.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}
