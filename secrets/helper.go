package secrets

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/99designs/keyring"

	"github.com/credproxy/credproxy/secrets/dbusguard"
)

const (
	serviceName = "credproxy"
	itemPrefix  = "credproxy/"
)

// RunHelper serves one keyring operation if this process was started as the helper; then ok is true and the
// process must exit with code. Call it first thing in main and in TestMain.
func RunHelper() (code int, ok bool) {
	if os.Getenv(dbusguard.HelperVariable) == "" {
		return 0, false
	}
	var q request
	if err := json.NewDecoder(io.LimitReader(os.Stdin, maxMessage)).Decode(&q); err != nil {
		return 2, true
	}
	// The parent ends us in time. This is for a parent that was killed meanwhile.
	orphaned := time.AfterFunc(q.Limit+time.Second, func() { os.Exit(3) })
	defer orphaned.Stop()
	if err := json.NewEncoder(os.Stdout).Encode(serve(q)); err != nil {
		return 1, true
	}
	return 0, true
}

// serve does one operation. The library panics on some daemons' answers.
func serve(q request) (rep reply) {
	said := captureStderr()
	fail := func(err error) reply {
		kind, why := classify(err, said())
		rep := reply{Slug: slugOf(kind), Why: why}
		if kind != ErrNotFound && !isOurs(err) { // else the raw text adds nothing
			rep.Detail = limited(err.Error() + "\n" + said())
		}
		return rep
	}
	defer func() {
		if p := recover(); p != nil {
			rep = reply{Slug: slugOf(ErrUnavailable), Why: "the keyring gave an answer that the library cannot read"}
		}
	}()
	if q.Bus != "" {
		if err := os.Setenv(dbusguard.AddressVariable, q.Bus); err != nil {
			return fail(err)
		}
	}
	if q.Op == "probe" {
		if err := probeSecretService(); err != nil {
			return fail(err)
		}
		return reply{}
	}
	ring, err := openRing(q)
	if err != nil {
		return fail(err)
	}
	rep, err = operate(ring, q)
	if err != nil {
		return fail(err)
	}
	return rep
}

func operate(ring keyring.Keyring, q request) (reply, error) {
	switch key := itemKey(q.Backend, q.Item); q.Op {
	case "get":
		item, err := ring.Get(key)
		return reply{Data: item.Data}, err
	case "set":
		return reply{}, store(ring, q, key)
	case "remove":
		return reply{}, remove(ring, q, key)
	case "list":
		items, err := list(ring, q.Backend)
		return reply{Items: items}, err
	case "verify":
		return reply{}, nil // opening has verified
	}
	return reply{}, errors.New("unknown operation")
}

// openRing opens exactly one backend; the library's own choice falls through in silence.
func openRing(q request) (keyring.Keyring, error) {
	cfg := keyring.Config{
		AllowedBackends:          []keyring.BackendType{keyring.BackendType(q.Backend)},
		ServiceName:              serviceName,
		KeychainTrustApplication: true, // otherwise macOS asks at every read
		KWalletAppID:             serviceName,
		KWalletFolder:            serviceName,
		PassPrefix:               serviceName,
		WinCredPrefix:            serviceName,
	}
	switch q.Backend {
	case "secret-service":
		name, err := defaultCollection(q.Quiet && q.Op != "list")
		if err != nil {
			return nil, err
		}
		cfg.LibSecretCollectionName = name
	case "kwallet":
		if err := checkBus(); err != nil {
			return nil, err
		}
	case "pass":
		if _, err := exec.LookPath("pass"); err != nil {
			return nil, errNoPass
		}
		if !passHasKey() {
			return nil, errNoPassKey
		}
	case "keychain":
		if !slices.Contains(keyring.AvailableBackends(), keyring.KeychainBackend) {
			return nil, errNoKeychain
		}
	case "file":
		return openFileRing(cfg, q)
	}
	return keyring.Open(cfg)
}

// passHasKey reports whether the password store was made, or has a part of its own for us.
func passHasKey() bool {
	folder := os.Getenv("PASSWORD_STORE_DIR")
	if home, err := os.UserHomeDir(); folder == "" && err == nil {
		folder = filepath.Join(home, ".password-store")
	}
	for _, part := range []string{"", serviceName} {
		if _, err := os.Stat(filepath.Join(folder, part, ".gpg-id")); !errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return os.Getenv("PASSWORD_STORE_KEY") != ""
}

// itemKey is an item's name in the keyring. Most keyrings are shared with other programs.
func itemKey(backend, item string) string {
	if backend == "pass" {
		return item // below PassPrefix
	}
	return itemPrefix + item
}

// store writes an item and reads it back: some keyrings report success and store nothing.
func store(ring keyring.Keyring, q request, key string) error {
	item := keyring.Item{Key: key, Data: q.Data, Label: "credproxy: " + q.Item, KeychainNotSynchronizable: true}
	write := ring.Set
	if q.Backend == "file" {
		write = func(item keyring.Item) error { return replaceItem(q, item) }
	}
	if err := write(item); err != nil {
		return err
	}
	back, err := ring.Get(key)
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	if !bytes.Equal(back.Data, q.Data) {
		return errReadBack
	}
	return nil
}

// remove removes an item, and says so on every backend if there is none. A damaged item can be removed.
func remove(ring keyring.Keyring, q request, key string) error {
	if q.Backend == "file" {
		return removeItem(ring, q, key)
	}
	if _, err := ring.Get(key); err != nil {
		if kind, _ := classify(err, ""); kind != ErrCorrupt {
			return err
		}
	}
	return ring.Remove(key)
}

// list names the user's items. Keyrings hold other programs' items too, and credproxy's own.
func list(ring keyring.Keyring, backend string) ([]Info, error) {
	keys, err := ring.Keys()
	if err != nil {
		return nil, err
	}
	items := []Info{}
	for _, key := range keys {
		name, ok := strings.CutPrefix(key, itemKey(backend, ""))
		if !ok || checkName(name) != nil {
			continue
		}
		info := Info{Name: name}
		if backend == "file" || backend == "keychain" { // the others cannot tell
			if meta, err := ring.GetMetadata(key); err == nil {
				info.Updated = meta.ModificationTime
			}
		}
		items = append(items, info)
	}
	slices.SortFunc(items, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return slices.CompactFunc(items, func(a, b Info) bool { return a.Name == b.Name }), nil
}

// captureStderr keeps what the library's child programs write to standard error; gpg says there what is wrong.
func captureStderr() (said func() string) {
	nothing := func() string { return "" }
	if runtime.GOOS == "windows" {
		return nothing // no backend there starts a program
	}
	f, err := os.CreateTemp("", "credproxy-*")
	if err != nil {
		return nothing
	}
	if err := os.Remove(f.Name()); err != nil {
		return nothing
	}
	os.Stderr = f
	return func() string {
		b := make([]byte, 2<<10)
		n, _ := f.ReadAt(b, 0)
		return string(b[:n])
	}
}

func limited(s string) string {
	if len(s) > 2<<10 {
		s = s[:2<<10]
	}
	return strings.TrimSpace(strings.ToValidUTF8(s, "?"))
}
