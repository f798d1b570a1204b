package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/credproxy/credproxy/audit"
)

// fillLog has a client mistrust the proxy's certificate, so that the proxy has something to log.
func (d *demo) fillLog(ctx context.Context) error {
	r := d.request(d.list[0], d.proxy)
	r.roots = d.sampleRoots()
	if _, err := d.send(ctx, goClient{api: d.sample.api.address}, r); err == nil {
		return errors.New("a client that does not know the proxy's CA trusts it")
	}
	ctx, cancel := context.WithTimeout(ctx, demoTimeout)
	defer cancel()
	select {
	case <-d.mistrusted:
	case <-ctx.Done(): // an empty log will be noticed
	}
	return nil
}

// noteEvent sees every audit event.
func (d *demo) noteEvent(e audit.Event) {
	if e.Error != "client_tls" {
		return
	}
	select {
	case d.mistrusted <- struct{}{}:
	default:
	}
}

// showLeaks is the third table: every secret and token, looked for wherever it must not be.
func (d *demo) showLeaks() error {
	values := d.sample.mustNotLeak()
	d.table.head(plural(len(values), "secret value")+", looked for in", "SIZE", "FOUND")
	state := d.statePath()
	files := []struct{ title, path string }{
		{"the proxy's log, at level debug", d.logPath()},
		{"the audit log", filepath.Join(state, "audit.log")},
		{"the rules file", d.rulesPath()},
		{"all other files (keyring, CA, …)", d.dir},
	}
	named := make(map[string]bool)
	for _, f := range files {
		content, err := readAll(f.path, named)
		if err != nil {
			return err
		}
		named[f.path] = true
		line := leakLine(f.title, content, values)
		if len(content) == 0 {
			line.fail("it is empty, which shows nothing")
		}
		d.table.line(line)
	}
	arguments, note := d.started.arguments()
	line := leakLine("process arguments", []byte(arguments), values)
	line.note = note
	d.table.line(line)
	d.table.line(leakLine("all that the client received", []byte(d.heard.String()), values))
	return nil
}

// leakLine counts how many of values stand in content.
func leakLine(title string, content []byte, values []string) demoLine {
	found := 0
	for _, v := range values {
		if bytes.Contains(content, []byte(v)) {
			found++
		}
	}
	line := demoLine{title: title, a: size(len(content)), b: strconv.Itoa(found)}
	if found > 0 {
		line.fail("%s found there", plural(found, "secret value"))
	}
	return line
}

func size(n int) string {
	if n < 10_000 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%d kB", n/1000)
}

// readAll reads a file, or all files below a folder but those that are skipped.
func readAll(path string, skip map[string]bool) ([]byte, error) {
	var all bytes.Buffer
	err := filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || skip[path] {
			return err
		}
		data, err := os.ReadFile(path)
		all.Write(data)
		return err
	})
	return all.Bytes(), err
}

// A demoProcesses knows the arguments of all processes that the demo starts: it is told of curl, and on Linux sees
// the keyring helpers go by.
type demoProcesses struct {
	mu    sync.Mutex
	lines []string
	curls int
	seen  map[string]bool // process and command line
}

// record notes the arguments of a curl.
func (p *demoProcesses) record(args []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.curls++
	p.lines = append(p.lines, strings.Join(args, " "))
}

// watch looks at this process's children until the function that it returns is called.
func (p *demoProcesses) watch() (stop func() error) {
	p.seen = make(map[string]bool)
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.look()
			case <-end:
				return
			}
		}
	}()
	return func() error {
		close(end)
		<-ended
		return nil
	}
}

// look reads proc(5). Where there is none it finds nothing.
func (p *demoProcesses) look() {
	threads, _ := filepath.Glob("/proc/self/task/*/children") // the pattern is good
	for _, thread := range threads {
		children, err := os.ReadFile(thread)
		if err != nil {
			continue // it has ended
		}
		for _, pid := range strings.Fields(string(children)) {
			line, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
			if err != nil {
				continue
			}
			p.mu.Lock()
			p.seen[pid+" "+string(line)] = true
			p.mu.Unlock()
		}
	}
}

// arguments returns all of them, and what they are of.
func (p *demoProcesses) arguments() (text, note string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	lines, helpers := p.lines, 0
	for line := range p.seen {
		lines = append(lines, line)
		if strings.Contains(line, "(keyring ") {
			helpers++
		}
	}
	var of []string
	if p.curls > 0 {
		of = append(of, fmt.Sprintf("%d of curl", p.curls))
	}
	if helpers > 0 {
		of = append(of, plural(helpers, "keyring helper"))
	}
	return strings.Join(lines, "\n"), strings.Join(of, ", ")
}
