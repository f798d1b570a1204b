//go:build unix && !linux

package rules

func readOnly(string) bool { return false }

func hasACL(string) bool { return false }
