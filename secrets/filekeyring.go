package secrets

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/99designs/keyring"
)

// The file backend of the library truncates items in place, so a crash or a full disk loses them and a reader sees
// half of one. These functions run in the helper and let it write only in a folder of its own.

const (
	canary       = "_canary" // an item that only the right passphrase opens
	stagePattern = ".stage-*"
)

func (s *Store) fileKeyringExists() bool {
	_, err := os.Stat(fileFolder(s.state))
	return err == nil
}

func fileFolder(state string) string { return filepath.Join(state, "keyring") }

// prepareFile adds to q what the file backend needs. An empty keyring needs no helper: then done is true, or it is
// the error of an item that is not there.
func (s *Store) prepareFile(ctx context.Context, q *request) (done bool, err error) {
	if q.Op != "set" && !s.fileKeyringExists() {
		if q.Op == "list" {
			return true, nil
		}
		return true, &Error{Kind: ErrNotFound}
	}
	if q.Op == "list" {
		return false, nil // names are not encrypted
	}
	q.Key, err = s.fileKey(ctx)
	if e, ok := errors.AsType[*Error](err); ok {
		return true, s.explain(e)
	}
	return false, err
}

func withFolder(cfg keyring.Config, folder string, key []byte) keyring.Config {
	cfg.FileDir = folder
	// The library stretches this with 8192 rounds only, which is why it is a derived or random key already.
	cfg.FilePasswordFunc = keyring.FixedStringPrompt(base64.StdEncoding.EncodeToString(key))
	return cfg
}

// openFileRing opens the folder after the canary has shown that the key is the right one.
func openFileRing(cfg keyring.Config, q request) (keyring.Keyring, error) {
	folder := fileFolder(q.State)
	cfg = withFolder(cfg, folder, q.Key)
	ring, err := keyring.Open(cfg)
	if err != nil || q.Op == "list" {
		return ring, err
	}
	_, err = ring.Get(itemPrefix + canary)
	if errors.Is(err, keyring.ErrKeyNotFound) && q.Op == "set" {
		if err := privateFolder(folder); err != nil {
			return nil, err
		}
		// Of two processes one makes the canary. The other verifies its own key with it.
		err = stage(q, keyring.Item{Key: itemPrefix + canary, Data: []byte("credproxy")}, linkOrMove)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		_, err = ring.Get(itemPrefix + canary)
	}
	if errors.Is(err, keyring.ErrKeyNotFound) {
		return ring, nil // made by hand, or only just being made
	}
	if err != nil {
		if kind, _ := classify(err, ""); kind == ErrCorrupt {
			return nil, errPassphrase
		}
		return nil, err
	}
	return ring, nil
}

// replaceItem stores item as a whole or not at all.
func replaceItem(q request, item keyring.Item) error {
	ctx, cancel := context.WithTimeout(context.Background(), q.Limit)
	defer cancel()
	return stage(q, item, func(from, to string) error {
		if err := replaceFile(ctx, from, to); err != nil {
			return err
		}
		return syncFolder(filepath.Dir(to))
	})
}

// stage has the library write item into a folder of its own, makes the file durable and hands it to place, which
// gives it its final name.
func stage(q request, item keyring.Item, place func(from, to string) error) error {
	if err := removeOldStages(q.State); err != nil {
		return err
	}
	folder, err := os.MkdirTemp(q.State, stagePattern) // 0700
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	cfg := keyring.Config{AllowedBackends: []keyring.BackendType{keyring.FileBackend}}
	ring, err := keyring.Open(withFolder(cfg, folder, q.Key))
	if err != nil {
		return err
	}
	if err := ring.Set(item); err != nil {
		return err
	}
	files, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	if len(files) != 1 {
		return fmt.Errorf("staging: %d files in place of one", len(files))
	}
	from := filepath.Join(folder, files[0].Name())
	if err := syncFile(from); err != nil {
		return err
	}
	return place(from, filepath.Join(fileFolder(q.State), files[0].Name()))
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// removeOldStages removes what helpers that were killed have left.
func removeOldStages(state string) error {
	entries, err := os.ReadDir(state)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if ok, _ := filepath.Match(stagePattern, entry.Name()); !ok {
			continue
		}
		if info, err := entry.Info(); err == nil && time.Since(info.ModTime()) > time.Hour {
			if err := os.RemoveAll(filepath.Join(state, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func removeItem(ring keyring.Keyring, q request, key string) error {
	if err := ring.Remove(key); err != nil {
		return err
	}
	return syncFolder(fileFolder(q.State))
}

// hasItems reports whether the file keyring holds anything, be it the canary.
func (s *Store) hasItems() bool {
	entries, err := os.ReadDir(fileFolder(s.state))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), ".") {
			return true
		}
	}
	return false
}
