package inject

import (
	"github.com/credproxy/credproxy/internal/strict"
	"gopkg.in/yaml.v3"
)

type deviceCodeSettings struct {
	loginSettings `yaml:",inline"`
}

// newDeviceCode is the device authorization grant (RFC 8628), whose first part is "credproxy login".
func newDeviceCode(s deviceCodeSettings, at *yaml.Node, env Env) (method, strict.Errors) {
	errs := s.check(at, env)
	if s.DeviceURL.Line == 0 && s.Issuer.Line == 0 {
		errs = append(errs, strict.Errorf(at, "missing field %q", "device_url"))
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return s.grant("oauth2_device_code", env), nil
}
