package inject

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/oauth"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

type githubAppSettings struct {
	AppID          strict.At[string]            `yaml:"app_id" need:"true"`
	InstallationID strict.At[string]            `yaml:"installation_id" need:"true"`
	PrivateKey     secrets.Ref                  `yaml:"private_key" need:"true"`
	Repositories   strict.At[[]string]          `yaml:"repositories"`
	Permissions    strict.At[map[string]string] `yaml:"permissions"`
	APIURL         strict.At[string]            `yaml:"api_url"`
	Scheme         strict.At[string]            `yaml:"scheme" oneof:"bearer|basic"`
}

// A githubApp is a GitHub App that somebody has installed: the token of the installation, which GitHub gives for an hour.
type githubApp struct {
	grant
	asserter     *asserter
	installation oauth.Installation
	app          string
	basic        bool
}

var (
	githubNumber     = regexp.MustCompile(`^[1-9][0-9]{0,19}$`)
	githubApplicant  = regexp.MustCompile(`^[A-Za-z0-9.]{1,64}$`) // the app's number, or its client ID
	githubRepository = regexp.MustCompile(`^[A-Za-z0-9._-]{1,100}$`)
	githubPermission = regexp.MustCompile(`^[a-z][a-z_]{0,63}$`)
)

// maxRepositories is GitHub's own limit.
const maxRepositories = 500

func newGitHubApp(s githubAppSettings, _ *yaml.Node, env Env) (method, strict.Errors) {
	if errs := s.check(); len(errs) > 0 {
		return nil, errs
	}
	base := strings.TrimSuffix(cmp.Or(s.APIURL.Value, "https://api.github.com"), "/")
	g := &githubApp{app: s.AppID.Value, basic: s.Scheme.Value == "basic", installation: oauth.Installation{
		HTTP: env.HTTP, URL: base + "/app/installations/" + s.InstallationID.Value + "/access_tokens",
		Repositories: s.Repositories.Value, Permissions: s.Permissions.Value,
	}}
	signed := assertionSettings{Key: strict.At[secrets.Ref]{Value: s.PrivateKey}}
	g.asserter = signed.asserter(env, assertionLifetime)
	g.env, g.signer, g.refs = env, s.PrivateKey, []secrets.Ref{s.PrivateKey}
	g.client.TokenURL = g.installation.URL
	if u, err := url.Parse(base); err == nil {
		g.host = u.Host
	}
	g.key = fingerprint("github_app", g.client, g.refs, g.app, g.installation.Repositories, g.installation.Permissions)
	g.ask = g.ofInstallation
	g.blame = "app_id"
	g.renew = func(ctx context.Context) (oauth.Token, error) {
		t, err := g.ask(secrets.For(ctx, hostname(base)))
		return t, g.explain(ctx, err)
	}
	return g, nil
}

func (s githubAppSettings) check() (errs strict.Errors) {
	if s.AppID.Line != 0 && !githubApplicant.MatchString(s.AppID.Value) {
		errs = append(errs, s.AppID.Errorf("app_id: want the number of the app, or its client ID"))
	}
	if s.InstallationID.Line != 0 && !githubNumber.MatchString(s.InstallationID.Value) {
		errs = append(errs, s.InstallationID.Errorf("installation_id: want a number: the last part of the installation's address"))
	}
	if s.Repositories.Line != 0 && (len(s.Repositories.Value) == 0 || len(s.Repositories.Value) > maxRepositories) {
		errs = append(errs, s.Repositories.Errorf("repositories: want 1 to %d names; leave it out for all", maxRepositories))
	}
	for _, name := range s.Repositories.Value {
		if !githubRepository.MatchString(name) {
			errs = append(errs, s.Repositories.Errorf("repositories: want names without their owner"))
			break
		}
	}
	if s.Permissions.Line != 0 && len(s.Permissions.Value) == 0 {
		errs = append(errs, s.Permissions.Errorf("permissions: is empty; leave it out for all"))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Permissions.Value)) {
		if !githubPermission.MatchString(name) || !slices.Contains([]string{"read", "write", "admin"}, s.Permissions.Value[name]) {
			errs = append(errs, s.Permissions.Errorf("permissions: want names such as contents, each with read, write or admin"))
			break
		}
	}
	if s.APIURL.Line != 0 {
		if err := oauth.CheckIssuer(s.APIURL.Value); err != nil {
			errs = append(errs, s.APIURL.Errorf("api_url: %s", err))
		}
	}
	return errs
}

// ofInstallation asks GitHub for the installation's token, as the app.
func (g *githubApp) ofInstallation(ctx context.Context) (oauth.Token, error) {
	key, err := g.asserter.load(ctx, false)
	if err != nil {
		return oauth.Token{}, err
	}
	t, err := g.installation.Token(ctx, func() (secrets.Value, error) {
		return g.asserter.sign(key, map[string]any{"iss": g.app})
	})
	if e, ok := errors.AsType[*oauth.Error](err); ok {
		switch e.Status {
		case http.StatusNotFound:
			e.Next = "check app_id, installation_id and api_url in the rules file; is the app still installed?"
		case http.StatusForbidden, http.StatusUnprocessableEntity:
			e.Next = "check repositories and permissions in the rules file against what the installation has"
		}
	}
	return t, err
}

func (g *githubApp) Apply(req *http.Request) ([]secrets.Value, error) {
	used, err := g.grant.Apply(req)
	if err != nil || !g.basic {
		return used, err
	}
	pair := base64.StdEncoding.EncodeToString([]byte("x-access-token:" + used[0].Reveal()))
	setHeader(req, "Authorization", "Basic "+pair)
	return append(used, secrets.NewValue(pair)), nil
}

func (g *githubApp) Targets() []Target {
	if g.basic {
		return []Target{{"header", "Authorization", "Basic <x-access-token, and the installation's token from " + g.host + ">"}}
	}
	return []Target{{"header", "Authorization", "Bearer <the installation's token from " + g.host + ">"}}
}
