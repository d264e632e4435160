package update

import (
	"bytes"
	"cmp"
	"regexp"
	"strings"
	"sync"
)

// versionForm are the versions that a slot may have: they are part of a file's name, and
// everything that reads them must find them in one order.
var versionForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[0-9]{1,9}(\.[0-9]{1,9}){0,3}(~[a-z0-9]{1,16}(\.[a-z0-9]{1,16}){0,2})?$`)
})

// ValidVersion reports whether v may be the version of a slot: up to four numbers with
// dots, and perhaps a tilde and a suffix, which sorts before the version. A dash, which
// sorts behind it, is none: a machine with 1.2.0-rc1 would never take 1.2.0.
func ValidVersion(v string) bool { return versionForm().MatchString(v) }

// CheckVersion says what is wrong with a version, to whoever gives it to a release.
func CheckVersion(v string) error {
	switch {
	case ValidVersion(v):
		return nil
	case strings.Contains(v, "-") && ValidVersion(strings.ReplaceAll(v, "-", "~")):
		return refused("version %s sorts after the release that it comes before: write %s", v, strings.ReplaceAll(v, "-", "~"))
	}
	return refused("version %q is not like 1.2.3 or 1.2.3~rc1", v)
}

// CompareVersions orders versions as the boot loader does (UAPI.10 Version Format
// Specification), which starts the newest: below 0 where a is older than b.
func CompareVersions(a, b string) int {
	for {
		for _, mark := range []byte{'~', 0, '-', '^', '.'} {
			x, y := first(a) != mark, first(b) != mark
			if mark == 0 && (!x || !y) {
				return bit(x) - bit(y)
			}
			if x != y {
				return bit(x) - bit(y)
			}
			if mark != 0 && !x {
				a, b = a[1:], b[1:]
				goto next
			}
		}
		if isDigit(first(a)) || isDigit(first(b)) {
			m, n := run(a, isDigit), run(b, isDigit)
			x, y := strings.TrimLeft(a[:m], "0"), strings.TrimLeft(b[:n], "0")
			if c := cmp.Or(bit(m > 0)-bit(n > 0), len(x)-len(y), strings.Compare(x, y)); c != 0 {
				return c
			}
			a, b = a[m:], b[n:]
		} else {
			m, n := run(a, isLetter), run(b, isLetter)
			if c := cmp.Or(bytes.Compare([]byte(a[:m]), []byte(b[:n]))); c != 0 {
				return c
			}
			if m == 0 {
				return strings.Compare(a, b) // characters that no version has
			}
			a, b = a[m:], b[n:]
		}
	next:
	}
}

func first(s string) byte {
	if s == "" {
		return 0
	}
	return s[0]
}

func run(s string, is func(byte) bool) int {
	for i := range len(s) {
		if !is(s[i]) {
			return i
		}
	}
	return len(s)
}

func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}
