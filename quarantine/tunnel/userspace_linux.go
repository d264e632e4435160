package tunnel

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

// inProcess is wireguard-go in this process, driven without a socket: one device, or
// several shards behind a hub if the link may grow.
type inProcess struct {
	config Config
	tun    *os.File
	dir    *directory
	hub    *hub // nil: the link does not grow
	shards []*shard
}

func openUserspace(c Config) (*inProcess, error) {
	if c.shardSize == 0 {
		c.shardSize = device.MaxPeers
	}
	b := &inProcess{config: c, dir: &directory{member: make(map[Key]member), owner: make(map[netip.Prefix]Key)}}
	inner, err := createTUN(c.Name, c.MTU)
	if err != nil {
		return nil, fmt.Errorf("making the tun interface: %w", err)
	}
	b.tun = inner.File()
	if !c.Grow {
		only := &shard{tun: newToldTUN(inner)}
		b.shards = []*shard{only}
		return b, only.start(only.tun, conn.NewDefaultBind(), c)
	}
	b.hub = &hub{tun: inner, bind: conn.NewDefaultBind(), dir: b.dir}
	_, err = b.grow()
	return b, err
}

// grow adds a shard.
func (b *inProcess) grow() (*shard, error) {
	if b.hub == nil || len(b.shards) == maxShards {
		return nil, fmt.Errorf("the link is full: it holds %d peers", len(b.shards)*b.config.shardSize)
	}
	s, err := b.hub.add(b.config)
	if err != nil {
		return nil, err
	}
	b.shards = append(b.shards, s)
	return s, nil
}

// room returns a shard that can take one more peer.
func (b *inProcess) room() (*shard, error) {
	for _, s := range b.shards {
		if s.count < b.config.shardSize {
			return s, nil
		}
	}
	return b.grow()
}

// logger passes on what wireguard-go calls errors. It logs every packet it dislikes
// as verbose, which strangers could fill a disk with.
func logger(l *slog.Logger) *device.Logger {
	return &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf:   func(format string, args ...any) { l.Warn("wireguard: " + fmt.Sprintf(format, args...)) },
	}
}

func (b *inProcess) present() bool { return present(b.tun) }

func (b *inProcess) mtuChanged() {
	for _, s := range b.every() {
		s.tun.mtuChanged()
	}
}

func (b *inProcess) ended() <-chan struct{} { return b.every()[0].device.Wait() }

func (b *inProcess) peers() ([]PeerStatus, error) {
	var all []PeerStatus
	for _, s := range b.every() {
		some, err := s.peers()
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// every returns the shards, for those who only read and hold no lock.
func (b *inProcess) every() []*shard {
	if b.hub != nil {
		return *b.hub.shards.Load()
	}
	return b.shards
}

// close ends the first shard last: it has the interface and the port.
func (b *inProcess) close() error {
	for _, s := range slices.Backward(b.shards) {
		s.close()
	}
	if b.hub != nil {
		b.hub.close()
	}
	return nil
}

// parsePeers reads the peers of a "get" answer (the WireGuard configuration protocol)
// and passes over the device's own lines, of which one is the private key.
func parsePeers(r io.Reader) ([]PeerStatus, error) {
	var all []PeerStatus
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), "=")
		if !ok {
			continue
		}
		if name == "public_key" {
			all = append(all, PeerStatus{})
			b, err := hex.DecodeString(value)
			if err != nil || len(b) != len(Key{}) {
				return nil, errors.New("reading peers: a key is malformed")
			}
			all[len(all)-1].Key = Key(b)
			continue
		}
		if len(all) == 0 {
			continue
		}
		if err := parsePeerLine(&all[len(all)-1], name, value); err != nil {
			return nil, fmt.Errorf("reading peers: %s of %s: %w", name, all[len(all)-1].Key, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("reading peers: %w", err)
	}
	return all, nil
}
