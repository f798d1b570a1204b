package cli

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// harden keeps other processes of the same user from reading this one's memory, through ptrace, /proc or a core dump.
// See prctl(2), PR_SET_DUMPABLE; a program that is started from here is not affected.
func harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("making the process's memory private: %w", err)
	}
	return nil
}

// noCoreDumps is for a process that starts no program of the user's: children inherit the limit.
func noCoreDumps() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("switching core dumps off: %w", err)
	}
	return nil
}
