package proxy

import (
	"net"
	"os"
)

// recordHeaderSize is the length of a TLS record's header, whose last two bytes are the length of what follows (RFC 8446
// section 5.1).
const recordHeaderSize = 5

// A recordConn is the TCP connection below TLS. crypto/tls reads ahead of the record that it was asked for, into a buffer
// that nobody else can see; a recordConn knows whether that buffer can hold a part of a record, and lets tls be asked
// what else is in it without a wait.
type recordConn struct {
	net.Conn
	dry    bool // Read finds nothing, and does not wait
	header [recordHeaderSize]byte
	have   int // how much of header has been read
	left   int // how much is still to come of the record
}

// Read reads, unless c is dry. Being dry is temporary in the sense of net.Error, so that tls can go on afterwards.
func (c *recordConn) Read(p []byte) (int, error) {
	if c.dry {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := c.Conn.Read(p)
	c.follow(p[:n])
	return n, err
}

// follow keeps count of the records in b, which was just read.
func (c *recordConn) follow(b []byte) {
	for len(b) > 0 {
		if c.left > 0 {
			n := min(c.left, len(b))
			c.left -= n
			b = b[n:]
			continue
		}
		n := copy(c.header[c.have:], b)
		c.have += n
		b = b[n:]
		if c.have == recordHeaderSize {
			c.have, c.left = 0, int(c.header[3])<<8|int(c.header[4])
		}
	}
}

// whole reports whether what has been read ends with the end of a record.
func (c *recordConn) whole() bool { return c.have == 0 && c.left == 0 }
