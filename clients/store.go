// Package clients knows who is asking: the tokens of clients that have a name, and whose a connection on this machine
// is.
package clients

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxClients = 1000    // in one folder
	maxFile    = 4 << 10 // bytes of one client's file

	// A file that changed so shortly before it was read may have changed again without a sign: clocks of file systems
	// tick slowly, and numbers of files are used again.
	settled = 2 * time.Second
)

// Errors of Add and Remove.
var (
	ErrExists  = errors.New("there is a client of that name already")
	ErrUnknown = errors.New("there is no client of that name")
	ErrTooMany = fmt.Errorf("there are %d clients, which is the most", maxClients)
	ErrName    = errors.New("not a name for a client")
)

// Names that mean something of their own.
const (
	Run   = "run"   // who a run asks as, unless it is told otherwise
	Local = "local" // in URLs that have the local token; in rules it is a client without a name
)

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// ValidName reports whether name can stand in a rule's clients and, as it is, in a URL: small letters, digits, dots,
// dashes and underscores, at most 64.
func ValidName(name string) bool { return namePattern.MatchString(name) }

// A Client is one that has a token.
type Client struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
}

// A Store keeps tokens in a folder, a file for each client, so that no writer can lose what another one wrote. It holds
// hashes only. They are plain SHA-256 and not a slow hash of passwords: a token is 256 random bits, which nobody finds
// by trying, and a slow hash would hold up each connection. It is safe for concurrent use, and by several processes.
type Store struct {
	dir string

	mu    sync.RWMutex
	known map[string]entry // as many as there are files
}

// An entry is what was read from a file, and how the file looked then.
type entry struct {
	info fs.FileInfo
	read time.Time
	hash [sha256.Size]byte
}

// stored is the content of a client's file.
type stored struct {
	Client
	Hash string `json:"sha256"` // of NAME:TOKEN, hexadecimal
}

// Open returns the Store in the folder dir, which need not exist yet.
func Open(dir string) *Store { return &Store{dir: dir, known: make(map[string]entry)} }

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

// Add makes a token for a client and returns it; it cannot be had again. Unless replace is set, a client that exists is
// left alone, with ErrExists. A running proxy knows the token with the next request.
func (s *Store) Add(name string, replace bool) (token string, err error) {
	if !ValidName(name) || name == Run || name == Local {
		return "", ErrName
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return "", fmt.Errorf("making the clients' folder: %w", err)
	}
	names, err := s.names()
	if err != nil {
		return "", err
	}
	if len(names) >= maxClients && !slices.Contains(names, name) {
		return "", ErrTooMany
	}
	token = NewToken()
	hash := hashOf(name, token)
	data, err := json.Marshal(stored{Client{name, time.Now().UTC().Truncate(time.Second)}, hex.EncodeToString(hash[:])})
	if err == nil {
		err = writeFile(s.path(name), append(data, '\n'), replace)
	}
	if errors.Is(err, fs.ErrExist) {
		return "", ErrExists
	}
	if err != nil {
		return "", fmt.Errorf("storing the client: %w", err)
	}
	return token, nil
}

// Remove forgets a client. Its token stops counting with the next connection, and soon on those that are open.
func (s *Store) Remove(name string) error {
	if !ValidName(name) {
		return ErrUnknown
	}
	err := os.Remove(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return ErrUnknown
	}
	if err != nil {
		return fmt.Errorf("removing the client: %w", err)
	}
	return nil
}

// List lists the clients by name. One whose file is damaged has no time of creation.
func (s *Store) List() ([]Client, error) {
	names, err := s.names()
	list := make([]Client, 0, len(names))
	for _, name := range names {
		c := Client{Name: name}
		if got, _, err := s.read(name); err == nil {
			c.Created = got.Created
		}
		list = append(list, c)
	}
	return list, err
}

// Any reports whether there is a client.
func (s *Store) Any() bool {
	names, err := s.names()
	return err == nil && len(names) > 0
}

func (s *Store) names() ([]string, error) {
	files, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the clients' folder: %w", err)
	}
	var names []string
	for _, f := range files {
		if f.Type().IsRegular() && ValidName(f.Name()) {
			names = append(names, f.Name())
		}
	}
	return names, nil
}

// Check reports whether token is the client's. How long it takes does not depend on what the token is.
func (s *Store) Check(name, token string) bool {
	want, known := s.hash(name)
	got := hashOf(name, token)
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1 && known
}

// hash is the hash of the client's token. Each time it looks at the file, and reads it if it has changed.
func (s *Store) hash(name string) (hash [sha256.Size]byte, ok bool) {
	if !ValidName(name) {
		return hash, false
	}
	info, err := os.Lstat(s.path(name))
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrInvalid
	}
	s.mu.RLock()
	e, known := s.known[name]
	s.mu.RUnlock()
	if err == nil && known && e.still(info) {
		return e.hash, true
	}
	if err == nil {
		_, e, err = s.read(name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		delete(s.known, name)
		return hash, false
	}
	s.known[name] = e
	return e.hash, true
}

// still reports whether a file that looks like info has what e says.
func (e entry) still(info fs.FileInfo) bool {
	return os.SameFile(e.info, info) && e.info.Size() == info.Size() && e.info.Mode() == info.Mode() &&
		e.info.ModTime().Equal(info.ModTime()) && e.read.Sub(info.ModTime()) > settled
}

// read reads a client's file, which only we may have written.
func (s *Store) read(name string) (got stored, e entry, err error) {
	e.read = time.Now()
	f, err := os.Open(s.path(name))
	if err != nil {
		return got, e, err
	}
	defer f.Close()
	if e.info, err = f.Stat(); err != nil {
		return got, e, err
	}
	if !e.info.Mode().IsRegular() || runtime.GOOS != "windows" && e.info.Mode().Perm()&0o022 != 0 {
		return got, e, errors.New("others can write to it")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err == nil {
		err = json.Unmarshal(data, &got)
	}
	if err != nil {
		return got, e, err
	}
	sum, err := hex.DecodeString(got.Hash)
	if err != nil || len(sum) != sha256.Size || got.Name != name {
		return got, e, errors.New("it is damaged")
	}
	copy(e.hash[:], sum)
	return got, e, nil
}

// hashOf is what is stored of a token: it does not fit another name.
func hashOf(name, token string) [sha256.Size]byte { return sha256.Sum256([]byte(name + ":" + token)) }

// NewToken returns 256 random bits that can stand in a URL as they are.
func NewToken() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // it never fails: see crypto/rand
	return base64.RawURLEncoding.EncodeToString(b)
}

// One returns a check that knows one client.
func One(name, token string) func(name, token string) bool {
	want := hashOf(name, token)
	return func(name, token string) bool {
		got := hashOf(name, token)
		return subtle.ConstantTimeCompare(got[:], want[:]) == 1
	}
}

// LocalToken is the token of this user's own programs, for where connections do not say whose they are. It is a file that
// only this user can read, made on first use.
func LocalToken(path string) (string, error) {
	if err := writeFile(path, []byte(NewToken()+"\n"), false); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("making the local token: %w", err)
	}
	info, err := os.Stat(path)
	if err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		err = fmt.Errorf("%s is open to other users (mode %04o)", path, info.Mode().Perm())
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return "", fmt.Errorf("reading the local token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if raw, err := base64.RawURLEncoding.DecodeString(token); err != nil || len(raw) < 16 {
		return "", fmt.Errorf("reading the local token: %s is damaged; remove it", path)
	}
	return token, nil
}

// writeFile writes a file that only its owner can read, in one step. Unless replace is set, a file that exists stays, with
// an error that is fs.ErrExist.
func writeFile(path string, data []byte, replace bool) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after a rename there is none
	_, werr := f.Write(data)
	if err := errors.Join(werr, f.Sync(), f.Close()); err != nil {
		return err
	}
	if replace {
		return os.Rename(f.Name(), path)
	}
	return os.Link(f.Name(), path)
}
