package tunnel

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// maxShards bounds a link to about a million peers, and the search for one.
const maxShards = 16

// hub lets several devices share one interface and one UDP port. It only says who
// looks at a packet: the shard that gets it checks it as if it were alone, so that a
// mistake here loses packets, and lets none through.
//
// The first shard reads the interface and the sockets into its own buffers. While it is
// alone that is all; later it keeps what is its own, and the rest is copied to the others.
type hub struct {
	tun  tun.Device
	bind conn.Bind
	dir  *directory
	gate *gate // from the second shard on; set before shards says so

	shards atomic.Pointer[[]*shard]
}

// directory says which shard holds a peer, and which peer an address. It is changed
// under Link.mu before the shard is.
type directory struct {
	mu     sync.RWMutex
	member map[Key]member
	owner  map[netip.Prefix]Key
}

// member is a peer as it was set last, and its shard, which it never leaves.
type member struct {
	Peer
	shard *shard
}

// holding returns the shard whose peer has the address; nil: none has. The caller
// holds mu.
func (d *directory) holding(a netip.Addr) *shard {
	k, ok := d.owner[netip.PrefixFrom(a, a.BitLen())]
	if !ok {
		return nil
	}
	return d.member[k].shard
}

// of returns the shard of a peer, or nil.
func (d *directory) of(k Key) *shard {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.member[k].shard
}

// add makes the next shard and has it take part. Nothing of the others stops for it.
func (h *hub) add(c Config) (*shard, error) {
	var have []*shard
	if all := h.shards.Load(); all != nil {
		have = *all
	}
	s := &shard{number: len(have), packets: newQueue(), datagrams: newQueue()}
	s.tun = newToldTUN(h.tun)
	ends := tun.Device(&firstTUN{s.tun, h})
	if s.number > 0 {
		s.packets.reopen()
		ends = &laterTUN{s.tun, s.packets}
		c.Mark = 0 // the sockets have it
	}
	if err := s.start(ends, &shardBind{h.bind, h, s.number == 0, s.datagrams}, c); err != nil {
		return nil, fmt.Errorf("starting device %d of the link: %w", s.number+1, err)
	}
	if err := s.reach(); err != nil {
		s.close()
		return nil, err
	}
	if s.number > 0 && h.gate == nil {
		h.gate = newGate(h, c.PrivateKey)
	}
	all := append(have[:len(have):len(have)], s)
	h.shards.Store(&all)
	s.tun.mtuChanged() // perhaps since the device looked
	return s, nil
}

// setKey is for the gate; the shards have their own.
func (h *hub) setKey(k PrivateKey) {
	if h.gate != nil {
		h.gate.key.Store(&k)
	}
}

// close ends what the hub runs, after the shards are closed.
func (h *hub) close() {
	if h.gate != nil {
		h.gate.close()
	}
}

// several returns the shards if there is more than one.
func (h *hub) several() []*shard {
	if all := h.shards.Load(); all != nil && len(*all) > 1 {
		return *all
	}
	return nil
}

// firstTUN is the interface as the first shard sees it.
type firstTUN struct {
	*toldTUN
	hub *hub
}

func (t *firstTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	n, err := t.Device.Read(bufs, sizes, offset) // may return packets and an error
	if shards := t.hub.several(); shards != nil {
		t.hub.sortPackets(shards, bufs[:n], sizes, offset)
	}
	return n, err
}

// sortPackets sends each packet to the shard whose peer has its destination. A size of
// zero has the first shard, which reads, pass over a packet.
func (h *hub) sortPackets(shards []*shard, bufs [][]byte, sizes []int, offset int) {
	var out sorting
	var last netip.Addr
	var to *shard
	h.dir.mu.RLock()
	for i := range bufs {
		if sizes[i] < 1 {
			continue
		}
		packet := bufs[i][offset : offset+sizes[i]]
		if d := destination(packet); d != last {
			last, to = d, nil
			if d.IsValid() {
				to = h.dir.holding(d)
			}
		}
		switch {
		case to == nil:
			sizes[i] = 0
		case to.number > 0:
			out.add(to.number, packet, nil)
			sizes[i] = 0
		}
	}
	h.dir.mu.RUnlock()
	for n, p := range out {
		if p != nil {
			shards[n].packets.put(p)
		}
	}
}

// destination returns an IP packet's destination; the zero Addr for what is none.
func destination(packet []byte) netip.Addr {
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(packet[16:20]))
	case len(packet) >= 40 && packet[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(packet[24:40]))
	}
	return netip.Addr{}
}

// sorting is one parcel for each shard that gets something.
type sorting [maxShards]*parcel

func (s *sorting) add(number int, packet []byte, from conn.Endpoint) {
	if s[number] == nil {
		s[number] = parcels.Get().(*parcel)
	}
	s[number].add(packet, from)
}

// sorted returns receive with what is not the first shard's sorted out.
func (h *hub) sorted(receive conn.ReceiveFunc) conn.ReceiveFunc {
	return func(bufs [][]byte, sizes []int, from []conn.Endpoint) (int, error) {
		n, err := receive(bufs, sizes, from)
		if shards := h.several(); shards != nil && err == nil {
			h.sortDatagrams(shards, bufs[:n], sizes, from)
		}
		return n, err
	}
}

// sortDatagrams sends each message to the shard that knows its receiver index. The
// shards draw their indexes independently: where two have the same, both look at the
// message, and it fails to open in one. Initiations have no receiver and go to the gate.
func (h *hub) sortDatagrams(shards []*shard, bufs [][]byte, sizes []int, from []conn.Endpoint) {
	var out sorting
	var last uint32
	var takers uint32 // the shards that know last, as bits
	for i := range bufs {
		if sizes[i] < device.MinMessageSize {
			continue // which no shard looks at
		}
		message := bufs[i][:sizes[i]]
		kind, receiver := receiverOf(message)
		if kind == device.MessageInitiationType {
			h.gate.offer(message, from[i])
		}
		if kind != device.MessageTransportType && kind != device.MessageResponseType && kind != device.MessageCookieReplyType {
			sizes[i] = 0
			continue
		}
		if receiver != last || takers == 0 {
			last, takers = receiver, takersOf(shards, receiver)
		}
		for n := 1; n < len(shards); n++ {
			if takers&(1<<n) != 0 {
				out.add(n, message, ownEndpoint(from[i]))
			}
		}
		if takers&1 == 0 {
			sizes[i] = 0
		}
	}
	for n, p := range out {
		if p != nil {
			shards[n].datagrams.put(p)
		}
	}
}

// receiverOf reads a message's type and, where it has one, its receiver index. The
// message has at least device.MinMessageSize bytes.
func receiverOf(message []byte) (kind, receiver uint32) {
	kind = binary.LittleEndian.Uint32(message)
	if kind == device.MessageResponseType {
		return kind, binary.LittleEndian.Uint32(message[8:])
	}
	return kind, binary.LittleEndian.Uint32(message[4:])
}

func takersOf(shards []*shard, receiver uint32) (takers uint32) {
	for n, s := range shards {
		if s.has(receiver) {
			takers |= 1 << n
		}
	}
	return takers
}

// ownEndpoint copies an endpoint, since each device clears its source when it likes.
func ownEndpoint(e conn.Endpoint) conn.Endpoint {
	if std, ok := e.(*conn.StdNetEndpoint); ok {
		own := *std
		return &own
	}
	return e
}
