// Package mask takes secrets out of what goes by: each byte of one becomes an asterisk. The length stays, and with it
// every kind of framing around.
package mask

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// MinLength is the length in bytes from which on a secret is masked. A shorter one would take too much else along.
const MinLength = 4

// A Set is texts to take out. It is safe for concurrent use. It does not print itself. A nil Set takes out nothing.
type Set struct {
	texts   []string
	longest int
	first   [256]bool
	// stride is so small that of the blocks at every stride-th place, each text that goes by covers one.
	stride int
	blocks [1 << hashBits / 64]uint64 // a bit for the hash of each block that such a place can show
}

const (
	blockSize = 4 // at most MinLength
	hashBits  = 14
)

func hash(block []byte) uint32 {
	return binary.LittleEndian.Uint32(block) * 0x9e3779b1 >> (32 - hashBits)
}

// New returns the Set of secrets and of the forms in which a server may show them (see forms), or nil if there is
// nothing to take out.
func New(secrets ...string) *Set {
	s := new(Set)
	known := make(map[string]bool)
	for _, secret := range secrets {
		if len(secret) < MinLength {
			continue
		}
		for _, text := range forms(secret) {
			if !known[text] {
				known[text] = true
				s.texts = append(s.texts, text)
			}
		}
	}
	if len(s.texts) == 0 {
		return nil
	}
	s.index()
	return s
}

func (s *Set) index() {
	shortest := len(s.texts[0])
	for _, t := range s.texts {
		s.longest, shortest = max(s.longest, len(t)), min(shortest, len(t))
		s.first[t[0]] = true
	}
	s.stride = shortest - blockSize + 1
	for _, t := range s.texts {
		for i := range s.stride {
			h := hash([]byte(t[i : i+blockSize]))
			s.blocks[h/64] |= 1 << (h % 64)
		}
	}
}

// Format prints nothing of the texts.
func (Set) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[secrets to mask]") }

// next finds the first text in b from from on: b[start:end] is the longest there, or start is -1.
func (s *Set) next(b []byte, from int) (start, end int) {
	for at := from + s.stride - 1; at+blockSize <= len(b); at += s.stride {
		if h := hash(b[at:]); s.blocks[h/64]>>(h%64)&1 == 0 {
			continue
		}
		for start = at - s.stride + 1; start <= at; start++ {
			if s.first[b[start]] {
				if end = s.longestAt(b, start); end > start {
					return start, end
				}
			}
		}
	}
	return -1, 0
}

func (s *Set) longestAt(b []byte, start int) (end int) {
	for _, t := range s.texts {
		if len(t) > end-start && len(b)-start >= len(t) && string(b[start:start+len(t)]) == t {
			end = start + len(t)
		}
	}
	return end
}

// unfinished is where in b the first text begins that may end behind b, or len(b).
func (s *Set) unfinished(b []byte) int {
	for i := max(0, len(b)-s.longest+1); i < len(b); i++ {
		if !s.first[b[i]] {
			continue
		}
		for _, t := range s.texts {
			if len(t) > len(b)-i && t[:len(b)-i] == string(b[i:]) {
				return i
			}
		}
	}
	return len(b)
}

// cover masks every text in b, of which the first done bytes belong to one that began before. Texts may overlap: all are
// looked for in b as it came. over is how far behind b[:give] those reach that begin in it.
func (s *Set) cover(b []byte, done, give int) (over int) {
	begin, reach := 0, done
	mask := func() {
		asterisks(b[begin:reach])
		if begin < give || begin < done {
			over = max(reach-give, 0)
		}
	}
	for from := 0; ; {
		start, end := s.next(b, from)
		if start < 0 {
			break
		}
		if start > reach {
			mask()
			begin, reach = start, end
		}
		reach, from = max(reach, end), start+1
	}
	mask()
	return over
}

func asterisks(b []byte) {
	for i := range b {
		b[i] = '*'
	}
}

// Text returns text without the secrets.
func (s *Set) Text(text string) string {
	if s == nil || len(text) < s.stride || !s.anyIn(text) {
		return text
	}
	b := []byte(text)
	s.cover(b, 0, len(b))
	return string(b)
}

// anyIn is for short texts, such as header fields.
func (s *Set) anyIn(text string) bool {
	for _, t := range s.texts {
		if strings.Contains(text, t) {
			return true
		}
	}
	return false
}
