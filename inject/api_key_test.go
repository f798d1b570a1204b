package inject_test

import (
	"net/http"
	"testing"
)

func TestAPIKeyHeader(t *testing.T) {
	t.Parallel()
	checkShapes(t, []shape{
		{"plain", "{type: api_key, name: X-Api-Key, value: $S}", "s3cret", "/v1?a=b", nil, "", []string{"X-Api-Key: s3cret"}},
		{"the rule's spelling", "{type: api_key, in: header, name: DD-API-KEY, value: $S}", "s3cret", "", nil, "", []string{"DD-API-KEY: s3cret"}},
		{"lower case", "{type: api_key, name: x-api-key, value: $S}", "s3cret", "", nil, "", []string{"x-api-key: s3cret"}},
		{"Authorization is always spelt so", "{type: api_key, name: authorization, prefix: 'ApiKey ', value: $S}", "s3cret", "",
			http.Header{"Authorization": {"Bearer dummy"}}, "", []string{"Authorization: ApiKey s3cret"}},
		{"prefix with an equals sign", "{type: api_key, name: Authorization, prefix: 'GenieKey key=', value: $S}", "s3cret", "", nil, "",
			[]string{"Authorization: GenieKey key=s3cret"}},
		{"every spelling of the client's is replaced", "{type: api_key, name: X-Api-Key, value: $S}", "s3cret", "",
			http.Header{"X-Api-Key": {"1", "2"}, "x-api-key": {"3"}, "X_Api_Key": {"4"}, "X_API-KEY": {"5"}, "X-Api-Keys": {"6"}, "Accept": {"*/*"}}, "",
			[]string{"Accept: */*", "X-Api-Key: s3cret", "X-Api-Keys: 6"}},
		{"odd but legal characters", "{type: api_key, name: X-Key, value: $S}", `a b:"{}|~!#`, "", nil, "", []string{`X-Key: a b:"{}|~!#`}},
		{"two on one request", "[{type: api_key, name: X-One, value: $S}, {type: api_key, name: X-Two, prefix: 'v', value: $S}]", "s3cret", "", nil, "",
			[]string{"X-One: s3cret", "X-Two: vs3cret"}},
	})
}

func TestAPIKeyQuery(t *testing.T) {
	t.Parallel()
	const in = "{type: api_key, in: query, name: key, value: $S}"
	checkShapes(t, []shape{
		{"no query", in, "s3cret", "/v1", nil, "/v1?key=s3cret", []string{}},
		{"a bare question mark", in, "s3cret", "/v1?", nil, "/v1?key=s3cret", []string{}},
		{"appended", in, "s3cret", "/v1?a=b", nil, "/v1?a=b&key=s3cret", []string{}},
		{"replaced", in, "s3cret", "/v1?key=old", nil, "/v1?key=s3cret", []string{}},
		{"replaced everywhere", in, "s3cret", "/v1?key=1&a=b&key&key=&c&key=2", nil, "/v1?a=b&c&key=s3cret", []string{}},
		{"encoded names are the same", in, "s3cret", "/v1?%6bey=1&k%65%79=2&ke%79&a=key", nil, "/v1?a=key&key=s3cret", []string{}},
		{"other names are not", in, "s3cret", "/v1?keys=1&KEY=2&ke=3&=key&key%00=4", nil, "/v1?keys=1&KEY=2&ke=3&=key&key%00=4&key=s3cret", []string{}},
		{"the rest byte for byte", in, "s3cret", "/v1?b=2&a=1&&x=%2f%2F+%20;y=1;key=2&=&z=%zz&%&u=ü&key=old&", nil,
			"/v1?b=2&a=1&&x=%2f%2F+%20;y=1;key=2&=&z=%zz&%&u=ü&&key=s3cret", []string{}},
		{"value encoded", in, "a b&c=d#e+f%/ü", "/v1?x", nil, "/v1?x&key=a%20b%26c%3Dd%23e%2Bf%25%2F%C3%BC", []string{}},
		{"name and prefix encoded", "{type: api_key, in: query, name: 'api key', prefix: 'v1 ', value: $S}", "s", "/?api+key=1&api%20key=2", nil,
			"/?api%20key=v1%20s", []string{}},
		{"path untouched", in, "s3cret", "/a%2Fb/../c;d?key=1", nil, "/a%2Fb/../c;d?key=s3cret", []string{}},
	})
}

func TestAPIKeyCookie(t *testing.T) {
	t.Parallel()
	const in = "{type: api_key, in: cookie, name: sid, value: $S}"
	cookies := func(c ...string) http.Header { return http.Header{"Cookie": c} }
	checkShapes(t, []shape{
		{"no cookies", in, "s3cret", "", nil, "", []string{"Cookie: sid=s3cret"}},
		{"others stay", in, "s3cret", "", cookies("a=b; c=d"), "", []string{"Cookie: a=b; c=d; sid=s3cret"}},
		{"replaced", in, "s3cret", "", cookies("sid=old"), "", []string{"Cookie: sid=s3cret"}},
		{"replaced first, middle, last", in, "s3cret", "", cookies("sid=1; a=b; sid=2;c=d;  sid = 3"), "", []string{"Cookie: a=b;c=d; sid=s3cret"}},
		{"one header of several", in, "s3cret", "", cookies("a=b", "sid=1", "c=d;"), "", []string{"Cookie: a=b; c=d; sid=s3cret"}},
		{"other names", in, "s3cret", "", cookies("SID=1; sids=2; x=sid; sid2"), "", []string{"Cookie: SID=1; sids=2; x=sid; sid2; sid=s3cret"}},
		{"without a value", in, "s3cret", "", cookies("sid; a=b"), "", []string{"Cookie: a=b; sid=s3cret"}},
		{"the rest byte for byte", in, "s3cret", "", cookies(`a="x y";b=1==;;  c = 2`), "", []string{`Cookie: a="x y";b=1==;;  c = 2; sid=s3cret`}},
		{"lower-case header name", in, "s3cret", "", http.Header{"cookie": {"sid=1; a=b"}}, "", []string{"Cookie: a=b; sid=s3cret"}},
		{"prefix and quotes", "{type: api_key, in: cookie, name: sid, prefix: 's%3A', value: $S}", "abc=/+", "", nil, "", []string{"Cookie: sid=s%3Aabc=/+"}},
		{"quoted value", in, `"abc"`, "", nil, "", []string{`Cookie: sid="abc"`}},
	})
}
