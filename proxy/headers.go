package proxy

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"github.com/credproxy/credproxy/inject"
)

// hopByHop are the fields that end at the next hop (RFC 9110 section 7.6.1), and the proxy's own.
var hopByHop = []string{
	"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authentication-Info",
	"Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Http2-Settings",
}

// stripHopByHop removes hop-by-hop fields and those that Connection names.
func stripHopByHop(h http.Header) {
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = textproto.TrimString(name); name != "" {
				h.Del(name)
			}
		}
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// hasToken reports whether a comma-separated field holds token, in any case.
func hasToken(lines []string, token string) bool {
	for _, line := range lines {
		for item := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(textproto.TrimString(item), token) {
				return true
			}
		}
	}
	return false
}

// requestedUpgrade is the protocol that r asks to switch to, or "" (RFC 9110 section 7.8). HTTP itself and TLS are none:
// requests would follow that no rule has seen. A server may ignore the wish, and so may we.
func requestedUpgrade(r *http.Request) string {
	if r.ProtoMajor != 1 || !hasToken(r.Header["Connection"], "upgrade") {
		return ""
	}
	for _, line := range r.Header["Upgrade"] {
		for item := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(textproto.TrimString(item), "/")
			switch strings.ToLower(name) {
			case "http", "h2", "h2c", "tls":
				return ""
			}
		}
	}
	return r.Header.Get("Upgrade")
}

// removeFields takes the fields called one of names off h, however they are spelled.
func removeFields(h http.Header, names []string) {
	if len(names) == 0 {
		return
	}
	for field := range h {
		if slices.ContainsFunc(names, func(name string) bool { return inject.SameField(field, name) }) {
			delete(h, field)
		}
	}
}

// endHop takes the fields off h, a request's, that end here. It must see them before goproxy does, which removes
// Connection and with it the names that it lists.
func endHop(h http.Header) {
	trailers := hasToken(h["Te"], "trailers")
	stripHopByHop(h)
	if trailers {
		h["Te"] = []string{"trailers"} // gRPC servers insist on it
	}
}

// outbound is a copy of r for the upstream: with a header of its own, and nothing that net/http would add by itself.
func outbound(r *http.Request, upgrade string) *http.Request {
	url := *r.URL
	out := (&http.Request{
		Method: r.Method, URL: &url, Host: r.Host, Header: r.Header.Clone(), ContentLength: r.ContentLength, Body: http.NoBody,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Trailer: r.Trailer, // shared: net/http fills it when the body ends
	}).WithContext(r.Context())
	if upgrade != "" {
		out.Header["Connection"] = []string{"Upgrade"}
		out.Header["Upgrade"] = []string{upgrade}
	}
	if _, sent := out.Header["User-Agent"]; !sent {
		out.Header["User-Agent"] = nil // or net/http adds its own
	}
	return out
}

// inbound cleans a response's header for the client.
func inbound(h http.Header) {
	stripHopByHop(h)
	delete(h, "Alt-Svc") // would steer the client around the proxy
	if _, sent := h["Content-Type"]; !sent {
		h["Content-Type"] = nil // or net/http guesses one
	}
}

// hideCookies takes cookies out of what stands before or behind the head of an answer, where no credential looks for one
// that is its own. No client goes by them there (RFC 9110 section 6.5.1).
func (x *exchange) hideCookies(h http.Header) {
	if x.event.Decision == "inject" {
		removeFields(h, []string{"Set-Cookie", "Set-Cookie2"})
	}
}

// forbiddenTrailers may not come after the body, where no check has seen them (RFC 9110 section 6.5.1).
var forbiddenTrailers = []string{
	"Authorization", "Cookie", "Host", "Content-Encoding", "Content-Length", "Content-Range", "Content-Type",
	"Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Connection", "Upgrade", "Expect",
}
