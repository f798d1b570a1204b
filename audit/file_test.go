package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/credproxy/credproxy/internal/testneed"
)

// openTestFile opens the log at path, which is moved aside when it has more than bound bytes.
func openTestFile(t testing.TB, path string, bound int64) *File {
	t.Helper()
	f, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f.bound = bound
	return f
}

func writeEvents(t testing.TB, f *File, paths ...string) {
	t.Helper()
	var lines []byte
	for _, path := range paths {
		e := Event{Time: time.Unix(1, 0).UTC(), Method: "GET", Host: "api.example.com", Path: path, Decision: "inject"}
		lines = append(e.appendJSON(lines), '\n')
	}
	if n, err := f.Write(lines); err != nil || n != len(lines) {
		t.Fatalf("wrote %d of %d bytes: %v", n, len(lines), err)
	}
}

// linesOf is what stands in the log and its old files, the oldest first.
func linesOf(t testing.TB, path string) (events []Event) {
	t.Helper()
	for n := keepOld; n >= 0; n-- {
		data, err := os.ReadFile(oldPath(path, n))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for line := range bytes.Lines(data) {
			var e Event
			if err := json.Unmarshal(line, &e); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			events = append(events, e)
		}
	}
	return events
}

func decisions(events []Event) string {
	var words []string
	for _, e := range events {
		words = append(words, e.Decision)
	}
	return strings.Join(words, " ")
}

func verified(t testing.TB, path string) Report {
	t.Helper()
	r, err := Verify(path)
	if err != nil {
		t.Fatalf("the log is not intact: %v", err)
	}
	return r
}

func TestChainGoesOnOverRestartsAndOldFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.log")
	const bound = 2048
	for i := range 30 { // each with a File of its own, as after a restart
		writeEvents(t, openTestFile(t, path, bound), fmt.Sprintf("/%d/a", i), fmt.Sprintf("/%d/b", i))
	}
	r := verified(t, path)
	if len(r.Files) != 1+keepOld || r.First.seq == 1 {
		t.Errorf("got files %v from line %d on; want %d files, and the first one dropped", r.Files, r.First.seq, 1+keepOld)
	}
	for n := range 1 + keepOld {
		info, err := os.Stat(oldPath(path, n))
		if err != nil || info.Size() > bound+1024 {
			t.Errorf("%v, %v: want at most about %d bytes", info, err, bound)
		}
		if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", info.Name(), info.Mode())
		}
	}
	if _, err := os.Stat(oldPath(path, keepOld+1)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("one old file too many: %v", err)
	}
	// The first line of a file names the last one of the file before.
	old, err := os.ReadFile(oldPath(path, 1))
	if err != nil {
		t.Fatal(err)
	}
	last, _, _ := readLine(old[bytes.LastIndexByte(old[:len(old)-1], '\n')+1:])
	now, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first, prev, ok := readLine(now[:bytes.IndexByte(now, '\n')+1])
	if !ok || prev != last.hash || first.seq != last.seq+1 {
		t.Errorf("line %d of the new file names %x; want line %d and %x", first.seq, prev, last.seq+1, last.hash)
	}
}

// The chain is made so that everybody can check it with a shell.
func TestChainByHand(t *testing.T) {
	t.Parallel()
	sha := testneed.Program(t, "sha256sum")
	path := filepath.Join(t.TempDir(), "audit.log")
	writeEvents(t, openTestFile(t, path, fileBound), "/one", "/two")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	cmd := exec.CommandContext(t.Context(), sha)
	cmd.Stdin = bytes.NewReader(lines[1])
	sum, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var e struct {
		Seq  int
		Prev string
		Path string
	}
	if err := json.Unmarshal(lines[2], &e); err != nil {
		t.Fatal(err)
	}
	if want, _, _ := strings.Cut(string(sum), " "); e.Prev != want || e.Seq != 3 || e.Path != "/two" {
		t.Errorf("got %+v, want prev %s", e, want)
	}
}

func TestProcessesWriteOneChain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.log")
	const processes, each = 4, 100
	var wg sync.WaitGroup
	for range processes {
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), childVariable+"="+path, fmt.Sprintf("AUDIT_TEST_EVENTS=%d", each))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
	verified(t, path)
	seen := map[string]bool{}
	for _, e := range linesOf(t, path) {
		if e.Decision == "inject" {
			seen[e.Path] = true
		}
	}
	if len(seen) != processes*each {
		t.Errorf("got %d different events, want %d", len(seen), processes*each)
	}
}

func TestKilledWhileWriting(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.log")
	said := 0
	for round := range 10 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childVariable+"="+path, "AUDIT_TEST_EVENTS=1000000")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range 1 + round*7 {
			if !lines.Scan() {
				t.Fatal("the writer has ended")
			}
			said++
		}
		_ = cmd.Process.Kill()
		for lines.Scan() {
			said++
		}
		_ = cmd.Wait()
		openTestFile(t, path, fileBound)
		verified(t, path)
	}
	if last := verified(t, path).Last; last.seq <= uint64(said) {
		t.Errorf("the last line is %d, and %d were written", last.seq, said)
	}
}

func TestMend(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		damage func(log []byte) []byte
		says   string // in the line that comes next; empty: nothing is said
		broken string // what Verify says in the end; empty: it is intact
	}{
		{name: "half a line", damage: func(log []byte) []byte { return append(log, `{"seq":4,"prev":"0`...) },
			says: `has been taken off: {\"seq\":4,\"prev\":\"0`},
		{name: "zeros", damage: func(log []byte) []byte { return append(log, make([]byte, 4096)...) }, says: `has been taken off: \u0000`},
		{name: "the newline", damage: func(log []byte) []byte { return log[:len(log)-1] }, says: "has been taken off", broken: "line 3 is missing"},
		{name: "the last line", damage: func(log []byte) []byte { return log[:bytes.LastIndexByte(log[:len(log)-1], '\n')+1] },
			says: "is not what was written there", broken: "line 3 is missing"},
		{name: "everything", damage: func([]byte) []byte { return nil }, says: "moved or removed", broken: "lines 1 to 3 are missing"},
		{name: "a line of somebody else", damage: func(log []byte) []byte { return append(log, "hello\n"...) },
			says: "not written by credproxy", broken: "not a line that credproxy wrote"},
		{name: "one line that never ends", damage: func([]byte) []byte { return bytes.Repeat([]byte("x"), 100<<10) },
			says: "… (1024", broken: "lines 1 to 3 are missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "audit.log")
			writeEvents(t, openTestFile(t, path, fileBound), "/one", "/two")
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, test.damage(data), 0o600); err != nil {
				t.Fatal(err)
			}
			writeEvents(t, openTestFile(t, path, fileBound), "/three")
			data, err = os.ReadFile(path)
			if err != nil || !strings.Contains(string(data), test.says) {
				t.Errorf("the log is\n%.2000s\nand does not say %q (%v)", data, test.says, err)
			}
			_, err = Verify(path)
			if test.broken == "" && err != nil || test.broken != "" && (err == nil || !strings.Contains(err.Error(), test.broken)) {
				t.Errorf("Verify says %v, want %q", err, test.broken)
			}
		})
	}
}

// A crash after the log was written and before its record was.
func TestRecordIsOlderThanTheLog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.log")
	f := openTestFile(t, path, fileBound)
	writeEvents(t, f, "/one")
	old, err := os.ReadFile(recordPath(path))
	if err != nil {
		t.Fatal(err)
	}
	writeEvents(t, f, "/two", "/three")
	if err := os.WriteFile(recordPath(path), old, 0o600); err != nil {
		t.Fatal(err)
	}
	verified(t, path)
	writeEvents(t, openTestFile(t, path, fileBound), "/four")
	if got, want := decisions(linesOf(t, path)), "begin inject inject inject inject"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	verified(t, path)
}

// Nothing of a write that failed in the middle stays, except whole lines, and those are not written again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	shell := testneed.Program(t, "sh")
	path := filepath.Join(t.TempDir(), "audit.log")
	cmd := exec.CommandContext(t.Context(), shell, "-c", `ulimit -f 2 && exec "$0"`, os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+path, "AUDIT_TEST_EVENTS=100")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "file too large") {
		t.Fatalf("the writer ended with %v: %s", err, out)
	}
	verified(t, path)
	writeEvents(t, openTestFile(t, path, fileBound), "/after")
	if got := decisions(linesOf(t, path)); strings.Contains(got, "mend") || !strings.HasSuffix(got, "inject") {
		t.Errorf("got %q, want nothing to mend", got)
	}
	verified(t, path)
}

// A person, or logrotate, may move the log away or empty it.
func TestLogMovedByAPerson(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.log")
	f := openTestFile(t, path, fileBound)
	writeEvents(t, f, "/one")
	if err := os.Rename(path, path+".moved"); err != nil {
		t.Fatal(err)
	}
	writeEvents(t, f, "/two")
	if got, want := decisions(linesOf(t, path)), "begin inject"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := Verify(path); err == nil || !strings.Contains(err.Error(), "lines 1 to 2 are missing") {
		t.Errorf("Verify says %v", err)
	}
	if r, err := VerifyFiles([]string{path, path + ".moved"}); err != nil || r.Lines != 4 {
		t.Errorf("the files together: %+v, %v", r, err)
	}
}

// What stops others from reading is put back.
func TestExposedLogIsClosed(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no modes to go by")
	}
	path := filepath.Join(t.TempDir(), "audit.log")
	f := openTestFile(t, path, fileBound)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	writeEvents(t, f, "/one")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v; want mode 0600", info.Mode(), err)
	}
}

// A process that was stopped in the middle of a write must not stop the others for good.
func TestLockIsNotWaitedForInVain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.log")
	f := openTestFile(t, path, fileBound)
	held, err := openRecord(recordPath(path))
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	if _, err := f.Write([]byte("{}\n")); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(started); took > 10*lockWait {
		t.Errorf("it took %v", took)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	writeEvents(t, f, "/one")
	verified(t, path)
}

// A log, with its record, to try attacks on.
func attackedLog(t testing.TB, bound int64, events int) (folder string) {
	t.Helper()
	folder = t.TempDir()
	f := openTestFile(t, filepath.Join(folder, "audit.log"), bound)
	for i := range events {
		writeEvents(t, f, fmt.Sprintf("/%d", i))
	}
	verified(t, filepath.Join(folder, "audit.log"))
	return folder
}

// Every byte of the log counts.
func TestEveryChangedByteIsFound(t *testing.T) {
	t.Parallel()
	folder := attackedLog(t, 600, 7)
	path := filepath.Join(folder, "audit.log")
	for n := range 3 {
		name := oldPath(path, n)
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for i := range data {
			for _, bit := range []byte{1, 0x20} {
				changed := bytes.Clone(data)
				changed[i] ^= bit
				if err := os.WriteFile(name, changed, 0o600); err != nil {
					t.Fatal(err)
				}
				var broken *Broken
				if r, err := Verify(path); !errors.As(err, &broken) {
					t.Fatalf("byte %d of %s: %q for %q: %+v, %v", i, filepath.Base(name), changed[i], data[i], r, err)
				}
			}
		}
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	verified(t, path)
}

func TestAttacksOnLinesAreFound(t *testing.T) {
	t.Parallel()
	lines := func(folder, name string) [][]byte {
		data, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		l := bytes.SplitAfter(data, []byte("\n"))
		return l[:len(l)-1]
	}
	put := func(folder, name string, lines ...[]byte) {
		if err := os.WriteFile(filepath.Join(folder, name), bytes.Join(lines, nil), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	forged := func(after []byte) []byte {
		at, _, _ := readLine(after)
		line, _ := at.appendEvent(nil, Event{Decision: "pass"})
		return line
	}
	for _, test := range []struct {
		name   string
		attack func(folder string)
		says   string
	}{
		{"removed", func(f string) { l := lines(f, "audit.log"); put(f, "audit.log", append(l[:1], l[2:]...)...) }, "audit.log:2: line 12 is missing"},
		{"first of a file removed", func(f string) { put(f, "audit.log", lines(f, "audit.log")[1:]...) }, "audit.log:1: line 11 is missing"},
		{"first of all removed", func(f string) { put(f, "audit.log.2", lines(f, "audit.log.2")[1:]...) }, "audit.log.2:1: line 1 is missing"},
		{"last removed", func(f string) { l := lines(f, "audit.log"); put(f, "audit.log", l[:len(l)-1]...) }, "is missing after this line"},
		{"last removed with the record", func(f string) {
			l := lines(f, "audit.log")
			put(f, "audit.log", l[:len(l)-1]...)
			_ = os.Remove(filepath.Join(f, "audit.log.last"))
		}, "audit.log.last: it does not say"},
		{"last removed, more written without the record", func(f string) {
			l := lines(f, "audit.log")
			put(f, "audit.log", l[:len(l)-1]...)
			writeEvents(t, openTestFile(t, filepath.Join(f, "audit.log"), fileBound), "/more")
		}, "is missing before this line"},
		{"swapped", func(f string) { l := lines(f, "audit.log"); put(f, "audit.log", l[1], l[0], l[2]) }, "missing before this line"},
		{"twice", func(f string) { l := lines(f, "audit.log"); put(f, "audit.log", l[0], l[0], l[1], l[2]) }, "inserted, changed or moved"},
		{"inserted", func(f string) { l := lines(f, "audit.log"); put(f, "audit.log", l[0], forged(l[0]), l[1], l[2]) }, "inserted, changed or moved"},
		{"replaced by a forged one", func(f string) { l := lines(f, "audit.log"); put(f, "audit.log", l[0], forged(l[0]), l[2]) }, "audit.log:2: this line was changed"},
		{"the last one replaced by a forged one", func(f string) { l := lines(f, "audit.log"); put(f, "audit.log", l[0], l[1], forged(l[1])) }, "audit.log:3: this line was changed"},
		{"all from one on made anew", func(f string) {
			l := lines(f, "audit.log")
			one := forged(l[0])
			two := forged(one)
			put(f, "audit.log", l[0], one, two, forged(two))
		}, "audit.log:3: this line was changed"},
		{"not JSON", func(f string) { l := lines(f, "audit.log"); put(f, "audit.log", l[0], []byte("x\n"), l[2]) }, "audit.log:2: this is not a line"},
		{"an empty line", func(f string) { l := lines(f, "audit.log"); put(f, "audit.log", l[0], []byte("\n"), l[1], l[2]) }, "audit.log:2: this is not a line"},
		{"something behind the object", func(f string) {
			l := lines(f, "audit.log")
			put(f, "audit.log", l[0], l[1], append(l[2][:len(l[2])-1:len(l[2])-1], " {}\n"...))
		}, "audit.log:3: this is not a line"},
		{"a file removed", func(f string) { _ = os.Remove(filepath.Join(f, "audit.log.1")) }, "are missing before this line"},
		{"the oldest file removed", func(f string) { _ = os.Remove(filepath.Join(f, "audit.log.2")) }, "are missing before this line"},
		{"the newest file emptied", func(f string) { put(f, "audit.log") }, "are missing after this line"},
		{"a file of another log", func(f string) {
			other := attackedLog(t, 1200, 10)
			l := lines(other, "audit.log.1")
			put(f, "audit.log.1", l...)
		}, "audit.log.2:"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			folder := attackedLog(t, 1100, 10)
			test.attack(folder)
			r, err := Verify(filepath.Join(folder, "audit.log"))
			var broken *Broken
			if !errors.As(err, &broken) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %+v, %v; want an error that says %q", r, err, test.says)
			}
		})
	}
}

// Who can write to the folder can take back the log and its record. Only an anchor that is kept elsewhere shows that.
func TestAnchor(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.log")
	f := openTestFile(t, path, fileBound)
	writeEvents(t, f, "/one")
	early, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	record, err := os.ReadFile(recordPath(path))
	if err != nil {
		t.Fatal(err)
	}
	writeEvents(t, f, "/two")
	anchor, err := ParseAnchor(verified(t, path).Last.String())
	if err != nil {
		t.Fatal(err)
	}
	writeEvents(t, f, "/three")
	if _, err := Verify(path, anchor); err != nil {
		t.Errorf("the anchor is not found: %v", err)
	}
	if err := errors.Join(os.WriteFile(path, early, 0o600), os.WriteFile(recordPath(path), record, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(path); err != nil {
		t.Errorf("this cannot be known without an anchor: %v", err)
	}
	if _, err := Verify(path, anchor); err == nil || !strings.Contains(err.Error(), "the anchor names is not there") {
		t.Errorf("got %v", err)
	}
	writeEvents(t, f, "/other")
	if _, err := Verify(path, anchor); err == nil || !strings.Contains(err.Error(), "audit.log:3: this line is not the one that the anchor 3 names") {
		t.Errorf("got %v", err)
	}
	for _, bad := range []string{"", "3", "3:", "3:00", "x" + anchor.String(), anchor.String() + "0", " " + anchor.String()} {
		if a, err := ParseAnchor(bad); err == nil {
			t.Errorf("%q is taken for %v", bad, a)
		}
	}
}

func BenchmarkFile(b *testing.B) {
	e := Event{Time: time.Now(), Method: "GET", Host: "api.example.com", Path: "/v1/things", Rule: "things", Decision: "inject",
		Inject: []string{"bearer"}, Secrets: []string{"keyring:things"}, Status: 200, Received: 1024, Duration: time.Millisecond}
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprintf("batch=%d", n), func(b *testing.B) {
			f := openTestFile(b, filepath.Join(b.TempDir(), "audit.log"), fileBound)
			var batch []byte
			for range n {
				batch = append(e.appendJSON(batch), '\n')
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.Write(batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/event")
		})
	}
}

var _ io.Writer = (*File)(nil)
