package secrets

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestReadKeys(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, typed, want string
		err               error
	}{
		{"enter", "abc\r", "abc", nil},
		{"piped line", "abc\nmore", "abc", nil},
		{"nothing", "\r", "", nil},
		{"longer than a terminal's line", strings.Repeat("a", 9000) + "\r", strings.Repeat("a", 9000), nil},
		{"backspace", "abcé\x7f\x08d\r", "abd", nil},
		{"backspace on nothing", "\x7fa\r", "a", nil},
		{"clear", "abc\x15d\r", "d", nil},
		{"interrupt", "abc\x03\r", "", context.Canceled},
		{"end", "\x04", "", io.EOF},
		{"end of half a line", "abc\x04\r", "", io.EOF},
		{"hung up", "abc", "", io.EOF},
		{"endless", strings.Repeat("a", 2<<20), "", ErrTooLarge},
	} {
		got, err := readKeys(strings.NewReader(test.typed))
		if string(got) != test.want || !errors.Is(err, test.err) {
			t.Errorf("%s: got %.20q, %v; want %.20q, %v", test.name, got, err, test.want, test.err)
		}
	}
}
