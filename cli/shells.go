package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// A shell knows how to write variables in one syntax.
type shell struct {
	names []string // as --shell takes them
	set   func(name, value string) string
	unset func(name string) string // nil: the syntax cannot say it
}

// shells is the one table of them. json is not here: it is one document and not lines.
var shells = []shell{
	{
		[]string{"bash", "zsh", "sh", "dash", "ksh", "ash"},
		func(name, value string) string { return "export " + name + "=" + quote(value) },
		func(name string) string { return "unset " + name },
	},
	{
		[]string{"fish"},
		func(name, value string) string {
			return "set -gx " + name + " '" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "'"
		},
		func(name string) string { return "set -e " + name },
	},
	{
		[]string{"pwsh", "powershell"},
		func(name, value string) string {
			return "$Env:" + name + " = '" + strings.ReplaceAll(value, "'", "''") + "'"
		},
		func(name string) string { return "Remove-Item Env:" + name + " -ErrorAction SilentlyContinue" },
	},
	{
		[]string{"cmd"},
		func(name, value string) string {
			return `set "` + name + "=" + strings.ReplaceAll(value, "%", "%%") + `"`
		},
		func(name string) string { return `set "` + name + `="` },
	},
	{
		[]string{"dotenv"},
		func(name, value string) string {
			return name + `="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "\n", `\n`).Replace(value) + `"`
		},
		nil,
	},
}

// shellNames lists what --shell takes.
func shellNames() []string {
	names := []string{"json"}
	for _, s := range shells {
		names = append(names, s.names[0])
	}
	slices.Sort(names)
	return names
}

// loginShell is the user's shell, as far as anybody can tell.
func loginShell() string {
	if name := filepath.Base(os.Getenv("SHELL")); name != "." {
		return strings.TrimSuffix(name, ".exe")
	}
	if runtime.GOOS == "windows" {
		return "pwsh"
	}
	return "sh"
}

// writeVariables writes list in the syntax of the named shell, all or nothing.
func writeVariables(w io.Writer, name string, list []variable) error {
	var b bytes.Buffer
	if name == "json" {
		if err := encodeVariables(&b, list); err != nil {
			return err
		}
	} else {
		i := slices.IndexFunc(shells, func(s shell) bool { return slices.Contains(s.names, name) })
		if i < 0 {
			return &failure{slug: slugUsage, text: "unknown shell " + name, next: "--shell " + strings.Join(shellNames(), ", ")}
		}
		for _, v := range list {
			switch {
			case v.set:
				fmt.Fprintln(&b, shells[i].set(v.name, v.value))
			case shells[i].unset != nil:
				fmt.Fprintln(&b, shells[i].unset(v.name))
			}
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// encodeVariables writes one JSON object; what is to be unset is null.
func encodeVariables(w io.Writer, list []variable) error {
	object := make(map[string]*string, len(list))
	for _, v := range list {
		object[v.name] = nil
		if v.set {
			object[v.name] = &v.value
		}
	}
	return writeJSON(w, object)
}

// writeJSON writes v for people and programs.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// quote makes one word of s for a POSIX shell.
func quote(s string) string {
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("/._-:@%+,=~", r)
	}
	if s != "" && !strings.HasPrefix(s, "~") && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
