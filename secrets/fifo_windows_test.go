package secrets

import "testing"

func mkfifo(t *testing.T, _ string) {
	t.Helper()
	t.Skip("Windows has no named pipes in folders")
}
