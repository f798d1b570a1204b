//go:build unix

package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/internal/testneed"
)

// newPassStore makes a password store whose key has no passphrase, and returns the environment that leads to it.
func newPassStore(t *testing.T) (env []string, home string) {
	t.Helper()
	pass, gpg := testneed.Program(t, "pass"), testneed.Program(t, "gpg")
	home, err := os.MkdirTemp("", "gpg") // gpg-agent's socket lies here, and the name of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		_ = os.RemoveAll(home)
	})
	env = []string{"GNUPGHOME=" + home, "PASSWORD_STORE_DIR=" + filepath.Join(home, "store")}
	for _, args := range [][]string{
		{gpg, "--batch", "--passphrase", "", "--quick-generate-key", "test@example.com", "default", "default", "never"},
		{pass, "init", "test@example.com"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	return append(env, "CREDPROXY_BACKEND=pass"), home
}

// TestCAInARealKeyring: the CA's key moves from its file into the keyring, is read for a further host alone, and its
// loss stops nothing but that.
func TestCAInARealKeyring(t *testing.T) {
	t.Parallel()
	env, home := newPassStore(t)
	w := newWorld(t)
	run := func(t *testing.T, env []string, args ...string) (string, error) {
		t.Helper()
		cmd := w.command(t, args...)
		cmd.Env = append(cmd.Env, env...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	fetch := func(t *testing.T, env []string) {
		t.Helper()
		out, err := run(t, env, "run", "--", "fetch", "https://localhost:"+w.port+"/")
		if err != nil || !strings.Contains(out, "upstream: authenticated") {
			t.Fatalf("got %q, %v", out, err)
		}
	}
	keys := func(pattern string) int {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	inFile := filepath.Join(w.home, ".local", "state", "credproxy", "ca", "*.key")
	inKeyring := filepath.Join(home, "store", "credproxy", "_ca-*.gpg")
	rules := func(hosts string) {
		t.Helper()
		path := filepath.Join(w.home, "more.yaml")
		text := `{version: 1, rules: [{name: service, match: {host: [localhost` + hosts + `], port: $PORT}, inject: {type: bearer, token: env:TOKEN}}]}`
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := installRules(path, w.home, w.port); err != nil {
			t.Fatal(err)
		}
	}

	if _, err := run(t, nil, "ca", "path"); err != nil { // with the file backend
		t.Fatal(err)
	}
	if keys(inFile) != 1 {
		t.Fatal("no key file")
	}
	fetch(t, env)
	if keys(inFile) != 0 || keys(inKeyring) != 1 {
		t.Fatalf("%d key files, %d in the keyring: want it in the keyring alone", keys(inFile), keys(inKeyring))
	}
	if out, err := run(t, env, "ca", "status"); err != nil || !strings.Contains(out, "pass keyring") {
		t.Errorf("ca status: %q, %v", out, err)
	}
	if out, err := run(t, env, "secret", "list"); err != nil || strings.Contains(out, "ca-") {
		t.Errorf("secret list: %q, %v", out, err)
	}

	// Without its private key the keyring is locked for good.
	if err := os.RemoveAll(filepath.Join(home, "private-keys-v1.d")); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gpgconf", "--homedir", home, "--kill", "gpg-agent").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	fetch(t, env)
	rules(", new.localhost")
	out, err := run(t, env, "run", "--", "fetch", "https://localhost:"+w.port+"/")
	if err == nil || !strings.Contains(out, "making a certificate for new.localhost: ") || !strings.Contains(out, "credproxy: hint: pass show ") {
		t.Errorf("got %q, %v, want an error with a hint", out, err)
	}
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 4 {
		t.Errorf("got %v, want exit status 4", err)
	}
	rules("")
	fetch(t, env)

	// Whoever has lost the keyring starts over.
	if err := os.RemoveAll(filepath.Join(home, "store")); err != nil {
		t.Fatal(err)
	}
	rules(", new.localhost")
	if out, err := run(t, nil, "ca", "rotate"); err != nil {
		t.Fatalf("ca rotate: %q, %v", out, err)
	}
	fetch(t, nil)
}
