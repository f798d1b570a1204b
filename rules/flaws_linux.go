package rules

import "golang.org/x/sys/unix"

// readOnly reports whether nobody can write at path, whatever its mode says: as a mounted ConfigMap, whose folders are open
// to all.
func readOnly(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Flags&unix.ST_RDONLY != 0
}

// hasACL reports whether the group's bits of path's mode speak for others too (acl(5)).
func hasACL(path string) bool {
	n, err := unix.Lgetxattr(path, "system.posix_acl_access", nil)
	return err == nil && n > 0
}
