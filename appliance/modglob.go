package appliance

import "strings"

// globs says whether pattern, in fnmatch(3)'s form without flags (*, ?, [a-z], [!a], a
// backslash before what stands for itself), matches all of s. Its work is bounded by the
// product of the two lengths.
func globs(pattern, s string) bool {
	var star, mark = -1, 0 // where the last * stood, and what of s it has eaten
	p, i := 0, 0
	for i < len(s) {
		if p < len(pattern) && pattern[p] == '*' {
			star, mark = p, i
			p++
			continue
		}
		if n, ok := globOne(pattern[p:], s[i]); ok {
			p += n
			i++
			continue
		}
		if star < 0 {
			return false
		}
		mark++
		p, i = star+1, mark
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// globOne matches c with what pattern begins with, and says how long that is.
func globOne(pattern string, c byte) (int, bool) {
	if pattern == "" {
		return 0, false
	}
	switch pattern[0] {
	case '?':
		return 1, true
	case '\\':
		if len(pattern) > 1 {
			return 2, pattern[1] == c
		}
		return 1, c == '\\'
	case '[':
		if n, ok := globSet(pattern, c); n > 0 {
			return n, ok
		}
	}
	return 1, pattern[0] == c
}

// globSet matches c with the bracket expression pattern begins with; length 0: it has no
// end, and the bracket stands for itself.
func globSet(pattern string, c byte) (int, bool) {
	i, not, ok := 1, false, false
	if i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^') {
		not = true
		i++
	}
	for first := i; i < len(pattern); {
		if pattern[i] == ']' && i > first {
			return i + 1, ok != not
		}
		low, high := pattern[i], pattern[i]
		i++
		if i+1 < len(pattern) && pattern[i] == '-' && pattern[i+1] != ']' {
			high = pattern[i+1]
			i += 2
		}
		ok = ok || low <= c && c <= high
	}
	return 0, false
}
