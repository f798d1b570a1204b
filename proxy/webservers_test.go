//go:build linux

package proxy

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/credproxy/credproxy/internal/testneed"
)

// unusedPort is a port of 127.0.0.1 that nobody listened on a moment ago.
func unusedPort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// serverFolder is a folder that a server can read which gives up being root.
func serverFolder(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// runServer runs a program until the test ends, and returns once it accepts connections on port.
func runServer(t testing.TB, port string, cmd *exec.Cmd) {
	t.Helper()
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(patience):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-ended
		}
		if t.Failed() {
			t.Logf("%s said: %s", filepath.Base(cmd.Path), &out)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = conn.Close()
			tick.Stop()
			return
		}
		select {
		case <-tick.C:
		case <-ended:
			t.Fatalf("%s ended: %s", cmd.Path, &out)
		case <-ctx.Done():
			t.Fatalf("%s does not listen on port %s: %s", cmd.Path, port, &out)
		}
	}
}

// startApache runs Apache httpd with modules and config, whose $DIR is its folder, and returns its port. It serves /index.html.
func startApache(t testing.TB, modules, config string, env ...string) (port, dir string) {
	t.Helper()
	program := testneed.Program(t, "apache2")
	dir, port = serverFolder(t), unusedPort(t)
	var b bytes.Buffer
	fmt.Fprintf(&b, "ServerName localhost\nListen 127.0.0.1:%s\nPidFile $DIR/pid\nDefaultRuntimeDir $DIR\nMutex file:$DIR\nErrorLog $DIR/error.log\nLogLevel info\nDocumentRoot $DIR/htdocs\n", port)
	if os.Geteuid() == 0 {
		b.WriteString("User nobody\nGroup nogroup\n")
	}
	for module := range strings.FieldsSeq("mpm_event authn_core authz_core authn_file authz_user dir " + modules) {
		fmt.Fprintf(&b, "LoadModule %s_module /usr/lib/apache2/modules/mod_%[1]s.so\n", module)
	}
	b.WriteString(config)
	writeFile(t, dir+"/htdocs/index.html", "welcome")
	writeFile(t, dir+"/httpd.conf", strings.ReplaceAll(b.String(), "$DIR", dir))
	cmd := exec.Command(program, "-d", dir, "-f", dir+"/httpd.conf", "-DFOREGROUND")
	cmd.Env = append(os.Environ(), env...)
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(dir + "/error.log")
			t.Logf("Apache's log: %s", log)
		}
	})
	runServer(t, port, cmd)
	return port, dir
}
