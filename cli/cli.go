// Package cli holds the commands of credproxy, one file each.
package cli

// Main runs the command line args (without the program's name) and returns the exit status.
func Main(args []string) int { return 0 }
