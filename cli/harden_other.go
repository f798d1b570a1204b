//go:build !linux

package cli

// harden has no counterpart here: see harden_linux.go.
func harden() error { return nil }

func noCoreDumps() error { return nil }
