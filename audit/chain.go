package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
)

// A link is one line as the next one sees it. The zero link stands before the first line.
type link struct {
	seq  uint64
	hash [sha256.Size]byte // of the line with its newline
}

// appendLine appends line, a JSON object with its newline, as the one that follows l, and returns its link.
func (l link) appendLine(b, line []byte) ([]byte, link) {
	start := len(b)
	next := link{seq: l.seq + 1}
	b = strconv.AppendUint(append(b, `{"seq":`...), next.seq, 10)
	b = hex.AppendEncode(append(b, `,"prev":"`...), l.hash[:])
	b = append(append(b, `",`...), line[1:]...)
	next.hash = sha256.Sum256(b[start:])
	return b, next
}

// appendEvent is appendLine for e.
func (l link) appendEvent(b []byte, e Event) ([]byte, link) {
	return l.appendLine(b, append(e.appendJSON(nil), '\n'))
}

// readLine returns what line, with its newline, says about itself and the one before it. ok is false if credproxy did
// not write it so.
func readLine(line []byte) (self link, prev [sha256.Size]byte, ok bool) {
	self.hash = sha256.Sum256(line)
	rest, ok := bytes.CutPrefix(line, []byte(`{"seq":`))
	if !ok || !bytes.HasSuffix(line, []byte("\n")) || !json.Valid(line) {
		return self, prev, false
	}
	number, rest, _ := bytes.Cut(rest, []byte(`,"prev":"`))
	seq, err := strconv.ParseUint(string(number), 10, 64)
	text, _, ok := bytes.Cut(rest, []byte(`",`))
	if err != nil || !ok || len(text) != hex.EncodedLen(len(prev)) {
		return self, prev, false
	}
	self.seq = seq
	_, err = hex.Decode(prev[:], text)
	return self, prev, err == nil
}
