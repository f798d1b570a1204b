package proxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
)

// A segmentConn gathers what TLS writes, so that several records travel in one segment.
type segmentConn struct {
	net.Conn
	gathering bool
	held      bytes.Buffer
}

func (c *segmentConn) Write(p []byte) (int, error) {
	if c.gathering {
		return c.held.Write(p)
	}
	return c.Conn.Write(p)
}

// send writes what was gathered but for its last keep bytes.
func (c *segmentConn) send(keep int) error {
	_, err := c.Conn.Write(c.held.Next(c.held.Len() - keep))
	return err
}

// An upstream that answers more than it was asked must not have what is too much taken for the answer to the next
// request, which may be another client's. TLS reads ahead, so the second answer can already be here, unseen.
func TestUnaskedAnswerIsNeverUsed(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		records []string // that answer /evil, in one segment
		late    int      // bytes of them that come only after the next request
	}{
		"same record":      {records: []string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"}},
		"second record":    {records: []string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"}},
		"part of a record": {records: []string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"}, late: 20},
		"part of a header": {records: []string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "x"}, late: 19},
		"body of a 204":    {records: []string{"HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := newTestCA(t, "upstream")
			cert, err := up.leaf("eager.localhost")
			if err != nil {
				t.Fatal(err)
			}
			port := serveTCP(t, func(raw net.Conn) {
				segment := &segmentConn{Conn: raw}
				conn := tls.Server(segment, &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{"http/1.1"}})
				in := bufio.NewReader(conn)
				for {
					req, err := http.ReadRequest(in)
					if err != nil || segment.send(0) != nil {
						return
					}
					answer, late := []string{"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"}, 0
					if req.URL.Path == "/evil" {
						answer, late = test.records, test.late
					}
					segment.gathering = true
					for _, record := range answer {
						if _, err := io.WriteString(conn, record); err != nil {
							return
						}
					}
					segment.gathering = false
					if segment.send(late) != nil {
						return
					}
				}
			})
			p := startProxy(t, up, bearerRule(t, "eager.localhost", port))
			c := p.client(t, false)
			// The first request goes through net/http's Transport, those after it are ours.
			for _, path := range []string{"/first", "/second", "/evil", "/victim", "/last"} {
				resp, body := mustGet(t, c, "https://eager.localhost:"+port+path)
				if want := "ok"; body != want && resp.StatusCode != http.StatusNoContent {
					t.Errorf("%s got %q, want %q", path, body, want)
				}
			}
		})
	}
}
