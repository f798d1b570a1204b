package audit

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
)

// A Report is what Verify has found intact.
type Report struct {
	Files       []string `json:"files"`
	Lines       int      `json:"lines"`
	First, Last Anchor   `json:"-"`
}

// A Broken says which line is the first that is not as it was written.
type Broken struct {
	File string
	Line int // from 1; 0: the file as a whole
	Why  string
}

func (b *Broken) Error() string {
	if b.Line == 0 {
		return fmt.Sprintf("%s: %s", b.File, b.Why)
	}
	return fmt.Sprintf("%s:%d: %s", b.File, b.Line, b.Why)
}

// Verify reads the log at path with all its old files, from its first line to the one that was written last. A line that
// was changed, removed, inserted or moved is a *Broken. If there are anchors, their lines must be there too.
func Verify(path string, anchors ...Anchor) (Report, error) {
	if _, err := os.Stat(path); err != nil {
		return Report{}, err
	}
	r, err := openRecord(recordPath(path))
	if err != nil {
		return Report{}, err
	}
	files, err := openLog(path)
	defer closeAll(files)
	if err = errors.Join(err, r.Close()); err != nil {
		return Report{}, err
	}
	v := verifier{anchors: anchors, recorded: r.last}
	if err := v.read(files); err != nil {
		return v.report, err
	}
	// All that was ever written is there, unless so much was that the oldest has been dropped.
	if first := v.report.First.seq; first != 1 && len(files) <= keepOld {
		return v.report, &Broken{files[0].Name(), 1, fmt.Sprintf("%s missing before this line", theLines(1, first-1))}
	}
	if err := v.end(path, r); err != nil {
		return v.report, err
	}
	return v.report, v.missing()
}

// VerifyFiles is Verify for files, in the order of their lines, that may stand anywhere. They may begin and end in the
// middle of a log.
func VerifyFiles(paths []string, anchors ...Anchor) (Report, error) {
	var files []logFile
	defer func() { closeAll(files) }()
	for _, path := range paths {
		f, err := openLogFile(path)
		if err != nil {
			return Report{}, err
		}
		files = append(files, f)
	}
	v := verifier{anchors: anchors}
	if err := v.read(files); err != nil {
		return v.report, err
	}
	return v.report, v.missing()
}

// A logFile is a file as long as it was when it was opened: it may be written to meanwhile.
type logFile struct {
	*os.File
	size int64
}

// openLog opens the log and its old files. The lock is held.
func openLog(path string) (files []logFile, err error) {
	for n := keepOld; n >= 0; n-- {
		f, err := openLogFile(oldPath(path, n))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	return files, nil
}

func openLogFile(path string) (logFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return logFile{}, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New(path + " is not a file")
	}
	if err != nil {
		return logFile{}, errors.Join(err, f.Close())
	}
	return logFile{f, info.Size()}, nil
}

func closeAll(files []logFile) {
	for _, f := range files {
		_ = f.Close() // they were only read
	}
}

// A verifier goes through a log line by line.
type verifier struct {
	report   Report
	anchors  []Anchor
	found    int
	recorded link // the line that was written last, or the one before a crash
	last     link
	file     string // where last stands
	line     int
}

func (v *verifier) read(files []logFile) error {
	if err := inOrder(files); err != nil {
		return err
	}
	for _, f := range files {
		if f.size == 0 {
			continue // nothing was written since it was made
		}
		v.report.Files = append(v.report.Files, f.Name())
		if err := v.readFile(f); err != nil {
			return err
		}
	}
	return nil
}

// inOrder sorts files by the numbers of their first lines.
func inOrder(files []logFile) error {
	first := make(map[string]uint64, len(files))
	for _, f := range files {
		line, err := bufio.NewReader(io.NewSectionReader(f, 0, min(f.size, maxTail))).ReadBytes('\n')
		if err != nil && err != io.EOF {
			return err
		}
		self, _, _ := readLine(line)
		first[f.Name()] = self.seq
	}
	slices.SortStableFunc(files, func(a, b logFile) int { return cmp.Compare(first[a.Name()], first[b.Name()]) })
	return nil
}

func (v *verifier) readFile(f logFile) error {
	in := bufio.NewReaderSize(io.NewSectionReader(f, 0, f.size), 64<<10)
	for n := 1; ; n++ {
		line, err := readBounded(in)
		if len(line) == 0 && err == io.EOF {
			return nil
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("reading %s: %w", f.Name(), err)
		}
		if err := v.next(f.Name(), n, line); err != nil {
			return err
		}
	}
}

// readBounded reads one line, with its newline if it has one.
func readBounded(in *bufio.Reader) (line []byte, err error) {
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		if err != bufio.ErrBufferFull {
			return line, err
		}
		if len(line) > maxTail {
			return nil, errors.New("a line without an end")
		}
	}
}

// next takes the next line of the log.
func (v *verifier) next(file string, n int, line []byte) error {
	self, prev, ok := readLine(line)
	before := Broken{v.file, v.line, "this line was changed, or what the next one says of it"}
	here := func(format string, args ...any) error { return &Broken{file, n, fmt.Sprintf(format, args...)} }
	switch {
	case !ok:
		return here("this is not a line that credproxy wrote")
	case v.line == 0: // the first one
		if self.seq == 1 && prev != (link{}).hash || self.seq == 0 {
			return here("this line was changed")
		}
		v.report.First = Anchor(self)
	case self.seq == v.last.seq+1 && prev != v.last.hash:
		return &before
	case self.seq > v.last.seq+1:
		return here("%s missing before this line", theLines(v.last.seq+1, self.seq-1))
	case self.seq <= v.last.seq:
		return here("this line has the number %d and the one before it %d: one of them was inserted, changed or moved", self.seq, v.last.seq)
	}
	if self.seq == v.recorded.seq && self != v.recorded {
		return here("this line was changed")
	}
	v.last, v.file, v.line = self, file, n
	v.report.Last = Anchor(self)
	v.report.Lines++
	for _, a := range v.anchors {
		if a == Anchor(self) {
			v.found++
		} else if a.seq == self.seq {
			return here("this line is not the one that the anchor %d names", a.seq)
		}
	}
	return nil
}

// end compares the last line with what the record says was written last.
func (v *verifier) end(path string, r *record) error {
	switch {
	case !r.ok && v.report.Lines > 0:
		return &Broken{recordPath(path), 0, "it does not say where the log ends"}
	case v.last.seq < r.last.seq:
		return &Broken{cmp.Or(v.file, path), v.line, fmt.Sprintf("%s missing after this line", theLines(v.last.seq+1, r.last.seq))}
	}
	return nil
}

// missing reports anchors whose lines are not there.
func (v *verifier) missing() error {
	if v.found == len(v.anchors) {
		return nil
	}
	return &Broken{cmp.Or(v.file, "the log"), v.line, "the line that the anchor names is not there"}
}

func theLines(from, to uint64) string {
	if from == to {
		return fmt.Sprintf("line %d is", from)
	}
	return fmt.Sprintf("lines %d to %d are", from, to)
}
