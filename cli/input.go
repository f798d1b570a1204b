package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/credproxy/credproxy/secrets"
	"golang.org/x/term"
)

// valueBound is more than any keyring takes; the store has the exact limit.
const valueBound = 1 << 20

// A valueSource says where the value of a secret comes from; the zero valueSource is a prompt, or stdin.
type valueSource struct{ env, file string }

// check refuses flags that contradict each other or name nothing, as they do when a variable of the shell is not set.
func (s valueSource) check(given func(flag string) bool) error {
	env, file := given("from-env"), given("from-file")
	switch {
	case env && file:
		return &failure{slug: slugUsage, text: "--from-env and --from-file are two values", next: "use one of them"}
	case env && s.env == "":
		return &failure{slug: slugUsage, text: "--from-env is empty", next: "--from-env takes the name of a variable"}
	case file && s.file == "":
		return &failure{slug: slugUsage, text: "--from-file is empty", next: "--from-file takes the path of a file"}
	}
	return nil
}

func (s valueSource) read(stderr io.Writer, name string) (secrets.Value, error) {
	switch {
	case s.env != "":
		value, ok := os.LookupEnv(s.env)
		if !ok {
			return secrets.Value{}, &failure{slug: slugInput, text: "the environment variable is not set", next: "--from-env takes its name, not its value"}
		}
		return secrets.NewValue(value), nil
	case s.file != "" && s.file != "-":
		return readSecretFile(s.file)
	case term.IsTerminal(int(os.Stdin.Fd())):
		return prompt(stderr, name)
	}
	return readValue(os.Stdin, "credproxy secret set "+name+" --from-file FILE")
}

func readSecretFile(path string) (secrets.Value, error) {
	const next = "--from-file takes the path of a file"
	f, err := os.Open(path)
	if err != nil {
		return unreadable(err, next)
	}
	defer f.Close()
	return readValue(f, next)
}

// unreadable leaves the path out of the error: it may be the secret, in the wrong place.
func unreadable(err error, next string) (secrets.Value, error) {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = path.Err
	}
	return secrets.Value{}, &failure{slug: slugInput, text: "reading the secret", next: next, err: err}
}

// readValue reads all of r and takes one line end off.
func readValue(r io.Reader, next string) (secrets.Value, error) {
	data, err := io.ReadAll(io.LimitReader(r, valueBound+1))
	if err != nil {
		return unreadable(err, next)
	}
	if len(data) > valueBound {
		return secrets.Value{}, &failure{slug: slugInput, text: "the value is too large", next: "store a key or token, not a document"}
	}
	text := string(data)
	if rest, ok := strings.CutSuffix(text, "\n"); ok {
		text = strings.TrimSuffix(rest, "\r")
	}
	return secrets.NewValue(text), nil
}

// prompt asks the person at the terminal, without showing what is typed.
func prompt(stderr io.Writer, name string) (secrets.Value, error) {
	fmt.Fprintf(stderr, "Value of %s (not shown): ", name)
	line, err := secrets.ReadHidden(os.Stdin)
	fmt.Fprintln(stderr)
	next := "pipe it: credproxy secret set " + name + " < file"
	switch {
	case errors.Is(err, context.Canceled):
		return secrets.Value{}, statusInterrupted
	case errors.Is(err, io.EOF):
		return secrets.Value{}, &failure{slug: slugInput, text: "no value was given; nothing is changed", next: next}
	case err != nil:
		return secrets.Value{}, &failure{slug: slugInput, text: "asking for the secret", next: next, err: err}
	}
	return secrets.NewValue(string(line)), nil
}
