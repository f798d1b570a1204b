package inject_test

import (
	"net/http"
	"testing"
)

func TestBasic(t *testing.T) {
	t.Parallel()
	const in = "{type: basic, username: test, password: $S}"
	checkShapes(t, []shape{
		{"RFC 7617 section 2.1", in, "123£", "/?a=b", nil, "", []string{"Authorization: Basic dGVzdDoxMjPCow=="}},
		{"RFC 7617 section 2", "{type: basic, username: Aladdin, password: $S}", "open sesame", "", nil, "", []string{"Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="}},
		{"colons in the password", in, "a:b:", "", nil, "", []string{"Authorization: Basic dGVzdDphOmI6"}},
		{"spaces at the ends of the password", in, " a ", "", nil, "", []string{"Authorization: Basic dGVzdDogYSA="}},
		{"key as the user name", "{type: basic, username: $S}", "sk_live", "", nil, "", []string{"Authorization: Basic c2tfbGl2ZTo="}},
		{"both from references", "{type: basic, username: $S, password: $S}", "ab", "", nil, "", []string{"Authorization: Basic YWI6YWI="}},
		{"fields of one JSON secret", "{type: basic, username: $USER, password: $PASS}", `{"user":"me","pass":"you"}`, "", nil, "", []string{"Authorization: Basic bWU6eW91"}},
		{"a user name that is a number", "{type: basic, username: 12345, password: $S}", "x", "", nil, "", []string{"Authorization: Basic MTIzNDU6eA=="}},
		{"replaces what the client sent", in, "x", "", http.Header{"authorization": {"Basic ZHVtbXk6"}, "Authorization": {"Bearer a", "b"}}, "",
			[]string{"Authorization: Basic dGVzdDp4"}},
	})
}

func TestBearer(t *testing.T) {
	t.Parallel()
	checkShapes(t, []shape{
		{"plain", "{type: bearer, token: $S}", "mF_9.B5f-4.1JqM", "/x?y", nil, "", []string{"Authorization: Bearer mF_9.B5f-4.1JqM"}},
		{"not of RFC 6750's characters", "{type: bearer, token: $S}", "1|a:b c", "", nil, "", []string{"Authorization: Bearer 1|a:b c"}},
		{"one trailing newline of the file", "{type: bearer, token: $S}", "abc\n", "", nil, "", []string{"Authorization: Bearer abc"}},
		{"replaces what the client sent", "{type: bearer, token: $S}", "abc", "", http.Header{"AUTHORIZATION": {"Basic ZHVtbXk6"}, "X": {"y"}}, "",
			[]string{"Authorization: Bearer abc", "X: y"}},
	})
}
