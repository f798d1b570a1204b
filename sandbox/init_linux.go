package sandbox

import (
	"encoding/json"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// statusFailed is the exit status if the sandbox could not be made, or its owner is gone.
const statusFailed = 1

// RunInit is the first process of a sandbox, if this process was started as that: then ok is true, and the process must
// exit with code. Call it first thing in main.
func RunInit() (code int, ok bool) {
	if os.Getenv(initVariable) == "" {
		return 0, false
	}
	f := os.NewFile(controlFD, "control")
	conn, err := net.FileConn(f)
	_ = f.Close()
	control, isUnix := conn.(*net.UnixConn)
	if err != nil || !isUnix || os.Getpid() != 1 {
		return statusFailed, true // somebody has set the variable
	}
	// Capabilities belong to a thread, and so does what is given up before the program starts.
	runtime.LockOSThread()
	return serve(control), true
}

func serve(control *net.UnixConn) int {
	if err := openNetwork(control); err != nil {
		say(control, err)
		return statusFailed
	}
	data := make([]byte, maxMessage)
	n, err := control.Read(data)
	var p Program
	if err != nil || json.Unmarshal(data[:n], &p) != nil {
		return statusFailed
	}
	err = arrangeMounts(p)
	if err == nil {
		err = giveUpPrivileges()
	}
	if err != nil {
		say(control, err)
		return statusFailed
	}
	return supervise(control, p)
}

func say(control io.Writer, err error) {
	var r reply
	if err != nil {
		r.Error = err.Error()
	}
	data, _ := json.Marshal(r) // a string has a JSON form
	_, _ = control.Write(data)
}

// openNetwork switches the loopback interface on and sends a listener on it to the parent.
func openNetwork(control *net.UnixConn) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return failed("opening a socket", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return failed("switching loopback on", err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return failed("listening", err)
	}
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		return err
	}
	defer file.Close()
	_, _, err = control.WriteMsgUnix([]byte("{}"), unix.UnixRights(int(file.Fd())), nil)
	return err
}

// arrangeMounts hides, keeps and protects what p says, and shows processes of the sandbox only.
func arrangeMounts(p Program) error {
	here, err := os.Getwd()
	if err != nil {
		return failed("asking for the current folder", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return failed("making mounts private", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return failed("mounting /proc", err)
	}
	kept := make(map[string]int)
	for _, path := range p.Keep {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return failed("opening "+path, err)
		}
		defer unix.Close(fd)
		kept[path] = fd
	}
	for _, path := range p.ReadOnly {
		if err := protect(path); err != nil {
			return failed("protecting "+path, err)
		}
	}
	for _, path := range p.Hide {
		if err := hide(path); err != nil {
			return failed("hiding "+path, err)
		}
	}
	for path, fd := range kept {
		if err := restore(path, fd); err != nil {
			return failed("keeping "+path, err)
		}
	}
	// By its name again: what lies under a cover is still there for whoever stands in it.
	if os.Chdir(here) == nil {
		return nil
	}
	return os.Chdir("/")
}

// hide puts an empty folder over a folder, and /dev/null over everything else.
func hide(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir():
		return unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700,size=16m")
	}
	return unix.Mount("/dev/null", path, "", unix.MS_BIND, "")
}

// restore shows what fd is at path again, below what hides it, for reading.
func restore(path string, fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	var err error
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.MkdirAll(path, 0o700)
	} else {
		var f *os.File
		if f, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return err
	}
	if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	return remountReadOnly(path)
}

// protect makes path one that cannot be written.
func protect(path string) error {
	err := unix.Mount(path, path, "", unix.MS_BIND|unix.MS_REC, "")
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	return remountReadOnly(path)
}

// remountReadOnly keeps the other flags of the mount: without privilege none of them can be taken off.
func remountReadOnly(path string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return err
	}
	flags := uintptr(unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY)
	for from, to := range map[int64]uintptr{
		unix.ST_NOSUID: unix.MS_NOSUID, unix.ST_NODEV: unix.MS_NODEV, unix.ST_NOEXEC: unix.MS_NOEXEC,
		unix.ST_NOATIME: unix.MS_NOATIME, unix.ST_NODIRATIME: unix.MS_NODIRATIME, unix.ST_RELATIME: unix.MS_RELATIME,
	} {
		if int64(st.Flags)&from != 0 {
			flags |= to
		}
	}
	return unix.Mount("", path, "", flags, "")
}

// giveUpPrivileges takes from this thread, and from all that it starts, what it needed to make the sandbox.
func giveUpPrivileges() error {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: an older kernel
			return failed("giving up capabilities", err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return failed("giving up capabilities", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return failed("giving up new privileges", err)
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&head, &none[0]); err != nil {
		return failed("giving up capabilities", err)
	}
	// What the caller's shell had open is no way out.
	if err := unix.CloseRange(controlFD, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return failed("closing files", err)
	}
	return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // the program must not look into this process
}

// supervise runs the program to its end, and buries everything that its processes leave behind.
func supervise(control *net.UnixConn, p Program) int {
	// What the terminal sends goes to the program too, so it means nothing here.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGTERM)
	child, err := os.StartProcess(p.Path, p.Args, &os.ProcAttr{Env: p.Env, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	say(control, err)
	if err != nil {
		return statusFailed
	}
	pid := child.Pid
	go func() {
		passSignals(control, pid)
		os.Exit(statusFailed) // the owner is gone
	}()
	for {
		var status unix.WaitStatus
		dead, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return statusFailed
		case dead == pid && status.Exited():
			return status.ExitStatus()
		case dead == pid && status.Signaled():
			return 128 + int(status.Signal())
		}
	}
}

// passSignals sends on what the owner says, until there is no owner.
func passSignals(control *net.UnixConn, pid int) {
	text := make([]byte, 16)
	for {
		n, err := control.Read(text)
		if err != nil || n == 0 {
			return
		}
		if number, err := strconv.Atoi(strings.TrimSpace(string(text[:n]))); err == nil {
			_ = unix.Kill(pid, unix.Signal(number)) // it has just ended if this fails
		}
	}
}
