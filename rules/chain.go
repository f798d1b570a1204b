package rules

import (
	"os"
	"path/filepath"
	"strings"
)

// chain lists the folder entries that decide what path leads to: each symbolic link on the way, and the file
// itself, or the first entry that is missing. A change of what path leads to changes one of them.
func chain(path string) []string {
	const mostLinks = 40 // as Linux allows
	volume := filepath.VolumeName(path)
	root := volume + string(filepath.Separator)
	at, left := root, split(path[len(volume):])
	var entries []string
	for links := 0; len(left) > 0 && links <= mostLinks; {
		name := left[0]
		left = left[1:]
		if name == ".." {
			at = filepath.Dir(at)
			continue
		}
		full := filepath.Join(at, name)
		info, err := os.Lstat(full)
		switch {
		case err != nil:
			return append(entries, full)
		case info.Mode()&os.ModeSymlink == 0:
			if at = full; len(left) == 0 {
				entries = append(entries, full)
			}
			continue
		}
		links++
		entries = append(entries, full)
		target, err := os.Readlink(full)
		if err != nil {
			return entries
		}
		if filepath.IsAbs(target) {
			at, target = root, target[len(filepath.VolumeName(target)):]
		}
		left = append(split(target), left...)
	}
	return entries
}

func split(path string) []string {
	var parts []string
	for part := range strings.SplitSeq(filepath.ToSlash(path), "/") {
		if part != "" && part != "." {
			parts = append(parts, part)
		}
	}
	return parts
}
