package tunnel

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// sorter is a hub of two shards without devices. The first has the peer of 10.0.0.1 and
// fd00::1 and the index known[0], the second that of 10.0.0.2 and fd00::2 and known[1].
func sorter(t testing.TB) (h *hub, known [2]uint32) {
	t.Helper()
	h = &hub{dir: &directory{member: map[Key]member{}, owner: map[netip.Prefix]Key{}}}
	h.gate = &gate{hub: h, queue: make(chan initiation, 4)}
	var shards []*shard
	for n := range 2 {
		s := &shard{number: n, index: new(device.IndexTable), cookies: new(device.CookieChecker), packets: newQueue(), datagrams: newQueue()}
		s.packets.reopen()
		s.datagrams.reopen()
		s.index.Init()
		index, err := s.index.NewIndexForHandshake(new(device.Peer), nil)
		if err != nil {
			t.Fatal(err)
		}
		known[n] = index
		k := Key{byte(n + 1)}
		h.dir.member[k] = member{Peer{Key: k}, s}
		h.dir.owner[netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(n + 1)}), 32)] = k
		h.dir.owner[netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(n + 1)}), 128)] = k
		shards = append(shards, s)
	}
	h.shards.Store(&shards)
	return h, known
}

// packet is an IP packet to the address, with room for a header in front.
func packet(to string, offset int) (buf []byte, size int) {
	a := netip.MustParseAddr(to)
	p := make([]byte, 64)
	p[0] = 4 << 4
	copy(p[16:20], a.AsSlice())
	if a.Is6() {
		p[0] = 6 << 4
		copy(p[24:40], a.AsSlice())
	}
	p[63] = a.AsSlice()[len(a.AsSlice())-1]
	return append(make([]byte, offset), p...), len(p)
}

// Each packet goes to the shard whose peer has its destination, whole and in order, and
// one to nobody goes nowhere.
func TestSortPackets(t *testing.T) {
	const offset = 16
	h, _ := sorter(t)
	var bufs, want [][]byte
	var sizes []int
	for _, to := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::2", "fd00::2", "fd00::1", "fd00::3", "10.0.0.2"} {
		b, n := packet(to, offset)
		bufs, sizes = append(bufs, b), append(sizes, n)
		if n := b[offset+63]; n == 2 {
			want = append(want, slices.Clone(b[offset:]))
		}
	}
	short, none, old := []byte{offset: 0x45}, make([]byte, offset+40), append(make([]byte, offset), bytes.Repeat([]byte{0x50}, 60)...)
	bufs, sizes = append(bufs, short, none, old), append(sizes, 1, 0, 60)
	h.sortPackets(*h.shards.Load(), bufs, sizes, offset)
	if !slices.Equal(sizes, []int{64, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0}) {
		t.Errorf("the first shard was left %v", sizes)
	}
	got := unpacked(t, (*h.shards.Load())[1].packets)
	if !slices.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("the second shard got %d packets, want %d, or others", len(got), len(want))
	}
}

func unpacked(t testing.TB, q *queue) [][]byte {
	t.Helper()
	var out [][]byte
	for len(q.parcels) > 0 {
		bufs, sizes := make([][]byte, conn.IdealBatchSize), make([]int, conn.IdealBatchSize)
		for i := range bufs {
			bufs[i] = make([]byte, 2048)
		}
		p := q.get()
		n := p.unpack(bufs, sizes, nil, 5)
		p.free()
		for i := range n {
			out = append(out, bufs[i][5:5+sizes[i]])
		}
	}
	return out
}

// message is a WireGuard message of that type to that receiver.
func message(kind, receiver uint32, size int) []byte {
	b := make([]byte, size)
	binary.LittleEndian.PutUint32(b, kind)
	at := b[4:]
	if kind == device.MessageResponseType {
		at = b[8:]
	}
	binary.LittleEndian.PutUint32(at, receiver)
	return b
}

// A message goes to the shard that knows its receiver, an initiation to the gate, and
// anything else nowhere.
func TestSortDatagrams(t *testing.T) {
	h, known := sorter(t)
	unknown := known[0] ^ known[1] ^ 1
	var bufs [][]byte
	var sizes, want []int
	var second [][]byte
	for _, c := range []struct {
		message []byte
		shard   int // 2: none
	}{
		{message(device.MessageTransportType, known[0], 40), 0},
		{message(device.MessageTransportType, known[1], 41), 1},
		{message(device.MessageTransportType, known[1], 42), 1},
		{message(device.MessageTransportType, unknown, 43), 2},
		{message(device.MessageResponseType, known[1], device.MessageResponseSize), 1},
		{message(device.MessageResponseType, known[0], device.MessageResponseSize), 0},
		{message(device.MessageCookieReplyType, known[1], device.MessageCookieReplySize), 1},
		{message(device.MessageInitiationType, 5, device.MessageInitiationSize), 2},
		{message(device.MessageInitiationType, 6, device.MessageInitiationSize-1), 2},
		{message(0, known[0], 60), 2},
		{message(device.MessageTransportType|1<<24, known[0], 60), 2},
	} {
		size := len(c.message)
		bufs, sizes = append(bufs, c.message), append(sizes, size)
		switch c.shard {
		case 0:
			want = append(want, size)
		case 1:
			second = append(second, slices.Clone(c.message))
			fallthrough
		default:
			want = append(want, 0)
		}
	}
	h.sortDatagrams(*h.shards.Load(), bufs, sizes, make([]conn.Endpoint, len(bufs)))
	if !slices.Equal(sizes, want) {
		t.Errorf("the first shard was left %v, want %v", sizes, want)
	}
	if got := unpacked(t, (*h.shards.Load())[1].datagrams); !slices.EqualFunc(got, second, bytes.Equal) {
		t.Errorf("the second shard got %d messages, want %d, or others", len(got), len(second))
	}
	if n := len(h.gate.queue); n != 1 {
		t.Errorf("%d initiations at the gate, want the one of the right size", n)
	}
}

// A queue that is closed swallows, waits for nobody, and may be opened again.
func TestQueueCloses(t *testing.T) {
	q := newQueue()
	put := func() {
		p := parcels.Get().(*parcel)
		p.add([]byte("x"), nil)
		q.put(p)
	}
	for range 2 {
		q.reopen()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for range 3 * queueLength { // more than it holds: waits for the close
				put()
			}
		}()
		waitFor(t, "the queue to fill", func() bool { return len(q.parcels) == queueLength })
		q.close()
		q.close()
		<-ended
		for len(q.parcels) > 0 {
			(<-q.parcels).free()
		}
		if q.get() != nil {
			t.Error("a closed queue gave something")
		}
	}
}

// Whatever comes from the UDP port is sorted without harm, and what a device would not
// take of two shards is not made up.
func FuzzSortDatagrams(f *testing.F) {
	h, known := sorter(f)
	own := key(f)
	h.gate.key.Store(&own)
	f.Add(message(device.MessageTransportType, known[1], 48))
	f.Add(message(device.MessageResponseType, known[0], device.MessageResponseSize))
	f.Add(message(device.MessageInitiationType, 1, device.MessageInitiationSize))
	f.Add([]byte{4, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1500 {
			return
		}
		sizes := []int{len(b)}
		h.sortDatagrams(*h.shards.Load(), [][]byte{b}, sizes, make([]conn.Endpoint, 1))
		if sizes[0] != 0 && sizes[0] != len(b) {
			t.Errorf("a size became %d", sizes[0])
		}
		for _, m := range unpacked(t, (*h.shards.Load())[1].datagrams) {
			if !bytes.Equal(m, b) || !bytes.Contains(b[4:12], binary.LittleEndian.AppendUint32(nil, known[1])) {
				t.Errorf("the second shard got %x of %x", m, b)
			}
		}
		for len(h.gate.queue) > 0 {
			h.gate.pass(<-h.gate.queue)
		}
		if len(b) == device.MessageInitiationSize {
			if k, ok := initiator(own, b); ok {
				t.Errorf("a random message is of %s", k)
			}
		}
	})
}

// Whatever comes from the interface is sorted without harm.
func FuzzSortPackets(f *testing.F) {
	h, _ := sorter(f)
	for _, to := range []string{"10.0.0.2", "fd00::2", "10.0.0.1"} {
		b, _ := packet(to, 0)
		f.Add(b)
	}
	f.Add([]byte{0x60})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1500 {
			return
		}
		sizes := []int{len(b)}
		h.sortPackets(*h.shards.Load(), [][]byte{b}, sizes, 0)
		if sizes[0] != 0 && sizes[0] != len(b) {
			t.Errorf("a size became %d", sizes[0])
		}
		for _, m := range unpacked(t, (*h.shards.Load())[1].packets) {
			if !bytes.Equal(m, b) {
				t.Errorf("the second shard got %x of %x", m, b)
			}
		}
	})
}

// BenchmarkSort is what sorting costs a packet of 1420 bytes, beside what sealing it
// costs: for a link with one device, and with two, to a peer of the first or the second.
func BenchmarkSort(b *testing.B) {
	h, _ := sorter(b)
	const batch, offset = conn.IdealBatchSize, 16
	bufs, sizes := make([][]byte, batch), make([]int, batch)
	sort := func(b *testing.B, to string, taken bool) {
		one, _ := packet(to, offset)
		for i := range bufs {
			bufs[i] = make([]byte, 2048)
			copy(bufs[i], one)
		}
		second := (*h.shards.Load())[len(*h.shards.Load())-1].packets
		for i := 0; i < b.N; i += batch {
			for j := range sizes {
				sizes[j] = 1420
			}
			if shards := h.several(); shards != nil {
				h.sortPackets(shards, bufs, sizes, offset)
			}
			if taken {
				p := second.get()
				p.unpack(bufs, sizes, nil, offset)
				p.free()
			}
		}
	}
	b.Run("second of two", func(b *testing.B) { sort(b, "10.0.0.2", true) })
	b.Run("first of two", func(b *testing.B) { sort(b, "10.0.0.1", false) })
	alone := (*h.shards.Load())[:1]
	h.shards.Store(&alone)
	b.Run("alone", func(b *testing.B) { sort(b, "10.0.0.1", false) })
	b.Run("sealing", func(b *testing.B) {
		aead, err := chacha20poly1305.New(make([]byte, chacha20poly1305.KeySize))
		if err != nil {
			b.Fatal(err)
		}
		nonce, in, out := make([]byte, aead.NonceSize()), make([]byte, 1420), make([]byte, 0, 1440)
		for b.Loop() {
			aead.Seal(out, nonce, in, nil)
		}
	})
}
