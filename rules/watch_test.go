package rules

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/internal/testneed"
)

// patience is how long a test waits for what must happen; it is not the time in which it should.
const patience = 10 * time.Second

// report is one call of Changed.
type report struct {
	set *Set
	err error
	at  time.Time
}

// following is a Watcher under test.
type following struct {
	*Watcher
	reports chan report
}

func rulesNamed(name string) string {
	return "version: 1\nrules:\n- {name: " + name + ", match: {host: a.test}}\n"
}

func follow(t testing.TB, path string) *following {
	t.Helper()
	f := &following{reports: make(chan report, 100)}
	w, err := Watch(t.Context(), WatchConfig{
		Path: path,
		Poll: time.Hour, // what the tests see, notification has seen
		Changed: func(s *Set, err error) {
			f.reports <- report{s, err, time.Now()}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	f.Watcher = w
	return f
}

func (f *following) next(t testing.TB) report {
	t.Helper()
	select {
	case r := <-f.reports:
		return r
	case <-time.After(patience):
		t.Fatal("no report")
		return report{}
	}
}

func (f *following) name(t testing.TB) string {
	t.Helper()
	return f.Current().Rules()[0].Name
}

// await waits until the rule in force has this name, over reports of broken files on the way.
func (f *following) await(t testing.TB, name string) report {
	t.Helper()
	for {
		r := f.next(t)
		if r.err == nil && r.set.Rules()[0].Name == name {
			if f.Current() != r.set {
				t.Error("the reported Set is not in force")
			}
			return r
		}
	}
}

// settled fails the test if anything was reported that nobody has waited for. Reload is a barrier: what came
// before it has been handled.
func (f *following) settled(t testing.TB) {
	t.Helper()
	f.Reload()
	if f.next(t); len(f.reports) > 0 {
		t.Errorf("one report too many: %+v", f.next(t))
	}
}

// The ways in which programs write a file. Each is given the folder and the new text of rules.yaml.
var writers = map[string]func(t testing.TB, dir, text string){
	"truncate and write": func(t testing.TB, dir, text string) { put(t, filepath.Join(dir, "rules.yaml"), text) },
	"rename over it": func(t testing.TB, dir, text string) {
		put(t, filepath.Join(dir, ".rules.tmp"), text)
		rename(t, filepath.Join(dir, ".rules.tmp"), filepath.Join(dir, "rules.yaml"))
	},
	"vim, backup and new file": func(t testing.TB, dir, text string) {
		file := filepath.Join(dir, "rules.yaml")
		put(t, filepath.Join(dir, "4913"), "")
		remove(t, filepath.Join(dir, "4913"))
		rename(t, file, file+"~")
		put(t, file, text)
		remove(t, file+"~")
	},
	"emacs, lock, auto-save, backup": func(t testing.TB, dir, text string) {
		file := filepath.Join(dir, "rules.yaml")
		if err := os.Symlink("me@host.1:1", filepath.Join(dir, ".#rules.yaml")); err != nil {
			t.Fatal(err)
		}
		put(t, filepath.Join(dir, "#rules.yaml#"), text[:5])
		rename(t, file, file+"~")
		put(t, file, text)
		remove(t, filepath.Join(dir, "#rules.yaml#"))
		remove(t, filepath.Join(dir, ".#rules.yaml"))
	},
	"in pieces": func(t testing.TB, dir, text string) {
		f, err := os.OpenFile(filepath.Join(dir, "rules.yaml"), os.O_WRONLY|os.O_TRUNC, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, piece := range strings.SplitAfter(text, "\n") {
			if _, err := f.WriteString(piece); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	},
	"delete and create": func(t testing.TB, dir, text string) {
		remove(t, filepath.Join(dir, "rules.yaml"))
		put(t, filepath.Join(dir, "rules.yaml"), text)
	},
	"delete the folder and create it": func(t testing.TB, dir, text string) {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		makeDir(t, dir)
		put(t, filepath.Join(dir, "rules.yaml"), text)
	},
	"rename the folder and create it": func(t testing.TB, dir, text string) {
		old := fmt.Sprintf("%s.%d", dir, time.Now().UnixNano())
		rename(t, dir, old)
		makeDir(t, dir)
		put(t, filepath.Join(dir, "rules.yaml"), text)
	},
	"sed -i": func(t testing.TB, dir, text string) {
		run(t, testneed.Program(t, "sed"), "-i", "-e", "s/name: [a-z0-9-]*/"+strings.Split(strings.Split(text, "{")[1], ",")[0]+"/", filepath.Join(dir, "rules.yaml"))
	},
	"cp and mv": func(t testing.TB, dir, text string) {
		put(t, filepath.Join(dir, "new"), text)
		run(t, testneed.Program(t, "mv"), "-f", filepath.Join(dir, "new"), filepath.Join(dir, "rules.yaml"))
	},
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

func rename(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func makeDir(t testing.TB, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestWatchFollowsEveryWriter(t *testing.T) {
	t.Parallel()
	for name, write := range writers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "config")
			makeDir(t, dir)
			put(t, filepath.Join(dir, "rules.yaml"), rulesNamed("r0"))
			f := follow(t, filepath.Join(dir, "rules.yaml"))
			var slowest time.Duration
			for i := 1; i <= 5; i++ { // again and again: watches must survive what they report
				want := fmt.Sprintf("r%d", i)
				write(t, dir, rulesNamed(want))
				wrote := time.Now()
				slowest = max(slowest, f.await(t, want).at.Sub(wrote))
			}
			t.Logf("in force after %v at most", slowest)
			f.settled(t)
		})
	}
}

// As Kubernetes mounts a ConfigMap: rules.yaml → ..data/rules.yaml, ..data → a folder that is swapped.
func TestWatchConfigMap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	release := func(i int) {
		folder := fmt.Sprintf("..2025_%d", i)
		makeDir(t, filepath.Join(dir, folder))
		put(t, filepath.Join(dir, folder, "rules.yaml"), rulesNamed(fmt.Sprintf("r%d", i)))
		link(t, folder, filepath.Join(dir, "..data_tmp"))
		rename(t, filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data"))
	}
	release(0)
	link(t, "..data/rules.yaml", filepath.Join(dir, "rules.yaml"))
	link(t, dir, filepath.Join(dir, "elsewhere")) // and the path that we are given leads through one more link
	f := follow(t, filepath.Join(dir, "elsewhere", "rules.yaml"))
	for i := 1; i <= 5; i++ {
		release(i)
		wrote := time.Now()
		r := f.await(t, fmt.Sprintf("r%d", i))
		t.Logf("in force after %v", r.at.Sub(wrote))
		if err := os.RemoveAll(filepath.Join(dir, fmt.Sprintf("..2025_%d", i-1))); err != nil {
			t.Fatal(err)
		}
	}
	f.settled(t)
}

func link(t testing.TB, to, at string) {
	t.Helper()
	if err := os.Symlink(to, at); err != nil {
		if runtime.GOOS == "windows" {
			t.Skip("needs the right to make symbolic links")
		}
		t.Fatal(err)
	}
}

// The file in a folder of dotfiles, linked to from the configuration folder.
func TestWatchSymlinkedFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, filepath.Join(dir, "real"), rulesNamed("r0"))
	put(t, filepath.Join(dir, "other"), rulesNamed("r2"))
	makeDir(t, filepath.Join(dir, "config"))
	file := filepath.Join(dir, "config", "rules.yaml")
	link(t, "../real", file)
	f := follow(t, file)
	put(t, filepath.Join(dir, "real"), rulesNamed("r1"))
	f.await(t, "r1")
	link(t, "../other", file+".tmp")
	rename(t, file+".tmp", file)
	f.await(t, "r2")
	f.settled(t)
}

func TestWatchKeepsTheLastGoodRules(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "rules.yaml")
	put(t, file, rulesNamed("good"))
	f := follow(t, file)
	for _, tt := range []struct{ name, text, want string }{
		{"half-written", "version: 1\nrules:\n- {name: bad, mat", "rules.yaml:3:3"},
		{"no version", "rules: []\n", `missing field "version"; write version: 1`},
		{"begun", "version: 1\n", `missing field "rules"`},
		{"mistaken", strings.Replace(rulesNamed("bad"), "match", "mach", 1), `unknown field "mach"`},
		{"empty", "", "the file is empty"},
	} {
		put(t, file, tt.text)
		r := f.next(t)
		var e *FileError
		if !errors.As(r.err, &e) || !strings.Contains(r.err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.name, r.err, tt.want)
		}
		if got := f.name(t); got != "good" {
			t.Errorf("%s: rule %q is in force, want good", tt.name, got)
		}
	}
	// The same broken content again, in a new file, is no news.
	put(t, file+".tmp", "")
	rename(t, file+".tmp", file)
	put(t, file, rulesNamed("better"))
	if r := f.next(t); r.err != nil {
		t.Errorf("got %v, want the better rules", r.err)
	}
	remove(t, file)
	if r := f.next(t); !errors.Is(r.err, fs.ErrNotExist) {
		t.Errorf("deleted: got %v, want not exist", r.err)
	}
	if got := f.name(t); got != "better" {
		t.Errorf("deleted: rule %q is in force, want better", got)
	}
	put(t, file, rulesNamed("better")) // the same as before it went
	if r := f.next(t); r.err != nil {
		t.Errorf("back again: got %v", r.err)
	}
	f.settled(t)
}

// A rename over the file leaves no moment without it; but truncate-and-write does, and is not to be reported.
func TestWatchDoesNotReportPassingAbsence(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "rules.yaml")
	put(t, file, rulesNamed("a"))
	f := follow(t, file)
	for i := range 5 {
		remove(t, file)
		put(t, file, "")
		want := fmt.Sprintf("r%d", i)
		put(t, file, rulesNamed(want))
		if r := f.next(t); r.err != nil || f.name(t) != want {
			t.Errorf("got %v and rule %s, want %s", r.err, f.name(t), want)
		}
	}
	f.settled(t)
}

func TestWatchFollowsCertificates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one, _ := certificate(t, "one.test")
	two, _ := certificate(t, "two.test")
	makeDir(t, filepath.Join(dir, "pki"))
	put(t, filepath.Join(dir, "pki", "ca.pem"), one)
	file := filepath.Join(dir, "rules.yaml")
	put(t, file, "version: 1\nrules: [{name: a, match: {host: a.test}, tls: {ca: pki/ca.pem}}]")
	f := follow(t, file)
	id := func() string { return f.Current().Decide("", request(t, "GET", "https://a.test/")).TLS.ID }
	before := id()
	put(t, filepath.Join(dir, "pki", "ca.pem"), two)
	if r := f.next(t); r.err != nil || id() == before {
		t.Errorf("a new ca: got %v, and the ID has not changed", r.err)
	}
	put(t, file, "version: 1\nrules: [{name: a, match: {host: a.test}, tls: {ca: pki/later.pem}}]")
	if r := f.next(t); r.err == nil {
		t.Error("a ca that is not there loads")
	}
	put(t, filepath.Join(dir, "pki", "later.pem"), one)
	if r := f.next(t); r.err != nil || id() != before {
		t.Errorf("the ca arrives: got %v", r.err)
	}
	f.settled(t)
}

func TestWatchIgnoresItsNeighbours(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "rules.yaml")
	put(t, file, rulesNamed("a"))
	f := follow(t, file)
	for i := range 100 {
		put(t, filepath.Join(dir, fmt.Sprint("log", i)), "x")
	}
	put(t, file, rulesNamed("a")) // touched, not changed
	f.settled(t)
}

// File systems that do not notify, such as NFS for changes elsewhere.
func TestWatchPolls(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "rules.yaml")
	put(t, file, rulesNamed("a"))
	reports := make(chan *Set, 10)
	w := newWatcher(WatchConfig{Path: file, Poll: 10 * time.Millisecond, Changed: func(s *Set, _ error) { reports <- s }}, file)
	w.notify = nil
	if err := w.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	put(t, file+".tmp", rulesNamed("b"))
	rename(t, file+".tmp", file)
	select {
	case s := <-reports:
		if got := s.Rules()[0].Name; got != "b" {
			t.Errorf("got rule %s, want b", got)
		}
	case <-time.After(patience):
		t.Fatal("no report")
	}
}

func TestWatchNeedsGoodRulesFirst(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "rules.yaml")
	for _, text := range []string{"", "version: 2\n", "none"} {
		if text != "none" {
			put(t, file, text)
		} else {
			remove(t, file)
		}
		w, err := Watch(t.Context(), WatchConfig{Path: file})
		var e *FileError
		if w != nil || !errors.As(err, &e) {
			t.Errorf("%q: got %v, %v, want a FileError", text, w, err)
		}
	}
}

func TestWatchEnds(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "rules.yaml")
	put(t, file, rulesNamed("a"))
	ctx, cancel := context.WithCancel(context.Background())
	w, err := Watch(ctx, WatchConfig{Path: file})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case <-w.done:
	case <-time.After(patience):
		t.Fatal("runs on after its context has ended")
	}
	w.Reload() // returns, though nobody reads the file any more
	w.Close()
	w.Close()
	if w.Current() == nil {
		t.Error("no rules after Close")
	}
}

// Everyone reads the rules while they change.
func TestWatchIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "rules.yaml")
	put(t, file, rulesNamed("r"))
	f := follow(t, file)
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			req := request(t, "GET", "https://a.test/")
			for ctx.Err() == nil {
				if d := f.Current().Decide("", req); d.Rule == "" {
					t.Error("a moment without rules")
					return
				}
				runtime.Gosched()
			}
		})
	}
	for i := range 20 {
		put(t, file, rulesNamed(fmt.Sprintf("r%d", i)))
		f.Reload()
		if r := f.next(t); r.err != nil {
			t.Error(r.err)
		}
	}
	cancel()
	readers.Wait()
}

// BenchmarkReload reports how long it takes from the end of writing to the new rules' being in force.
func BenchmarkReload(b *testing.B) {
	for _, n := range []int{1, 1_000, 10_000} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			file := filepath.Join(b.TempDir(), "rules.yaml")
			more := "" // after the first rule, whose name tells the versions apart
			if n > 1 {
				more = rulesOfSize(n)
				more = more[strings.Index(more, "- {name: r2"):]
			}
			put(b, file, rulesNamed("v")+more)
			reports := make(chan report, 100)
			w, err := Watch(b.Context(), WatchConfig{Path: file, Env: inject.Env{}, Changed: func(s *Set, err error) { reports <- report{s, err, time.Now()} }})
			if err != nil {
				b.Fatal(err)
			}
			defer w.Close()
			var slowest time.Duration
			for i := 0; b.Loop(); i++ {
				put(b, file, rulesNamed(fmt.Sprintf("v%d", i))+more)
				wrote := time.Now()
				r := <-reports
				if r.err != nil {
					b.Fatal(r.err)
				}
				slowest = max(slowest, r.at.Sub(wrote))
			}
			b.ReportMetric(float64(slowest.Milliseconds()), "ms/slowest")
		})
	}
}
