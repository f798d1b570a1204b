package cli

import (
	"os"
	"strings"
	"testing"
)

// README shows the demo's first table: each line of it, and no line that is not there.
func TestReadmeShowsTheDemo(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "THE SAME REQUEST")
	table, _, end := strings.Cut(table, "\n\n")
	if !ok || !end {
		t.Fatal("README does not show the demo")
	}
	shown := map[string]bool{}
	for _, line := range strings.Split(table, "\n")[1:] {
		shown[strings.TrimSpace(line[:min(len(line), 40)])] = true
	}
	s := &sample{}
	s.login = newLogin(&sampleServer{}, s.note)
	for _, c := range demoCases(s) {
		if c.title != "" && !shown[c.title] {
			t.Errorf("README does not show %q", c.title)
		}
		delete(shown, c.title)
	}
	for line := range shown {
		t.Errorf("README shows %q, which the demo does not", line)
	}
}
