//go:build unix

package rules

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/internal/testneed"
)

const (
	ana = 54321
	bob = 54322
)

// needRoot: only root can make files that belong to somebody else.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		testneed.Missing(t, "user", "root")
	}
}

// own makes path belong to uid and its group.
func own(t *testing.T, path string, uid int) {
	t.Helper()
	if err := os.Lchown(path, uid, uid); err != nil {
		t.Fatal(err)
	}
}

// place makes what a file name stands for: the folder home of Ana, with rules.yaml in the folder config below it.
func placeOf(t *testing.T) (home, file string) {
	t.Helper()
	home = filepath.Join(t.TempDir(), "ana")
	file = filepath.Join(home, "config", "rules.yaml")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("version: 1\nrules: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{home, filepath.Dir(file), file} {
		own(t, path, ana)
	}
	return home, file
}

func TestFlaws(t *testing.T) {
	t.Parallel()
	needRoot(t)
	mode := func(mode os.FileMode, at ...string) func(*testing.T, string) {
		return func(t *testing.T, home string) {
			if err := os.Chmod(filepath.Join(append([]string{home}, at...)...), mode); err != nil {
				t.Fatal(err)
			}
		}
	}
	owner := func(uid int, at ...string) func(*testing.T, string) {
		return func(t *testing.T, home string) { own(t, filepath.Join(append([]string{home}, at...)...), uid) }
	}
	// linked puts a link of uid, in the folder below home, in the place of the file, which goes into folder.
	linked := func(uid int, folder string, folderOwner int, folderMode os.FileMode) func(*testing.T, string) {
		return func(t *testing.T, home string) {
			file, to := filepath.Join(home, "config", "rules.yaml"), filepath.Join(filepath.Dir(home), folder)
			if err := os.Mkdir(to, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(file, filepath.Join(to, "real.yaml")); err != nil {
				t.Fatal(err)
			}
			own(t, to, folderOwner)
			if err := os.Chmod(to, folderMode); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("../../"+folder+"/real.yaml", file); err != nil {
				t.Fatal(err)
			}
			own(t, file, uid)
		}
	}
	for _, test := range []struct {
		name   string
		change func(t *testing.T, home string)
		why    string // HOME stands for the home folder; empty: there is no flaw
		next   string
	}{
		{"private", nil, "", ""},
		{"readable by all", mode(0o644, "config", "rules.yaml"), "", ""},
		{"root's file", owner(0, "config", "rules.yaml"), "", ""},
		{"root's folder", owner(0, "config"), "", ""},
		{"written by the group", mode(0o620, "config", "rules.yaml"), "the members of group 54321 can write the file", "chmod g-w HOME/config/rules.yaml"},
		{"written by all", mode(0o602, "config", "rules.yaml"), "every user of this machine can write the file", "chmod o-w HOME/config/rules.yaml"},
		{"written by group and all", mode(0o666, "config", "rules.yaml"), "every user of this machine can write the file", "chmod go-w HOME/config/rules.yaml"},
		{"bob's file", owner(bob, "config", "rules.yaml"), "the file belongs to somebody else, user 54322", "chown -h 54321 HOME/config/rules.yaml"},
		{"bob's folder", owner(bob, "config"), "the folder HOME/config belongs to somebody else, user 54322", "chown -h 54321 HOME/config"},
		{"bob's folder above", owner(bob), "the folder HOME belongs to somebody else, user 54322", "chown -h 54321 HOME"},
		{"open folder", mode(0o777, "config"), "every user of this machine can write the folder HOME/config", "chmod go-w HOME/config"},
		{"folder of the group", mode(0o770, "config"), "the members of group 54321 can write the folder HOME/config", "chmod g-w HOME/config"},
		{"open folder above", mode(0o703), "every user of this machine can write the folder HOME", "chmod o-w HOME"},
		{"sticky folder, as /tmp", mode(0o777|os.ModeSticky, "config"), "", ""},
		{"a link to a safe place", linked(ana, "safe", ana, 0o755), "", ""},
		{"a link to an open folder", linked(ana, "open", ana, 0o777), "every user of this machine can write the folder PARENT/open", "chmod go-w PARENT/open"},
		{"a link to bob's folder", linked(ana, "bobs", bob, 0o755), "the folder PARENT/bobs belongs to somebody else, user 54322", "chown -h 54321 PARENT/bobs"},
		{"bob's link in a sticky folder", func(t *testing.T, home string) {
			mode(0o777|os.ModeSticky, "config")(t, home)
			linked(bob, "safe", ana, 0o755)(t, home)
		}, "the link HOME/config/rules.yaml belongs to somebody else, user 54322", "chown -h 54321 HOME/config/rules.yaml"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			home, file := placeOf(t)
			if test.change != nil {
				test.change(t, home)
			}
			in := strings.NewReplacer("HOME", home, "PARENT", filepath.Dir(home))
			want := []Flaw{{in.Replace(test.why), in.Replace(test.next)}}
			if test.why == "" {
				want = nil
			}
			got := flawsFor(file, ana)
			if len(got) != len(want) || len(got) == 1 && got[0] != want[0] {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
		})
	}
}

// All that is wrong is said at once, and the commands are in the hint.
func TestLoadSaysWhoElseCanWrite(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a b")
	path := filepath.Join(dir, "rules.yaml")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("version: 1\nrules: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{dir: 0o703, path: 0o602} {
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Load(path, inject.Env{})
	e, ok := err.(*FileError)
	if !ok {
		t.Fatalf("got %v", err)
	}
	want := path + ": reading rules: every user of this machine can write the folder " + dir + "; type chmod o-w '" + dir + "'\n" +
		path + ": reading rules: every user of this machine can write the file; type chmod o-w '" + path + "'"
	if e.Error() != want {
		t.Errorf("got\n%s\nwant\n%s", e, want)
	}
	if want := "chmod o-w '" + dir + "'\nchmod o-w '" + path + "'"; e.Hint() != want {
		t.Errorf("hint %q, want %q", e.Hint(), want)
	}
	for _, line := range strings.Split(e.Hint(), "\n") { // what is told helps
		words := strings.SplitN(line, " ", 3)
		if err := os.Chmod(strings.Trim(words[2], "'"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Load(path, inject.Env{}); err != nil {
		t.Errorf("after all that was told to do: %v", err)
	}
}

// A CA says whom to believe: it is as good as a rule.
func TestFilesOfTheRulesAreCheckedToo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "rules.yaml")
	text := "version: 1\nrules:\n  - name: a\n    match: {host: a.example.com}\n    tls: {ca: ca.pem}\n"
	for name, content := range map[string]string{path: text, filepath.Join(dir, "ca.pem"): "x"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "ca.pem"), 0o606); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, inject.Env{}); err == nil || !strings.Contains(err.Error(), "can write the file; type chmod o-w") {
		t.Errorf("got %v", err)
	}
}

// A running proxy keeps the rules it has, and takes the new ones once nobody else can write them.
func TestWatchKeepsRulesThatBecomeWritable(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "rules.yaml")
	rule := func(name string) []byte {
		return []byte("version: 1\nrules:\n  - {name: " + name + ", match: {host: a.example.com}}\n")
	}
	if err := os.WriteFile(path, rule("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	type told struct {
		set *Set
		err error
	}
	changes := make(chan told, 16)
	w, err := Watch(context.Background(), WatchConfig{Path: path, Changed: func(s *Set, err error) { changes <- told{s, err} }})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := os.Chmod(path, 0o602); err != nil {
		t.Fatal(err)
	}
	if got := <-changes; got.err == nil || !strings.Contains(got.err.Error(), "chmod o-w") {
		t.Fatalf("got %v", got.err)
	}
	if err := os.WriteFile(path, rule("second"), 0o600); err != nil { // the mode stays
		t.Fatal(err)
	}
	w.Reload()
	if got := w.Current().Rules()[0].Name; got != "first" {
		t.Errorf("rule %q is in force, want the last good one", got)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	for got := range changes {
		if got.err == nil {
			break
		}
	}
	if got := w.Current().Rules()[0].Name; got != "second" {
		t.Errorf("rule %q is in force, want the new one", got)
	}
}

func TestGroupOfOneUser(t *testing.T) {
	t.Parallel()
	const (
		users  = "root:x:0:0:root:/root:/bin/sh\nana:x:1000:1000::/home/ana:/bin/sh\nbob:x:1001:1001::/home/bob:/bin/sh\neve:x:1002:100::/home/eve:/bin/sh\n"
		groups = "root:x:0:\nana:x:1000:\nbob:x:1001:ana\nusers:x:100:\nadmin:x:27:ana\n"
	)
	for _, test := range []struct {
		name          string
		users, groups string
		gid, uid      int
		want          bool
	}{
		{"her own", users, groups, 1000, 1000, true},
		{"she is a member of it herself", users, "ana:x:1000:ana\n", 1000, 1000, true},
		{"root's", users, groups, 0, 0, true},
		{"of another", users, groups, 1001, 1000, false},
		{"with a member", users, groups, 1001, 1001, false},
		{"of another name", users, groups, 100, 1002, false},
		{"that she is only a member of", users, groups, 27, 1000, false},
		{"the first one of another too", users + "mallory:x:1003:1000::/:/bin/sh\n", groups, 1000, 1000, false},
		{"unknown group", users, "", 1000, 1000, false},
		{"unknown user", "", groups, 1000, 1000, false},
		{"two groups of one number", users, groups + "ana2:x:1000:bob\n", 1000, 1000, false},
	} {
		if got := aloneIn(test.users, test.groups, test.gid, test.uid); got != test.want {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
}
