package oauth_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/oauth"
)

// Clients that show a certificate are asked elsewhere, as far as the server says so (RFC 8705 section 5).
func TestDiscoverForACertificate(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(nil)
	t.Cleanup(srv.Close)
	srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, strings.ReplaceAll(`{"issuer":"URL","token_endpoint":"https://a.example/t","revocation_endpoint":"https://a.example/r",
			"device_authorization_endpoint":"https://a.example/d",
			"mtls_endpoint_aliases":{"token_endpoint":"https://mtls.a.example/t","revocation_endpoint":"http://plain.example/r"}}`, "URL", srv.URL))
	})
	for _, tt := range []struct {
		certificate bool
		token       string
	}{{false, "https://a.example/t"}, {true, "https://mtls.a.example/t"}} {
		got, err := oauth.Discover(t.Context(), srv.Client(), srv.URL, tt.certificate)
		if err != nil || got.TokenURL != tt.token || got.RevocationURL != "https://a.example/r" || got.DeviceURL != "https://a.example/d" {
			t.Errorf("with a certificate %v: %+v, %v", tt.certificate, got, err)
		}
	}
}
