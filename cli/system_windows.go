package cli

import (
	"errors"
	"os"
	"os/exec"

	"golang.org/x/sys/windows"
)

// alive reports whether there is a process pid.
func alive(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	_ = p.Release()
	return true
}

// inForeground is true because the console sends ^C to all of its processes.
func inForeground() bool { return true }

// passedOn are the signals that run must outlive; none can be sent to another process.
var passedOn = []os.Signal{os.Interrupt}

func fromTerminal(os.Signal) bool { return true }

// reloadSignals make serve read everything anew; there are none.
var reloadSignals []os.Signal

func statusOf(state *os.ProcessState) int { return state.ExitCode() }

func portInUse(err error) bool { return errors.Is(err, windows.WSAEADDRINUSE) }

// detach does nothing: what opens the browser ends at once.
func detach(*exec.Cmd) {}
