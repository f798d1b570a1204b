package cli

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
)

// findBrowser is how to open an address in the person's browser, or nil if there is none here.
func findBrowser() func(address string) error {
	command := browserCommand(runtime.GOOS, os.Getenv)
	if command == nil {
		return nil
	}
	path, err := exec.LookPath(command[0])
	if err != nil {
		return nil
	}
	return func(address string) error { return openBrowser(path, command[1:], address) }
}

// browserCommand is the program that opens addresses, with %s where the address goes; nil: there is none.
func browserCommand(goos string, getenv func(string) string) []string {
	// $BROWSER is a list, the first one of which counts here.
	first, _, _ := strings.Cut(getenv("BROWSER"), string(os.PathListSeparator))
	command := strings.Fields(first)
	switch {
	case len(command) > 0:
	case goos == "windows":
		command = []string{"rundll32", "url.dll,FileProtocolHandler"}
	case goos == "darwin":
		command = []string{"open"}
	case getenv("DISPLAY") == "" && getenv("WAYLAND_DISPLAY") == "": // also over SSH
		return nil
	default:
		command = []string{"xdg-open"}
	}
	if !slices.ContainsFunc(command, func(word string) bool { return strings.Contains(word, "%s") }) {
		command = append(command, "%s")
	}
	return command
}

// openBrowser starts the browser and does not wait for its end. It gets none of our passphrases, and may not write to
// our terminal.
func openBrowser(path string, args []string, address string) error {
	if !strings.HasPrefix(address, "https://") && !strings.HasPrefix(address, "http://") {
		return errors.New("not an address for a browser")
	}
	words := make([]string, len(args))
	for i, arg := range args {
		words[i] = strings.ReplaceAll(arg, "%s", address)
	}
	cmd := exec.Command(path, words...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(line string) bool {
		name, _, _ := strings.Cut(line, "=")
		return slices.Contains(passphraseVariables, name)
	})
	detach(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // it may outlive us
	return nil
}
