package firewall

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Text is the table as `nft list table inet lazaret` prints it (nft 1.0.6), with every
// counter at zero and without the remaining times of elements. nft 1.0.6 does not
// know the flag persist and prints owner alone.
func (r Ruleset) Text(e Elements) string {
	var b strings.Builder
	l := r.layout()
	fmt.Fprintf(&b, "table inet %s {\n\tflags owner\n", l.table)
	for _, s := range l.sets {
		b.WriteString("\n")
		s.print(&b, r.contents(s, e))
	}
	for _, c := range l.chains {
		b.WriteString("\n")
		c.print(&b)
	}
	return b.String() + "}\n"
}

// contents are the elements of s in words, in nft's order.
func (r Ruleset) contents(s set, e Elements) []string {
	var words []string
	switch {
	case s.name == "alive" && e.Alive > 0, s.name == "fresh" && e.Fresh > 0:
		words = append(words, "ipv4", "ipv6")
	case s.timeout != 0:
		routed := slices.SortedFunc(slices.Values(e.Routed), func(a, b Routed) int { return a.Addr.Compare(b.Addr) })
		for _, x := range routed {
			if s.name != r.routedIn(x) {
				continue
			}
			text := x.Addr.String()
			if s.data == "mark" {
				text += " : " + markText(x.Mark)
			}
			words = append(words, text)
		}
	case s.data == "verdict" && s.interval:
		byPrefix := func(a, b verdict) int { return a.prefix.Compare(b.prefix) }
		for _, v := range slices.SortedFunc(slices.Values(s.verdicts), byPrefix) {
			words = append(words, v.prefix.String()+" : goto "+v.chain)
		}
	case s.data == "verdict":
		byMark := func(a, b verdict) int { return cmp.Compare(a.mark, b.mark) }
		for _, v := range slices.SortedFunc(slices.Values(s.verdicts), byMark) {
			words = append(words, markText(v.mark)+" : goto "+v.chain)
		}
	case s.interval:
		for _, p := range slices.SortedFunc(slices.Values(s.prefixes), netip.Prefix.Compare) {
			words = append(words, p.String())
		}
	case s.key == name4 || s.key == name6:
		for _, a := range slices.SortedFunc(slices.Values(e.Quarantined), netip.Addr.Compare) {
			if s.name == quarantinedSet(familyOf(a)) {
				words = append(words, a.String())
			}
		}
	}
	return words
}

func (s set) print(b *strings.Builder, contents []string) {
	word, typ := "set", string(s.key)
	if s.data != "" {
		word, typ = "map", typ+" : "+s.data
	}
	fmt.Fprintf(b, "\t%s %s {\n\t\ttype %s\n", word, s.name, typ)
	if s.interval {
		b.WriteString("\t\tflags interval\n")
	}
	if s.timeout != 0 {
		fmt.Fprintf(b, "\t\ttimeout %s\n", durationText(s.timeout))
	}
	if len(contents) > 0 {
		perLine := map[kind]int{name4: 2, name6: 1, family: len(contents), mark: 5}[s.key]
		b.WriteString("\t\telements = { ")
		for i, c := range contents {
			switch {
			case i == 0:
			case i%perLine == 0:
				b.WriteString(",\n\t\t\t     ")
			default:
				b.WriteString(", ")
			}
			b.WriteString(c)
		}
		b.WriteString(" }\n")
	}
	b.WriteString("\t}\n")
}

func (c chain) print(b *strings.Builder) {
	fmt.Fprintf(b, "\tchain %s {\n", c.name)
	if c.base != nil {
		policy := "accept"
		if c.base.drop {
			policy = "drop"
		}
		fmt.Fprintf(b, "\t\ttype %s hook %s priority %s; policy %s;\n", c.base.kind, c.base.hook, c.base.priority, policy)
	}
	for _, r := range c.rules {
		b.WriteString("\t\t" + r.text() + "\n")
	}
	b.WriteString("\t}\n")
}

// durationText prints whole milliseconds the way nft does: 1d2h3m4s5ms, without zeros.
func durationText(d time.Duration) string {
	var b strings.Builder
	for _, u := range []struct {
		size time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"}} {
		if n := d / u.size; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			d -= n * u.size
		}
	}
	return b.String()
}

// Text is the service as the configuration writes it; word is "from" or "to".
func (s Service) Text(word string) string {
	text := string(s.Protocol)
	if s.Protocol != "icmp" {
		text += "/" + strconv.Itoa(int(s.Port))
	}
	for i, p := range s.From {
		if i == 0 {
			text += " " + word + " "
		} else {
			text += ", "
		}
		text += prefixText(p)
	}
	return text
}
