package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// A Vault is a keyring for the root's key. An item that is not there is an error that wraps fs.ErrNotExist.
type Vault interface {
	// Name is what people call it.
	Name() string
	// Read returns what was written.
	Read(ctx context.Context, item string) ([]byte, error)
	// Write stores data for good.
	Write(ctx context.Context, item string, data []byte) error
	// Remove removes an item.
	Remove(ctx context.Context, item string) error
}

const (
	keyPrefix = "ca-"
	keySuffix = ".key"
)

// Both names tell roots apart: no crash can leave a certificate with another one's key, and state folders can share
// a keyring.
func keyName(id identity) string   { return keyPrefix + id.name + keySuffix }
func vaultItem(id identity) string { return "ca-" + id.name }

// keepKey stores the key of a new root. A keyring that cannot take it now gets it when the key is next used; until
// then it is a file.
func (f folder) keepKey(ctx context.Context, id identity, key *ecdsa.PrivateKey) error {
	data, err := encodeKey(key)
	if err != nil {
		return err
	}
	if f.vault != nil {
		if err = f.lodge(ctx, id, data); err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("storing the local CA's key: %w", err)
		}
		f.log.Warn("the local CA's key is kept in a file until the keyring takes it", "file", f.path(keyName(id)), "error", err)
	}
	if err := writeFile(f.path(keyName(id)), data, 0o600); err != nil {
		return &Error{Text: "writing the local CA's key", Err: err}
	}
	return nil
}

// lodge stores the key in the keyring and reads it back.
func (f folder) lodge(ctx context.Context, id identity, data []byte) error {
	if err := f.vault.Write(ctx, vaultItem(id), data); err != nil {
		return err
	}
	back, err := f.vault.Read(ctx, vaultItem(id))
	if err != nil {
		return err
	}
	_, err = decodeKey(back, id)
	return err
}

// rootKey reads the root's key. One in a file moves to the keyring: it is read back from there before the file goes. The
// caller holds the lock.
func (f folder) rootKey(ctx context.Context, id identity) (*ecdsa.PrivateKey, error) {
	path := f.path(keyName(id))
	data, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f.lodgedKey(ctx, id)
	}
	if err != nil {
		return nil, withHint(err, "reading the local CA's key", startOver)
	}
	key, err := decodeKey(data, id)
	if err != nil {
		return nil, &Error{Text: path, Next: startOver, Err: err}
	}
	if f.vault == nil {
		return key, nil
	}
	err = f.lodge(ctx, id, data)
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil {
		f.log.Warn("the local CA's key stays in a file: it cannot be moved to the keyring", "file", path, "error", err)
	}
	return key, nil
}

func (f folder) lodgedKey(ctx context.Context, id identity) (*ecdsa.PrivateKey, error) {
	missing := &Error{Text: "the local CA's key is gone: it is not in " + f.dir, Next: "start with the keyring that it was made with, or " + startOver}
	if f.vault == nil {
		return nil, missing
	}
	data, err := f.vault.Read(ctx, vaultItem(id))
	if errors.Is(err, fs.ErrNotExist) {
		missing.Text += ", and not in the " + f.vault.Name() + " keyring"
		return nil, missing
	}
	if err != nil {
		return nil, fmt.Errorf("reading the local CA's key: %w", err)
	}
	key, err := decodeKey(data, id)
	if err != nil {
		return nil, &Error{Text: "the local CA's key in the " + f.vault.Name() + " keyring", Next: startOver, Err: err}
	}
	return key, nil
}

// whereKey says where the root's key is, as far as that can be told without asking the keyring.
func (f folder) whereKey(id identity) string {
	if path := f.path(keyName(id)); isFile(path) {
		return path
	}
	if f.vault == nil {
		return ""
	}
	return f.vault.Name() + " keyring"
}

// checkKey refuses a key file that others can read, before it is needed.
func (f folder) checkKey(id identity) error {
	path := f.path(keyName(id))
	info, err := os.Stat(path)
	if err != nil {
		return nil // most of the time it is somewhere else
	}
	return checkPrivate(info, path, "chmod 600 "+path)
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// decodeKey reads the key of id.
func decodeKey(data []byte, id identity) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("it is no private key in PEM form")
	}
	return parseKey(block.Bytes, id.cert)
}

// parseKey reads the key of cert.
func parseKey(der []byte, cert *x509.Certificate) (*ecdsa.PrivateKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return nil, errors.New("it is no ECDSA key")
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("it is the key of another certificate")
	}
	return key, nil
}
