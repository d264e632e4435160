package tunnel

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	"golang.zx2c4.com/wireguard/tun/netstack"

	"lazaret/internal/testneed"
)

const port = 51999

func key(t testing.TB) PrivateKey {
	t.Helper()
	k, err := GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func openLink(t testing.TB, c Config) *Link {
	t.Helper()
	if c.Name == "" {
		c.Name = "lz0"
	}
	c.PrivateKey = key(t)
	if c.ListenPort == 0 {
		c.ListenPort = port
	}
	l, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Remove(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// client is a WireGuard device with a TCP/IP stack of its own, all in this process.
type client struct {
	key PrivateKey
	net *netstack.Net
}

func newClient(t testing.TB, server Key, own ...string) client {
	t.Helper()
	return newClientOver(t, fmt.Sprintf("127.0.0.1:%d", port), DefaultMTU, server, own...)
}

func newClientOver(t testing.TB, endpoint string, mtu int, server Key, own ...string) client {
	t.Helper()
	var addresses []netip.Addr
	for _, a := range own {
		addresses = append(addresses, netip.MustParseAddr(a))
	}
	inner, stack, err := netstack.CreateNetTUN(addresses, nil, mtu)
	if err != nil {
		t.Fatal(err)
	}
	c := client{key(t), stack}
	d := device.NewDevice(inner, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, ""))
	t.Cleanup(func() { // netstack does not bear packets while it closes
		if err := d.Down(); err != nil {
			t.Error(err)
		}
		d.Close()
	})
	err = d.IpcSet(fmt.Sprintf("private_key=%s\npublic_key=%s\nendpoint=%s\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\n",
		hex.EncodeToString(c.key.Bytes()), hex.EncodeToString(server[:]), endpoint))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Up(); err != nil {
		t.Fatal(err)
	}
	return c
}

// reaches reports whether a datagram from source is answered in time.
func (c client) reaches(t testing.TB, source, to string, within time.Duration) bool {
	t.Helper()
	from := netip.AddrPortFrom(netip.MustParseAddr(source), 0)
	conn, err := c.net.DialUDPAddrPort(from, netip.MustParseAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for end := time.Now().Add(within); time.Now().Before(end); {
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 16)); err == nil && n == 5 {
			return true
		}
	}
	return false
}

// listen answers every datagram.
func listen(t testing.TB, address string) string {
	t.Helper()
	l, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		b := make([]byte, 16)
		for {
			n, from, err := l.ReadFrom(b)
			if err != nil {
				return
			}
			l.WriteTo(b[:n], from)
		}
	}()
	return l.LocalAddr().String()
}

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func set(t testing.TB, l *Link, k Key, allowed ...string) {
	t.Helper()
	if err := l.SetPeer(Peer{Key: k, AllowedIPs: prefixes(allowed...)}); err != nil {
		t.Fatal(err)
	}
}

// What a client may send follows its allowed addresses, in both families, through
// setting, moving and removing; other peers' sessions live on.
func TestLinkCarriesWhatItAllows(t *testing.T) {
	t.Parallel()
	if !inside(t) {
		return
	}
	l := openLink(t, Config{Addresses: prefixes("10.66.0.1/16", "fd66::1/64")})
	four, six := listen(t, "10.66.0.1:0"), listen(t, "[fd66::1]:0")
	a := newClient(t, l.Public(), "10.66.0.2", "fd66::2", "10.66.0.9")
	b := newClient(t, l.Public(), "10.66.0.3", "10.66.0.9")
	const never = 400 * time.Millisecond

	if a.reaches(t, "10.66.0.2", four, never) {
		t.Error("a stranger got in")
	}
	set(t, l, a.key.Public(), "10.66.0.2/32", "fd66::2/128")
	set(t, l, b.key.Public(), "10.66.0.3/32")
	// A client that was refused before waits up to five seconds before it tries again.
	if !a.reaches(t, "10.66.0.2", four, soon) || !a.reaches(t, "fd66::2", six, soon) || !b.reaches(t, "10.66.0.3", four, soon) {
		t.Fatal("peers do not get through")
	}
	if a.reaches(t, "10.66.0.9", four, never) {
		t.Error("an address that no peer has got in")
	}
	set(t, l, a.key.Public(), "10.66.0.2/32", "fd66::2/128", "10.66.0.9/32")
	if !a.reaches(t, "10.66.0.9", four, soon) {
		t.Error("an added address does not get through")
	}
	first := handshake(t, l, a.key.Public())
	set(t, l, b.key.Public(), "10.66.0.3/32", "10.66.0.9/32") // moves it from a
	if a.reaches(t, "10.66.0.9", four, never) || !b.reaches(t, "10.66.0.9", four, soon) {
		t.Error("the address did not move")
	}
	set(t, l, a.key.Public(), "10.66.0.2/32") // no longer names what moved, and must not take it from b
	if !b.reaches(t, "10.66.0.9", four, soon) || a.reaches(t, "fd66::2", six, never) {
		t.Error("an address of another peer was touched, or an own one kept")
	}
	if again := handshake(t, l, a.key.Public()); !again.Equal(first) {
		t.Error("changing addresses made a new session")
	}
	if err := l.RemovePeer(b.key.Public()); err != nil {
		t.Fatal(err)
	}
	if b.reaches(t, "10.66.0.3", four, never) || !a.reaches(t, "10.66.0.2", four, soon) {
		t.Error("removing b failed, or hit a")
	}
	if _, err := l.Status(b.key.Public()); !errors.Is(err, ErrNoPeer) {
		t.Errorf("status of a removed peer: %v", err)
	}
	if err := l.RemovePeer(b.key.Public()); err != nil {
		t.Errorf("removing twice: %v", err)
	}
}

// handshake asks in both ways, which must agree.
func handshake(t testing.TB, l *Link, k Key) time.Time {
	t.Helper()
	s, err := l.Status(k)
	if err != nil {
		t.Fatal(err)
	}
	if s.LastHandshake.IsZero() || time.Since(s.LastHandshake) > time.Minute || s.Received == 0 || s.Sent == 0 {
		t.Errorf("status %+v", s)
	}
	fast, err := l.Handshakes([]Key{k, {1, 2, 3}})
	if err != nil || len(fast) != 1 || !fast[k].Equal(s.LastHandshake) {
		t.Errorf("Handshakes: %v, %v, the dump says %v", fast, err, s.LastHandshake)
	}
	return s.LastHandshake
}

// wg(8) sees what was set: the witness reads over the control socket that the test
// lends to the device.
func TestWitnessSeesPeers(t *testing.T) {
	wg := testneed.Program(t, "wg")
	if !inside(t) {
		return
	}
	l := openLink(t, Config{ForceUserspace: true, Mark: 0x4c5a})
	expose(t, l)
	one, two, gone := key(t).Public(), key(t).Public(), key(t).Public()
	err := l.Apply([]PeerChange{
		{Peer: Peer{Key: one, AllowedIPs: prefixes("10.66.0.2/32", "fd66::2/128"), KeepAlive: 25 * time.Second}},
		{Peer: Peer{Key: two, AllowedIPs: prefixes("10.66.0.3/32"), Endpoint: netip.MustParseAddrPort("[fd00::9]:51820")}},
		{Peer: Peer{Key: gone, AllowedIPs: prefixes("10.66.0.4/32")}},
		{Peer: Peer{Key: gone}, Remove: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		fmt.Sprintf("%s\t(none)\t(none)\t10.66.0.2/32,fd66::2/128\t0\t0\t0\t25", one),
		fmt.Sprintf("%s\t(none)\t[fd00::9]:51820\t10.66.0.3/32\t0\t0\t0\toff", two),
	}
	slices.Sort(want)
	if d := cmp.Diff(want, dumpOf(t, wg)); d != "" {
		t.Error(d)
	}
	head, err := exec.Command(wg, "show", "lz0", "fwmark").Output()
	if err != nil || strings.TrimSpace(string(head)) != "0x4c5a" {
		t.Errorf("mark %q, %v", head, err)
	}
}

func dumpOf(t testing.TB, wg string) []string {
	t.Helper()
	out, err := exec.Command(wg, "show", "lz0", "dump").Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")[1:]
	slices.Sort(lines)
	return lines
}

// expose gives the userspace device a control socket.
func expose(t testing.TB, l *Link) {
	t.Helper()
	file, err := ipc.UAPIOpen(l.Name())
	if err != nil {
		t.Fatal(err)
	}
	socket, err := ipc.UAPIListen(l.Name(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	go func() {
		for {
			c, err := socket.Accept()
			if err != nil {
				return
			}
			go l.back.(*inProcess).shards[0].device.IpcHandle(c)
		}
	}()
}

// The kernel's way of driving, tried on a control socket, which takes the same
// commands: both ways read back alike, and opening again keeps every peer.
func TestControlledBackend(t *testing.T) {
	if !inside(t) {
		return
	}
	l := openLink(t, Config{ForceUserspace: true, Addresses: prefixes("10.66.0.1/16")})
	expose(t, l)
	secret := key(t)
	b, err := openKernel(Config{Name: "lz0", PrivateKey: secret, ListenPort: port, Mark: 7})
	if err != nil {
		t.Fatal(err)
	}
	a := newClient(t, secret.Public(), "10.66.0.2")
	silent := Peer{Key: key(t).Public(), AllowedIPs: prefixes("10.66.0.3/32", "fd66::3/128"), KeepAlive: 25 * time.Second,
		Endpoint: netip.MustParseAddrPort("192.0.2.1:4000")}
	failed := b.apply([]PeerChange{{Peer: Peer{Key: a.key.Public(), AllowedIPs: prefixes("10.66.0.2/32")}}, {Peer: silent}})
	if len(failed) > 0 {
		t.Fatal(failed)
	}
	if !a.reaches(t, "10.66.0.2", listen(t, "10.66.0.1:0"), soon) {
		t.Fatal("a peer set over the control socket does not get through")
	}
	shaken, err := b.handshakes([]Key{a.key.Public(), silent.Key})
	if err != nil || len(shaken) != 1 || time.Since(shaken[a.key.Public()]) > time.Minute {
		t.Errorf("handshakes %v, %v", shaken, err)
	}
	again, err := openKernel(Config{Name: "lz0", PrivateKey: secret, ListenPort: port, Mark: 7})
	if err != nil {
		t.Fatal(err)
	}
	over, err1 := again.peers()
	within, err2 := l.Peers()
	if err := errors.Join(err1, err2); err != nil || len(over) != 2 {
		t.Fatalf("%d peers after opening again, %v", len(over), err)
	}
	byKey := func(a, b PeerStatus) int { return slices.Compare(a.Key[:], b.Key[:]) }
	slices.SortFunc(over, byKey)
	slices.SortFunc(within, byKey)
	if d := cmp.Diff(within, over, compare); d != "" {
		t.Error(d)
	}
	if failed := again.apply([]PeerChange{{Peer: Peer{Key: silent.Key}, Remove: true}}); len(failed) > 0 {
		t.Fatal(failed)
	}
	if left, err := b.peers(); err != nil || len(left) != 1 || left[0].Key != a.key.Public() {
		t.Errorf("left %v, %v", left, err)
	}
	if err := errors.Join(b.close(), again.close()); err != nil {
		t.Error(err)
	}
}

func TestAddressesAndRoutes(t *testing.T) {
	if !inside(t) {
		return
	}
	l := openLink(t, Config{ForceUserspace: true, Addresses: prefixes("10.66.0.1/16")})
	for range 2 { // the second time changes nothing
		if err := l.SetAddresses(prefixes("10.77.0.1/24", "fd66::1/64")); err != nil {
			t.Fatal(err)
		}
		if got := addresses(t); !slices.Equal(got, []string{"10.77.0.1/24", "fd66::1/64"}) {
			t.Errorf("addresses %v", got)
		}
	}
	for _, routes := range [][]Route{
		{{To: netip.MustParsePrefix("192.0.2.0/24"), Source: netip.MustParseAddr("10.77.0.1")}, {To: netip.MustParsePrefix("2001:db8::/32")}, {To: netip.MustParsePrefix("0.0.0.0/0"), Table: 4242}},
		{{To: netip.MustParsePrefix("198.51.100.0/24")}},
		nil,
	} {
		if err := l.SetRoutes(routes); err != nil {
			t.Fatal(err)
		}
		have, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		if err != nil || len(have) != len(routes) {
			t.Errorf("routes %v, %v, want %v", have, err, routes)
		}
		for _, r := range have {
			if !wantedRoute(r, routes) {
				t.Errorf("route %v was not asked for", r)
			}
		}
	}
	if out, err := netlink.RouteGet(net.ParseIP("10.77.0.99")); err != nil || len(out) != 1 {
		t.Errorf("the pool is not routed: %v, %v", out, err)
	}
}

func addresses(t testing.TB) []string {
	t.Helper()
	link, err := netlink.LinkByName("lz0")
	if err != nil {
		t.Fatal(err)
	}
	have, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range have {
		if !a.IP.IsLinkLocalUnicast() {
			out = append(out, prefix(a.IPNet).String())
		}
	}
	slices.Sort(out)
	return out
}

func TestOpenAndSetRefuse(t *testing.T) {
	if !inside(t) {
		return
	}
	for name, c := range map[string]Config{
		"no name":   {PrivateKey: key(t)},
		"long name": {Name: "a-name-of-16-byte", PrivateKey: key(t)},
		"no key":    {Name: "lz0"},
		"taken":     {Name: "lo", PrivateKey: key(t)},
	} {
		if l, err := Open(t.Context(), c); err == nil {
			t.Errorf("%s: opened %v", name, l)
		} else if !c.PrivateKey.IsZero() && strings.Contains(err.Error(), hex.EncodeToString(c.PrivateKey.Bytes())) {
			t.Errorf("%s: the error shows the key", name)
		}
	}
	l := openLink(t, Config{ForceUserspace: true})
	if l.Kind() != Userspace {
		t.Errorf("kind %s", l.Kind())
	}
	if _, err := Open(t.Context(), Config{Name: "lz1", PrivateKey: key(t), ListenPort: port, ForceUserspace: true}); err == nil {
		t.Error("a second link on the same port opened")
	}
	good := map[Key]bool{}
	for name, p := range map[string]Peer{
		"zero key":     {},
		"weak key":     {Key: Key{0: 1}},
		"own key":      {Key: l.Public()},
		"host bits":    {Key: key(t).Public(), AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}},
		"zero address": {Key: key(t).Public(), AllowedIPs: []netip.Prefix{{}}},
	} {
		before, after := Peer{Key: key(t).Public()}, Peer{Key: key(t).Public()}
		err := l.Apply([]PeerChange{{Peer: before}, {Peer: p}, {Peer: after}})
		var failed Failures
		if !errors.As(err, &failed) || !errors.Is(err, ErrPeer) || len(failed) != 1 || failed[0].Peer.Key != p.Key {
			t.Errorf("%s: %v", name, err)
		}
		good[before.Key], good[after.Key] = true, true
	}
	all, err := l.Peers()
	if err != nil || len(all) != len(good) {
		t.Errorf("%d peers, %v; want the %d good ones, whatever stood beside them", len(all), err, len(good))
	}
	for _, s := range all {
		if !good[s.Key] {
			t.Errorf("%s was set", s.Key)
		}
	}
}

// A plan of many peers goes in whole; one that WireGuard cannot take costs no other.
func TestManyPeers(t *testing.T) {
	if !inside(t) {
		return
	}
	l := openLink(t, Config{ForceUserspace: true})
	const n = 2500
	changes := make([]PeerChange, n)
	for i := range changes {
		address := netip.AddrFrom4([4]byte{10, 66, byte(i >> 8), byte(i)})
		changes[i].Peer = Peer{Key: Key{byte(i), byte(i >> 8), 7}, AllowedIPs: []netip.Prefix{netip.PrefixFrom(address, 32)}}
	}
	if err := l.Apply(changes); err != nil {
		t.Fatal(err)
	}
	have, err := l.Peers()
	if err != nil || len(have) != n {
		t.Fatalf("%d peers, %v", len(have), err)
	}
	want := make([]Peer, n)
	seen := make([]Peer, n)
	for i := range changes {
		want[i], seen[i] = changes[i].Peer, have[i].Peer
	}
	if left := Diff(seen, want); len(left) != 0 {
		t.Errorf("%d peers differ, first %+v", len(left), left[0])
	}
}

func TestInBatchesSurvivesOneBadChange(t *testing.T) {
	var made []byte
	set := func(batch []PeerChange) error {
		for _, c := range batch {
			if c.Peer.Key[0] == 4 {
				return errors.New("no")
			}
			made = append(made, c.Peer.Key[0])
		}
		return nil
	}
	var changes []PeerChange
	for i := range 9 {
		changes = append(changes, PeerChange{Peer: Peer{Key: Key{0: byte(i)}}})
	}
	failed := inBatches(changes, 3, set)
	if len(failed) != 1 || failed[0].Peer.Key[0] != 4 || strings.Count(failed.Error(), "setting peer") != 1 {
		t.Errorf("failed %v", failed)
	}
	slices.Sort(made)
	if got := slices.Compact(made); !slices.Equal(got, []byte{0, 1, 2, 3, 5, 6, 7, 8}) {
		t.Errorf("made %v", got)
	}
}

func FuzzParsePeers(f *testing.F) {
	f.Add("private_key=00\npublic_key=" + strings.Repeat("ab", 32) + "\nallowed_ip=10.0.0.1/32\nlast_handshake_time_sec=1\nlast_handshake_time_nsec=5\nendpoint=[::1]:5\nrx_bytes=1\n")
	f.Add("public_key=xx\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := parsePeers(strings.NewReader(text))
		if err == nil && len(all) > strings.Count(text, "public_key=") {
			t.Errorf("%d peers from %q", len(all), text)
		}
	})
}
