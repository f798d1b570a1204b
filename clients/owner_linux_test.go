package clients

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// strangersUID is a user who is not this process's.
const strangersUID = 54321

// as runs f as another user, in a thread that ends with it. Only root can.
func as(t *testing.T, uid int, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can be another user")
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked, so that nobody else gets this thread
		_, _, errno := unix.RawSyscall(unix.SYS_SETFSUID, uintptr(uid), 0, 0)
		f()
		_, _, _ = unix.RawSyscall(unix.SYS_SETFSUID, 0, 0, 0)
		if errno != 0 {
			done <- errno
			return
		}
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func listenTCP(t testing.TB, network, address string) *net.TCPListener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

func accept(t testing.TB, l *net.TCPListener) *net.TCPConn {
	t.Helper()
	c, err := l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// call connects a socket of its own family to an address, from a port or from any. It is closed at the test's end.
func call(t *testing.T, family int, to unix.Sockaddr, port int) int {
	t.Helper()
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil && port != 0 {
		err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}))
	}
	if err == nil {
		err = unix.Connect(fd, to)
	}
	if err != nil {
		t.Error(err) // it may not be the test's goroutine
	}
	return fd
}

func TestOwner(t *testing.T) {
	t.Parallel()
	us := uint32(os.Geteuid())
	v4 := func(l *net.TCPListener) unix.Sockaddr {
		return &unix.SockaddrInet4{Port: l.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}
	}
	v6 := func(l *net.TCPListener) unix.Sockaddr {
		return &unix.SockaddrInet6{Port: l.Addr().(*net.TCPAddr).Port, Addr: [16]byte(net.IPv6loopback)}
	}
	mapped := func(l *net.TCPListener) unix.Sockaddr {
		return &unix.SockaddrInet6{Port: l.Addr().(*net.TCPAddr).Port, Addr: [16]byte(net.IPv4(127, 0, 0, 1).To16())}
	}
	for _, test := range []struct {
		name, network, address string
		family                 int
		to                     func(*net.TCPListener) unix.Sockaddr
	}{
		{"IPv4", "tcp4", "127.0.0.1:0", unix.AF_INET, v4},
		{"IPv6", "tcp6", "[::1]:0", unix.AF_INET6, v6},
		{"an IPv6 socket to an IPv4 address", "tcp4", "127.0.0.1:0", unix.AF_INET6, mapped},
		{"an IPv4 socket to a listener of both", "tcp", ":0", unix.AF_INET, v4},
		{"an IPv6 socket to IPv4 of a listener of both", "tcp", ":0", unix.AF_INET6, mapped},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := listenTCP(t, test.network, test.address)
			fd := call(t, test.family, test.to(l), 0)
			defer unix.Close(fd)
			if uid, err := owner(accept(t, l)); err != nil || uid != us {
				t.Errorf("our own: got %d, %v, want %d", uid, err, us)
			}
			var theirs int
			as(t, strangersUID, func() { theirs = call(t, test.family, test.to(l), 0) })
			defer unix.Close(theirs)
			if uid, err := owner(accept(t, l)); err != nil || uid != strangersUID {
				t.Errorf("another user's: got %d, %v, want %d", uid, err, strangersUID)
			}
		})
	}
}

// The kernel says that sockets which nobody holds any more are root's. They are nobody's.
func TestOwnerOfWhatIsGone(t *testing.T) {
	t.Parallel()
	l := listenTCP(t, "tcp4", "127.0.0.1:0")
	to := &unix.SockaddrInet4{Port: l.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}

	half := call(t, unix.AF_INET, to, 0)
	c := accept(t, l)
	if err := unix.Shutdown(half, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	if uid, err := owner(c); err != nil || int(uid) != os.Geteuid() {
		t.Errorf("half closed: got %d, %v", uid, err)
	}
	unix.Close(half)
	if uid, err := owner(c); err == nil {
		t.Errorf("closed: got %d, want an error", uid)
	}
	c.Close()
	if uid, err := owner(c); err == nil {
		t.Errorf("closed on our side: got %d, want an error", uid)
	}
}

// A client that sends a request and resets its connection leaves its port to somebody who is let in. The request is not his.
func TestOwnerOfAPortThatIsUsedAgain(t *testing.T) {
	t.Parallel()
	l := listenTCP(t, "tcp4", "127.0.0.1:0")
	to := &unix.SockaddrInet4{Port: l.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}
	var theirs int
	as(t, strangersUID, func() { theirs = call(t, unix.AF_INET, to, 0) })
	first := accept(t, l)
	port := first.RemoteAddr().(*net.TCPAddr).Port
	if err := unix.SetsockoptLinger(theirs, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		t.Fatal(err)
	}
	unix.Close(theirs) // a reset
	ours := call(t, unix.AF_INET, to, port)
	defer unix.Close(ours)
	second := accept(t, l)
	if second.RemoteAddr().String() != first.RemoteAddr().String() {
		t.Fatalf("from %v and then from %v, want the same port", first.RemoteAddr(), second.RemoteAddr())
	}
	if uid, err := owner(first); err == nil {
		t.Errorf("the first connection: got %d, want an error", uid)
	}
	if uid, err := owner(second); err != nil || int(uid) != os.Geteuid() {
		t.Errorf("the second connection: got %d, %v", uid, err)
	}
}

func TestOwnUser(t *testing.T) {
	t.Parallel()
	if !CanTellOwners() {
		t.Fatal("this system does not say whose connections are")
	}
	l := listenTCP(t, "tcp4", "127.0.0.1:0")
	to := &unix.SockaddrInet4{Port: l.Addr().(*net.TCPAddr).Port, Addr: [4]byte{127, 0, 0, 1}}
	d := &Door{OwnUser: true, Tokens: One("ci", "right"), LocalToken: "local-token"}
	ask := func(d *Door, c net.Conn, fields ...string) (string, bool) {
		r := asking(fields...)
		return d.Ask(r.WithContext(d.Conn(context.Background(), c)))
	}
	ourFD := call(t, unix.AF_INET, to, 0)
	defer unix.Close(ourFD)
	ours := accept(t, l)
	var theirFD int
	as(t, strangersUID, func() { theirFD = call(t, unix.AF_INET, to, 0) })
	defer unix.Close(theirFD)
	theirs := accept(t, l)
	for _, test := range []struct {
		name   string
		conn   net.Conn
		fields []string
		want   string // "": nobody
	}{
		{"ours", ours, nil, "without a name"},
		{"ours, wrapped", wrapped{ours}, nil, "without a name"},
		{"ours, with a token", ours, []string{basic("ci:right")}, "ci"},
		{"ours, with a wrong token", ours, []string{basic("ci:wrong")}, ""},
		{"ours, with the local token", ours, []string{basic("local:local-token")}, "without a name"},
		{"another user's", theirs, nil, ""},
		{"another user's, with a token", theirs, []string{basic("ci:right")}, "ci"},
		{"another user's, with a wrong token", theirs, []string{basic("ci:wrong")}, ""},
		{"no TCP", struct{ net.Conn }{ours}, nil, ""},
	} {
		name, ok := ask(d, test.conn, test.fields...)
		if name == "" && ok {
			name = "without a name"
		}
		if name != test.want {
			t.Errorf("%s: got %q, want %q", test.name, name, test.want)
		}
	}
	if _, ok := ask(&Door{Tokens: d.Tokens}, ours); ok {
		t.Error("our own user is let in where a token is wanted")
	}
	if _, ok := d.Ask(new(http.Request)); ok {
		t.Error("a request without a connection is let in")
	}
	r := asking().WithContext(d.Conn(context.Background(), theirs))
	if e := d.Stranger(r).(*Refusal); e.Remark() != "no token, from user 54321" {
		t.Errorf("remark %q", e.Remark())
	}
}

type wrapped struct{ net.Conn }

func (w wrapped) NetConn() net.Conn { return w.Conn }

// BenchmarkOwner is what a connection costs, and not a request on it.
func BenchmarkOwner(b *testing.B) {
	l := listenTCP(b, "tcp4", "127.0.0.1:0")
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	in := accept(b, l)
	for b.Loop() {
		if _, err := owner(in); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCheck is what a request with a token costs.
func BenchmarkCheck(b *testing.B) {
	s := Open(b.TempDir())
	token, err := s.Add("ci", false)
	if err != nil {
		b.Fatal(err)
	}
	past := s.path("ci")
	info, err := os.Stat(past)
	if err != nil {
		b.Fatal(err)
	}
	old := info.ModTime().Add(-2 * settled)
	if err := os.Chtimes(past, old, old); err != nil {
		b.Fatal(err)
	}
	d, r := &Door{Tokens: s.Check}, asking(basic("ci:"+token))
	for b.Loop() {
		if _, ok := d.Ask(r); !ok {
			b.Fatal("not known")
		}
	}
}
