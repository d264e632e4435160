package tunnel

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/blake2s"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ratelimiter"
)

// gate finds out whose a handshake initiation is, and hands it to that peer's shard
// alone: it opens the sender's static key, which costs one X25519 more than a single
// device needs. The shard then checks the message as if it came from the wire.
//
// Under load the gate asks for proof of the address before that, as a device does
// (WireGuard paper, section 5.3), and takes a cookie of any shard: a shard that is
// under load itself then sends its own, and both are content.
type gate struct {
	hub     *hub
	queue   chan initiation
	key     atomic.Pointer[PrivateKey]
	loaded  atomic.Int64 // under load until then, in Unix nanoseconds
	limiter ratelimiter.Ratelimiter
	workers sync.WaitGroup
}

type initiation struct {
	message [device.MessageInitiationSize]byte
	from    conn.Endpoint
}

// newGate starts the gate; it ends with close.
func newGate(h *hub, k PrivateKey) *gate {
	g := &gate{hub: h, queue: make(chan initiation, device.QueueHandshakeSize)}
	g.key.Store(&k)
	g.limiter.Init()
	for range runtime.NumCPU() {
		g.workers.Go(func() {
			for i := range g.queue {
				g.pass(i)
			}
		})
	}
	return g
}

// offer takes an initiation, or drops it if too many wait.
func (g *gate) offer(message []byte, from conn.Endpoint) {
	if len(message) != device.MessageInitiationSize {
		return
	}
	i := initiation{from: from}
	copy(i.message[:], message)
	select {
	case g.queue <- i:
	default:
	}
}

// close must follow the last offer.
func (g *gate) close() {
	close(g.queue)
	g.workers.Wait()
	g.limiter.Close()
}

// underLoad is device.Device.IsUnderLoad for this queue.
func (g *gate) underLoad() bool {
	now := time.Now()
	if len(g.queue) >= device.QueueHandshakeSize/8 {
		g.loaded.Store(now.Add(device.UnderLoadAfterTime).UnixNano())
		return true
	}
	return g.loaded.Load() > now.UnixNano()
}

// pass hands one initiation to the shard of its sender.
func (g *gate) pass(i initiation) {
	shards := *g.hub.shards.Load()
	message := i.message[:]
	if !shards[0].cookies.CheckMAC1(message) {
		return
	}
	if g.underLoad() {
		if !proven(shards, message, i.from.DstToBytes()) {
			g.demand(shards[0], message, i.from)
			return
		}
		if !g.limiter.Allow(i.from.DstIP()) {
			return
		}
	}
	from, ok := initiator(*g.key.Load(), message)
	if !ok {
		return
	}
	if s := g.hub.dir.of(from); s != nil {
		p := parcels.Get().(*parcel)
		p.add(message, i.from)
		s.datagrams.put(p)
	}
}

// proven reports whether the message carries a cookie that a shard gave to its source.
func proven(shards []*shard, message, source []byte) bool {
	for _, s := range shards {
		if s.cookies.CheckMAC2(message, source) {
			return true
		}
	}
	return false
}

// demand answers with a cookie, which only who receives at that address can use.
func (g *gate) demand(s *shard, message []byte, to conn.Endpoint) {
	sender := uint32(message[4]) | uint32(message[5])<<8 | uint32(message[6])<<16 | uint32(message[7])<<24
	reply, err := s.cookies.CreateReply(message, sender, to.DstToBytes())
	if err != nil {
		return
	}
	packet := make([]byte, 8, device.MessageCookieReplySize)
	packet[0] = device.MessageCookieReplyType
	copy(packet[4:], message[4:8])
	packet = append(append(packet, reply.Nonce[:]...), reply.Cookie[:]...)
	_ = g.hub.bind.Send([][]byte{packet}, to) // as a datagram that was lost
}

// initiator opens the sender's static public key in an initiation (the Noise pattern
// IK, first message: e, es, s). It proves nothing yet of the sender.
func initiator(own PrivateKey, message []byte) (Key, bool) {
	ephemeral, sealed := message[8:40], message[40:88]
	public := own.Public()
	hash := digest(device.InitialHash[:], public[:])
	hash = digest(hash[:], ephemeral)
	var chain, key [blake2s.Size]byte
	device.KDF1(&chain, device.InitialChainKey[:], ephemeral)
	shared, err := own.Shared(Key(ephemeral))
	if err != nil {
		return Key{}, false
	}
	device.KDF2(&chain, &key, chain[:], shared)
	aead, err := chacha20poly1305.New(key[:])
	if err != nil {
		return Key{}, false
	}
	opened, err := aead.Open(nil, device.ZeroNonce[:], sealed, hash[:])
	if err != nil {
		return Key{}, false
	}
	return Key(opened), true
}

func digest(a, b []byte) [blake2s.Size]byte {
	return blake2s.Sum256(append(append(make([]byte, 0, 64+32), a...), b...))
}
