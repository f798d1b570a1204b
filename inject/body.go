package inject

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// maxBody bounds what a credential reads of a request's body.
const maxBody = 1 << 20

// A misfit is a request that a credential cannot be put on.
type misfit struct{ slug, text, hint string }

func (m *misfit) Error() string { return m.text }

// Slug is the failure's one name in the log, the audit line and the HTTP answer.
func (m *misfit) Slug() string { return m.slug }

// Hint is what to do about it.
func (m *misfit) Hint() string { return m.hint }

// A heldBody is a body that is in memory as a whole.
type heldBody struct {
	bytes.Reader
	all []byte
}

func (*heldBody) Close() error { return nil }

// wholeBody returns all of req's body, which is sent all the same. hint is for whoever sends more than maxBody.
func wholeBody(req *http.Request, hint string) ([]byte, error) { return bodyUpTo(req, maxBody, hint) }

// bodyUpTo is wholeBody with a limit in bytes.
func bodyUpTo(req *http.Request, limit int64, hint string) ([]byte, error) {
	if req.Body == nil || req.Body == http.NoBody {
		return nil, nil
	}
	if held, ok := req.Body.(*heldBody); ok {
		return held.all, nil
	}
	tooLarge := &misfit{"body_too_large", fmt.Sprintf("the body is larger than %d MiB, which is as much as a credential may read", limit>>20), hint}
	if req.ContentLength > limit {
		return nil, tooLarge
	}
	all, err := io.ReadAll(io.LimitReader(req.Body, limit+1))
	if err != nil {
		return nil, &misfit{"client_gone", "the request's body broke off", "try again"}
	}
	if int64(len(all)) > limit {
		req.Body = &struct {
			io.Reader
			io.Closer
		}{io.MultiReader(bytes.NewReader(all), req.Body), req.Body}
		return nil, tooLarge
	}
	setBody(req, all)
	return all, nil
}

// setBody replaces req's body. Where the client sent no length, none is sent: trailers may follow.
func setBody(req *http.Request, all []byte) {
	if req.ContentLength >= 0 {
		req.ContentLength = int64(len(all))
	}
	if len(all) == 0 {
		req.Body = http.NoBody
		return
	}
	held := &heldBody{all: all}
	held.Reset(all)
	req.Body = held
}

// isForm reports whether req's body is said to be application/x-www-form-urlencoded, and nothing around it.
func isForm(req *http.Request) bool {
	types, codings := req.Header["Content-Type"], req.Header["Content-Encoding"]
	if len(types) != 1 || len(codings) > 1 || len(codings) == 1 && !strings.EqualFold(codings[0], "identity") {
		return false
	}
	media, _, _ := strings.Cut(types[0], ";")
	return strings.EqualFold(strings.Trim(media, " \t"), "application/x-www-form-urlencoded")
}

// hasFormParam reports whether req's body is a form with a field called name.
func hasFormParam(req *http.Request, name string) bool {
	if !isForm(req) {
		return false
	}
	body, err := wholeBody(req, "")
	return err == nil && hasParam(string(body), name)
}
