package dataplane

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"lazaret/firewall"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

var plain = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
}

// every is one message of each kind, with every field set.
func every() []message {
	full := in77(1, 5)
	full.Next, full.Tighten = peerKey(2), 3
	f := fresh(10)
	p := somePlan(10)
	return []message{
		{V: version, Kind: hello},
		{V: version, ID: 1, Kind: apply, Entry: &full},
		{V: version, ID: 2, Kind: apply, Entry: &quarantine.Entry{Device: id(1), Revision: 6, Tighten: 4}},
		{V: version, ID: 3, Kind: refresh, Fresh: &f},
		{V: version, ID: 4, Kind: begin, Head: &planHead{p.Control, p.Revision, p.Pools, p.Gateway, 1}},
		{V: version, ID: 4, Kind: entries, Entries: []quarantine.Entry{in66(2, 5)}},
		{V: version, ID: 4, Kind: commit},
		{V: version, ID: 4, Kind: answer},
		{V: version, ID: 5, Kind: answer, Code: outdated, Text: "why"},
		{V: version, Kind: event, Event: &Event{Kind: Rotated, Device: id(1), Key: peerKey(2)}},
		{V: version, Kind: event, Event: &Event{Kind: ClockJump, Detail: "why"}},
		{V: version, ID: 6, Kind: ask, Keys: []tunnel.Key{peerKey(2)}},
		{V: version, ID: 6, Kind: answer, Shaken: []shaken{{peerKey(2), 1700000000}}},
	}
}

// The bytes on the wire are what testdata/wire.jsonl says, line by line: a process of
// the version before or after reads them. A line may gain a field; one that loses or
// changes any raises the version.
func TestWireIsPinned(t *testing.T) {
	golden, err := os.ReadFile("testdata/wire.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(golden)), "\n")
	all := every()
	if len(lines) != len(all) {
		t.Fatalf("%d lines for %d messages", len(lines), len(all))
	}
	for i, m := range all {
		b, err := frame(m)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(b[4:]); got != lines[i] {
			t.Errorf("wrote %s\nwant  %s", got, lines[i])
		}
		if n := binary.BigEndian.Uint32(b); int(n) != len(b)-4 {
			t.Errorf("length %d before %d bytes", n, len(b)-4)
		}
		later := strings.Replace(lines[i], "{", `{"later":[1,{"kind":2}],`, 1)
		for _, body := range []string{lines[i], later} {
			back, err := parseMessage([]byte(body))
			if err != nil {
				t.Errorf("reading %s: %v", body, err)
			}
			if d := cmp.Diff(m, back, plain); d != "" {
				t.Error(d)
			}
		}
	}
}

func TestErrorsSurviveTheWire(t *testing.T) {
	for _, is := range []error{quarantine.ErrOutdated, quarantine.ErrConflict, quarantine.ErrNotEnforced, ErrRefused, ErrVersion} {
		err := decode(encode(1, errors.Join(errors.New("moving a device"), is)))
		if !errors.Is(err, is) || !strings.Contains(err.Error(), "moving a device") {
			t.Errorf("%v arrived as %v", is, err)
		}
	}
	for _, other := range []error{firewall.ErrDoubt, tunnel.ErrPeer, errKernel} {
		if err := decode(encode(1, other)); !errors.Is(err, quarantine.ErrNotEnforced) {
			t.Errorf("%v arrived as %v", other, err)
		}
	}
	if err := decode(encode(1, nil)); err != nil {
		t.Errorf("done arrived as %v", err)
	}
	if m := encode(1, errors.New(strings.Repeat("x", 1<<21))); len(m.Text) > 1<<13 {
		t.Errorf("%d bytes of text", len(m.Text))
	}
}

func TestFramesAreBounded(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty":     {0, 0, 0, 0},
		"too long":  {0, 0x10, 0, 1},
		"very long": {0xff, 0xff, 0xff, 0xff},
		"cut":       {0, 0, 0, 9, '{'},
	} {
		if _, err := readMessage(bytes.NewReader(b)); !errors.Is(err, errFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := frame(message{Text: strings.Repeat("x", maxFrame)}); err == nil {
		t.Error("a frame over the bound was written")
	}
	// The largest parts of a plan that a client makes are well under the bound.
	big := in77(1, 1<<62)
	big.Device, big.Next, big.Tighten, big.Until = quarantine.ID(strings.Repeat("d", maxID)), peerKey(2), 1<<63, 1<<62
	big.Quarantined, big.Routed = nil, nil
	for range maxAddresses {
		big.Quarantined = append(big.Quarantined, netip.MustParseAddr("fd66:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))
		big.Routed = append(big.Routed, netip.MustParseAddr("fd77:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))
	}
	m := message{Kind: entries}
	for range perFrame {
		m.Entries = append(m.Entries, big)
	}
	if b, err := frame(m); err != nil || len(b) > maxFrame*2/3 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// FuzzOrders gives the data plane whatever a process of few privileges may send.
func FuzzOrders(f *testing.F) {
	var whole []byte
	for _, m := range every() {
		b, err := frame(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		whole = append(whole, b...)
	}
	f.Add(whole)
	f.Fuzz(func(t *testing.T, b []byte) {
		x := planned(t, in66(1, 5), in77(2, 5))
		s := &session{}
		x.current = s
		var plan *assembly
		for r := bytes.NewReader(b); ; {
			m, err := readMessage(r)
			if err != nil {
				break
			}
			if plan, err = assemble(plan, m); plan != nil && m.Kind != commit {
				continue
			}
			x.current.out = make(chan message, 1000)
			if err == nil {
				_, err = x.order(s, m, plan)
				plan = nil
			}
			if back := decode(encode(m.ID, err)); (back == nil) != (err == nil) {
				t.Fatalf("error %v arrives as %v", err, back)
			}
		}
		x.agree(t)
	})
}
