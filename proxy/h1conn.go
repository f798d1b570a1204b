package proxy

import "crypto/tls"

// An h1Conn is the client's side of an intercepted tunnel in which HTTP/1.1 is spoken over TLS.
//
// While a handler runs, net/http reads one byte ahead in a goroutine of its own, to learn that the client has left.
// Waking that goroutine for each request costs a tenth of the whole. An h1Conn answers that read with nothing, and
// a departure is found by a look at the socket's state, for the few requests that take long enough (requestContext).
type h1Conn struct {
	*tls.Conn
	tunnel *tunnelConn
}

// Read reads, but not ahead: only net/http's background read asks for a single byte, because all others go through a
// buffer. (0, nil) is a valid answer of a Reader, and ends that goroutine. If net/http changes, all that is lost is time.
func (c *h1Conn) Read(p []byte) (int, error) {
	if len(p) == 1 {
		return 0, nil
	}
	return c.Conn.Read(p)
}
