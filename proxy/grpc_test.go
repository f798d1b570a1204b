package proxy

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/credproxy/credproxy/internal/testneed"
)

// E31: gRPC, with a real server and a real client: every kind of call, messages and status in trailers, deadlines and
// cancellation. An authority without a port does not lose the CONNECT's.
func TestGRPC(t *testing.T) {
	t.Parallel()
	python := testneed.PythonModule(t, "grpc")
	ca := newTestCA(t, "upstream")
	cert, key := ca.saveLeaf(t, "api.localhost")
	port := startServer(t, python, "testdata/grpc_echo.py", "server", cert, key)
	p := startProxy(t, ca, bearerRule(t, "api.localhost", port)+
		fmt.Sprintf("  - name: secret\n    match: {host: api.localhost, port: %s, paths: [/test.Secret/**]}\n    deny: needs a person\n", port))
	for _, authority := range []string{"", "api.localhost"} {
		out := runClient(t, p, python, "testdata/grpc_echo.py", "client", "api.localhost:"+port, p.ca.saveRoot(t), authority)
		var got, want any
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		// Status text is UTF-8, percent-encoded in the trailer.
		err := json.Unmarshal([]byte(`{
			"unary": {"authorization": "`+backwards("Bearer "+canary)+`", "length": 3000000}, "first": "1", "last": ["2", [0, 255]],
			"many": ["m0", "m1", "m2", "m3", "m4"], "collect": "a,b,c", "chat": ["re: 0", "re: 1", "re: 2", "re: 3"],
			"nothing": ["NOT_FOUND", "no such thing: caf\u00e9", "gone"], "half": ["DATA_LOSS", "broken off", null],
			"unknown": "UNIMPLEMENTED", "deadline": "DEADLINE_EXCEEDED", "deadline seen": "yes",
			"begun": "begun", "cancel seen": "yes", "refused": "PERMISSION_DENIED"
		}`), &want)
		if err != nil {
			t.Fatal(err)
		}
		if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
			t.Errorf("authority %q: got\n%s\nwant\n%s", authority, g, w)
		}
	}
}
