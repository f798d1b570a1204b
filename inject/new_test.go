package inject_test

import (
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

const wantMarker = "want 8 to 64 letters, digits and underscores, with two underscores in a row and not only these, such as __slack__"

func TestNewMistakes(t *testing.T) {
	t.Parallel()
	known := "(known: " + strings.Join(inject.Types(), ", ") + ")"
	tests := []struct {
		name, inject string
		want         []string
	}{
		{"not a mapping", "bearer", []string{"1:1: want a mapping with a type, such as {type: bearer, token: keyring:NAME}, or a list of them"}},
		{"empty list", "[]", []string{"1:1: the list is empty"}},
		{"list in a list", "[[]]", []string{"1:2: want a mapping with a type, such as {type: bearer, token: keyring:NAME}, or a list of them"}},
		{"no type", "{token: keyring:a}", []string{`1:1: missing field "type" ` + known}},
		{"unknown type", "{type: kerberos}", []string{`1:8: unknown type "kerberos" ` + known}},
		{"misspelt type", "{type: bearrer, token: keyring:a}", []string{`1:8: unknown type "bearrer" (did you mean "bearer"?)`}},
		{"a secret for a type", "{type: SK-live-0123456789}", []string{"1:8: unknown type " + known}},
		{"type is a list", "{type: [bearer]}", []string{"1:8: unknown type " + known}},
		{"type twice", "{type: bearer, type: bearer, token: keyring:a}", []string{`1:16: duplicate field "type" (first on line 1)`}},
		{"unknown field", "{type: api_key, nmae: X, value: keyring:a}", []string{`1:1: missing field "name"`, `1:17: unknown field "nmae" (did you mean "name"?)`}},
		{"nothing but the type", "{type: api_key}", []string{`1:1: missing field "name"`, `1:1: missing field "value"`}},
		{"in", "{type: api_key, in: haeder, name: X, value: keyring:a}", []string{`1:21: in must be "header", "query" or "cookie" (did you mean "header"?)`}},
		{"all at once", "- {type: bearer}\n- {type: api_key, name: Host, value: keyring:a}\n- {type: nope}", []string{
			`1:3: missing field "token"`,
			`2:25: name: is a header that the proxy itself writes`,
			`3:10: unknown type "nope" ` + known,
		}},
		{"header name", "{type: api_key, name: 'X Key', value: keyring:a}", []string{"1:23: name: is not a header name (RFC 9110 section 5.1)"}},
		{"framing header, disguised", "{type: api_key, name: transfer_ENCODING, value: keyring:a}", []string{"1:23: name: is a header that the proxy itself writes"}},
		{"proxy header", "{type: api_key, name: Proxy-Authorization, value: keyring:a}", []string{"1:23: name: is a header that the proxy itself writes"}},
		{"cookie name", "{type: api_key, in: cookie, name: a=b, value: keyring:a}", []string{"1:35: name: is not a cookie name (RFC 6265 section 4.1.1)"}},
		{"query name", `{type: api_key, in: query, name: "a\nb", value: keyring:a}`, []string{"1:34: name: is not usable as a parameter's name"}},
		{"prefix with a line break", `{type: api_key, name: X, prefix: "a\r\nb: ", value: keyring:a}`, []string{"1:34: prefix: has characters that a header cannot carry"}},
		{"prefix of a cookie with a space", `{type: api_key, in: cookie, name: x, prefix: "a ", value: keyring:a}`, []string{"1:46: prefix: has characters that a cookie cannot carry"}},
		{"prefix without its space", "{type: api_key, name: authorization, prefix: ApiKey , value: keyring:a}", []string{
			`1:46: prefix: a space is missing between it and the value; write it in quotes: "… "`}},
		{"same header twice", "- {type: bearer, token: keyring:a}\n- {type: basic, username: u, password: keyring:b}", []string{"2:3: writes the same header as the entry on line 1"}},
		{"same header, other spelling", "- {type: api_key, name: X-Key, value: keyring:a}\n- {type: api_key, name: x_key, value: keyring:a}", []string{"2:3: writes the same header as the entry on line 1"}},
		{"same parameter twice", "- {type: api_key, in: query, name: k, value: keyring:a}\n- {type: api_key, in: query, name: k, value: keyring:a}", []string{"2:3: writes the same query as the entry on line 1"}},
		{"colon in the user name", "{type: basic, username: 'a:b', password: keyring:a}", []string{"1:25: username: it contains a colon, which ends a user name (RFC 7617 section 2)"}},
		{"user name without a password", "{type: basic, username: me}", []string{`1:1: missing field "password" (only where the username is a reference may it be left out)`}},
		{"digest with a colon", "{type: digest, username: 'a:b', password: keyring:a}", []string{"1:26: username: it contains a colon, which ends a user name (RFC 7617 section 2)"}},
		{"digest without a password", "{type: digest, username: a}", []string{`1:1: missing field "password"`}},
		{"a query after digest", "- {type: digest, username: a, password: keyring:a}\n- {type: api_key, in: query, name: k, value: keyring:a}", []string{
			"2:3: changes the query, which the entry on line 1 has signed by then; write it before that"}},
		{"ntlm with a domain in the user name", `{type: ntlm, username: 'CORP\ada', domain: "a\n", password: keyring:a}`, []string{
			`1:24: username: it contains a backslash; write DOMAIN\USER as two fields, domain and username`, "1:44: domain: it contains a line break or another control character"}},
		{"ntlm without a password", "{type: ntlm, username: a}", []string{`1:1: missing field "password"`}},
		{"negotiate with a keytab alone", "{type: negotiate, keytab: keyring:a, ccache: cc}", []string{
			`1:1: missing field "principal", which a keytab needs`, "1:46: ccache: is not used with a keytab", "1:46: ccache: want the absolute path of a file"}},
		{"negotiate with names that are none", "{type: negotiate, principal: 'a@b@c', service: web.example.com, krb5_conf: x}", []string{
			"1:30: principal: want NAME@REALM, or NAME in the default realm", "1:48: service: want a name such as HTTP/web.example.com", "1:76: krb5_conf: want the absolute path of a file"}},
		{"jwt without an algorithm", "{type: jwt, key: keyring:a}", []string{`1:1: missing field "algorithm"`}},
		{"jwt with none", "{type: jwt, algorithm: none, key: keyring:a}", []string{
			`1:24: algorithm must be "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512" or "EdDSA"`}},
		{"jwt in the query without a name", "{type: jwt, algorithm: HS256, key: keyring:a, in: query}", []string{`1:1: missing field "name"`}},
		{"jwt in a header of the proxy's", "{type: jwt, algorithm: HS256, key: keyring:a, name: Host}", []string{"1:53: name: is a header that the proxy itself writes"}},
		{"key_encoding for PEM", "{type: jwt, algorithm: RS256, key: keyring:a, key_encoding: hex}", []string{
			"1:61: key_encoding: is for HS256, HS384 and HS512; other keys are PEM"}},
		{"lifetime", "{type: jwt, algorithm: HS256, key: keyring:a, lifetime: 25h}", []string{"1:57: lifetime: want whole seconds, from 1s to 24h"}},
		{"clock_skew", "{type: jwt, algorithm: HS256, key: keyring:a, lifetime: 20s, clock_skew: 11s}", []string{
			"1:74: clock_skew: want whole seconds, and no more than half of the lifetime"}},
		{"generate", "{type: jwt, algorithm: HS256, key: keyring:a, generate: [iat, sub]}", []string{
			"1:57: generate: want some of iat, exp, nbf and jti, each once"}},
		{"claims that are no JSON", "{type: jwt, algorithm: HS256, key: keyring:a, claims: {a: .nan}}", []string{`1:59: claims: "a": want a number within its range`}},
		{"claims that are made", "{type: jwt, algorithm: HS256, key: keyring:a, claims: {exp: 1}}", []string{
			"1:55: claims: exp is made for each token; take it out of claims or out of generate"}},
		{"claims of the wrong kind", "{type: jwt, algorithm: HS256, key: keyring:a, generate: [], claims: {aud: [1], iat: now, iss: 12}}", []string{
			"1:69: claims: aud must be text or a list of texts; write numbers in quotes", "1:69: claims: iat must be a number: seconds since 1970",
			"1:69: claims: iss must be text; write it in quotes"}},
		{"oauth1 without a secret", "{type: oauth1, consumer_key: a}", []string{`1:1: missing field "consumer_secret"`}},
		{"signature_method", "{type: oauth1, consumer_key: a, consumer_secret: keyring:a, signature_method: HMAC-SHA2}", []string{
			`1:79: signature_method must be "HMAC-SHA1", "HMAC-SHA256", "RSA-SHA1" or "PLAINTEXT" (did you mean "HMAC-SHA1"?)`}},
		{"RSA-SHA1 with secrets of HMAC", "{type: oauth1, consumer_key: a, consumer_secret: keyring:a, token: keyring:b, token_secret: keyring:c, signature_method: RSA-SHA1}", []string{
			`1:1: missing field "private_key"`, "1:50: consumer_secret: is not used with signature_method RSA-SHA1", "1:93: token_secret: is not used with signature_method RSA-SHA1"}},
		{"HMAC with a private key", "{type: oauth1, consumer_key: a, consumer_secret: keyring:a, private_key: keyring:b}", []string{
			"1:74: private_key: is not used with signature_method HMAC-SHA1"}},
		{"a token's secret without the token", "{type: oauth1, consumer_key: a, consumer_secret: keyring:a, token_secret: keyring:b}", []string{
			"1:75: token_secret: needs a token"}},
		{"consumer_key with a line break", `{type: oauth1, consumer_key: "a\nb", consumer_secret: keyring:a}`, []string{
			"1:30: consumer_key: it contains a line break or another control character"}},
		{"realm with a quote", `{type: oauth1, consumer_key: a, consumer_secret: keyring:a, realm: 'a"b'}`, []string{
			"1:68: realm: want ASCII text without quotes and backslashes"}},
		{"realm in the query", `{type: oauth1, consumer_key: a, consumer_secret: keyring:a, realm: a, placement: query}`, []string{
			"1:68: realm: stands in the header only (RFC 5849 section 3.5.1)"}},
		{"a change after the signature", "- {type: oauth1, consumer_key: a, consumer_secret: keyring:a}\n- {type: api_key, name: X, value: keyring:a}\n- {type: api_key, in: query, name: x, value: keyring:a}", []string{
			"3:3: changes the query, which the entry on line 1 has signed by then; write it before that"}},
		{"a parameter of the signature", "- {type: api_key, in: query, name: oauth_token, value: keyring:a}\n- {type: oauth1, consumer_key: a, consumer_secret: keyring:a, token: keyring:b, placement: query}", []string{
			"2:3: writes the same query as the entry on line 1"}},
		{"token_url", "{type: oauth2_refresh_token, token_url: 'http://login.example.com/', client_id: a, refresh_token: keyring:a}", []string{
			"1:41: token_url: want https:// (http:// only to loopback)"}},
		{"client credentials without a secret", "{type: oauth2_client_credentials, token_url: 'https://x.test/', client_id: a}", []string{`1:1: missing field "client_secret"`}},
		{"client_auth", "{type: oauth2_refresh_token, token_url: 'https://x.test/', client_id: a, refresh_token: keyring:a, client_auth: body}", []string{
			`1:113: client_auth must be "basic", "post", "private_key_jwt", "tls" or "none"`}},
		{"client_auth without a secret", "{type: oauth2_refresh_token, token_url: 'https://x.test/', client_id: a, refresh_token: keyring:a, client_auth: post}", []string{
			"1:113: client_auth: needs a client_secret"}},
		{"a secret without client_auth", "{type: oauth2_refresh_token, token_url: 'https://x.test/', client_id: a, refresh_token: keyring:a, client_auth: none, client_secret: keyring:b}", []string{
			"1:134: client_secret: is not used with client_auth none"}},
		{"scopes as text", "{type: oauth2_client_credentials, token_url: 'https://x.test/', client_id: a, client_secret: keyring:a, scopes: a b}", []string{
			"1:113: scopes: want a list, not a string"}},
		{"scopes in one item", "{type: oauth2_client_credentials, token_url: 'https://x.test/', client_id: a, client_secret: keyring:a, scopes: [a b]}", []string{
			"1:113: scopes: want one scope in each item, without spaces or quotes"}},
		{"jwt bearer without a key", "{type: oauth2_jwt_bearer}", []string{`1:1: missing field "key"`}},
		{"jwt bearer with a shared secret", "{type: oauth2_jwt_bearer, key: keyring:a, algorithm: HS256}", []string{
			`1:54: algorithm must be "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512" or "EdDSA" (did you mean "RS256"?)`}},
		{"jwt bearer with claims that are made", "{type: oauth2_jwt_bearer, key: keyring:a, claims: {exp: 1, sub: 2}}", []string{
			"1:51: claims: exp is made for each assertion", "1:51: claims: sub must be text; write it in quotes"}},
		{"jwt bearer for too long", "{type: oauth2_jwt_bearer, key: keyring:a, lifetime: 2h}", []string{"1:53: lifetime: want whole seconds, from 1s to 1h"}},
		{"jwt bearer with a secret of no one", "{type: oauth2_jwt_bearer, key: keyring:a, token_url: 'http://x.test/', client_secret: keyring:b, key_id: \"a\\nb\"}", []string{
			`1:1: missing field "client_id"`, "1:54: token_url: want https:// (http:// only to loopback)", "1:106: key_id: it contains a line break or another control character"}},
		{"a sign-in that cannot be stored", "{type: oauth2_authorization_code, issuer: 'https://x.test', client_id: a, refresh_token: env:X}", []string{
			"1:90: refresh_token: credproxy login stores it, so it must be keyring:NAME"}},
		{"authorization code with nothing", "{type: oauth2_authorization_code}", []string{`1:1: missing field "refresh_token"`,
			`1:1: missing field "token_url"`, `1:1: missing field "client_id"`, `1:1: missing field "auth_url"`}},
		{"auth_url", "{type: oauth2_authorization_code, auth_url: 'http://x.test/', token_url: 'https://x.test/', client_id: a, refresh_token: keyring:a}", []string{
			"1:45: auth_url: want https:// (http:// only to loopback)"}},
		{"a parameter that login makes", "{type: oauth2_authorization_code, issuer: 'https://x.test', client_id: a, refresh_token: keyring:a, auth_extra: {state: x, prompt: consent}}", []string{
			`1:113: auth_extra: must not set "state"`}},
		{"redirect_uri elsewhere", "{type: oauth2_authorization_code, issuer: 'https://x.test', client_id: a, refresh_token: keyring:a, redirect_uri: 'http://x.test/'}", []string{
			"1:115: redirect_uri: want http://127.0.0.1/PATH or http://localhost/PATH, with or without a port, or an https:// address"}},
		{"redirect_uri with a query", "{type: oauth2_authorization_code, issuer: 'https://x.test', client_id: a, refresh_token: keyring:a, redirect_uri: 'http://localhost/?a'}", []string{
			"1:115: redirect_uri: want http://127.0.0.1/PATH or http://localhost/PATH, with or without a port, or an https:// address"}},
		{"redirect_port twice over", "{type: oauth2_authorization_code, issuer: 'https://x.test', client_id: a, refresh_token: keyring:a, redirect_uri: 'http://localhost:1/', redirect_port: 2}", []string{
			"1:153: redirect_port: redirect_uri says it already; leave one out"}},
		{"redirect_port", "{type: oauth2_authorization_code, issuer: 'https://x.test', client_id: a, refresh_token: keyring:a, redirect_port: 65536}", []string{
			"1:116: redirect_port: want 1 to 65535, or 0 for any"}},
		{"redirect_port of another computer", "{type: oauth2_authorization_code, issuer: 'https://x.test', client_id: a, refresh_token: keyring:a, redirect_uri: 'https://x.test/', redirect_port: 1}", []string{
			"1:149: redirect_port: is for a redirect_uri on this computer"}},
		{"device code with nothing to ask", "{type: oauth2_device_code, token_url: 'https://x.test', client_id: a, refresh_token: keyring:a, revocation_url: 'ftp://x.test'}", []string{
			`1:1: missing field "device_url"`, "1:113: revocation_url: want https:// (http:// only to loopback)"}},
		{"no token_url", "{type: oauth2_refresh_token, refresh_token: keyring:a}", []string{`1:1: missing field "token_url"`, `1:1: missing field "client_id"`}},
		{"private_key_jwt without a key", "{type: oauth2_client_credentials, token_url: 'https://x.test/', client_id: a, client_auth: private_key_jwt}", []string{
			"1:92: client_auth: needs a key"}},
		{"private_key_jwt with a secret", "{type: oauth2_client_credentials, token_url: 'https://x.test/', client_id: a, client_auth: private_key_jwt, key: keyring:a, client_secret: keyring:a}", []string{
			"1:140: client_secret: is not used with client_auth private_key_jwt"}},
		{"token_fields", "{type: oauth2_client_credentials, token_url: https://a.example/, client_id: app, client_secret: keyring:a, token_fields: {access: /a, access_token: data.token, expires_in: /a~2}}", []string{
			"1:122: token_fields: unknown field (known: access_token, refresh_token, token_type, expires_in, expires_at)",
			"1:122: token_fields: access_token: want a JSON pointer such as /data/token (RFC 6901)",
			"1:122: token_fields: expires_in: want ~0 for ~ and ~1 for / in a JSON pointer (RFC 6901)"}},
		{"client_auth tls without a certificate", "{type: oauth2_client_credentials, token_url: https://a.example/, client_id: app, client_auth: tls, client_secret: keyring:a, key: keyring:b, assertion_audience: x}", []string{
			"1:95: client_auth: needs a certificate in the rule: tls: {cert: FILE, key: REFERENCE}",
			"1:115: client_secret: is not used with client_auth tls",
			"1:131: key: is used only with client_auth private_key_jwt",
			"1:162: assertion_audience: is used only with client_auth private_key_jwt"}},
		{"a key that nothing uses", "{type: oauth2_refresh_token, token_url: 'https://x.test/', client_id: a, refresh_token: keyring:a, key: keyring:a, algorithm: RS256}", []string{
			"1:105: key: is used only with client_auth private_key_jwt", "1:127: algorithm: is used only with client_auth private_key_jwt"}},
		{"private_key_jwt twice over", "{type: oauth2_jwt_bearer, token_url: 'https://x.test/', client_id: a, key: keyring:a, client_auth: private_key_jwt}", []string{
			"1:100: client_auth: the assertion says who the client is; leave this out"}},
		{"token exchange without anything", "{type: oauth2_token_exchange}", []string{
			`1:1: missing field "subject_token"`, `1:1: missing field "subject_token_type"`, `1:1: missing field "token_url"`}},
		{"token types", "{type: oauth2_token_exchange, token_url: 'https://x.test/', subject_token: keyring:a, subject_token_type: token, actor_token: keyring:b}", []string{
			"1:107: subject_token_type: want access_token, refresh_token, id_token, saml1, saml2, jwt, or a URI", "1:127: actor_token: needs an actor_token_type"}},
		{"a secret of no one's", "{type: oauth2_token_exchange, token_url: 'https://x.test/', subject_token: keyring:a, subject_token_type: jwt, actor_token_type: jwt, client_secret: keyring:b}", []string{
			`1:1: missing field "client_id"`, "1:130: actor_token_type: needs an actor_token"}},
		{"resource", "{type: oauth2_token_exchange, token_url: 'https://x.test/', subject_token: keyring:a, subject_token_type: jwt, resource: ['urn:a', '/b'], extra: {resource: c}}", []string{
			"1:122: resource: want absolute URIs without a fragment (RFC 8707 section 2)", `1:146: extra: must not set "resource"`}},
		{"issuer and token_url", "{type: oauth2_client_credentials, token_url: 'https://x.test/', issuer: 'https://x.test/?a', client_id: a, client_secret: keyring:a}", []string{
			"1:73: issuer: a query (?) in the URL is not allowed", "1:73: issuer: token_url says it already; leave one out"}},
		{"placeholder without anything", "{type: placeholder}", []string{`1:1: missing field "placeholder"`, `1:1: missing field "value"`, `1:1: missing field "in"`}},
		{"placeholder that is a word", "{type: placeholder, placeholder: my_secret_key, value: keyring:a, in: header}", []string{
			"1:34: placeholder: " + wantMarker}},
		{"placeholder that is short", "{type: placeholder, placeholder: __abc__, value: keyring:a, in: header}", []string{"1:34: placeholder: " + wantMarker}},
		{"placeholder of underscores", "{type: placeholder, placeholder: ________, value: keyring:a, in: header}", []string{"1:34: placeholder: " + wantMarker}},
		{"placeholder with a dash", "{type: placeholder, placeholder: sk-__openai__, value: keyring:a, in: header}", []string{"1:34: placeholder: " + wantMarker}},
		{"placeholder nowhere", "{type: placeholder, placeholder: __slack__, value: keyring:a, in: []}", []string{"1:67: in is an empty list"}},
		{"placeholder anywhere", "{type: placeholder, placeholder: __slack__, value: keyring:a, in: [heder, cookie, query, query]}", []string{
			`1:68: in: want "header", "basic", "path", "query" or "body" (did you mean "header"?)`, `1:75: in: want "header", "basic", "path", "query" or "body"`, "1:90: in: stands here twice"}},
		{"placeholder in framing headers", "{type: placeholder, placeholder: __slack__, value: keyring:a, in: header, headers: [Host, content_type, X-A, x_a]}", []string{
			"1:85: headers: is a header that the proxy itself writes", "1:91: headers: says of what kind the body is", "1:110: headers: stands here twice"}},
		{"headers that nothing uses", "{type: placeholder, placeholder: __slack__, value: keyring:a, in: [body], headers: X-A}", []string{
			"1:84: headers: is used only with header in the field in"}},
		{"placeholder for a variable of the proxy's", "{type: placeholder, placeholder: __slack__, value: keyring:a, in: header, env: https_proxy}", []string{
			"1:80: env: is a variable that credproxy itself sets, or that programs need for something else"}},
		{"placeholder for the linker", "{type: placeholder, placeholder: __slack__, value: keyring:a, in: header, env: LD_PRELOAD}", []string{
			"1:80: env: is a variable that credproxy itself sets, or that programs need for something else"}},
		{"placeholder for no variable", "{type: placeholder, placeholder: __slack__, value: keyring:a, in: header, env: 'A B=C'}", []string{
			"1:80: env: is not the name of a variable, such as OPENAI_API_KEY"}},
		{"placeholders that overlap", "- {type: placeholder, placeholder: __slack__, value: keyring:a, in: header}\n- {type: placeholder, placeholder: __slack__2, value: keyring:b, in: body}", []string{
			"2:3: its placeholder and that of the entry on line 1 are the same, or one is a part of the other"}},
		{"a placeholder after a signature", "- {type: hmac, key: keyring:a, algorithm: SHA-256, message: '{method}', name: X-S}\n- {type: placeholder, placeholder: __slack__, value: keyring:b, in: path}", []string{
			"2:3: may change what the entry on line 1 has signed by then; write it before that"}},
		{"aws_sigv4 without keys", "{type: aws_sigv4}", []string{
			`1:1: missing field "access_key_id" (or credentials, which holds all keys in one)`,
			`1:1: missing field "secret_access_key" (or credentials, which holds all keys in one)`}},
		{"aws_sigv4 with keys twice", "{type: aws_sigv4, credentials: keyring:a, secret_access_key: keyring:b, session_token: keyring:c}", []string{
			"1:62: secret_access_key: credentials holds it already; leave one out", "1:88: session_token: credentials holds it already; leave one out"}},
		{"region and service", "{type: aws_sigv4, credentials: keyring:a, region: eu/west, service: 'a b'}", []string{
			"1:51: region: want 1 to 64 letters, digits, dashes and underscores", "1:69: service: want 1 to 64 letters, digits, dashes and underscores"}},
		{"an empty region", "{type: aws_sigv4, credentials: keyring:a, region: ''}", []string{"1:51: region: want 1 to 64 letters, digits, dashes and underscores"}},
		{"a header after aws_sigv4", "- {type: aws_sigv4, credentials: keyring:a}\n- {type: api_key, name: X-Api-Key, value: keyring:b}", []string{
			"2:3: changes the header, which the entry on line 1 has signed by then; write it before that"}},
		{"a header of aws_sigv4's", "- {type: api_key, name: X_Amz_Date, value: keyring:b}\n- {type: aws_sigv4, credentials: keyring:a}", []string{
			"2:3: writes the same header as the entry on line 1"}},
		{"session without anything", "{type: session}", []string{`1:1: missing field "login"`, `1:1: missing field "keep"`, "1:1: keep: want cookie, a name, or pointer, where the token stands in the answer"}},
		{"session that signs in with nothing", "{type: session, login: {url: 'https://x.test/'}, keep: {cookie: a b}}", []string{
			"1:1: login: want form or json, what to sign in with", "1:65: keep: cookie: is not a cookie name (RFC 6265 section 4.1.1)"}},
		{"session with a password in the clear", "{type: session, login: {url: 'http://x.test/', form: {user: a, Password: b}}, keep: {pointer: token}}", []string{
			"1:30: login: url: want https:// (http:// only to loopback)",
			"1:54: login: has no secret in it; write it as a reference, such as password: keyring:NAME",
			"1:74: login: form: want a reference here, such as keyring:NAME",
			"1:95: keep: pointer: want a JSON pointer such as /data/token (RFC 6901)"}},
		{"session with a password in the clear, in JSON", "{type: session, login: {url: 'https://x.test/', json: {user: {passwd: b}}}, keep: {pointer: /a}}", []string{
			"1:71: login: json: want a reference here, such as keyring:NAME"}},
		{"session with what JSON has not", "{type: session, login: {url: 'https://x.test/', json: {a: .nan, b: keyring:a}}, keep: {pointer: /a}}", []string{
			"1:59: login: json: want a value that JSON has"}},
		{"session with too much", "{type: session, login: {url: 'https://x.test/', form: {a: keyring:a}, json: [keyring:a]}, keep: {cookie: a, pointer: /a}, name: X}", []string{
			"1:77: login: has form and json; leave one out", "1:118: keep: has cookie and pointer; leave one out", "1:129: name: is for a token; a cookie is sent as a cookie"}},
		{"session with numbers that are none", "{type: session, login: {url: 'https://x.test/', form: {a: keyring:a}, success: [404], headers: {Cookie: a, X-A: b, Content-Type: c}}, keep: {pointer: /a~2}, expired: {status: 302, location: login}, lifetime: 1ms}", []string{
			"1:81: login: success: want statuses from 200 to 399",
			"1:105: login: headers: is a header that the proxy itself writes",
			"1:130: login: headers: is a header that the proxy itself writes",
			"1:151: keep: pointer: want ~0 for ~ and ~1 for / in a JSON pointer (RFC 6901)",
			"1:176: expired: status: want one from 400 to 499; for a redirect write location",
			"1:191: expired: location: want the path of the login page, such as /login",
			"1:209: lifetime: want a second or more"}},
		{"session with a hidden field elsewhere", "{type: session, login: {url: 'https://x.test/', form: {a: keyring:a}, csrf: {field: a, url: 'https://y.test/'}}, keep: {cookie: a}}", []string{
			"1:85: login: csrf: form has this field too; leave one out", "1:93: login: csrf: url: want the host of login.url"}},
		{"reserved extra", "{type: oauth2_client_credentials, token_url: 'https://x.test/', client_id: a, client_secret: keyring:a, extra: {grant_type: x}}", []string{
			`1:112: extra: must not set "grant_type"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			creds, err := parse(tt.inject, inject.Env{})
			errs, ok := errors.AsType[strict.Errors](err)
			if !ok || creds != nil {
				t.Fatalf("New gave %d credentials and error %v, want a strict.Errors", len(creds), err)
			}
			var got []string
			for _, e := range errs {
				got = append(got, e.Error())
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("mistakes\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

func TestLiteralSecretsAreNotRepeated(t *testing.T) {
	t.Parallel()
	const secret = "sk-Live-0123456789abcdef"
	for _, text := range []string{
		"{type: bearer, token: $}",
		"{type: bearer, $: x}",
		"{type: $, token: keyring:a}",
		"{type: api_key, name: X, value: $}",
		"{type: api_key, name: X, value: keyring:a, in: $}",
		"{type: api_key, name: X, value: keyring:a, prefix: [$]}",
		"{type: basic, username: a, password: $}",
		"{type: basic, username: 'env:$ x', password: keyring:a}",
		"{type: jwt, algorithm: $, key: $, key_encoding: $, key_id: [$], claims: $, generate: [$], lifetime: $, clock_skew: $, in: $, name: '$ x'}",
		"{type: jwt, algorithm: HS256, key: keyring:a, claims: {iss: [$], $: .nan}}",
		"{type: oauth1, consumer_key: [$], consumer_secret: $, token: 'env:$ x', token_secret: $, private_key: $, signature_method: $, realm: [$], placement: $, body_hash: $}",
		"{type: oauth2_refresh_token, token_url: 'https://x.test/?a#$', client_id: [$], refresh_token: $, client_secret: $, scopes: $, extra: $}",
		"{type: oauth2_jwt_bearer, token_url: 'https://x.test/?a#$', client_id: [$], key: $, key_id: [$], algorithm: $, claims: {iss: [$]}, lifetime: $}",
		"{type: oauth2_token_exchange, token_url: 'https://x.test/', subject_token: $, subject_token_type: $, actor_token: $, actor_token_type: [$], requested_token_type: $, resource: [$]}",
		"{type: placeholder, placeholder: $, value: $, in: [$], headers: [$ x], env: $}",
		"{type: placeholder, placeholder: __slack__, value: keyring:a, in: header, headers: '$ x', env: '$ x'}",
		"{type: aws_sigv4, access_key_id: $, secret_access_key: $, session_token: $, region: '$ x', service: [$]}",
		"{type: aws_sigv4, credentials: $, secret_access_key: $}",
		"{type: session, login: {url: $, form: {a: [$], password: $}, headers: {$: x, A: [$]}, success: $, csrf: {field: [$], url: $}}, keep: {cookie: '$ x', pointer: $}, lifetime: $, expired: {status: $, location: $}, in: $, name: '$ x'}",
		"{type: session, login: {url: 'https://x.test/#$', json: {password: $, a: [{secret: $}, 'env:$ x']}}, keep: {pointer: '$~'}}",
		"[$]",
		"$",
	} {
		_, err := parse(strings.ReplaceAll(text, "$", secret), inject.Env{})
		if err == nil {
			t.Errorf("%s: no error", text)
		} else if strings.Contains(err.Error(), secret[3:12]) {
			t.Errorf("%s: the error repeats the secret: %v", text, err)
		}
	}
}

// TestEveryTypeIsDocumented is what a new type has to satisfy.
func TestEveryTypeIsDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../docs/credentials.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("../rules.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Rules []struct {
			Name   string
			Inject yaml.Node
		}
	}
	if err := yaml.Unmarshal(example, &file); err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, r := range file.Rules {
		if r.Inject.Kind == 0 {
			continue
		}
		creds, err := inject.New(&r.Inject, inject.Env{})
		if err != nil {
			t.Errorf("rules.example.yaml: %s: %v", r.Name, err)
		}
		for _, c := range creds {
			shown[c.Type()] = true
		}
	}
	if len(inject.Types()) == 0 || !slices.IsSorted(inject.Types()) {
		t.Errorf("Types() = %v, want a sorted list", inject.Types())
	}
	for _, typ := range inject.Types() {
		if !strings.Contains(string(doc), "\n## "+typ+"\n") {
			t.Errorf("docs/credentials.md has no section %q", "## "+typ)
		}
		if !shown[typ] {
			t.Errorf("rules.example.yaml has no example of type %s", typ)
		}
	}
}

// refuse tells c of a 401.
func refuse(c inject.Credential, used []secrets.Value) (again bool) {
	return c.Answer(&http.Response{StatusCode: http.StatusUnauthorized}, used, 1)
}
