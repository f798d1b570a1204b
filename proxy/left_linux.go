package proxy

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// canWatch says that hasLeft works here.
const canWatch = true

// tcpEstablished is TCP_ESTABLISHED of the kernel's tcp_states.h: neither side has ended the connection.
const tcpEstablished = 1

// hasLeft reports whether the other side of c has closed or reset it, whatever it sent before. It does not wait.
func hasLeft(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	left := false
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		left = err != nil || info.State != tcpEstablished
	})
	return err != nil || left
}
