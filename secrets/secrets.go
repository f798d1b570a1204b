// Package secrets turns references into values: from the operating system's keyring, the environment,
// files and commands. It knows no HTTP.
//
// A Ref names a secret, a Resolver gives its Value, a Store is the keyring behind keyring: references.
// Programs that use a Store call RunHelper first thing in main.
package secrets

import "time"

// Bounds of the package. Nothing that it reads or waits for is without one.
const (
	maxValue   = 64 << 10 // bytes of a secret
	maxMessage = 1 << 20  // bytes of a request to the helper process, or of its reply
)

// wall is the time without its monotonic part, which stands still while a laptop sleeps.
func wall() time.Time { return time.Now().Round(0) }
