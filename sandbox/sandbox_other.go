//go:build !linux

package sandbox

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime"
)

// RunInit is for Linux: see sandbox_linux.go.
func RunInit() (code int, ok bool) { return 0, false }

// A Box is for Linux: see sandbox_linux.go.
type Box struct{}

// Start always fails here.
func Start() (*Box, error) { return nil, &Unavailable{Why: "credproxy knows none for " + runtime.GOOS} }

// Listener is nil.
func (*Box) Listener() net.Listener { return nil }

// Command is nil.
func (*Box) Command() *exec.Cmd { return nil }

// Launch always fails.
func (*Box) Launch(Program) error { return errors.ErrUnsupported }

// Signal does nothing.
func (*Box) Signal(os.Signal) {}

// Close does nothing.
func (*Box) Close() {}
