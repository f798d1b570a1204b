package inject

import (
	"regexp"
	"slices"
	"strings"
)

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

// Variables that a marker must not take the place of: the proxy sets them, or programs cannot do without them. Names are
// in capitals, and an entry that ends in * is for all that begin so, one that begins with * for all that end so.
var takenVariables = []string{
	"*_PROXY", "*_PROXY_AUTHMETHOD", "NPM_CONFIG_*", "CREDPROXY_*", "LD_*", "DYLD_*",
	"*CERT_FILE", "*_CA_BUNDLE", "*_CAINFO", "*_CA_CERT", "*_CA_CERTS", "*_CACERTS_PATH", "*_CA_FILE", "*_CA_FILE_PATH",
	"*_CA_CERTS_FILE", "*_ROOTS_FILE_PATH", "*_EXTRA_CA_CERTS", "PIP_CERT", "DENO_CERT", "WGETRC", "*_ENV_PROXY",
	"PATH", "PATHEXT", "HOME", "USERPROFILE", "SHELL", "COMSPEC", "SYSTEMROOT", "USER", "LOGNAME", "PWD", "TMPDIR", "TMP", "TEMP",
	"TERM", "LANG", "LC_*", "XDG_*", "IFS", "ENV", "BASH_ENV", "PYTHONPATH", "PYTHONHOME", "NODE_OPTIONS", "NODE_PATH", "PERL5LIB",
	"PERL5OPT", "RUBYLIB", "RUBYOPT", "JAVA_TOOL_OPTIONS", "GIT_SSH_COMMAND", "GOFLAGS",
}

// badVariable finds fault with the name of a variable that is to hold a marker.
func badVariable(name string) string {
	if !variableName.MatchString(name) {
		return "is not the name of a variable, such as OPENAI_API_KEY"
	}
	upper := strings.ToUpper(name)
	if slices.ContainsFunc(takenVariables, func(taken string) bool {
		if tail, ok := strings.CutPrefix(taken, "*"); ok {
			return strings.HasSuffix(upper, tail)
		}
		if head, ok := strings.CutSuffix(taken, "*"); ok {
			return strings.HasPrefix(upper, head)
		}
		return upper == taken
	}) {
		return "is a variable that credproxy itself sets, or that programs need for something else"
	}
	return ""
}
