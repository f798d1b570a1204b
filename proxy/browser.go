package proxy

import (
	"net/http"
	"strings"

	"github.com/credproxy/credproxy/rules"
)

// ofBrowsers are fields that browsers put on every request to https and to this machine, and that a page can neither set nor
// take away (https://www.w3.org/TR/fetch-metadata/). Sec-Fetch-Mode is not among them: Node's fetch sends it alone.
var ofBrowsers = []string{"Sec-Fetch-Site", "Sec-Fetch-Dest", "Sec-Fetch-User"}

// fromPage reports whether a browser sent req, on behalf of whatever page is open in it. Programs that are no browsers
// send an Origin too, for WebSockets: that of the server itself.
func fromPage(req *http.Request, target authority) bool {
	for _, name := range ofBrowsers {
		if _, sent := req.Header[name]; sent {
			return true
		}
	}
	for _, origin := range req.Header["Origin"] {
		if !isOrigin(origin, req.URL.Scheme, target) {
			return true
		}
	}
	// To plain http elsewhere browsers send none of these with an image or a link.
	return req.URL.Scheme == "http" && !rules.Loopback(target.host) &&
		strings.HasPrefix(req.Header.Get("User-Agent"), "Mozilla/") && req.Header["Accept-Language"] != nil
}

// isOrigin reports whether origin is that of scheme and target (RFC 6454 section 6.2).
func isOrigin(origin, scheme string, target authority) bool {
	rest, ok := strings.CutPrefix(origin, scheme+"://")
	if !ok {
		return false
	}
	of, err := parseAuthority(rest, defaultPort(scheme))
	return err == nil && of == target
}
