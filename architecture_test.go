package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/rules"
)

const module = "github.com/credproxy/credproxy"

// arrows says who may import whom. Nothing else may.
var arrows = map[string][]string{
	"":                  {"cli"},
	"cli":               {"proxy", "certs", "audit", "rules", "inject", "oauth", "secrets", "clients", "sandbox", "internal/strict"},
	"proxy":             {"rules", "inject", "audit", "secrets", "internal/mask"},
	"rules":             {"inject", "secrets", "internal/strict"},
	"inject":            {"oauth", "secrets", "internal/strict"},
	"oauth":             {"secrets"},
	"secrets":           {"secrets/dbusguard"},
	"secrets/dbusguard": {},
	"certs":             {},
	"audit":             {},
	"clients":           {},
	"sandbox":           {},
	"internal/mask":     {},
	"internal/strict":   {},
	"internal/testneed": {},
	"internal/testoidc": {"internal/testneed"},
}

func TestImportsGoOneWay(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		from := strings.TrimPrefix(strings.TrimPrefix(words[0], module), "/")
		allowed, known := arrows[from]
		if !known {
			t.Errorf("package %s is not in the table", from)
			continue
		}
		seen++
		for _, to := range words[1:] {
			if to, ours := strings.CutPrefix(to, module+"/"); ours && !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s", words[0], to)
			}
		}
	}
	if seen != len(arrows) {
		t.Errorf("%d packages of %d in the table exist", seen, len(arrows))
	}
}

// TestOnlyTheDemoSignsForAnyHost: certs.Open is for servers of the demo and of tests.
func TestOnlyTheDemoSignsForAnyHost(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") || file == filepath.Join("cli", "demo_sample.go") {
			continue
		}
		if data, err := os.ReadFile(file); err != nil || strings.Contains(string(data), "certs.Open(") {
			t.Errorf("%s calls certs.Open (%v)", file, err)
		}
	}
}

// TestNoDebugHandlersInTheBinary: no profiler or debug page is in the binary.
func TestNoDebugHandlersInTheBinary(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, banned := range []string{"net/http/pprof", "expvar"} {
		if slices.Contains(strings.Fields(string(out)), banned) {
			t.Errorf("the binary contains %s", banned)
		}
	}
}

// TestDocsNameRealTests: each test that a page names exists.
func TestDocsNameRealTests(t *testing.T) {
	t.Parallel()
	sources := testSources(t)
	named := regexp.MustCompile("`((?:Test|Benchmark|Fuzz)[A-Za-z0-9]+)`")
	total := 0
	for _, page := range pages(t) {
		text := read(t, page)
		for _, m := range named.FindAllStringSubmatch(text, -1) {
			total++
			if !strings.Contains(sources, "func "+m[1]+"(") {
				t.Errorf("%s names %s, which does not exist", page, m[1])
			}
		}
	}
	if total < 20 {
		t.Errorf("the pages name %d tests, want at least one for each promise", total)
	}
}

// TestDocsLinksResolve: relative links lead to files.
func TestDocsLinksResolve(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	for _, page := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			}
		}
	}
}

func pages(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	return append(found, "README.md", "CONTRIBUTING.md")
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func testSources(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(".", func(path string, _ os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			all.WriteString(read(t, path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// TestExamplesInTheDocsLoad: every rules file that a page shows is a rules file.
func TestExamplesInTheDocsLoad(t *testing.T) {
	t.Parallel()
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```")
	files := 0
	for _, page := range pages(t) {
		for _, m := range block.FindAllStringSubmatch(read(t, page), -1) {
			text := unindent(m[1])
			if !strings.HasPrefix(text, "version:") {
				continue
			}
			files++
			if _, err := rules.Parse("rules.yaml", []byte(text), inject.Env{}); err != nil {
				t.Errorf("%s shows a rules file that does not load:\n%v\n%s", page, err, text)
			}
		}
	}
	if files == 0 {
		t.Error("no page shows a rules file")
	}
}

// unindent takes the first line's indentation, as of a block in a list, off every line.
func unindent(text string) string {
	indent := text[:len(text)-len(strings.TrimLeft(text, " "))]
	return strings.ReplaceAll(strings.TrimPrefix(text, indent), "\n"+indent, "\n")
}
