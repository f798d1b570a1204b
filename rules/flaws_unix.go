//go:build unix

package rules

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

func flaws(path string) []Flaw { return flawsFor(path, os.Geteuid()) }

// flawsFor is flaws for the user uid.
func flawsFor(path string, uid int) (found []Flaw) {
	seen := make(map[string]bool)
	walk(path, func(entry string, info fs.FileInfo, last bool) {
		if info == nil || seen[entry] {
			return
		}
		seen[entry] = true
		if f := flawOf(entry, info, last, uid); f != (Flaw{}) {
			found = append(found, f)
		}
	})
	return found
}

// flawOf says what is wrong with one entry, or nothing.
func flawOf(entry string, info fs.FileInfo, last bool, uid int) Flaw {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Flaw{}
	}
	what := map[fs.FileMode]string{fs.ModeDir: "the folder " + entry, fs.ModeSymlink: "the link " + entry}[info.Mode().Type()]
	if what == "" {
		what = "the file"
		if !last {
			what += " " + entry
		}
	}
	if owner := int(st.Uid); owner != uid && owner != 0 {
		return Flaw{fmt.Sprintf("%s belongs to somebody else, user %d", what, owner), fmt.Sprintf("chown -h %d %s", uid, shellQuote(entry))}
	}
	mode := info.Mode()
	switch {
	case mode&fs.ModeSymlink != 0: // its mode means nothing
		return Flaw{}
	case mode.IsDir() && mode&fs.ModeSticky != 0 && !last: // others cannot move what is not theirs there, as in /tmp
		return Flaw{}
	case mode.Perm()&0o022 == 0 || readOnly(entry):
		return Flaw{}
	}
	why, sign := "every user of this machine can write "+what, "o-w"
	if mode.Perm()&0o020 != 0 {
		sign = "go-w"
	}
	if mode.Perm()&0o002 == 0 {
		if alone(int(st.Gid), uid) && !hasACL(entry) {
			return Flaw{}
		}
		why, sign = fmt.Sprintf("the members of group %d can write %s", st.Gid, what), "g-w"
	}
	return Flaw{why, "chmod " + sign + " " + shellQuote(entry)}
}

// alone reports whether gid is a group that the user has for herself, as many systems make one for each user: they have her
// files be writable by it.
func alone(gid, uid int) bool {
	users, err := os.ReadFile("/etc/passwd")
	groups, err2 := os.ReadFile("/etc/group")
	return err == nil && err2 == nil && aloneIn(string(users), string(groups), gid, uid)
}

func aloneIn(users, groups string, gid, uid int) bool {
	name := ""
	for line := range strings.Lines(users) { // name:password:uid:gid:…
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 || f[3] != strconv.Itoa(gid) {
			continue
		}
		if f[2] != strconv.Itoa(uid) {
			return false
		}
		name = f[0]
	}
	found := false
	for line := range strings.Lines(groups) { // name:password:gid:members
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 || f[2] != strconv.Itoa(gid) {
			continue
		}
		others := func(member string) bool { return member != "" && member != name }
		if name == "" || f[0] != name || slices.ContainsFunc(strings.Split(f[3], ","), others) {
			return false
		}
		found = true
	}
	return found
}
