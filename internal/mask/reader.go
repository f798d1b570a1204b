package mask

import "io"

// spare is how much room a Reader wants for new bytes beside those that it holds back.
const spare = 4 << 10

// A Reader gives what a source gives, masked. It holds back only the end of what came, and only if at least the first
// MinLength bytes of a secret stand there, until more comes or the source ends. Less than that is given at once, so that
// streams do not stall at a letter: of a secret that comes in two pieces, so few bytes can be seen.
type Reader struct {
	set   *Set
	src   io.Reader
	held  []byte // the beginning of a text, perhaps, as it came
	shown int    // of held, how much was given
	done  int    // of held, how much belongs to a text that began before
	ready []byte // masked, not yet given: the caller had no room
	err   error
}

// Reader returns a Reader of src. A nil Set's reads src as it is.
func (s *Set) Reader(src io.Reader) *Reader { return &Reader{set: s, src: src} }

// Read is io.Reader's.
func (r *Reader) Read(p []byte) (int, error) {
	if r.set == nil {
		return r.src.Read(p)
	}
	for {
		if len(r.ready) > 0 {
			n := copy(p, r.ready)
			r.ready = r.ready[n:]
			return n, r.end()
		}
		if r.err != nil || len(p) == 0 {
			return 0, r.err
		}
		if len(p) >= len(r.held)+spare {
			if n := r.fill(p); n > 0 {
				return n, r.end()
			}
			continue
		}
		own := make([]byte, len(r.held)+spare)
		r.ready = own[:r.fill(own)]
	}
}

// end is the source's error once all was given.
func (r *Reader) end() error {
	if len(r.ready) > 0 {
		return nil
	}
	return r.err
}

// fill reads once into b, behind what is held, and returns how much of b can be given.
func (r *Reader) fill(b []byte) int {
	before := copy(b, r.held)
	n, err := r.src.Read(b[before:])
	b, r.err = b[:before+n], err
	hold := len(b)
	if err == nil {
		hold = r.set.unfinished(b)
	}
	r.held = append(r.held[:0], b[hold:]...)
	r.done = r.set.cover(b, r.done, hold)
	from, to := r.shown, hold
	if len(b)-hold < MinLength {
		to = len(b)
	}
	r.shown = max(from-hold, to-hold, 0)
	if to <= from {
		return 0
	}
	if from == 0 {
		return to
	}
	return copy(b, b[from:to])
}
