package secrets

import (
	"context"
	"errors"
	"os"
	"regexp"
	"strings"
)

var (
	envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

	errEnvName   = errors.New("env: takes the name of one environment variable (letters, digits and _)")
	errEnvNotFor = errors.New("this environment variable cannot hold a secret: PATH, LD_*, DYLD_* and CREDPROXY_* have a meaning of their own")
)

func checkEnv(name string) error {
	if !envName.MatchString(name) {
		return errEnvName
	}
	upper := strings.ToUpper(name)
	if upper == "PATH" {
		return errEnvNotFor
	}
	for _, prefix := range []string{"LD_", "DYLD_", "CREDPROXY_"} {
		if strings.HasPrefix(upper, prefix) {
			return errEnvNotFor
		}
	}
	return nil
}

// fetchEnv reads a variable of this process. Nobody can change those from outside, so the value is kept for good.
func fetchEnv(_ context.Context, _ *Store, ref Ref) (Value, error) {
	v := os.Getenv(ref.Name)
	if v == "" {
		return Value{}, &Error{Kind: ErrNotFound, Why: "the environment variable is not set, or empty",
			Next: "export " + ref.Name + "=…, then start credproxy again"}
	}
	if len(v) > maxValue {
		return Value{}, &Error{Kind: ErrTooLarge, Why: "a secret has at most 64 kB"}
	}
	return NewValue(v), nil
}
