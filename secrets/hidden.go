package secrets

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
	"unicode/utf8"

	"golang.org/x/term"
)

// Keys that a terminal acts on itself until it is told to hide what is typed.
const (
	keyInterrupt = 0x03 // ^C
	keyEnd       = 0x04 // ^D
	keyBackspace = 0x08
	keyClear     = 0x15 // ^U
	keyDelete    = 0x7f
)

// ReadHidden reads a line that the terminal does not show, without its end, and leaves the terminal as it was. An
// interrupt is context.Canceled, and ^D is io.EOF. A line is at most 1 MB, of which the terminal itself would cut off
// all but 4 kB.
func ReadHidden(tty *os.File) ([]byte, error) {
	fd := int(tty.Fd())
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupted)
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	type answer struct {
		line []byte
		err  error
	}
	typed := make(chan answer, 1)
	go func() {
		line, err := readKeys(tty)
		typed <- answer{line, err}
	}()
	select {
	case <-interrupted: // the program ends now; only that ends the read too
		return nil, errors.Join(context.Canceled, term.Restore(fd, before))
	case a := <-typed:
		return a.line, errors.Join(a.err, term.Restore(fd, before))
	}
}

// readKeys acts on keys as a terminal does.
func readKeys(r io.Reader) (line []byte, err error) {
	key := make([]byte, 1)
	for len(line) <= 1<<20 {
		if _, err := io.ReadFull(r, key); err != nil {
			return nil, err
		}
		switch key[0] {
		case '\r', '\n':
			return line, nil
		case keyInterrupt:
			return nil, context.Canceled
		case keyEnd:
			return nil, io.EOF
		case keyClear:
			clear(line)
			line = line[:0]
		case keyBackspace, keyDelete:
			_, size := utf8.DecodeLastRune(line)
			line = line[:len(line)-size]
		default:
			line = append(line, key[0])
		}
	}
	return nil, &Error{Op: "use", Kind: ErrTooLarge, Why: "the line is longer than 1 MB"}
}
