package strict

import (
	"strconv"
	"strings"
)

// Nearest returns the candidate that name was most likely meant to be, or "".
func Nearest(name string, candidates []string) string {
	best, least := "", 0
	for _, c := range candidates {
		// Short words are near to everything: one slip in four letters, two in seven.
		limit := min(2, (max(len(c), len(name))+1)/4)
		if len(name) > len(c)+limit || len(c) > len(name)+limit {
			continue
		}
		dist := distance(fold(name), fold(c))
		if dist <= limit && (best == "" || dist < least) {
			best, least = c, dist
		}
	}
	return best
}

func fold(s string) string { return strings.ReplaceAll(strings.ToLower(s), "-", "_") }

// distance counts the insertions, deletions, substitutions and swaps of neighbours between a and b.
func distance(a, b string) int {
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}

// Choice is words as a person lists them: "a", "b" or "c".
func Choice(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = strconv.Quote(w)
	}
	if len(quoted) < 2 {
		return strings.Join(quoted, "")
	}
	last := len(quoted) - 1
	return strings.Join(quoted[:last], ", ") + " or " + quoted[last]
}
