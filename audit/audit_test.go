package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestEveryEventIsOneLine(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "audit.log")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var mu sync.Mutex
	heard := 0
	l := New(f, func(Event) { mu.Lock(); heard++; mu.Unlock() })
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 50 {
				l.Write(Event{Method: "GET", Host: "api.example.com", Path: "/a\nb", Decision: "inject"})
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	lines := 0
	for s := bufio.NewScanner(in); s.Scan(); lines++ {
		var e Event
		if err := json.Unmarshal(s.Bytes(), &e); err != nil || e.Path != "/a\nb" {
			t.Fatalf("line %d: %v, path %q", lines, err, e.Path)
		}
	}
	if lines != 1000 || heard != 1000 {
		t.Errorf("got %d lines and %d heard, want 1000 and 1000", lines, heard)
	}
}

// flaky fails until it is mended.
type flaky struct {
	mu     sync.Mutex
	broken bool
	got    []byte
}

func (f *flaky) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken {
		half := len(p) / 2
		f.got = append(f.got, p[:half]...)
		return half, errors.New("disk full")
	}
	f.got = append(f.got, p...)
	return len(p), nil
}

func TestBrokenWriterIsReportedAndRecovers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &flaky{broken: true}
		l := New(w)
		l.Write(Event{Method: "GET", Host: "a"})
		time.Sleep(gather) // of the bubble's clock
		synctest.Wait()
		if l.Err() == nil {
			t.Error("Err is nil while the writer fails")
		}
		w.mu.Lock()
		w.broken = false
		w.mu.Unlock()
		l.Write(Event{Method: "GET", Host: "b"})
		time.Sleep(retryAfter)
		synctest.Wait()
		if err := l.Err(); err != nil {
			t.Errorf("Err is %v after the writer recovered", err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		var hosts []string
		for dec := json.NewDecoder(bytes.NewReader(w.got)); dec.More(); {
			var e Event
			if err := dec.Decode(&e); err != nil {
				t.Fatal(err)
			}
			hosts = append(hosts, e.Host)
		}
		if len(hosts) != 2 || hosts[0] != "a" || hosts[1] != "b" {
			t.Errorf("got events for %v, want a and b, each whole and once", hosts)
		}
	})
}

// A disk that stays full must not stop the requests that need no credential, nor the end of the proxy.
func TestBrokenWriterHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &flaky{broken: true}
		l := New(w)
		event := Event{Method: "GET", Host: "a", Rule: strings.Repeat("x", 1<<20)}
		const sent = 20 // much more than may be pending
		wrote := make(chan struct{})
		go func() {
			defer close(wrote)
			for range sent {
				l.Write(event)
			}
		}()
		select {
		case <-wrote:
		case <-time.After(time.Minute): // of the bubble's clock
			t.Error("Write waits for a writer that fails")
		}
		w.mu.Lock()
		w.broken = false
		w.mu.Unlock()
		time.Sleep(2 * retryAfter)
		synctest.Wait()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		<-wrote
		whole, lost := 0, ""
		for dec := json.NewDecoder(bytes.NewReader(w.got)); dec.More(); {
			var e Event
			if err := dec.Decode(&e); err != nil {
				t.Fatal(err)
			}
			if e.Decision == "lost" {
				lost = e.Reason
			} else {
				whole++
			}
		}
		if want := fmt.Sprintf("%d events while the log could not be written", sent-whole); whole == 0 || lost != want {
			t.Errorf("%d events are whole and the log says %q, want %q", whole, lost, want)
		}
	})
}

func TestWriteAfterCloseDoesNotHang(t *testing.T) {
	t.Parallel()
	l := New(&flaky{})
	_ = l.Close()
	_ = l.Close()
	l.Write(Event{})
}

func TestNilLog(t *testing.T) {
	t.Parallel()
	var l *Log
	l.Write(Event{})
	if l.Err() != nil || l.Close() != nil {
		t.Error("a nil Log is broken")
	}
}

func TestEncodingIsEncodingJSONs(t *testing.T) {
	t.Parallel()
	for i, e := range []Event{
		{},
		{Time: time.Unix(1, 5).UTC(), Client: "run", Method: "GET", Host: "a:1", Path: "/<&>\"\\\x00é\xff", Rule: "r", Decision: "inject", Reason: "x\ny", Trial: "no_rule",
			Inject: []string{"bearer", "basic"}, Secrets: []string{"keyring:a#b"}, Status: 200, Sent: 1, Received: -2, Duration: time.Second, Error: "loop"},
	} {
		want, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		for f, v := range reflect.ValueOf(e).Fields() {
			if i == 1 && v.IsZero() {
				t.Errorf("no event here has %s", f.Name)
			}
		}
		if got := e.appendJSON(nil); string(got) != string(want) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	l := New(io.Discard)
	defer l.Close()
	e := Event{Time: time.Now(), Method: "GET", Host: "api.example.com", Path: "/v1/things", Rule: "things", Decision: "inject",
		Inject: []string{"bearer"}, Secrets: []string{"keyring:things"}, Status: 200, Received: 1024, Duration: time.Millisecond}
	b.ReportAllocs()
	for b.Loop() {
		l.Write(e)
	}
}

// What a client can make long is cut, and says so.
func TestLongFieldsAreCut(t *testing.T) {
	t.Parallel()
	var got bytes.Buffer
	l := New(&got)
	long := strings.Repeat("é", 1<<19)
	l.Write(Event{Method: long, Host: long, Client: long, Path: "/" + long, Reason: long})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got.Len() > 8<<10 {
		t.Errorf("the line has %d bytes", got.Len())
	}
	var e Event
	if err := json.Unmarshal(got.Bytes(), &e); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"method": e.Method, "host": e.Host, "client": e.Client, "path": e.Path, "reason": e.Reason} {
		if !strings.Contains(text, "é… (10485") || strings.Contains(text, "�") {
			t.Errorf("%s is %.40q…%q", name, text, text[max(0, len(text)-30):])
		}
	}
	if got := shortened(strings.Repeat("x", maxPath), maxPath); len(got) != maxPath {
		t.Errorf("a path of %d bytes became one of %d", maxPath, len(got))
	}
}

// docs/audit.md lists every field and every decision.
func TestDocsListEveryField(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"seq", "prev", "inject", "pass", "tunnel", "refuse", "begin", "mend", "lost"}
	for f := range reflect.TypeFor[Event]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, name)
	}
	for _, name := range names {
		if !regexp.MustCompile("(?m)^\\| (`[a-z]+`, )*`" + name + "`[,| ]").Match(page) {
			t.Errorf("docs/audit.md has no line for %s", name)
		}
	}
}
