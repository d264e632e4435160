package fat

import (
	"fmt"
	"path"
	"strings"
	"unicode/utf16"
)

// shortName returns the 8.3 name of a file, eleven bytes, padded: its own where it is one,
// else cut and numbered, as no other in its directory.
func shortName(name string, taken map[string]bool) string {
	base, ext := split(name)
	short := fmt.Sprintf("%-8.8s%-3.3s", plain(base), plain(ext))
	if fits(name) && !taken[short] {
		taken[short] = true
		return short
	}
	for n := 1; ; n++ {
		tail := fmt.Sprintf("~%d", n)
		cut := plain(base)
		short = fmt.Sprintf("%-8s%-3.3s", cut[:min(len(cut), 8-len(tail))]+tail, plain(ext))
		if !taken[short] {
			taken[short] = true
			return short
		}
	}
}

func split(name string) (base, ext string) {
	ext = path.Ext(name)
	return strings.TrimSuffix(name, ext), strings.TrimPrefix(ext, ".")
}

// fits says whether a name is a short name as it stands, so that it needs no long one.
func fits(name string) bool {
	base, ext := split(name)
	return base != "" && len(base) <= 8 && len(ext) <= 3 && base == plain(base) && ext == plain(ext)
}

// plain keeps of a name what a short name may hold.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune("_-!#$%&'()@^`{}~", r):
			return r
		case 'a' <= r && r <= 'z':
			return r - 'a' + 'A'
		}
		return -1
	}, s)
}

// longParts cuts a name into the pieces of 13 that long entries hold; none if it needs none.
func longParts(name string) [][]uint16 {
	if fits(name) {
		return nil
	}
	u := utf16.Encode([]rune(name))
	if len(u)%13 != 0 {
		u = append(u, 0)
	}
	for len(u)%13 != 0 {
		u = append(u, 0xffff)
	}
	var parts [][]uint16
	for ; len(u) > 0; u = u[13:] {
		parts = append(parts, u[:13])
	}
	return parts
}

// longEntries are the entries before a short one that hold the name as it is, last piece
// first, each with the short name's checksum.
func longEntries(name, short string) []byte {
	var sum byte
	for i := range 11 {
		sum = sum>>1 | sum<<7
		sum += short[i]
	}
	parts := longParts(name)
	var b []byte
	for i := len(parts) - 1; i >= 0; i-- {
		e := make([]byte, 32)
		e[0] = byte(i + 1)
		if i == len(parts)-1 {
			e[0] |= 0x40
		}
		e[11], e[13] = 0x0f, sum
		for j, c := range parts[i] {
			at := 1 + 2*j // five, six and two pieces of the entry
			if j >= 5 {
				at = 14 + 2*(j-5)
			}
			if j >= 11 {
				at = 28 + 2*(j-11)
			}
			le.PutUint16(e[at:], c)
		}
		b = append(b, e...)
	}
	return b
}
