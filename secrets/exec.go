package secrets

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/credproxy/credproxy/secrets/dbusguard"
)

var errCommand = errors.New("a command is the name of a program on PATH, an absolute path, or one that starts with ~/")

func checkCommand(name string) error {
	if name == "" {
		return errCommand
	}
	if filepath.Base(name) == name && name != "." && name != ".." {
		return nil
	}
	if checkPath(name) != nil {
		return errCommand
	}
	return nil
}

// fetchExec runs a command and takes its standard output. No shell is involved.
func fetchExec(ctx context.Context, _ *Store, ref Ref) (Value, error) {
	var args []string
	if err := json.Unmarshal([]byte(ref.Name), &args); err != nil || len(args) == 0 {
		return Value{}, &Error{Kind: ErrFailed, Why: "the command is not a list"}
	}
	program, err := expandHome(args[0])
	if err != nil {
		return Value{}, &Error{Kind: ErrFailed, Why: err.Error()}
	}
	out := &bounded{limit: maxValue}
	errs := &bounded{limit: 2 << 10, drop: true}
	cmd := exec.CommandContext(ctx, program, args[1:]...)
	cmd.Env = withoutProxies(Environ())
	cmd.Dir = neutralFolder()
	cmd.Stdout, cmd.Stderr = out, errs
	err = runGroup(cmd)
	fail := func(kind error, why, next string) (Value, error) {
		return Value{}, &Error{Kind: kind, Why: why, Next: next, Detail: strings.ToValidUTF8(errs.buf.String(), "?")}
	}
	next := "run the command by hand and see what it says"
	switch {
	case ctx.Err() != nil && err != nil:
		return fail(ErrTimeout, "the command did not finish in time", next)
	case out.full:
		return fail(ErrTooLarge, "the command printed more than 64 kB", next)
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return fail(ErrFailed, "there is no such program", "check PATH, or write the program's full path")
	case err != nil:
		// The text of any other error may name arguments, an exit status does not.
		why := "the command could not be run"
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			why = "the command failed: " + exit.ProcessState.String()
		}
		return fail(ErrFailed, why, next)
	}
	s := trimNewline(out.buf.String())
	if s == "" {
		return fail(ErrFailed, "the command printed nothing", next)
	}
	return NewValue(s), nil
}

// neutralFolder is where commands run. The proxy's own folder may be a project whose files choose what a tool does.
func neutralFolder() string {
	if home, err := os.UserHomeDir(); err == nil {
		if info, err := os.Stat(home); err == nil && info.IsDir() {
			return home
		}
	}
	return os.TempDir()
}

// Environ is the process's environment as a child should see it: with the session bus address that credproxy was
// started with, and without credproxy's passphrase.
func Environ() []string {
	hidden := map[string]bool{dbusguard.AddressVariable: true, dbusguard.HelperVariable: true,
		"CREDPROXY_PASSPHRASE": true, "CREDPROXY_PASSPHRASE_FD": true}
	env := without(os.Environ(), func(name string) bool { return hidden[name] })
	if address, ok := dbusguard.Original(); ok {
		env = append(env, dbusguard.AddressVariable+"="+address)
	}
	return env
}

// proxyVariables may lead a command to the very proxy that waits for it.
var proxyVariables = map[string]bool{
	"HTTP_PROXY": true, "HTTPS_PROXY": true, "ALL_PROXY": true, "FTP_PROXY": true, "WS_PROXY": true, "WSS_PROXY": true, "NO_PROXY": true,
	"NODE_USE_ENV_PROXY": true, "GLOBAL_AGENT_HTTP_PROXY": true, "NPM_CONFIG_PROXY": true, "NPM_CONFIG_HTTPS_PROXY": true,
	"CLOUDSDK_PROXY_ADDRESS": true, "CLOUDSDK_PROXY_PORT": true, "CLOUDSDK_PROXY_TYPE": true,
	"SSL_CERT_FILE": true, "SSL_CERT_DIR": true, "NODE_EXTRA_CA_CERTS": true, "REQUESTS_CA_BUNDLE": true, "CURL_CA_BUNDLE": true,
	"AWS_CA_BUNDLE": true, "GIT_SSL_CAINFO": true, "CARGO_HTTP_CAINFO": true, "PIP_CERT": true, "DENO_CERT": true,
	"NPM_CONFIG_CAFILE": true, "HTTPLIB2_CA_CERTS": true, "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE": true, "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": true,
	"BUNDLE_SSL_CA_CERT": true, "HEX_CACERTS_PATH": true, "NIX_SSL_CERT_FILE": true, "VAULT_PROXY_ADDR": true,
}

func withoutProxies(env []string) []string {
	return without(env, func(name string) bool { return proxyVariables[strings.ToUpper(name)] })
}

func without(env []string, hide func(name string) bool) []string {
	kept := make([]string, 0, len(env)+1)
	for _, line := range env {
		if name, _, _ := strings.Cut(line, "="); !hide(name) {
			kept = append(kept, line)
		}
	}
	return kept
}

// A bounded takes up to limit bytes. More is an error, which ends the writer, or with drop is thrown away.
type bounded struct {
	buf   bytes.Buffer
	limit int
	drop  bool
	full  bool
}

var errFull = errors.New("too much output")

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	room := b.limit - b.buf.Len()
	if len(p) <= room {
		return b.buf.Write(p)
	}
	b.full = true
	b.buf.Write(p[:room])
	if b.drop {
		return len(p), nil
	}
	return room, errFull
}

// waitDelay is how long the children that a command leaves behind may hold its output open.
const waitDelay = 500 * time.Millisecond

// finished is the result of a command. That it left children behind which hold its output is not its failure.
func finished(cmd *exec.Cmd, err error) error {
	if errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState != nil && cmd.ProcessState.Success() {
		return nil
	}
	return err
}
