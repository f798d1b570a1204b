package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// initVariable marks the process that is to be the first of a sandbox. It speaks with its parent over controlFD.
const (
	initVariable = "CREDPROXY_SANDBOX_INIT"
	controlFD    = 3
)

// setupTimeout bounds how long the first process takes for anything but waiting.
const setupTimeout = 10 * time.Second

// A Box is a sandbox, at first without a program in it. Its owner closes it.
type Box struct {
	cmd      *exec.Cmd
	control  *net.UnixConn
	listener net.Listener
}

// reply is what the first process says of a step.
type reply struct {
	Error string `json:"error,omitempty"`
}

// Start makes a sandbox and a listener on its loopback interface. The error is an *Unavailable if the system does not
// let this user have one. Call it before anything secret is in memory: a process must be open to itself for it.
func Start() (b *Box, err error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, failed("making a socket", err)
	}
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"credproxy (sandbox)"}
	cmd.Env = []string{initVariable + "=1"} // which the program in the sandbox can read, so it holds nothing else
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	uid, gid := os.Geteuid(), os.Getegid()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_NET_ADMIN, unix.CAP_SETPCAP},
	}
	if err := cmd.Start(); err != nil {
		_ = ours.Close()
		return nil, &Unavailable{Why: "the system makes no namespaces for this user (" + cause(err) + ")"}
	}
	b = &Box{cmd: cmd, control: ours}
	if b.listener, err = b.receiveListener(); err != nil {
		b.Close()
		return nil, &Unavailable{Why: err.Error()}
	}
	return b, nil
}

// cause is err without the path of the program, which is not what failed.
func cause(err error) string {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	mine, theirs := os.NewFile(uintptr(fds[0]), "sandbox"), os.NewFile(uintptr(fds[1]), "sandbox")
	defer mine.Close()
	conn, err := net.FileConn(mine)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn.(*net.UnixConn), theirs, nil
}

// maxMessage bounds a message on the control socket.
const maxMessage = 1 << 20

// receiveListener gets the listener that the first process has opened in its network.
func (b *Box) receiveListener() (net.Listener, error) {
	_ = b.control.SetDeadline(time.Now().Add(setupTimeout))
	defer b.control.SetDeadline(time.Time{})
	data, rights := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	n, rn, _, _, err := b.control.ReadMsgUnix(data, rights)
	if err != nil {
		return nil, failed("waiting for its first process", err)
	}
	var r reply
	if err := json.Unmarshal(data[:n], &r); err != nil {
		return nil, errors.New("its first process ended")
	}
	if r.Error != "" {
		return nil, errors.New(r.Error)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rn])
	if err != nil || len(messages) != 1 {
		return nil, errors.New("no listener came")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.New("no listener came")
	}
	f := os.NewFile(uintptr(fds[0]), "listener")
	defer f.Close()
	return net.FileListener(f)
}

// Listener is on the sandbox's loopback interface, and on no other network.
func (b *Box) Listener() net.Listener { return b.listener }

// Command is the sandbox's first process. Its exit status is the program's.
func (b *Box) Command() *exec.Cmd { return b.cmd }

// Launch closes the sandbox off and starts p in it. It is called once.
func (b *Box) Launch(p Program) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if len(data) > maxMessage/4 {
		return errors.New("the environment and the arguments are too large")
	}
	_ = b.control.SetDeadline(time.Now().Add(setupTimeout))
	defer b.control.SetDeadline(time.Time{})
	if err := b.control.SetWriteBuffer(maxMessage); err != nil {
		return err
	}
	if _, err := b.control.Write(data); err != nil {
		return failed("telling the sandbox", err)
	}
	answer := make([]byte, maxMessage)
	n, err := b.control.Read(answer)
	var r reply
	switch {
	case err != nil:
		return failed("waiting for the sandbox", err)
	case json.Unmarshal(answer[:n], &r) != nil:
		return errors.New("the sandbox ended")
	case r.Error != "":
		return errors.New(r.Error)
	}
	return nil
}

// Signal sends sig to the program.
func (b *Box) Signal(sig os.Signal) {
	if s, ok := sig.(syscall.Signal); ok {
		_, _ = fmt.Fprint(b.control, int(s)) // it has just ended if this fails
	}
}

// Close ends the sandbox with all that is in it.
func (b *Box) Close() {
	if b.listener != nil {
		_ = b.listener.Close()
	}
	_ = b.control.Close() // the first process ends then, and all others with it
	if b.cmd.ProcessState == nil {
		_ = b.cmd.Wait()
	}
}
