package proxy

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// limitStall has the kernel end c when the other side takes nothing for after while there is something to send (RFC 5482).
// Between two TCP connections the kernel copies, so that nobody else would see it.
func limitStall(c *net.TCPConn, after time.Duration) {
	raw, err := c.SyscallConn()
	if err != nil {
		return // it is closed
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(after.Milliseconds()))
	})
}
