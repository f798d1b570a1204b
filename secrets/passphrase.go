package secrets

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/crypto/argon2"
)

const keySize = 32

// A derivation is how the key comes from the passphrase (RFC 9106), as the salt file says.
type derivation struct {
	Version int    `json:"v"`
	KDF     string `json:"kdf"`
	Time    uint32 `json:"time"`
	Memory  uint32 `json:"memory"` // KiB
	Threads uint8  `json:"threads"`
	Salt    []byte `json:"salt"`
}

func (s *Store) saltPath() string { return filepath.Join(s.state, "keyring.salt") }
func (s *Store) keyPath() string  { return filepath.Join(s.state, "keyring.key") }

// fileKey is the key of the file backend. It is found once per Store; callers that wait for it wait on their own ctx.
func (s *Store) fileKey(ctx context.Context) ([]byte, error) {
	s.mu.Lock()
	key := s.key
	s.mu.Unlock()
	if key != nil {
		return key, nil
	}
	found := s.unlocking.DoChan("", func() (any, error) {
		key, err := s.findKey()
		if err == nil {
			s.mu.Lock()
			s.key = key
			s.mu.Unlock()
		}
		return key, err
	})
	select {
	case res := <-found:
		key, _ := res.Val.([]byte)
		return key, res.Err
	case <-ctx.Done():
		return nil, &Error{Kind: ErrTimeout, Why: "no passphrase was given in time"}
	}
}

// findKey looks for a passphrase, then for the key file, then asks. A new keyring without any of them gets a key file.
func (s *Store) findKey() ([]byte, error) {
	passphrase, err := givenPassphrase()
	if err != nil {
		return nil, err
	}
	key, err := readKeyFile(s.keyPath())
	if err != nil {
		return nil, err
	}
	_, err = os.Stat(s.saltPath())
	salted := err == nil
	switch {
	case passphrase != "" && key != nil && !salted:
		return nil, &Error{Kind: ErrLocked, Why: "this keyring was made without a passphrase, and one is given", Next: "unset CREDPROXY_PASSPHRASE"}
	case passphrase != "":
		return s.derive(passphrase)
	case key != nil:
		return key, nil
	case salted:
		if passphrase, err = s.askPassphrase(); err != nil {
			return nil, err
		}
		return s.derive(passphrase)
	case s.hasItems():
		return nil, &Error{Kind: ErrLocked, Why: "its key file " + s.keyPath() + " is missing", Next: "restore " + s.keyPath() + " from a backup"}
	}
	return makeKeyFile(s.keyPath())
}

// givenPassphrase is the passphrase from outside, or "" if there is none.
func givenPassphrase() (string, error) {
	if fd := os.Getenv("CREDPROXY_PASSPHRASE_FD"); fd != "" {
		return passphraseFromFD(fd)
	}
	if folder := os.Getenv("CREDENTIALS_DIRECTORY"); folder != "" {
		path := filepath.Join(folder, "credproxy-passphrase")
		if _, err := os.Stat(path); err == nil {
			return passphraseFromFile(path)
		}
	}
	if path := os.Getenv("CREDPROXY_PASSPHRASE_FILE"); path != "" {
		return passphraseFromFile(path)
	}
	return os.Getenv("CREDPROXY_PASSPHRASE"), nil
}

func passphraseFromFile(path string) (string, error) {
	s, err := readPrivate(path, "")
	if e, ok := errors.AsType[*Error](err); ok {
		return "", &Error{Kind: ErrLocked, Why: "the passphrase file " + path + ": " + e.Kind.Error() + ": " + e.Why, Next: e.Next}
	}
	return s, err
}

func passphraseFromFD(text string) (string, error) {
	fail := func(why string) (string, error) {
		return "", &Error{Kind: ErrLocked, Why: "CREDPROXY_PASSPHRASE_FD: " + why, Next: "CREDPROXY_PASSPHRASE_FD=3 credproxy … 3<passphrase-file"}
	}
	fd, err := strconv.Atoi(text)
	if err != nil || fd < 0 || fd == 1 || fd == 2 {
		return fail("it is not the number of a file to read from")
	}
	f := os.NewFile(uintptr(fd), "passphrase")
	if f == nil {
		return fail("there is no such file")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxValue))
	if err := errors.Join(err, f.Close()); err != nil {
		return fail(fileReason(err))
	}
	s := trimNewline(string(b))
	if s == "" {
		return fail("it is empty")
	}
	return s, nil
}

// askPassphrase asks on the terminal, whatever standard input is, and shows the prompt on standard error.
func (s *Store) askPassphrase() (string, error) {
	locked := &Error{Kind: ErrLocked, Why: "it needs its passphrase, and none is given",
		Next: "CREDPROXY_PASSPHRASE_FILE=PATH credproxy … (or start credproxy on a terminal, where it asks)"}
	if !s.interactive {
		return "", locked
	}
	tty, err := os.OpenFile(terminalPath, os.O_RDWR, 0)
	if err != nil {
		locked.Why += ", and there is no terminal to ask on"
		return "", locked
	}
	defer func() { _ = tty.Close() }()
	fmt.Fprintf(os.Stderr, "credproxy: passphrase of the keyring %s: ", fileFolder(s.state))
	b, err := ReadHidden(tty)
	fmt.Fprintln(os.Stderr)
	if errors.Is(err, context.Canceled) {
		return "", err
	}
	if err != nil || len(b) == 0 {
		return "", locked
	}
	return string(b), nil
}

// derive stretches the passphrase. The salt file is made by the first that needs it.
func (s *Store) derive(passphrase string) ([]byte, error) {
	raw, err := os.ReadFile(s.saltPath())
	if errors.Is(err, fs.ErrNotExist) {
		// RFC 9106 section 4, second recommended option.
		d := derivation{Version: 1, KDF: "argon2id", Time: 3, Memory: 64 << 10, Threads: 4, Salt: random(16)}
		if raw, err = json.Marshal(d); err == nil {
			raw, err = createOnce(s.saltPath(), raw)
		}
	}
	if err != nil {
		return nil, s.stateError(err)
	}
	var d derivation
	if err := json.Unmarshal(raw, &d); err != nil || d.Version != 1 || d.KDF != "argon2id" ||
		d.Time < 1 || d.Time > 100 || d.Memory < 8 || d.Memory > 4<<20 || d.Threads < 1 || len(d.Salt) < 16 {
		return nil, &Error{Kind: ErrCorrupt, Why: "its salt file " + s.saltPath() + " is damaged", Next: "restore " + s.saltPath() + " from a backup"}
	}
	return argon2.IDKey([]byte(passphrase), d.Salt, d.Time, d.Memory, d.Threads, keySize), nil
}

// readKeyFile returns the key, or nil if there is no file.
func readKeyFile(path string) ([]byte, error) {
	s, err := readPrivate(path, filepath.Dir(path))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return nil, &Error{Kind: ErrLocked, Why: "its key file " + path + ": " + e.Kind.Error() + ": " + e.Why, Next: e.Next}
	}
	key, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(key) != keySize {
		return nil, &Error{Kind: ErrCorrupt, Why: "its key file " + path + " is damaged", Next: "restore " + path + " from a backup"}
	}
	return key, nil
}

func makeKeyFile(path string) ([]byte, error) {
	text := base64.StdEncoding.EncodeToString(random(keySize))
	if _, err := createOnce(path, []byte(text+"\n")); err != nil {
		return nil, &Error{Kind: ErrUnavailable, Why: err.Error()}
	}
	return readKeyFile(path)
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}
