package secrets

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// newResolver returns a Resolver without a keyring.
func newResolver(t *testing.T) *Resolver {
	t.Helper()
	r := NewResolver(Config{})
	t.Cleanup(r.Close)
	return r
}

func wantKind(t *testing.T, err error, kind error, says string) *Error {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok || !errors.Is(err, kind) {
		t.Fatalf("got error %v, want an *Error of kind %q", err, kind)
	}
	if !strings.Contains(e.Error(), says) {
		t.Fatalf("got error %q, want one that says %q", e, says)
	}
	return e
}

func TestSourcesTable(t *testing.T) {
	t.Parallel()
	if got, want := Sources(), []string{"keyring", "env", "file", "exec"}; !slices.Equal(got, want) {
		t.Errorf("Sources() = %v, want %v", got, want)
	}
	docs, err := os.ReadFile("../docs/secrets.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range Sources() {
		if !strings.Contains(string(docs), "\n## "+name+"\n") {
			t.Errorf("docs/secrets.md has no section %q", "## "+name)
		}
	}
	for _, b := range backends {
		if !strings.Contains(string(docs), "\n### "+b.name+"\n") {
			t.Errorf("docs/secrets.md has no section %q", "### "+b.name)
		}
	}
}

func TestEnvSource(t *testing.T) {
	t.Setenv("SECRETS_TEST_TOKEN", `{"token":"abc","n":7}`)
	t.Setenv("SECRETS_TEST_EMPTY", "")
	r := newResolver(t)
	for ref, want := range map[Ref]string{
		{Scheme: "env", Name: "SECRETS_TEST_TOKEN"}:                 `{"token":"abc","n":7}`,
		{Scheme: "env", Name: "SECRETS_TEST_TOKEN", Field: "token"}: "abc",
		{Scheme: "env", Name: "SECRETS_TEST_TOKEN", Field: "n"}:     "7",
	} {
		if v, err := r.Resolve(t.Context(), ref); err != nil || v.Reveal() != want {
			t.Errorf("%v: got %q, %v; want %q", ref, v.Reveal(), err, want)
		}
	}
	for _, name := range []string{"SECRETS_TEST_EMPTY", "SECRETS_TEST_UNSET"} {
		_, err := r.Resolve(t.Context(), Ref{Scheme: "env", Name: name})
		e := wantKind(t, err, ErrNotFound, "env:"+name)
		if e.Slug() != "secret_missing" || !strings.Contains(e.Hint(), "export "+name) {
			t.Errorf("slug %q, hint %q", e.Slug(), e.Hint())
		}
	}
	_, err := r.Resolve(t.Context(), Ref{Scheme: "env", Name: "SECRETS_TEST_TOKEN", Field: "missing"})
	wantKind(t, err, ErrNotFound, "missing")
}

func TestResolveNothing(t *testing.T) {
	t.Parallel()
	r := newResolver(t)
	_, err := r.Resolve(t.Context(), Ref{})
	wantKind(t, err, ErrInvalid, "")
	_, err = r.Resolve(t.Context(), Ref{Scheme: "keyring", Name: "x"})
	wantKind(t, err, ErrUnavailable, "no keyring")
}

func writeSecret(t *testing.T, path, value string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestFileSource(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	tests := []struct {
		name, content string
		mode          os.FileMode
		field, want   string
		kind          error
	}{
		{name: "plain", content: "abc", mode: 0o600, want: "abc"},
		{name: "read only", content: "abc", mode: 0o400, want: "abc"},
		{name: "one newline", content: "abc\n", mode: 0o600, want: "abc"},
		{name: "two newlines", content: "abc\n\n", mode: 0o600, want: "abc\n"},
		{name: "CRLF", content: "abc\r\n", mode: 0o600, want: "abc"},
		{name: "field", content: `{"a":"b"}`, mode: 0o600, field: "a", want: "b"},
		{name: "empty", content: "", mode: 0o600, kind: ErrInvalid},
		{name: "newline only", content: "\n", mode: 0o600, kind: ErrInvalid},
		{name: "large", content: strings.Repeat("a", maxValue+1), mode: 0o600, kind: ErrTooLarge},
		{name: "group", content: "abc", mode: 0o640, kind: ErrDenied},
		{name: "world", content: "abc", mode: 0o604, kind: ErrDenied},
		{name: "world writable", content: "abc", mode: 0o602, kind: ErrDenied},
	}
	r := newResolver(t)
	for _, test := range tests {
		if runtime.GOOS == "windows" && test.kind == ErrDenied {
			continue
		}
		path := filepath.Join(folder, test.name)
		writeSecret(t, path, test.content, test.mode)
		v, err := r.Resolve(t.Context(), Ref{Scheme: "file", Name: path, Field: test.field})
		if test.kind != nil {
			e := wantKind(t, err, test.kind, path)
			if test.kind == ErrDenied && !strings.HasPrefix(e.Hint(), "copy it to a file that only you can read") {
				t.Errorf("%s: hint %q", test.name, e.Hint())
			}
			continue
		}
		if err != nil || v.Reveal() != test.want {
			t.Errorf("%s: got %q, %v; want %q", test.name, v.Reveal(), err, test.want)
		}
	}
	_, err := r.Resolve(t.Context(), Ref{Scheme: "file", Name: filepath.Join(folder, "absent")})
	wantKind(t, err, ErrNotFound, "absent")
	_, err = r.Resolve(t.Context(), Ref{Scheme: "file", Name: folder})
	wantKind(t, err, ErrFailed, "regular file")
}

func TestFileSourceMountedSecrets(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", folder)
	path := filepath.Join(folder, "token")
	writeSecret(t, path, "abc", 0o444)
	if v, err := newResolver(t).Resolve(t.Context(), Ref{Scheme: "file", Name: path}); err != nil || v.Reveal() != "abc" {
		t.Errorf("got %q, %v", v.Reveal(), err)
	}
	outside := folder + "-outside"
	writeSecret(t, outside, "abc", 0o444)
	t.Cleanup(func() { _ = os.Remove(outside) })
	_, err := newResolver(t).Resolve(t.Context(), Ref{Scheme: "file", Name: filepath.Join(folder, "..", filepath.Base(outside))})
	wantKind(t, err, ErrDenied, "other users")
}

func TestFileSourceHome(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("USERPROFILE", home)
	writeSecret(t, filepath.Join(home, "token"), "at home", 0o600)
	if v, err := newResolver(t).Resolve(t.Context(), Ref{Scheme: "file", Name: "~/token"}); err != nil || v.Reveal() != "at home" {
		t.Errorf("got %q, %v", v.Reveal(), err)
	}
}

// Only a file that is the user's own to close is to be closed: of a system's file, others need to read it.
func TestExposedFileHint(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no modes to go by")
	}
	home, outside := t.TempDir(), filepath.Join(t.TempDir(), "token")
	t.Setenv("HOME", home)
	writeSecret(t, outside, "abc", 0o644)
	inside, link := filepath.Join(home, "token"), filepath.Join(home, "link")
	writeSecret(t, inside, "abc", 0o644)
	if err := os.Symlink(outside, link); err != nil {
		t.Fatal(err)
	}
	const copyIt = "copy it to a file that only you can read, and name that one"
	for path, want := range map[string]string{inside: "chmod 600 " + inside, "/etc/passwd": copyIt, outside: copyIt, link: copyIt} {
		_, err := newResolver(t).Resolve(t.Context(), Ref{Scheme: "file", Name: path})
		if e := wantKind(t, err, ErrDenied, "other users can read"); e.Hint() != want {
			t.Errorf("%s: hint %q, want %q", path, e.Hint(), want)
		}
	}
	r := NewResolver(Config{Store: fileStore(t, filepath.Dir(outside))})
	t.Cleanup(r.Close)
	_, err := r.Resolve(t.Context(), Ref{Scheme: "file", Name: outside})
	if e := wantKind(t, err, ErrDenied, ""); e.Hint() != "chmod 600 "+outside {
		t.Errorf("in the state folder: hint %q", e.Hint())
	}
}

// A change shows at once, however it is made: written over, renamed over, through a symbolic link, at equal length.
func TestFileSourceFollowsChanges(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	path := filepath.Join(folder, "token")
	r := newResolver(t)
	ref := Ref{Scheme: "file", Name: path}
	want := func(value string) {
		t.Helper()
		if v, err := r.Resolve(t.Context(), ref); err != nil || v.Reveal() != value {
			t.Fatalf("got %q, %v; want %q", v.Reveal(), err, value)
		}
	}
	_, err := r.Resolve(t.Context(), ref)
	wantKind(t, err, ErrNotFound, "")
	writeSecret(t, path, "one", 0o600) // a missing file is not remembered as missing
	want("one")
	writeSecret(t, filepath.Join(folder, "new"), "two", 0o600)
	if err := os.Rename(filepath.Join(folder, "new"), path); err != nil {
		t.Fatal(err)
	}
	want("two")
	writeSecret(t, path, "longer", 0o600)
	want("longer")
	if runtime.GOOS == "windows" {
		return
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = r.Resolve(t.Context(), ref)
	wantKind(t, err, ErrDenied, "")
	writeSecret(t, filepath.Join(folder, "a"), "AAA", 0o600)
	writeSecret(t, filepath.Join(folder, "b"), "BBB", 0o600)
	for _, target := range []string{"a", "b", "a"} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		want(strings.Repeat(strings.ToUpper(target), 3))
	}
}

// A second write of equal length within one tick of the file system's clock leaves the same stamp. A file that was
// written just now is therefore not believed for long.
func TestFileSourceSameStamp(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "token")
	clock := newClock()
	r := newResolver(t)
	r.now = clock.now
	ref := Ref{Scheme: "file", Name: path}
	write := func(value string, at time.Time) {
		t.Helper()
		writeSecret(t, path, value, 0o600)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	write("one", clock.now())
	if v, err := r.Resolve(t.Context(), ref); err != nil || v.Reveal() != "one" {
		t.Fatalf("got %q, %v", v.Reveal(), err)
	}
	write("two", clock.now())
	clock.advance(unsettled)
	if v, err := r.Resolve(t.Context(), ref); err != nil || v.Reveal() != "two" {
		t.Errorf("got %q, %v; want two", v.Reveal(), err)
	}
}

func execRef(args ...string) Ref {
	b, err := json.Marshal(args)
	if err != nil {
		panic(err)
	}
	return Ref{Scheme: "exec", Name: string(b)}
}

func needShell(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the commands of this test are those of Unix")
	}
}

func TestExecSource(t *testing.T) {
	t.Parallel()
	needShell(t)
	big := "head -c 70000 /dev/zero | tr '\\0' a"
	tests := []struct {
		name, script string
		field, want  string
		kind         error
		says         string
	}{
		{name: "plain", script: "printf abc", want: "abc"},
		{name: "one newline", script: "printf 'abc\\n\\n'", want: "abc\n"},
		{name: "field", script: `printf '{"token":"t"}'`, field: "token", want: "t"},
		{name: "standard input is empty", script: "wc -c | tr -d ' '", want: "0"},
		{name: "stderr is no output", script: "echo noise >&2; echo abc", want: "abc"},
		{name: "nothing", script: "true", kind: ErrFailed, says: "printed nothing"},
		{name: "newline", script: "echo", kind: ErrFailed, says: "printed nothing"},
		{name: "fails", script: "echo xyzzy; echo xyzzy >&2; exit 3", kind: ErrFailed, says: "exit status 3"},
		{name: "too much", script: big, kind: ErrTooLarge, says: "64 kB"},
		{name: "missing field", script: `printf '{"token":"xyzzy"}'`, field: "nope", kind: ErrNotFound, says: "nope"},
	}
	r := newResolver(t)
	for _, test := range tests {
		ref := execRef("sh", "-c", test.script)
		ref.Field = test.field
		v, err := r.Resolve(t.Context(), ref)
		if test.kind == nil {
			if err != nil || v.Reveal() != test.want {
				t.Errorf("%s: got %q, %v; want %q", test.name, v.Reveal(), err, test.want)
			}
			continue
		}
		e := wantKind(t, err, test.kind, test.says)
		if strings.Contains(e.Error()+e.Hint()+e.Why, "xyzzy") {
			t.Errorf("%s: error %q shows what the command wrote", test.name, e)
		}
		if test.name == "fails" && e.Detail != "xyzzy\n" {
			t.Errorf("%s: detail for the terminal is %q", test.name, e.Detail)
		}
	}
	_, err := r.Resolve(t.Context(), execRef("credproxy-no-such-program"))
	wantKind(t, err, ErrFailed, "no such program")
	if e := wantKind(t, err, ErrFailed, ""); e.Slug() != "secret_unavailable" {
		t.Errorf("slug %q", e.Slug())
	}
}

// The command must not see the proxy that waits for it, nor the passphrase, nor the helper's bus address.
func TestExecEnvironment(t *testing.T) {
	needShell(t)
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "http_proxy", "ALL_PROXY", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE"} {
		t.Setenv(name, "http://127.0.0.1:1/xyzzy")
	}
	t.Setenv("CREDPROXY_PASSPHRASE", "xyzzy")
	t.Setenv("SECRETS_TEST_KEPT", "kept")
	v, err := newResolver(t).Resolve(t.Context(), execRef("env"))
	if err != nil {
		t.Fatal(err)
	}
	if env := v.Reveal(); strings.Contains(env, "xyzzy") || strings.Contains(env, "credproxy-uses-a-helper") {
		t.Errorf("the command's environment is %s", env)
	}
	if !strings.Contains(v.Reveal(), "SECRETS_TEST_KEPT=kept") || !strings.Contains(v.Reveal(), "PATH=") {
		t.Errorf("the command's environment lacks what it should keep: %s", v.Reveal())
	}
}

// A deadline ends the command and all that it started, even if they ignore signals and hold its output open.
func TestExecTimeout(t *testing.T) {
	t.Parallel()
	needShell(t)
	pids := filepath.Join(t.TempDir(), "pids")
	ref := execRef("sh", "-c", `trap "" TERM INT; sleep 600 & echo $$ $! > "$0"; wait; sleep 600`, pids)
	ref.Timeout = 300 * time.Millisecond
	started := time.Now()
	_, err := newResolver(t).Resolve(t.Context(), ref)
	e := wantKind(t, err, ErrTimeout, "in time")
	if e.Slug() != "secret_timeout" {
		t.Errorf("slug %q", e.Slug())
	}
	if took := time.Since(started); took > 5*time.Second {
		t.Errorf("it took %s to give up after 300 ms", took)
	}
	b, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range strings.Fields(string(b)) {
		awaitGone(t, pid)
	}
}

// awaitGone waits until a process is no more than a zombie.
func awaitGone(t *testing.T, pid string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		b, err := os.ReadFile("/proc/" + pid + "/stat")
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) || err == nil && strings.Contains(string(b), ") Z ") {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("process %s is still there: %s", pid, b)
		}
	}
}

// A child that the command leaves behind and that holds its output does not make the command fail, or slow.
func TestExecLeavesChildBehind(t *testing.T) {
	t.Parallel()
	needShell(t)
	pid := filepath.Join(t.TempDir(), "pid")
	started := time.Now()
	v, err := newResolver(t).Resolve(t.Context(), execRef("sh", "-c", `sleep 30 & echo $! > "$0"; echo abc`, pid))
	if err != nil || v.Reveal() != "abc" {
		t.Fatalf("got %q, %v; want abc", v.Reveal(), err)
	}
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	b, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { endProcess(t, strings.TrimSpace(string(b))) })
}
