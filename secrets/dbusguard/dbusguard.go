// Package dbusguard keeps the keyring library from touching D-Bus inside the proxy. Importing that library dials
// the session bus from an init function: a bus that does not answer would hang the program before main, and with
// no address set a dbus-daemon would be started that nobody ends. So this package points the address at nothing,
// except in the helper process.
//
// It must import only os. Go initialises ready packages in the order of their import paths, and godbus waits for
// net and os/exec, so this init is always first. A test of package secrets asserts the order.
package dbusguard

import "os"

// HelperVariable is set, to anything, in the environment of the helper process only.
const HelperVariable = "CREDPROXY_KEYRING_HELPER"

// AddressVariable holds the address of the session bus.
const AddressVariable = "DBUS_SESSION_BUS_ADDRESS"

// Nowhere is an address that fails at once. An empty one would make godbus run dbus-launch.
const Nowhere = "unix:path=/nonexistent/credproxy-uses-a-helper-process"

// A variable initialiser, because it must run before the init below replaces the address.
var original, wasSet = os.LookupEnv(AddressVariable)

func init() {
	if os.Getenv(HelperVariable) == "" {
		// It can only fail for a malformed name.
		_ = os.Setenv(AddressVariable, Nowhere)
	}
}

// Original is the address that the process was started with, and whether there was one.
func Original() (address string, ok bool) { return original, wasSet }
