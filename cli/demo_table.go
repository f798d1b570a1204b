package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// A demoTable prints lines as they come about and counts those that failed. When w takes no more, because nobody
// reads it, it calls stop and prints nothing.
type demoTable struct {
	w      io.Writer
	stop   func()
	colour bool
	broken bool

	lines, failed int
}

func newDemoTable(w io.Writer, stop func()) *demoTable {
	f, ok := w.(*os.File)
	colour := ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return &demoTable{w: w, stop: stop, colour: colour}
}

// A demoLine is one line of a table: a claim, and what came of it.
type demoLine struct {
	title  string
	a, b   string // the two columns
	note   string
	wrong  []string // why it is not as claimed; none: it is
	detail string   // a line of its own below
}

// Colours of ECMA-48, as all terminals have them.
const (
	plainColour  = "0"
	boldColour   = "1"
	dimColour    = "2"
	redColour    = "31"
	greenColour  = "32"
	titleColumn  = 40
	statusColumn = 8
)

func (t *demoTable) paint(colour, text string) string {
	if !t.colour || text == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[" + plainColour + "m"
}

func (t *demoTable) print(line string) {
	if t.broken {
		return
	}
	if _, err := io.WriteString(t.w, strings.TrimRight(line, " ")+"\n"); err != nil {
		t.broken = true
		t.stop()
	}
}

func (t *demoTable) title(text string) { t.print(t.paint(boldColour, text)) }

func (t *demoTable) quote(text string) {
	for line := range strings.Lines(text) {
		t.print(t.paint(dimColour, pad("", 12)+strings.TrimRight(line, "\n")))
	}
}

func (t *demoTable) say(format string, args ...any) { t.print("  " + fmt.Sprintf(format, args...)) }

func (t *demoTable) head(title, a, b string) {
	t.print("")
	t.print(t.paint(boldColour, pad(title, titleColumn+2)+pad(a, statusColumn)+pad(b, statusColumn)))
}

func (t *demoTable) line(l demoLine) {
	t.lines++
	verdict := t.paint(greenColour, pad("ok", 4))
	if len(l.wrong) > 0 {
		t.failed++
		l.note = "" // it says what should have been
		verdict = t.paint(redColour, pad("FAIL", 4))
	}
	t.print("  " + pad(l.title, titleColumn) + pad(l.a, statusColumn) + pad(l.b, statusColumn) + verdict + "  " + t.paint(dimColour, l.note))
	for _, why := range l.wrong {
		t.print(t.paint(redColour, "    FAIL: "+why))
	}
	if l.detail != "" {
		t.print(t.paint(dimColour, "    "+l.detail))
	}
}

// end says what was shown, how long it took, and what to do next.
func (t *demoTable) end(took time.Duration) {
	t.print("")
	seconds := took.Round(100 * time.Millisecond).Seconds()
	if t.failed > 0 {
		t.print(t.paint(redColour, fmt.Sprintf("%d of %s did not come out as claimed, in %.1f s: see FAIL", t.failed, plural(t.lines, "line"), seconds)))
		return
	}
	t.print(fmt.Sprintf("All %d lines as claimed, in %.1f s. Next: %s secret set NAME, and a rule for it as in rules.example.yaml", t.lines, seconds, ownCommand()))
}

// ownCommand is how the person who reads this started the program.
func ownCommand() string {
	if strings.Contains(filepath.ToSlash(os.Args[0]), "/go-build") {
		return "go run ."
	}
	return "credproxy"
}

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(width-utf8.RuneCountInString(s), 1))
}
