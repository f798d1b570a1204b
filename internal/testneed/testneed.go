// Package testneed lets a test say what it needs beyond Go. On a machine without it the test skips and says so;
// where CREDPROXY_TEST_REQUIRE_ALL is set, as in CI, it fails.
package testneed

import (
	"os"
	"os/exec"
	"testing"
)

// Program returns the path of the first of names that is on PATH.
func Program(t testing.TB, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	Missing(t, "program", names)
	return ""
}

// PythonModule returns a Python 3 that can import module.
func PythonModule(t testing.TB, module string) string {
	t.Helper()
	// Debian's modules belong to /usr/bin/python3, which need not be the first on PATH.
	for _, name := range []string{"python3", "/usr/bin/python3"} {
		path, err := exec.LookPath(name)
		if err == nil && exec.Command(path, "-c", "import "+module).Run() == nil {
			return path
		}
	}
	Missing(t, "Python module", module)
	return ""
}

// Missing skips the test because it needs what, or fails it where everything is required.
func Missing(t testing.TB, kind string, what any) {
	t.Helper()
	if os.Getenv("CREDPROXY_TEST_REQUIRE_ALL") != "" {
		t.Fatalf("needs %s %v, which is not installed", kind, what)
	}
	t.Skipf("needs %s %v, which is not installed", kind, what)
}
