package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"lazaret/internal/testneed"
)

var sizeLine = regexp.MustCompile(`(?m)^\t\tsize (\d+)\n`)

// TestRooms makes sets for many elements, of a table that is empty, in use, of another
// ruleset and in doubt: each time it is the table that few elements have, but for the size of
// two sets, and holds what it should.
func TestRooms(t *testing.T) {
	testneed.Program(t, "nft")
	if !inNamespace(t) {
		return
	}
	terse := func() string { return nft(t, "--terse", "list", "table", "inet", "lazaret") }
	few, many := 100, manyElements+1
	table := open(t)
	r, small := crowd(few)
	other := r
	other.Outside = append(other.Outside[:1:1], Service{Protocol: "tcp", Port: 8443})
	texts := map[string]string{}
	for name, x := range map[string]Ruleset{"first": r, "other": other} {
		must(t, table.Fill(x, small))
		if texts[name] = terse(); sizeLine.MatchString(texts[name]) {
			t.Fatalf("a set of %d elements has a size:\n%s", few, texts[name])
		}
	}
	for _, x := range []struct {
		name  string
		rules Ruleset
		text  string
		n     int
		made  bool // anew
		begin func()
	}{
		{"adopted", r, "first", many, true, func() { must(t, table.Adopt(r)) }},
		{"as many again", r, "first", many, false, func() {}},
		{"twice as many", r, "first", 2 * many, false, func() {}},
		{"in use", r, "first", 2*many + 1, true, func() {}},
		{"another ruleset", other, "other", 2*many + 1, false, func() {}},
		{"another ruleset and more", r, "first", 4*many + 3, true, func() {}},
		{"in doubt", r, "first", many, true, func() { table.held = nil }},
	} {
		x.begin()
		_, e := crowd(x.n)
		was := table.handle()
		must(t, table.Fill(x.rules, e))
		listing := terse()
		if diff := cmp.Diff(texts[x.text], sizeLine.ReplaceAllString(listing, "")); diff != "" {
			t.Errorf("%s: %s", x.name, diff)
		}
		if n := len(sizeLine.FindAllString(listing, -1)); n != 2 || strings.Count(listing, "\t\tsize 1048576\n") != 2 {
			t.Errorf("%s: %d sets have a size, want 2 of 1048576:\n%s", x.name, n, listing)
		}
		if now := table.handle(); (now != was) != x.made {
			t.Errorf("%s: the table was %x and is %x, made anew should be %v", x.name, was, now, x.made)
		}
		for _, i := range []int{0, manyElements, x.n - 1, x.n} {
			for f, name := range []string{"routed4", "routed6"} {
				if a := device(x.rules.Pools[1], i)[f]; table.has(name, a) != (i < x.n) {
					t.Errorf("%s: device %d in %s: %v", x.name, i, name, i >= x.n)
				}
			}
		}
		if err := table.Verify(); err != nil {
			t.Errorf("%s: %v", x.name, err)
		}
	}
}

// handle is the kernel's number of the table, which no other one ever has.
func (t *Table) handle() string {
	list, err := dump{conn: t.next.socket}.list(unix.NFT_MSG_GETTABLE, unix.NFPROTO_INET)
	if err != nil || len(list) != 1 {
		return fmt.Sprint(len(list), err)
	}
	return string(list[0].attrs[4]) // NFTA_TABLE_HANDLE
}

// TestRoomEnds has a set's size reached, which only lifts when the table is filled again; and
// a kernel that lifts none.
func TestRoomEnds(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	table := open(t)
	r, e := crowd(manyElements)
	must(t, table.Fill(r, e))
	size := func() uint32 {
		s, err := table.conn.GetSetByName(kernelTable("lazaret"), "routed4")
		must(t, err)
		return s.Size
	}
	if got := size(); got != bound(manyElements) {
		t.Fatalf("the set has room for %d", got)
	}
	next := func(i int) []Routed {
		return []Routed{{device(r.Pools[1], manyElements+i)[0], 1, After(time.Hour)}}
	}
	must(t, table.Apply(Change{AddRouted: next(0)}))
	for _, s := range r.sets() {
		if s.name == "routed4" {
			k := s.kernel(kernelTable("lazaret"))
			k.Size = manyElements + 2
			must(t, table.conn.AddSet(k, nil))
			must(t, table.conn.Flush())
		}
	}
	must(t, table.Apply(Change{AddRouted: next(1)}))
	err := table.Apply(Change{AddRouted: next(2)})
	if !errors.Is(err, ErrDoubt) || !errors.Is(err, unix.ENFILE) {
		t.Fatalf("one more than the set may hold: %v, want doubt", err)
	}
	e.Routed = append(e.Routed, next(2)...)
	must(t, table.Fill(r, e))
	if got := size(); got != bound(manyElements+1) || !table.has("routed4", next(2)[0].Addr) || table.has("routed4", next(1)[0].Addr) {
		t.Errorf("filled after doubt: room for %d, or not what it should hold", got)
	}
	must(t, table.Apply(Change{DelRouted: []netip.Addr{next(2)[0].Addr}, AddRouted: next(1)}))
}

// TestNoRoom has a kernel that lifts no set's size, as those before 6.6: what it answers stands
// in for it. The sets are made without, hold everything, and stay so.
func TestNoRoom(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	table := open(t)
	asked := 0
	table.sizeOf = func(string, string) (uint32, error) { asked++; return manyElements, nil }
	r, e := crowd(manyElements)
	for _, how := range []string{"first", "again", "in doubt"} {
		must(t, table.Fill(r, e))
		for f, name := range []string{"routed4", "routed6"} {
			size, err := table.kernelSize(r.Table, name)
			if err != nil || size != 0 || !table.has(name, device(r.Pools[1], manyElements-1)[f]) {
				t.Errorf("%s: %s has a size of %d (%v), or not all devices", how, name, size, err)
			}
		}
		if table.held == nil || asked != 1 {
			t.Errorf("%s: held %v, and asked %d times for a size", how, table.held != nil, asked)
		}
		if how == "again" {
			table.held = nil
		}
	}
	must(t, table.Apply(Change{DelRouted: []netip.Addr{device(r.Pools[1], 3)[0]}}))
	must(t, table.Verify())
}
