package imagetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"lazaret/internal/console/api"
	"lazaret/internal/vm"
)

// TestLinks takes a gateway through what happens to its cables and to its power: a card
// without a cable, a bond with a VLAN on it, the power button, and a power cut.
func TestLinks(t *testing.T) {
	long(t)
	l := newLife(t, func(c *vm.Config) { c.Cables, c.Capture = 2, true })
	l.turnOn()
	var o office
	l.live(t,
		step{"Claim", l.claim}, step{"Enroll", l.enroll}, step{"Quarantine", l.quarantined}, step{"Unplugged", l.unplugged},
		step{"TakenBack", func(t *testing.T) { o = l.office(t); l.takenBack(t, o) }},
		step{"Bond", func(t *testing.T) { l.bond(t, o) }},
		step{"PowerButton", func(t *testing.T) {
			l.pressPower(t)
			l.turnsOn()
			awaits(t, l.v, "enforcing after the power button", ready)
			l.stillQuarantined(t)
			l.fileSystem(t, clean)
			l.lastLog(t)
		}},
		step{"BondStays", func(t *testing.T) { l.failsOver(t, l.office(t)) }},
		step{"PowerCut", func(t *testing.T) {
			l.v.Kill()
			l.turnsOn()
			awaits(t, l.v, "enforcing after a power cut", ready)
			l.stillQuarantined(t)
			l.fileSystem(t, replayed)
		}})
}

// unplugged pulls the cable and puts it back: an address is asked for again, and everything
// is as it was.
func (l *life) unplugged(t *testing.T) {
	before := dhcpFrames(t, l.v.Capture())
	if before == 0 {
		t.Fatal("the machine never asked DHCP")
	}
	if err := l.v.Link(soon(t), false); err != nil {
		t.Fatal(err)
	}
	if _, err := l.v.Expect(soon(t), regexp.MustCompile(`no\s+cable|nothing\s+is\s+connected`)); err != nil {
		t.Fatal(err)
	}
	if err := l.v.Link(soon(t), true); err != nil {
		t.Fatal(err)
	}
	until(t, "DHCP is asked again", func() error {
		if now := dhcpFrames(t, l.v.Capture()); now <= before {
			return fmt.Errorf("asked %d times, and %d before", now, before)
		}
		return nil
	})
	l.stillQuarantined(t)
}

// What the kernel said of the data partition when it was mounted.
const (
	clean    = false
	replayed = true // its journal had to be
)

func (l *life) fileSystem(t *testing.T, want bool) {
	t.Helper()
	var lines []api.MachineLine
	l.must(t, "GET", "/api/v1/machine/log?n=5000&part=kernel&contains=EXT4-fs", nil, &lines)
	text := fmt.Sprint(lines)
	if !strings.Contains(text, "mounted filesystem") {
		t.Errorf("the log does not say that the data partition was mounted: %s", text)
	}
	if got := strings.Contains(text, "recovery complete"); got != want {
		t.Errorf("its journal was replayed: %v, want %v: %s", got, want, text)
	}
}

// lastLog looks at the log that was kept of the end before, where the version takes orders.
func (l *life) lastLog(t *testing.T) {
	if !l.orders {
		return
	}
	text := l.shows(t, "/data/machine/last.log")
	if !strings.Contains(text, "the power button was pressed") || strings.Contains(text, "killed") {
		t.Errorf("the end of the log that was kept: %.4000s", text[max(0, len(text)-4000):])
	}
}

// office is a switch with two ports, which the machine's two further cards are plugged into:
// it takes the frames of a VLAN from both.
type office struct{ ports [2]*port }

const (
	officeVLAN = 12
	officeNet  = "198.51.100.10/24"
)

var (
	machineIP = netip.MustParsePrefix(officeNet).Addr()
	switchIP  = netip.MustParseAddr("198.51.100.1")
)

// port counts who answers there.
type port struct {
	cable *vm.Cable

	mu       sync.Mutex
	tagged   int // answers to questions of the VLAN
	untagged int // frames from the machine's address outside of it

}

// office plugs the cables in; it is gone with the machine as it is turned on now.
func (l *life) office(t *testing.T) office {
	t.Helper()
	var o office
	for i := range o.ports {
		p := &port{cable: l.v.Cable(i)}
		o.ports[i] = p
		go func() { // ends with the cable
			for {
				f, err := p.cable.Receive(context.WithoutCancel(l.top.Context()))
				if err != nil {
					return
				}
				p.take(f)
			}
		}()
	}
	return o
}

// take looks for answers of ARP (RFC 826) in a frame, with a tag or without (IEEE 802.1Q).
func (p *port) take(f []byte) {
	if len(f) < 18 {
		return
	}
	tag := 0
	if rest := f[12:]; binary.BigEndian.Uint16(rest) == 0x8100 {
		tag = int(binary.BigEndian.Uint16(rest[2:]) & 0xfff)
		f = append(bytes.Clone(f[:12]), rest[4:]...)
	}
	if len(f) < 42 || binary.BigEndian.Uint16(f[12:]) != 0x0806 || binary.BigEndian.Uint16(f[20:]) != 2 || !bytes.Equal(f[28:32], machineIP.AsSlice()) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if tag == officeVLAN {
		p.tagged++
	} else {
		p.untagged++
	}
}

func (p *port) answers() (tagged, untagged int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tagged, p.untagged
}

// ask asks for the machine's hardware address, in the VLAN or outside of any.
func (p *port) ask(t testing.TB, vlan bool) {
	t.Helper()
	f := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 2, 0, 0, 0, 0, 1)
	if vlan {
		f = append(f, 0x81, 0, 0, officeVLAN)
	}
	f = append(f, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1)
	f = append(append(append(f, switchIP.AsSlice()...), 0, 0, 0, 0, 0, 0), machineIP.AsSlice()...)
	if err := p.cable.Send(append(f, make([]byte, 64-len(f))...)); err != nil {
		t.Fatal(err)
	}
}

// reached waits until the machine answers there in the VLAN, and fails if it does outside.
func (p *port) reached(t testing.TB, what string) {
	t.Helper()
	before, _ := p.answers()
	until(t, what, func() error {
		p.ask(t, false)
		p.ask(t, true)
		if now, _ := p.answers(); now == before {
			return errors.New("nobody answers for " + machineIP.String())
		}
		return nil
	})
	if _, outside := p.answers(); outside > 0 {
		t.Errorf("%s: %d answers without the VLAN's tag", what, outside)
	}
}

// configured has lazaretctl try a network of a VLAN on a bond of two cards.
func (l *life) configured(t *testing.T, trial string) {
	t.Helper()
	text := fmt.Sprintf(`version: 2
ethernets:
  lan: {match: {macaddress: "52:54:00:12:34:56"}, dhcp4: true}
  one: {match: {macaddress: "%s"}}
  two: {match: {macaddress: "%s"}}
bonds:
  bond0: {interfaces: [one, two], parameters: {mode: active-backup, primary: one}}
vlans:
  office: {id: %d, link: bond0, addresses: [%s]}
`, l.v.Cable(0).MAC, l.v.Cable(1).MAC, officeVLAN, officeNet)
	l.does(t, "machine", "network", "set", "-f", seedFile(t, "network.yaml", text), "--for", trial)
}

// does has lazaretctl do something as the administrator.
func (l *life) does(t *testing.T, args ...string) {
	t.Helper()
	if text, err := l.ctl(t, "", args...); err != nil {
		t.Fatalf("lazaretctl %v: %v\n%s", args, err, text)
	}
}

// takenBack: a network that nobody confirms goes by itself.
func (l *life) takenBack(t *testing.T, o office) {
	l.configured(t, "30s")
	o.ports[0].reached(t, "the machine answers in the VLAN, on trial")
	until(t, "what nobody confirmed is taken back", func() error {
		var m api.Machine
		if _, err := l.ask(shortly(t), l.admin, "GET", "/api/v1/machine", nil, &m); err != nil {
			return err
		}
		for _, link := range m.Links {
			if link.Name == "office" || link.Name == "bond0" {
				return fmt.Errorf("%s is there", link.Name)
			}
		}
		return nil
	})
}

// bond confirms it, and pulls one cable after the other.
func (l *life) bond(t *testing.T, o office) {
	l.configured(t, "10m")
	l.does(t, "machine", "network", "confirm")
	l.failsOver(t, o)
	l.stillQuarantined(t)
}

// failsOver: the machine answers at the first port; at the second one once the first has no
// cable; and at the first again when it is back.
func (l *life) failsOver(t *testing.T, o office) {
	o.ports[0].reached(t, "the machine answers at the first port")
	if n, _ := o.ports[1].answers(); n > 0 {
		t.Errorf("it answered %d times at the second port, which is the spare", n)
	}
	for _, move := range []struct {
		up   bool
		at   int
		what string
	}{{false, 1, "it answers at the second port when the first has no cable"}, {true, 0, "it answers at the first port again"}} {
		begin := time.Now()
		if err := o.ports[0].cable.Link(soon(t), move.up); err != nil {
			t.Fatal(err)
		}
		o.ports[move.at].reached(t, move.what)
		t.Logf("%s: after %v", move.what, time.Since(begin).Round(100*time.Millisecond))
	}
}
