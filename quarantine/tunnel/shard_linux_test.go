package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.zx2c4.com/wireguard/device"
)

// soon bounds the wait for what must come; it costs nothing where it comes.
const soon = 30 * time.Second

// shardsOf returns how many peers each device of the link has by its own account.
func shardsOf(t testing.TB, l *Link) []int {
	t.Helper()
	var out []int
	for _, s := range l.back.(*inProcess).shards {
		all, err := s.peers()
		if err != nil {
			t.Fatal(err)
		}
		if s.count != len(all) {
			t.Errorf("device %d has %d peers, counted are %d", s.number, len(all), s.count)
		}
		out = append(out, len(all))
	}
	return out
}

// fleet is clients 10.66.0.2, fd66::2 and so on, each answering datagrams on port 7.
func fleet(t testing.TB, l *Link, n int) []client {
	t.Helper()
	out := make([]client, n)
	for i := range out {
		four, six := own(i)
		out[i] = newClient(t, l.Public(), four, six, "10.66.9.9", "fd66::99")
		out[i].answer(t)
		set(t, l, out[i].key.Public(), four+"/32", six+"/128")
	}
	return out
}

func own(i int) (four, six string) {
	return fmt.Sprintf("10.66.0.%d", i+2), fmt.Sprintf("fd66::%x", i+2)
}

func (c client) answer(t testing.TB) {
	t.Helper()
	l, err := c.net.ListenUDPAddrPort(netip.AddrPortFrom(netip.Addr{}, 7))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	go func() {
		defer close(ended)
		b := make([]byte, 64)
		for {
			n, from, err := l.ReadFrom(b)
			if err != nil {
				return
			}
			l.WriteTo(b[:n], from)
		}
	}()
}

func forwarding(t testing.TB) {
	t.Helper()
	for _, f := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+f, []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
}

// Three devices behind one interface, port and key are one link: every peer reaches the
// gateway and every other peer, an address is one peer's wherever that peer is kept, and
// nobody sends from another's.
func TestShards(t *testing.T) {
	t.Parallel()
	if !inside(t) {
		return
	}
	forwarding(t)
	l := openLink(t, Config{ForceUserspace: true, Grow: true, shardSize: 2, Addresses: prefixes("10.66.0.1/16", "fd66::1/64")})
	four, six := listen(t, "10.66.0.1:0"), listen(t, "[fd66::1]:0")
	const never = 400 * time.Millisecond
	c := fleet(t, l, 5)
	if got := fmt.Sprint(shardsOf(t, l)); got != "[2 2 1]" {
		t.Fatalf("peers of the devices: %s", got)
	}
	for i := range c {
		f, s := own(i)
		if !c[i].reaches(t, f, four, soon) || !c[i].reaches(t, s, six, soon) {
			t.Fatalf("peer %d does not reach the gateway", i)
		}
		handshake(t, l, c[i].key.Public())
	}
	for i := range c {
		for j := range c {
			f, s := own(i)
			tof, tos := own(j)
			if i != j && (!c[i].reaches(t, f, tof+":7", soon) || !c[i].reaches(t, s, "["+tos+"]:7", soon)) {
				t.Errorf("peer %d does not reach peer %d", i, j)
			}
		}
	}

	first, last := c[0], c[4] // of the first device and of the third
	for _, a := range []string{"10.66.9.9", "fd66::99"} {
		at, bits := four, "/32"
		if strings.Contains(a, ":") {
			at, bits = six, "/128"
		}
		if first.reaches(t, a, at, never) || last.reaches(t, a, at, never) {
			t.Errorf("%s got in before it was anyone's", a)
		}
		holder := func(from, to int) {
			t.Helper()
			f, s := own(to)
			set(t, l, c[to].key.Public(), f+"/32", s+"/128", a+bits)
			if !c[to].reaches(t, a, at, soon) || from >= 0 && c[from].reaches(t, a, at, never) {
				t.Errorf("%s did not move from %d to %d", a, from, to)
			}
			alone(t, l, netip.MustParsePrefix(a+bits), c[to].key.Public())
		}
		holder(-1, 0)
		holder(0, 4)
		holder(4, 3)
		holder(3, 0)
	}
	if err := l.RemovePeer(first.key.Public()); err != nil {
		t.Fatal(err)
	}
	f, _ := own(0)
	if first.reaches(t, f, four, never) {
		t.Error("a removed peer gets in")
	}
	again := newClient(t, l.Public(), f)
	set(t, l, again.key.Public(), f+"/32")
	if got := fmt.Sprint(shardsOf(t, l)); got != "[2 2 1]" || !again.reaches(t, f, four, soon) {
		t.Errorf("its place is not given again: %s", got)
	}
	if all, err := l.Peers(); err != nil || len(all) != 5 {
		t.Errorf("%d peers, %v", len(all), err)
	}
}

// alone checks by the devices' own account that only k has the address.
func alone(t testing.TB, l *Link, a netip.Prefix, k Key) {
	t.Helper()
	all, err := l.Peers()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		has := false
		for _, have := range p.AllowedIPs {
			has = has || have == a
		}
		if has != (p.Key == k) {
			t.Errorf("%s: peer %s has it: %v", a, p.Key, has)
		}
	}
}

// A session that was there before the link grew loses nothing by it: every datagram of a
// stream comes back, in a device that was alone and then is the first of four.
func TestGrowingDisturbsNobody(t *testing.T) {
	if !inside(t) {
		return
	}
	l := openLink(t, Config{ForceUserspace: true, Grow: true, shardSize: 2, Addresses: prefixes("10.66.0.1/16")})
	a := newClient(t, l.Public(), "10.66.0.2")
	set(t, l, a.key.Public(), "10.66.0.2/32")
	at := listen(t, "10.66.0.1:0")
	if !a.reaches(t, "10.66.0.2", at, soon) {
		t.Fatal("the peer does not get through")
	}
	c, err := a.net.DialUDPAddrPort(netip.MustParseAddrPort("10.66.0.2:0"), netip.MustParseAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := make([]byte, 8)
	ping := func(i int) {
		binary.BigEndian.PutUint64(b, uint64(i))
		if err := c.SetDeadline(time.Now().Add(soon)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(b); err != nil || binary.BigEndian.Uint64(b) != uint64(i) {
			t.Fatalf("datagram %d did not come back: %v", i, err)
		}
	}
	grown := make(chan error, 1)
	go func() {
		var changes []PeerChange
		for i := range 7 {
			changes = append(changes, PeerChange{Peer: Peer{Key: Key{7, byte(i)}, AllowedIPs: prefixes(fmt.Sprintf("10.66.1.%d/32", i))}})
		}
		grown <- l.Apply(changes)
	}()
	i := 0
	for ended := false; !ended; i++ {
		select {
		case err := <-grown:
			if err != nil {
				t.Error(err)
			}
			ended = true
		default:
		}
		ping(i)
	}
	for range 200 {
		ping(i)
		i++
	}
	if got := fmt.Sprint(shardsOf(t, l)); got != "[2 2 2 2]" {
		t.Errorf("peers of the devices: %s", got)
	}
}

// Two devices may draw the same receiver index: both look, one takes the message.
func TestSharedIndex(t *testing.T) {
	if !inside(t) {
		return
	}
	l := openLink(t, Config{ForceUserspace: true, Grow: true, shardSize: 1, Addresses: prefixes("10.66.0.1/16")})
	four := listen(t, "10.66.0.1:0")
	c := fleet(t, l, 2)
	h := l.back.(*inProcess).hub
	shards := *h.shards.Load()
	for i := range c { // each device in turn also takes all that the other knows
		twin, both := *shards[1-i], slices.Clone(shards)
		twin.index = shards[i].index
		both[1-i] = &twin
		h.shards.Store(&both)
		if f, _ := own(i); !c[i].reaches(t, f, four, soon) {
			t.Errorf("a message to device %d that both look at is lost", i)
		}
	}
	h.shards.Store(&shards)
	for i := range c {
		if f, _ := own(i); !c[i].reaches(t, f, four, soon) {
			t.Errorf("device %d came to harm", i)
		}
	}
}

// A flood of initiations puts the gate under load, and the newcomer's device is under
// load as well: who proves no address is not looked at, the newcomer gets in by
// returning the cookies it is sent, and who has a session does not notice.
func TestHandshakeUnderLoad(t *testing.T) {
	t.Parallel()
	if !inside(t) {
		return
	}
	l := openLink(t, Config{ForceUserspace: true, Grow: true, shardSize: 1, Addresses: prefixes("10.66.0.1/16")})
	at := listen(t, "10.66.0.1:0")
	c := fleet(t, l, 2)
	for i := range c {
		if f, _ := own(i); !c[i].reaches(t, f, at, soon) {
			t.Fatalf("peer %d does not get through", i)
		}
	}
	late := newClient(t, l.Public(), "10.66.0.9")
	set(t, l, late.key.Public(), "10.66.0.9/32")
	b := l.back.(*inProcess)
	inner[atomic.Int64](t, b.shards[2], "rate", "underLoadUntil").Store(time.Now().Add(time.Hour).UnixNano())
	g := b.hub.gate
	flood(t, g, l.Public())
	for end := time.Now().Add(soon); g.loaded.Load() == 0; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("the flood is no load")
		}
	}
	if late.reaches(t, "10.66.0.9", at, 2*time.Second) {
		t.Error("the first initiation was taken without proof of its address")
	}
	if !late.reaches(t, "10.66.0.9", at, 2*soon) {
		t.Error("cookies do not get a newcomer in")
	}
	for i := range c {
		if f, _ := own(i); !c[i].reaches(t, f, at, soon) {
			t.Errorf("peer %d lost its session", i)
		}
	}
}

// inner finds a field of a struct in wireguard-go's device.
func inner[T any](t testing.TB, s *shard, name, field string) *T {
	t.Helper()
	outer, ok1 := reflect.TypeFor[device.Device]().FieldByName(name)
	inner, ok2 := outer.Type.FieldByName(field)
	if !ok1 || !ok2 || inner.Type != reflect.TypeFor[T]() {
		t.Fatal("wireguard-go changed")
	}
	return (*T)(unsafe.Add(unsafe.Pointer(s.device), outer.Offset+inner.Offset))
}

// flood keeps 200 initiations waiting at the gate until the test ends: with the right
// first MAC, and random content. They do not come from the UDP port, whose buffer they
// would fill, and lose others' messages before anyone can choose.
func flood(t testing.TB, g *gate, to Key) {
	t.Helper()
	var macs device.CookieGenerator
	macs.Init(device.NoisePublicKey(to))
	from, err := g.hub.bind.ParseEndpoint("127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() {
		close(stop)
		<-done
	})
	go func() {
		defer close(done)
		message := make([]byte, device.MessageInitiationSize)
		message[0] = device.MessageInitiationType
		for i := uint64(0); ; i++ {
			for len(g.queue) >= 200 {
				runtime.Gosched()
			}
			select {
			case <-stop:
				return
			default:
			}
			binary.LittleEndian.PutUint64(message[8:], i)
			macs.AddMacs(message)
			g.offer(message, from)
		}
	}()
}

// What WireGuard takes only in part costs no other peer, and is known for what it is: an
// address that got in with it still moves away from there.
func TestFaultInOneShard(t *testing.T) {
	if !inside(t) {
		return
	}
	l := openLink(t, Config{ForceUserspace: true, Grow: true, shardSize: 1})
	const tooLong = 100000 * time.Second // the protocol has 16 bits
	a, bad, b := Peer{Key: Key{1, 1}}, Peer{Key: Key{2, 2}, KeepAlive: tooLong, AllowedIPs: prefixes("10.66.0.9/32")}, Peer{Key: Key{3, 3}}
	wide := Peer{Key: Key{4, 4}, AllowedIPs: prefixes("10.66.0.0/24")}
	err := l.Apply([]PeerChange{{Peer: a}, {Peer: bad}, {Peer: wide}, {Peer: b}})
	failed, ok := errors.AsType[Failures](err)
	if !ok || len(failed) != 2 || failed[0].Peer.Key != bad.Key || failed[1].Peer.Key != wide.Key || !errors.Is(failed[1].Err, ErrPeer) || errors.Is(failed[0].Err, ErrPeer) {
		t.Fatalf("failed: %v", err)
	}
	shardsOf(t, l)
	alone(t, l, bad.AllowedIPs[0], bad.Key)
	b.AllowedIPs = bad.AllowedIPs
	if err := l.SetPeer(b); err != nil {
		t.Fatal(err)
	}
	alone(t, l, bad.AllowedIPs[0], b.Key)
	// In one device, what was to follow the fault is made all the same.
	same := openLink(t, Config{Name: "lz1", ListenPort: port + 1, ForceUserspace: true})
	after := Peer{Key: Key{5, 5}, AllowedIPs: prefixes("10.66.0.8/32")}
	if err := same.Apply([]PeerChange{{Peer: bad}, {Peer: after}}); err == nil {
		t.Error("the fault was not told")
	}
	alone(t, same, after.AllowedIPs[0], after.Key)
	all, err := l.Peers()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if p.Key == wide.Key {
			t.Error("a prefix was given to a peer of one device among several")
		}
	}
}

// A link that is full says so for each peer that it does not take, and for no other.
func TestFull(t *testing.T) {
	if !inside(t) {
		return
	}
	for grow, room := range map[bool]int{false: 3, true: 3 * maxShards} {
		l := openLink(t, Config{ForceUserspace: true, Grow: grow, shardSize: 3})
		changes := make([]PeerChange, room+5)
		for i := range changes {
			changes[i].Peer = Peer{Key: Key{byte(i), 9}}
		}
		err := l.Apply(changes)
		failed, ok := errors.AsType[Failures](err)
		if !ok || len(failed) != 5 || failed[0].Peer.Key != changes[room].Peer.Key || !strings.Contains(err.Error(), fmt.Sprintf("holds %d peers", room)) {
			t.Errorf("growing %v: %v", grow, err)
		}
		if err := l.Apply([]PeerChange{{Peer: changes[0].Peer, Remove: true}, changes[room]}); err != nil {
			t.Errorf("growing %v: the place of a peer that left: %v", grow, err)
		}
		if err := l.Remove(); err != nil {
			t.Error(err)
		}
	}
}

// A link of several devices answers to a new key as a whole, and is lost as a whole.
func TestShardsShareKeyAndFate(t *testing.T) {
	if !inside(t) {
		return
	}
	l := openLink(t, Config{ForceUserspace: true, Grow: true, shardSize: 1, Addresses: prefixes("10.66.0.1/16")})
	at := listen(t, "10.66.0.1:0")
	set(t, l, key(t).Public())
	set(t, l, key(t).Public())
	next := key(t)
	if err := l.SetKey(next); err != nil {
		t.Fatal(err)
	}
	for i := range 2 { // of the third device, which was there, and of a fourth
		c := newClient(t, next.Public(), fmt.Sprintf("10.66.0.%d", i+2))
		set(t, l, c.key.Public(), fmt.Sprintf("10.66.0.%d/32", i+2))
		if !c.reaches(t, fmt.Sprintf("10.66.0.%d", i+2), at, soon) {
			t.Errorf("device %d does not answer to the new key", i+2)
		}
	}
	deleteInterface(t, "lz0")
	waitLost(t, l)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	again := openLink(t, Config{ForceUserspace: true, Grow: true})
	if got := fmt.Sprint(shardsOf(t, again)); got != "[0]" {
		t.Errorf("opened again with %s peers", got)
	}
}
