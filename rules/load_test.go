package rules

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/secrets"
)

var update = flag.Bool("update", false, "write the golden files in testdata")

// The messages for testdata/NAME.yaml are those of testdata/NAME.golden.
func TestMessages(t *testing.T) {
	t.Parallel()
	files, _ := filepath.Glob("testdata/*.yaml")
	if len(files) < 3 {
		t.Fatalf("%d files in testdata, want at least 3", len(files))
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			// As if it stood in the current folder; but what it names stands in testdata.
			_, err = Parse(file, data, inject.Env{})
			if err == nil {
				t.Fatal("loads")
			}
			got := strings.ReplaceAll(err.Error(), filepath.ToSlash(file), "rules.yaml") + "\n"
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
			for _, secret := range []string{"ghp_", "hunter2", "sk_live", "never_repeat", "secretsecret"} {
				if strings.Contains(got, secret) {
					t.Errorf("the messages repeat %s…", secret)
				}
			}
		})
	}
}

// Windows editors: the same positions, the same messages.
func TestMessagesWithCRLF(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("testdata/unreachable.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, want := Parse("r", data, inject.Env{})
	_, got := Parse("r", []byte("\xef\xbb\xbf"+strings.ReplaceAll(string(data), "\n", "\r\n")), inject.Env{})
	if got == nil || got.Error() != want.Error() {
		t.Errorf("got\n%v\nwant\n%v", got, want)
	}
}

// A secret that is pasted in any place of the file is not repeated.
func TestMessagesNeverRepeatASecret(t *testing.T) {
	t.Parallel()
	const secret = "Zq8/Jx_4vK+2"
	for _, text := range []string{
		"version: %s", "%s", "version: 1\nrules: %s", "version: 1\nrules: [%s]", "version: 1\n%s: x", "version: 1\ntoken: %s",
		"version: 1\nrules: [{name: a, match: {host: a.test}, inject: %s}]",
		"version: 1\nrules: [{name: a, match: {host: a.test}, inject: {type: %s}}]",
		"version: 1\nrules: [{name: a, match: {host: a.test}, inject: {type: bearer, token: %s}}]",
		"version: 1\nrules: [{name: a, match: {host: a.test}, inject: {type: bearer, token: {exec: %s}}}]",
		"version: 1\nrules: [{name: a, match: {host: a.test}, inject: {type: api_key, in: %s, name: x, value: %s}}]",
		"version: 1\nrules: [{name: a, match: {host: a.test}, inject: {bearer: %s, %s}}]",
		"version: 1\nrules: [{name: a, match: {host: a.test}, inject: {type: bearer, token: !x %s}}]",
		"version: 1\nrules: [{name: a, match: {host: a.test}, inject: {type: bearer, token: &%s x}}]",
		"version: 1\nrules: [{name: a, match: {host: a.test}, inject: {type: bearer, token: *%s}}]",
		"version: 1\nrules: [{name: a, match: {host: a.test}, inject: {type: bearer, token: \"%s}}]",
		"version: 1\nrules:\n- name: a\n  match: {host: a.test}\n  inject:\n    type: bearer\n    token: |\n      %s\n",
		"version: 1\nrules:\n- name: a\n  match: {host: a.test}\n  inject:\n    type: bearer\n    tokn: x # was %s\n",
		"version: 1\nrules:\n- name: a\n  match: {host: a.test}\n  inject:\n    type: bearer\n   token: %s\n",
		"version: 1\nrules: [{name: a, match: {host: A.test}, bearer: %s}]",
		"version: 1\nrules: [{name: a, match: {host: 'https://x:%s@a.test'}}]",
		"version: 1\nrules: [{name: a, match: {host: 'https://a.test/%s'}}]",
		"version: 1\nrules: [{name: a, match: {host: 'a.test?key=%s'}}]",
		"version: 1\nrules: [{name: a, match: {host: a.test}, tls: {cert: x.pem, key: %s}}]",
		"version: 1\nrules: [{name: a, match: {host: a.test}, tls: {cert: x.pem, key: file:x, pass: %s}}]",
		"version: 1\nrules: [{name: a, match: %s}]", "version: 1\nrules: [{name: %s, match: {}}]",
	} {
		text = strings.ReplaceAll(text, "%s", secret)
		_, err := Parse("rules.yaml", []byte(text), inject.Env{})
		if err == nil {
			t.Errorf("loads:\n%s", text)
		} else if strings.Contains(strings.ToLower(err.Error()), strings.ToLower(secret)) {
			t.Errorf("the message for\n%s\nrepeats the secret:\n%v", text, err)
		}
	}
}

func TestMistakePosition(t *testing.T) {
	t.Parallel()
	_, err := Parse("rules.yaml", []byte("version: 1\nrules:\n  - name: a\n    match: {host: api.example.com}\n    inject: {type: api_key, in: header, nmae: x, value: env:A}\n"), inject.Env{})
	var e *FileError
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want a FileError", err)
	}
	const want = `rules.yaml:5:41: rules[0] "a": inject: unknown field "nmae" (did you mean "name"?)`
	if got := e.Mistakes[len(e.Mistakes)-1].String(); !slices.ContainsFunc(e.Mistakes, func(m Mistake) bool { return m.String() == want }) {
		t.Errorf("got … %s, want %s", got, want)
	}
	if e.Slug() != "rules_invalid" || e.Hint() != "credproxy check --rules rules.yaml" {
		t.Errorf("slug %q, hint %q", e.Slug(), e.Hint())
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	s := parse(t, `
version: 1
rules:
  - name: one
    match: {host: api.example.com, methods: [GET]}
    inject:
      - {type: api_key, in: header, name: x-a, value: env:A}
      - {type: bearer, token: env:B}
    remove: [x-client, X-CLIENT-2]
    on_existing: fail
    scrub: false
    allow_http: true
  - {name: two, match: {host: [a.test, "*.a.test"]}, inject: {type: bearer, token: env:A}}
  - {name: three, match: {host: c.test}, deny: closed today}
`)
	want := []Rule{
		{"one", 4, []string{"api.example.com"}, []string{"api_key", "bearer"}, []secrets.Ref{{Scheme: "env", Name: "A"}, {Scheme: "env", Name: "B"}}, ""},
		{"two", 13, []string{"a.test", "*.a.test"}, []string{"bearer"}, []secrets.Ref{{Scheme: "env", Name: "A"}}, ""},
		{"three", 14, []string{"c.test"}, nil, nil, "closed today"},
	}
	if got := s.Rules(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("Rules:\ngot  %v\nwant %v", got, want)
	}
	if got, want := s.Refs(), []secrets.Ref{{Scheme: "env", Name: "A"}, {Scheme: "env", Name: "B"}}; !slices.Equal(got, want) {
		t.Errorf("Refs: got %v, want %v", got, want)
	}
	d := s.Decide("", request(t, "GET", "https://api.example.com/"))
	if len(d.Inject) != 2 || d.OnExisting != Fail || d.Scrub || !d.AllowHTTP || d.TLS != nil || !slices.Equal(d.Remove[:2], []string{"X-Client", "X-Client-2"}) {
		t.Errorf("one: got %+v", d)
	}
	d = s.Decide("", request(t, "GET", "https://b.a.test/"))
	if len(d.Inject) != 1 || d.OnExisting != Replace || !d.Scrub || d.AllowHTTP || d.Remove != nil {
		t.Errorf("two: got %+v", d)
	}
}

func TestLoadIsFineWith(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"empty rules":         "version: 1\nrules: []",
		"rules with comments": "version: 1\nrules:\n# - name: a\n",
		"loopback over http":  "version: 1\nrules: [{name: a, match: {host: [localhost, '*.localhost', 127.0.0.1, '::1'], scheme: http}, inject: {type: bearer, token: env:A}}]",
		"allowed http":        "version: 1\nrules: [{name: a, match: {host: a.test, scheme: http}, allow_http: true, inject: {type: bearer, token: env:A}}]",
		"private suffix":      "version: 1\nrules: [{name: a, match: {host: '*.myshopify.com'}}]",
		"internal suffix":     "version: 1\nrules: [{name: a, match: {host: '*.internal'}}]",
		"extension method":    "version: 1\nrules: [{name: a, match: {host: a.test, methods: [PROPFIND, purge]}}]",
	} {
		if _, err := Parse("rules.yaml", []byte(text), inject.Env{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestExample(t *testing.T) {
	t.Parallel()
	s, err := Load("../rules.example.yaml", inject.Env{})
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, r := range s.Rules() {
		types = append(types, r.Types...)
	}
	for _, typ := range inject.Types() {
		if !slices.Contains(types, typ) {
			t.Errorf("rules.example.yaml has no rule of type %s", typ)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string, mode fs.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil { // the umask has its say in WriteFile
			t.Fatal(err)
		}
		return path
	}
	tests := []struct{ name, path, want string }{
		{"absent", filepath.Join(dir, "absent"), "no such file|cannot find"},
		{"a folder", dir, "not a regular file"},
		{"writable by everyone", write("open", "version: 1", 0o666), "every user of this machine can write the file"},
		{"too large", write("large", strings.Repeat("#", 1<<20+1), 0o600), "larger than 1 MiB"},
		{"empty", write("empty", "", 0o600), "the file is empty"},
	}
	for _, tt := range tests {
		_, err := Load(tt.path, inject.Env{})
		var e *FileError
		if !errors.As(err, &e) || !regexp.MustCompile(tt.want).MatchString(err.Error()) || !strings.HasPrefix(err.Error(), tt.path) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
			continue
		}
		// Where there is nothing to read, check has no more to say.
		wantHint := "ls -ld " + tt.path
		switch tt.name {
		case "empty":
			wantHint = "credproxy check --rules " + tt.path
		case "writable by everyone":
			wantHint = "chmod go-w " + tt.path
		}
		if e.Hint() != wantHint {
			t.Errorf("%s: hint %q, want %q", tt.name, e.Hint(), wantHint)
		}
	}
	if _, err := Load(filepath.Join(dir, "absent"), inject.Env{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v is not fs.ErrNotExist", err)
	}
}

// FuzzParse: no file makes Parse panic, and each mistake has a place in the file.
func FuzzParse(f *testing.F) {
	for _, file := range []string{"testdata/mistakes.yaml", "testdata/unreachable.yaml", "testdata/syntax.yaml", "../rules.example.yaml"} {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(decideRules))
	f.Fuzz(func(t *testing.T, data []byte) {
		if strings.Contains(string(data), "ca:") || strings.Contains(string(data), "cert:") { // would read files
			return
		}
		_, err := Parse("rules.yaml", data, inject.Env{})
		if err == nil {
			return
		}
		e, ok := err.(*FileError)
		if !ok || len(e.Mistakes) == 0 {
			t.Fatalf("%T without mistakes", err)
		}
		for _, m := range e.Mistakes {
			if m.Line < 1 || m.Column < 1 || m.Text == "" || m.Source != "" && m.Caret < 1 {
				t.Errorf("mistake without a place: %+v", m)
			}
		}
		_ = e.Error()
	})
}
