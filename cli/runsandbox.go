package cli

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/credproxy/credproxy/rules"
	"github.com/credproxy/credproxy/sandbox"
)

// startSandbox makes the sandbox, before anything secret is in memory.
func startSandbox() (*sandbox.Box, error) {
	box, err := sandbox.Start()
	if err != nil {
		return nil, &failure{slug: slugSandbox, text: err.Error(), next: "run it without --sandbox, or in a container of yours: docs/security.md"}
	}
	return box, nil
}

// launch starts the command in its sandbox.
func launch(box *sandbox.Box, p sandbox.Program) error {
	if err := box.Launch(p); err != nil {
		return &failure{slug: slugSandbox, text: p.Args[0] + " in a sandbox: " + err.Error(), next: "file " + quote(p.Path), code: statusNotExecutable}
	}
	return nil
}

// sandboxed is the command as it runs in the sandbox: what it could get secrets from is hidden, and what decides where
// they go cannot be written.
func (p *private) sandboxed(path string, args, env []string) sandbox.Program {
	return sandbox.Program{
		Path: absolutePath(path), Args: args, Env: env,
		Hide:     append(agents(), append(secretFiles(p.Rules.Current()), p.state)...),
		Keep:     []string{p.dir, p.Authority.Path()},
		ReadOnly: withTargets(filepath.Dir(absolutePath(p.rules)), absolutePath(p.rules)),
	}
}

// absolutePath is path, which somebody has just opened.
func absolutePath(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// withTargets adds what symbolic links lead to.
func withTargets(paths ...string) []string {
	for _, path := range paths {
		if target, err := filepath.EvalSymlinks(path); err == nil && target != path {
			paths = append(paths, target)
		}
	}
	return paths
}

// agents lists where other programs of the user give away secrets, or run commands, for whoever asks.
func agents() []string {
	paths := []string{
		"/run/user/" + strconv.Itoa(os.Getuid()), // session bus, keyring, agents, Wayland
		"/tmp/.X11-unix", "/run/docker.sock", "/var/run/docker.sock", "/run/podman", "/run/containerd",
	}
	if home, err := os.UserHomeDir(); err == nil {
		for _, name := range []string{".gnupg", ".password-store", ".local/share/keyrings", ".local/share/kwalletd"} {
			paths = append(paths, filepath.Join(home, name))
		}
	}
	for _, name := range []string{"XDG_RUNTIME_DIR", "PASSWORD_STORE_DIR", "GNUPGHOME", "CREDPROXY_PASSPHRASE_FILE"} {
		paths = append(paths, os.Getenv(name))
	}
	if agent := os.Getenv("SSH_AUTH_SOCK"); agent != "" {
		paths = append(paths, agent)
	}
	if bus, ok := strings.CutPrefix(os.Getenv("DBUS_SESSION_BUS_ADDRESS"), "unix:path="); ok {
		bus, _, _ = strings.Cut(bus, ",")
		paths = append(paths, bus)
	}
	return onlyAbsolute(paths)
}

// secretFiles lists the files from which the rules take secrets.
func secretFiles(set *rules.Set) []string {
	var paths []string
	for _, ref := range set.Refs() {
		if ref.Scheme == "file" {
			paths = append(paths, ref.Name)
		}
	}
	return withTargets(onlyAbsolute(paths)...)
}

func onlyAbsolute(paths []string) []string {
	var out []string
	for _, path := range paths {
		if rest, ok := strings.CutPrefix(path, "~/"); ok {
			if home, err := os.UserHomeDir(); err == nil {
				path = filepath.Join(home, rest)
			}
		}
		if filepath.IsAbs(path) {
			out = append(out, filepath.Clean(path))
		}
	}
	return out
}
