package clients

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// States of linux/include/net/tcp_states.h in which the other side's socket is still its process's.
const (
	tcpEstablished = 1
	tcpFinWait1    = 4
	tcpFinWait2    = 5
	tcpCloseWait   = 8
)

var (
	errRemote = errors.New("the connection does not come from this machine")
	errGone   = errors.New("the connection's other side has gone")
)

// canTellOwners reports whether owner works here: a sandbox may keep this process from asking.
func canTellOwners() bool {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return false
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return false
	}
	defer c.Close()
	in, err := l.Accept()
	if err != nil {
		return false
	}
	defer in.Close()
	uid, err := owner(in.(*net.TCPConn))
	return err == nil && isOurs(uid)
}

// isOurs reports whether uid is this process's user. The one that stands for all that a user namespace does not know is
// nobody's.
func isOurs(uid uint32) bool {
	const overflow = 65534 // /proc/sys/kernel/overflowuid, as good as everywhere
	return uid != overflow && int(uid) == os.Geteuid()
}

// owner returns the user whose socket is at the other end of c, a connection over the loopback interface.
func owner(c *net.TCPConn) (uid uint32, err error) {
	local, okL := addrPort(c.LocalAddr())
	remote, okR := addrPort(c.RemoteAddr())
	if !okL || !okR || !remote.Addr().IsLoopback() {
		return 0, errRemote
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	s, err := socketOf(remote, local)
	if err != nil {
		return 0, err
	}
	// A socket that its process has left belongs to nobody and is said to be root's. One that is only about to connect can
	// be somebody else's, who got the port of one that is gone.
	if s.inode == 0 || s.state != tcpEstablished && s.state != tcpFinWait1 && s.state != tcpFinWait2 {
		return 0, errGone
	}
	// While our side of the connection lives, no other can have its addresses and ports. So if it lives still, the answer was
	// about this one.
	alive := false
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		alive = err == nil && (info.State == tcpEstablished || info.State == tcpCloseWait)
	})
	if err != nil || !alive {
		return 0, errGone
	}
	return s.uid, nil
}

func addrPort(a net.Addr) (netip.AddrPort, bool) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), true
}

type socket struct {
	state      uint8
	uid, inode uint32
}

// socketOf asks the kernel for the socket of this machine that is connected from one address to the other: sock_diag(7).
func socketOf(from, to netip.AddrPort) (socket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return socket{}, fmt.Errorf("asking whose a socket is: %w", err)
	}
	defer unix.Close(fd)
	// The kernel answers within the call; the time is for a kernel that does not.
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return socket{}, fmt.Errorf("asking whose a socket is: %w", err)
	}
	family := byte(unix.AF_INET)
	if from.Addr().Is6() {
		family = unix.AF_INET6
	}
	s, err := ask(fd, family, from, to)
	if err != nil {
		return s, fmt.Errorf("asking whose a socket is: %w", err)
	}
	return s, nil
}

// The messages of linux/inet_diag.h.
const (
	sockDiagByFamily = 20
	headerLen        = 16 // struct nlmsghdr
	requestLen       = 56 // struct inet_diag_req_v2
	answerLen        = 72 // struct inet_diag_msg
)

// ask asks for one socket of a family.
func ask(fd int, family byte, from, to netip.AddrPort) (s socket, err error) {
	ne := binary.NativeEndian
	var q [headerLen + requestLen]byte
	ne.PutUint32(q[0:], uint32(len(q)))
	ne.PutUint16(q[4:], sockDiagByFamily)
	ne.PutUint16(q[6:], unix.NLM_F_REQUEST)
	r := q[headerLen:]
	r[0], r[1] = family, unix.IPPROTO_TCP
	ne.PutUint32(r[4:], ^uint32(0)) // in any state
	id := r[8:]
	binary.BigEndian.PutUint16(id[0:], from.Port())
	binary.BigEndian.PutUint16(id[2:], to.Port())
	putAddr(id[4:20], family, from.Addr())
	putAddr(id[20:36], family, to.Addr())
	ne.PutUint64(id[40:], ^uint64(0)) // INET_DIAG_NOCOOKIE
	if err := unix.Sendto(fd, q[:], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return s, err
	}
	var buf [4096]byte
	n, sender, err := unix.Recvfrom(fd, buf[:], 0)
	if err != nil {
		return s, err
	}
	if kernel, ok := sender.(*unix.SockaddrNetlink); !ok || kernel.Pid != 0 || n < headerLen {
		return s, syscall.EBADMSG
	}
	a := buf[headerLen:n]
	switch kind := ne.Uint16(buf[4:]); {
	case kind == unix.NLMSG_ERROR && len(a) >= 4:
		return s, syscall.Errno(-int32(ne.Uint32(a)))
	case kind != sockDiagByFamily || len(a) < answerLen:
		return s, syscall.EBADMSG
	case addrPortOf(a[0], a[8:24], a[4:6]) != from || addrPortOf(a[0], a[24:40], a[6:8]) != to: // such as a listener
		return s, syscall.ENOENT
	}
	return socket{state: a[1], uid: ne.Uint32(a[64:]), inode: ne.Uint32(a[68:])}, nil
}

// addrPortOf reads an address and a port of a socket of a family. IPv6 sockets can have IPv4 addresses.
func addrPortOf(family byte, addr, port []byte) netip.AddrPort {
	if family == unix.AF_INET {
		addr = addr[:4]
	}
	a, _ := netip.AddrFromSlice(addr)
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(port))
}

// putAddr writes an address as the kernel has it in sockets of a family.
func putAddr(dst []byte, family byte, a netip.Addr) {
	if family == unix.AF_INET {
		v4 := a.As4()
		copy(dst, v4[:])
		return
	}
	v6 := a.As16()
	copy(dst, v6[:])
}
