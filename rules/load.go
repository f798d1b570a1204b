package rules

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/internal/strict"
	"gopkg.in/yaml.v3"
)

// Load reads the rules file at path. The error, if any, is a *FileError with every mistake.
func Load(path string, env inject.Env) (*Set, error) {
	data, err := readRules(path)
	if err != nil {
		return unreadable(path, err)
	}
	return Parse(path, data, env)
}

func unreadable(path string, err error) (*Set, error) {
	if e, ok := errors.AsType[exposed](err); ok {
		return nil, refused(path, e)
	}
	return nil, &FileError{Path: path, Mistakes: []Mistake{{Path: path, Text: "reading rules: " + err.Error()}}, cause: err}
}

// readRules reads the file, unless others can change it: who can write the rules can send the secrets anywhere.
func readRules(path string) ([]byte, error) {
	if err := safely(path); err != nil {
		return nil, err
	}
	return readBounded(path, strict.MaxSize)
}

// Parse is Load for data that stands, or will stand, at path.
func Parse(path string, data []byte, env inject.Env) (*Set, error) {
	root, err := strict.Parse(data)
	if err != nil {
		return nil, newFileError(path, err.(strict.Errors), newSource(data, nil).show)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return unreadable(path, err)
	}
	l := loader{env: env, dir: dir, names: make(map[string]place), variables: make(map[string]variable)}
	set := l.file(root)
	if len(l.errs) > 0 {
		e := newFileError(path, l.errs, newSource(data, root).show)
		e.files = l.files
		return nil, e
	}
	set.files = l.files
	return set, nil
}

type loader struct {
	env   inject.Env
	dir   string
	errs  strict.Errors
	names map[string]place
	files []string

	variables map[string]variable // by name in capitals
}

// A variable is one that programs are given with a marker in it.
type variable struct {
	marker string
	place
}

type place struct{ order, line int }

func (l *loader) file(root *yaml.Node) *Set {
	var f fileField
	l.add("", strict.Decode(root, &f, true))
	if f.Version.Line != 0 && f.Version.Value != 1 {
		l.errs = append(l.errs, f.Version.Errorf("this credproxy reads version 1 of the rules file"))
	}
	if root.Kind == yaml.MappingNode && !hasField(root, "version") {
		l.errs = append(l.errs, strict.Errorf(root, `missing field "version"; write version: 1`))
	}
	if root.Kind == yaml.MappingNode && !hasField(root, "rules") {
		// Also what is there of a file while somebody writes it in pieces.
		l.errs = append(l.errs, strict.Errorf(root, `missing field "rules"; to have none, write rules: []`))
	}
	s := &Set{allow: f.Default != "deny", trial: f.Default == "audit"}
	nodes := make(map[*rule]*yaml.Node)
	for i := range f.Rules {
		if r := l.rule(i, &f.Rules[i]); r != nil {
			s.rules = append(s.rules, r)
			nodes[r] = &f.Rules[i]
		}
	}
	s.index = newIndex(s.rules)
	c := newCoverage(s.index, s.rules)
	for _, r := range s.rules {
		if why := c.unreachable(r); why != "" {
			l.errs = append(l.errs, strict.Errorf(nodes[r], "%s%s", label(r.order, r.name), why))
		}
	}
	return s
}

func hasField(n *yaml.Node, name string) bool {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return true
		}
	}
	return false
}

// add keeps err, an Errors or nil.
func (l *loader) add(prefix string, err error) {
	if err == nil {
		return
	}
	l.errs = append(l.errs, err.(strict.Errors).Prefixed(prefix)...)
}

func label(order int, name string) string {
	if !namePattern.MatchString(name) {
		return fmt.Sprintf("rules[%d]: ", order)
	}
	return fmt.Sprintf("rules[%d] %q: ", order, name)
}

// rule builds one rule. It is nil if its fields or its match are mistaken, and cannot be compared with others.
func (l *loader) rule(order int, n *yaml.Node) *rule {
	var f ruleField
	err := strict.Decode(n, &f, true)
	prefix := label(order, f.Name.Value)
	l.add(prefix, err)
	r := &rule{order: order, name: f.Name.Value, line: n.Line, deny: f.Deny.Value}
	errs := l.name(&f, order)
	scope, mistaken := f.Match.Value.scope()
	r.scope = scope
	errs = append(errs, mistaken...)
	errs = append(errs, f.forbidden()...)
	errs = append(errs, f.combination()...)
	if problem := f.plainProblem(&r.scope); problem != "" {
		errs = append(errs, f.Match.Errorf("%s", problem))
	}
	remove, wrong := checked("remove", f.Remove.Value, headerProblem)
	errs = append(errs, wrong...)
	l.add(prefix, errs)

	l.compile(prefix, &f, r, remove)
	if err != nil || len(mistaken) > 0 {
		return nil
	}
	return r
}

// compile makes the decision that r stands for.
func (l *loader) compile(prefix string, f *ruleField, r *rule, remove []string) {
	r.decision = Decision{Allow: true, Rule: r.name, Line: r.line, Remove: canonicalHeaders(remove), AllowHTTP: f.AllowHTTP.Value, AllowPrivate: f.AllowPrivate.Value}
	r.decision.OnExisting = map[string]OnExisting{"keep": Keep, "fail": Fail}[f.OnExisting.Value]
	r.decision.Browser = f.Browser.Value
	r.decision.Scrub = f.Scrub.Value == nil || *f.Scrub.Value
	if r.deny != "" {
		r.decision = Decision{Rule: r.name, Line: r.line, Slug: "denied", Reason: r.deny}
	}
	l.credentials(prefix, f, r)
	r.limited = r.decision
	r.limited.Remove = canonicalHeaders(append(slices.Clip(r.decision.Remove), overrides...))
}

// name checks a rule's name.
func (l *loader) name(f *ruleField, order int) strict.Errors {
	name := f.Name.Value
	if name == "" { // reported by Decode
		return nil
	}
	if !namePattern.MatchString(name) {
		return strict.Errors{f.Name.Errorf(`name is made of lower-case letters, digits, ".", "_" and "-", at most 64, and starts with a letter or digit`)}
	}
	if first, ok := l.names[name]; ok {
		return strict.Errors{f.Name.Errorf("duplicate name: rules[%d] on line %d has it too", first.order, first.line)}
	}
	l.names[name] = place{order, f.Name.Line}
	return nil
}

// credentials builds what a rule injects, and the TLS settings that go with it.
func (l *loader) credentials(prefix string, f *ruleField, r *rule) {
	env := l.env
	env.Rule = f.Name.Value
	if t := f.TLS.Value; t != nil {
		built, errs := t.build(l.read)
		r.decision.TLS = built
		l.add(prefix, errs)
		if built != nil {
			env = built.in(env)
		}
	}
	if f.Inject.Kind != 0 {
		creds, err := inject.New(&f.Inject, env)
		var errs strict.Errors
		switch {
		case errors.As(err, &errs):
			l.add(prefix+"inject: ", errs)
		case err != nil:
			l.add(prefix+"inject: ", strict.Errors{strict.Errorf(&f.Inject, "%v", err)})
		case len(creds) == 0:
			l.add(prefix, strict.Errors{strict.Errorf(&f.Inject, "inject is empty")})
		}
		r.decision.Inject = creds
		for _, c := range creds {
			l.variable(prefix, c, r)
			r.decision.Types = append(r.decision.Types, c.Type())
			for _, ref := range c.Refs() {
				r.decision.Secrets = append(r.decision.Secrets, ref.String())
			}
		}
	}
}

// variable checks that one variable does not get two markers.
func (l *loader) variable(prefix string, c inject.Credential, r *rule) {
	m, ok := inject.MarkerOf(c)
	if !ok || m.Env == "" {
		return
	}
	key := strings.ToUpper(m.Env) // Windows does not tell the case
	if first, ok := l.variables[key]; !ok {
		l.variables[key] = variable{m.Text, place{r.order, m.At.Line}}
	} else if first.marker != m.Text {
		l.errs = append(l.errs, m.At.Errorf("%sinject: env: rules[%d] on line %d puts another placeholder into this variable", prefix, first.order, first.line))
	}
}

// read reads a file that the rules name.
func (l *loader) read(path string) ([]byte, error) {
	path = absolute(l.dir, path)
	if !slices.Contains(l.files, path) {
		l.files = append(l.files, path)
	}
	if err := safely(path); err != nil { // it says whom to believe
		return nil, err
	}
	return readBounded(path, strict.MaxSize)
}
