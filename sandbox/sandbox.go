// Package sandbox runs a program that has no way out but one listener on loopback. It knows no proxy.
//
// On Linux a sandbox is namespaces (namespaces(7)): a network with nothing but loopback, processes that see only each
// other, and mounts in which some paths are hidden and others cannot be written. No privilege is needed where the system
// lets its users make user namespaces. Elsewhere there is none: Start says so.
package sandbox

import "fmt"

// Program is what runs in a sandbox, and what it gets to see. Paths are absolute; those that do not exist are skipped.
type Program struct {
	Path string
	Args []string // from the program's name on
	Env  []string

	Hide     []string // folders and files that look empty
	Keep     []string // folders and files below Hide that can be read all the same
	ReadOnly []string // folders and files that cannot be written
}

// Unavailable is the error where there can be no sandbox.
type Unavailable struct{ Why string }

func (e *Unavailable) Error() string { return "there can be no sandbox here: " + e.Why }

// failed is an error of a step of the set-up.
func failed(step string, err error) error { return fmt.Errorf("%s: %w", step, err) }
