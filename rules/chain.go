package rules

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// chain lists the folder entries that decide what path leads to: each symbolic link on the way, and the file
// itself, or the first entry that is missing. A change of what path leads to changes one of them.
func chain(path string) []string {
	var entries []string
	walk(path, func(entry string, info fs.FileInfo, last bool) {
		if last || info == nil || info.Mode()&os.ModeSymlink != 0 {
			entries = append(entries, entry)
		}
	})
	return entries
}

// walk visits the root and each folder entry on the way to what path, which is absolute, leads to: folders, symbolic links,
// and what stands at the end of it all, which is the last. info is nil for an entry that is missing; the way ends there.
func walk(path string, visit func(entry string, info fs.FileInfo, last bool)) {
	const mostLinks = 40 // as Linux allows
	volume := filepath.VolumeName(path)
	root := volume + string(filepath.Separator)
	at, left := root, split(path[len(volume):])
	if info, err := os.Lstat(root); err == nil {
		visit(root, info, len(left) == 0)
	}
	for links := 0; len(left) > 0 && links <= mostLinks; {
		name := left[0]
		left = left[1:]
		if name == ".." {
			at = filepath.Dir(at)
			continue
		}
		full := filepath.Join(at, name)
		info, err := os.Lstat(full)
		if err != nil {
			visit(full, nil, false)
			return
		}
		if info.Mode()&os.ModeSymlink == 0 {
			at = full
			visit(full, info, len(left) == 0)
			continue
		}
		visit(full, info, false)
		links++
		target, err := os.Readlink(full)
		if err != nil {
			return
		}
		if filepath.IsAbs(target) {
			at, target = root, target[len(filepath.VolumeName(target)):]
		}
		left = append(split(target), left...)
	}
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
