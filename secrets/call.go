package secrets

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/credproxy/credproxy/secrets/dbusguard"
)

// A request is one operation for the helper process, on its standard input.
type request struct {
	Op      string        `json:"op"` // get, set, remove, list, verify, probe
	Backend string        `json:"backend"`
	Item    string        `json:"item,omitempty"`
	Data    []byte        `json:"data,omitempty"`
	State   string        `json:"state"`
	Key     []byte        `json:"key,omitempty"`   // of the file backend
	Bus     string        `json:"bus,omitempty"`   // the session bus, for programs that the backend starts
	Quiet   bool          `json:"quiet,omitempty"` // show no dialog
	Limit   time.Duration `json:"limit"`
}

// A reply is the helper's answer, on its standard output.
type reply struct {
	Data   []byte `json:"data,omitempty"`
	Items  []Info `json:"items,omitempty"`
	Slug   string `json:"slug,omitempty"` // of the failure; empty: none
	Why    string `json:"why,omitempty"`
	Detail string `json:"detail,omitempty"`
}

// call runs one operation in a helper process.
func (s *Store) call(ctx context.Context, q request) (reply, error) {
	started := time.Now()
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	q.Backend, q.State, q.Quiet = s.backend.name, s.state, !s.interactive
	if q.Backend == "file" {
		done, err := s.prepareFile(ctx, &q)
		if done || err != nil {
			return reply{}, err
		}
	}
	address := dbusguard.Nowhere
	if s.backend.bus {
		var err error
		if address, err = s.bus.find(); err != nil {
			return reply{}, s.explain(&Error{Kind: ErrUnavailable, Why: err.Error()})
		}
	} else {
		q.Bus = s.bus.given
	}
	if err := s.enter(); err != nil {
		return reply{}, s.explain(err)
	}
	rep, err := s.run(ctx, q, address)
	// A caller's own, shorter deadline says nothing about the keyring.
	s.leave(errors.Is(err, ErrTimeout) && time.Since(started) >= s.limit)
	if err != nil {
		s.forgetKey(err)
		if e, ok := errors.AsType[*Error](err); ok {
			return reply{}, s.explain(e)
		}
		return reply{}, err
	}
	return rep, nil
}

// forgetKey drops a key of the file backend that turned out wrong, so that a person may type again.
func (s *Store) forgetKey(err error) {
	if errors.Is(err, ErrLocked) {
		s.mu.Lock()
		s.key = nil
		s.mu.Unlock()
	}
}

// run starts the helper and waits for its reply.
func (s *Store) run(ctx context.Context, q request, address string) (reply, error) {
	deadline, _ := ctx.Deadline()
	q.Limit = time.Until(deadline)
	in, err := json.Marshal(q)
	if err != nil {
		return reply{}, &Error{Kind: ErrInvalid, Why: "it cannot be encoded"}
	}
	self, err := ownProgram()
	if err != nil {
		return reply{}, &Error{Kind: ErrUnavailable, Why: "credproxy cannot find its own program: " + err.Error()}
	}
	out := &bounded{limit: maxMessage}
	cmd := exec.CommandContext(ctx, self)
	cmd.Args = []string{"credproxy", "(keyring " + q.Op + ")"}
	cmd.Env = append(Environ(), dbusguard.HelperVariable+"=1", dbusguard.AddressVariable+"="+address)
	cmd.Stdin = bytes.NewReader(in)
	cmd.Stdout = out // its standard error could only be a crash, with who knows what in it
	err = runGroup(cmd)
	clear(in)
	switch {
	case err != nil && errors.Is(ctx.Err(), context.Canceled):
		return reply{}, context.Canceled
	case err != nil && ctx.Err() != nil:
		return reply{}, &Error{Kind: ErrTimeout, Why: "it did not answer; a dialog may be waiting on the screen"}
	case err != nil:
		return reply{}, &Error{Kind: ErrUnavailable, Why: "the helper process failed: " + err.Error()}
	}
	var rep reply
	if err := json.Unmarshal(out.buf.Bytes(), &rep); err != nil {
		return reply{}, &Error{Kind: ErrUnavailable, Why: "the helper process gave no answer; does main call secrets.RunHelper?"}
	}
	if rep.Slug != "" {
		return reply{}, &Error{Kind: kindOf(rep.Slug), Why: rep.Why, Detail: rep.Detail}
	}
	return rep, nil
}

// ownProgram is the running program even if its file was replaced by another version since.
func ownProgram() (string, error) {
	const self = "/proc/self/exe"
	if runtime.GOOS == "linux" {
		if _, err := os.Stat(self); err == nil {
			return self, nil
		}
	}
	return os.Executable()
}

// A silence is a keyring that did not answer. Until it is over requests fail at once instead of each waiting for
// the same dialog; then one of them tries.
type silence struct {
	until      time.Time
	generation int64 // another process has changed the keyring since: it answers
	trying     bool
}

// enter fails while the keyring is silent.
func (s *Store) enter() *Error {
	s.mu.Lock()
	quiet := s.silent
	s.mu.Unlock()
	if quiet.until.IsZero() {
		return nil
	}
	changed := s.generation() != quiet.generation
	now := wall()
	s.mu.Lock()
	defer s.mu.Unlock()
	left := s.silent.until.Sub(now)
	if s.silent.until.IsZero() || changed || left > s.pause {
		s.silent = silence{}
		return nil
	}
	if left > 0 || s.silent.trying {
		return &Error{Kind: ErrTimeout, Why: fmt.Sprintf("it did not answer lately; it is tried again in %s", max(left, time.Second).Round(time.Second))}
	}
	s.silent.trying = true
	return nil
}

// leave notes whether the keyring answered.
func (s *Store) leave(silent bool) {
	var generation int64
	if silent {
		generation = s.generation()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = silence{}
	if silent {
		s.silent = silence{until: wall().Add(s.pause), generation: generation}
	}
}

// A busAddress is where the session bus may be.
type busAddress struct {
	given   string   // DBUS_SESSION_BUS_ADDRESS as credproxy was started with
	sockets []string // otherwise
}

func sessionBus() busAddress {
	b := busAddress{sockets: []string{fmt.Sprintf("/run/user/%d/bus", os.Getuid())}}
	b.given, _ = dbusguard.Original()
	if folder := os.Getenv("XDG_RUNTIME_DIR"); folder != "" {
		b.sockets = append([]string{filepath.Join(folder, "bus")}, b.sockets...)
	}
	return b
}

// find returns an address that is not empty: with an empty one, godbus would start a daemon that nobody ends.
func (b busAddress) find() (string, error) {
	if b.given != "" {
		return b.given, nil
	}
	for _, path := range b.sockets {
		if _, err := os.Stat(path); err == nil {
			return "unix:path=" + path, nil
		}
	}
	return "", errors.New("there is no D-Bus session (DBUS_SESSION_BUS_ADDRESS is not set)")
}
