//go:build !linux

package secrets

import "github.com/99designs/keyring"

func probeSecretService() error { return keyring.ErrNoAvailImpl }

func checkBus() error { return keyring.ErrNoAvailImpl }

func defaultCollection(bool) (string, error) { return "", keyring.ErrNoAvailImpl }

// classifyBus classifies an error of the D-Bus library.
func classifyBus(error) (kind error, why string, ok bool) { return nil, "", false }
