package secrets

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/godbus/dbus"
)

func TestClassifyBus(t *testing.T) {
	t.Parallel()
	say := func(name, text string) error { return dbus.Error{Name: name, Body: []any{text}} }
	tests := []struct {
		err  error
		want error
		why  string
	}{
		{say("org.freedesktop.Secret.Error.IsLocked", "Cannot get secret of a locked object"), ErrLocked, "not unlocked"},
		{say("org.freedesktop.DBus.Error.ServiceUnknown", "The name org.freedesktop.secrets was not provided"), ErrUnavailable, "ServiceUnknown"},
		{say("org.freedesktop.DBus.Error.NoReply", "Message recipient disconnected"), ErrUnavailable, "NoReply"},
		{say("org.freedesktop.DBus.Error.Disconnected", ""), ErrUnavailable, "Disconnected"},
		{say("org.freedesktop.DBus.Error.Spawn.ChildExited", ""), ErrUnavailable, "Spawn"},
		{say("org.freedesktop.DBus.Error.AccessDenied", "xyzzy"), ErrDenied, "AccessDenied"},
		{say("org.freedesktop.DBus.Error.TimedOut", ""), ErrTimeout, "TimedOut"},
		{say("org.freedesktop.DBus.Error.UnknownMethod", `Object does not exist at path "/"`), ErrUnavailable, "no default keyring"},
		{dbus.ErrClosed, ErrUnavailable, "has ended"},
		{&busError{syscall.ECONNREFUSED}, ErrUnavailable, "connection refused"},
		{errNoCollection, ErrUnavailable, "no default keyring"},
		{errCollectionLocked, ErrLocked, "is locked"},
	}
	for _, test := range tests {
		for _, err := range []error{test.err, fmt.Errorf("reading back: %w", test.err)} {
			kind, why := classify(err, "")
			if kind != test.want || !strings.Contains(why, test.why) || strings.Contains(why, "xyzzy") {
				t.Errorf("%v: got %v, %q; want %v, %q", test.err, kind, why, test.want, test.why)
			}
		}
	}
	if _, _, ok := classifyBus(errors.New("aes.KeyUnwrap(): integrity check failed.")); ok {
		t.Error("an error that is none of D-Bus's was taken for one")
	}
}
