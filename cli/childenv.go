package cli

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/credproxy/credproxy/rules"
)

// A clientEnv is what programs behind the proxy find in their environment.
type clientEnv struct {
	proxy   string // URL
	bundle  string // file with all roots, for variables that replace a client's own
	ca      string // file with our CA alone, for variables that add
	noProxy string
	wgetrc  string
}

// A variable is one line of an environment; one that is not set is taken out.
type variable struct {
	name, value string
	set         bool
}

// clientVariables is the one table of what run and env set, for the clients that read it. docs/clients.md says who
// reads what.
var clientVariables = []struct {
	value func(clientEnv) string // nil: taken out of the environment
	names []string
}{
	{func(e clientEnv) string { return e.proxy }, []string{
		// Both cases: curl reads only lower case for http, wget and gRPC read no upper case at all.
		"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy",
		"WS_PROXY", "WSS_PROXY", "ws_proxy", "wss_proxy", "grpc_proxy",
		"npm_config_proxy", "npm_config_https_proxy", "YARN_HTTP_PROXY", "YARN_HTTPS_PROXY",
		"CARGO_HTTP_PROXY", "GLOBAL_AGENT_HTTP_PROXY", "GLOBAL_AGENT_HTTPS_PROXY",
	}},
	{nil, []string{"ALL_PROXY", "all_proxy"}}, // it would lead around this proxy, or into it as SOCKS
	{func(e clientEnv) string { return e.noProxy }, []string{"NO_PROXY", "no_proxy"}},
	{func(e clientEnv) string { return e.bundle }, []string{
		"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT", "npm_config_cafile",
		"AWS_CA_BUNDLE", "CARGO_HTTP_CAINFO", "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
		"PERL_LWP_SSL_CA_FILE", "HTTPLIB2_CA_CERTS", "NIX_SSL_CERT_FILE", "YARN_HTTPS_CA_FILE_PATH",
		"BUNDLE_SSL_CA_CERT", "HEX_CACERTS_PATH",
	}},
	{func(e clientEnv) string { return e.ca }, []string{"NODE_EXTRA_CA_CERTS", "DENO_CERT"}},
	{func(e clientEnv) string { return e.wgetrc }, []string{"WGETRC"}},
	{func(clientEnv) string { return "1" }, []string{"NODE_USE_ENV_PROXY", "PERL_LWP_ENV_PROXY"}},
	{func(clientEnv) string { return "basic" }, []string{"GIT_HTTP_PROXY_AUTHMETHOD"}},
}

// variables lists e in the order of the table.
func (e clientEnv) variables() []variable {
	var list []variable
	for _, row := range clientVariables {
		for _, name := range row.names {
			v := variable{name: name}
			if row.value != nil {
				v.value, v.set = row.value(e), true
			}
			list = append(list, v)
		}
	}
	return list
}

// merge returns env with changes made. No name stands there twice: programs do not agree on which one counts.
func merge(env []string, changes []variable) []string {
	key := func(name string) string {
		if runtime.GOOS == "windows" {
			return strings.ToUpper(name)
		}
		return name
	}
	last := make(map[string]string)
	var order []string
	put := func(name, line string) {
		if _, seen := last[key(name)]; !seen {
			order = append(order, key(name))
		}
		last[key(name)] = line
	}
	for _, line := range env {
		// Windows keeps the folders of drives in names that begin with =.
		if i := strings.IndexByte(line[min(1, len(line)):], '='); i >= 0 {
			put(line[:i+1], line)
		}
	}
	for _, v := range changes {
		line := ""
		if v.set {
			line = v.name + "=" + v.value
		}
		put(v.name, line)
	}
	merged := make([]string, 0, len(order))
	for _, name := range order {
		if last[name] != "" {
			merged = append(merged, last[name])
		}
	}
	return merged
}

// secretVariables lists the variables that env: references of the rules name; the child gets to see none of them.
func secretVariables(set *rules.Set) []variable {
	var list []variable
	for _, ref := range set.Refs() {
		if ref.Scheme == "env" {
			list = append(list, variable{name: ref.Name})
		}
	}
	return list
}

// markerVariables lists the variables that hold the markers which client writes in place of secrets.
func markerVariables(set *rules.Set, client string) []variable {
	var list []variable
	for _, m := range set.Markers(client) {
		if v := (variable{m.Env, m.Text, true}); v.name != "" && !slices.Contains(list, v) {
			list = append(list, v)
		}
	}
	return list
}

// ownVariables lists what unlocks the keyring; it is not for children either.
func ownVariables(env []string) []variable {
	var list []variable
	for _, line := range env {
		if name, _, _ := strings.Cut(line, "="); strings.HasPrefix(strings.ToUpper(name), "CREDPROXY_PASSPHRASE") {
			list = append(list, variable{name: name})
		}
	}
	return list
}

// wgetrcFor is the user's wgetrc with our roots. wget has no other way to be told of them, and reads only one such
// file. Settings that would lead around the proxy are left out.
func wgetrcFor(bundle string) ([]byte, error) {
	path := os.Getenv("WGETRC")
	if path == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return wgetrc("", bundle), nil
		}
		path = filepath.Join(home, ".wgetrc")
	}
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return nil, &failure{slug: slugInput, text: "reading wget's settings", next: "unset WGETRC, or make " + path + " readable", err: err}
	}
	return wgetrc(string(data), bundle), nil
}

func wgetrc(inherited, bundle string) []byte {
	var b strings.Builder
	for line := range strings.Lines(inherited) {
		name, _, _ := strings.Cut(line, "=")
		// wget reads names without regard to case, dashes and underscores.
		name = strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(strings.TrimSpace(name)))
		if !slices.Contains([]string{"httpproxy", "httpsproxy", "noproxy", "useproxy", "cacertificate"}, name) {
			b.WriteString(strings.TrimRight(line, "\r\n") + "\n")
		}
	}
	b.WriteString("ca_certificate = " + bundle + "\n")
	return []byte(b.String())
}
