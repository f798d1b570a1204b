package secrets

import (
	"encoding/hex"
	"errors"
	"path"
	"slices"
	"strings"

	"github.com/godbus/dbus"
)

const (
	secretService     = "org.freedesktop.secrets"
	secretServicePath = "/org/freedesktop/secrets"
	secretInterface   = "org.freedesktop.Secret."
)

// checkBus gives the reason why there is no bus. The keyring library swallows it.
func checkBus() error {
	if _, err := dbus.SessionBus(); err != nil {
		return &busError{err}
	}
	return nil
}

// A busError is a session bus that cannot be reached.
type busError struct{ err error }

func (e *busError) Error() string { return "connecting to the session bus: " + e.err.Error() }
func (e *busError) Unwrap() error { return e.err }

// probeSecretService reports whether somebody provides the secret service, or would if asked.
func probeSecretService() error {
	bus, err := dbus.SessionBus()
	if err != nil {
		return &busError{err}
	}
	for _, method := range []string{"ListNames", "ListActivatableNames"} {
		var names []string
		if err := bus.BusObject().Call("org.freedesktop.DBus."+method, 0).Store(&names); err != nil {
			return err
		}
		if slices.Contains(names, secretService) {
			return nil
		}
	}
	return errNoSecretService
}

// defaultCollection is the name of the user's default collection, as the keyring library wants it. Any other would
// be a new one, for which the user would have to invent a password. With quiet, a locked one is an error here,
// because the library would show a dialog that nobody has time to answer.
func defaultCollection(quiet bool) (string, error) {
	bus, err := dbus.SessionBus()
	if err != nil {
		return "", &busError{err}
	}
	var at dbus.ObjectPath
	service := bus.Object(secretService, secretServicePath)
	if err := service.Call(secretInterface+"Service.ReadAlias", 0, "default").Store(&at); err != nil {
		return "", err
	}
	if at == "/" || at == "" {
		return "", errNoCollection
	}
	if quiet {
		locked, err := bus.Object(secretService, at).GetProperty(secretInterface + "Collection.Locked")
		if err != nil {
			return "", err
		}
		if is, ok := locked.Value().(bool); ok && is {
			return "", errCollectionLocked
		}
	}
	return unescapePath(path.Base(string(at))), nil
}

// unescapePath undoes the _xx escapes of a D-Bus path element.
func unescapePath(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '_' && i+2 < len(s) {
			if c, err := hex.DecodeString(s[i+1 : i+3]); err == nil {
				b.Write(c)
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// classifyBus classifies an error of the D-Bus library.
func classifyBus(err error) (kind error, why string, ok bool) {
	if e, ok := errors.AsType[*busError](err); ok {
		return ErrUnavailable, "the D-Bus session does not answer: " + reasonOf(e.err), true
	}
	if errors.Is(err, dbus.ErrClosed) {
		return ErrUnavailable, "the D-Bus session has ended", true
	}
	e, ok := errors.AsType[dbus.Error](err)
	if !ok {
		return nil, "", false
	}
	name := e.Name
	switch {
	case strings.HasSuffix(name, ".IsLocked"), strings.Contains(e.Error(), "locked object"):
		return ErrLocked, "the keyring was not unlocked", true
	case strings.HasSuffix(name, ".AccessDenied"), strings.HasSuffix(name, ".AuthFailed"):
		return ErrDenied, name, true
	case strings.HasSuffix(name, ".Timeout"), strings.HasSuffix(name, ".TimedOut"):
		return ErrTimeout, name, true
	case strings.HasSuffix(name, ".NoSuchObject"), strings.Contains(e.Error(), `at path "/"`):
		return ErrUnavailable, "there is no default keyring, or its creation was cancelled", true
	}
	return ErrUnavailable, name, true // ServiceUnknown, NoReply, Disconnected, Spawn.…
}
