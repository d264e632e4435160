package tunnel

import (
	"errors"
	"net/netip"
	"reflect"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.zx2c4.com/wireguard/device"
)

// parsePeerLine takes one line of a peer; unknown names are passed over.
func parsePeerLine(s *PeerStatus, name, value string) (err error) {
	var n uint64
	switch name {
	case "endpoint":
		s.Endpoint, err = netip.ParseAddrPort(value)
	case "allowed_ip":
		var p netip.Prefix
		p, err = netip.ParsePrefix(value)
		s.AllowedIPs = append(s.AllowedIPs, p)
	case "rx_bytes":
		s.Received, err = strconv.ParseUint(value, 10, 64)
	case "tx_bytes":
		s.Sent, err = strconv.ParseUint(value, 10, 64)
	case "persistent_keepalive_interval":
		n, err = strconv.ParseUint(value, 10, 16)
		s.KeepAlive = time.Duration(n) * time.Second
	case "last_handshake_time_sec":
		n, err = strconv.ParseUint(value, 10, 62)
		if n != 0 {
			s.LastHandshake = time.Unix(int64(n), 0)
		}
	case "last_handshake_time_nsec":
		n, err = strconv.ParseUint(value, 10, 30)
		if n != 0 || !s.LastHandshake.IsZero() {
			s.LastHandshake = s.LastHandshake.Add(time.Duration(n))
		}
	}
	return err
}

// handshakes looks at the counter that wireguard-go keeps per peer and shows only in
// its dump of all peers, which at 65,000 takes a sixth of a second and holds up every
// change. The field is found by name and type, once.
func (b *inProcess) handshakes(keys []Key) (map[Key]time.Time, error) {
	if lastHandshake < 0 {
		return nil, errors.New("this build's wireguard-go does not tell of handshakes")
	}
	out := make(map[Key]time.Time)
	for _, k := range keys {
		peer := b.find(k)
		if peer == nil {
			continue
		}
		nano := (*atomic.Int64)(unsafe.Add(unsafe.Pointer(peer), lastHandshake)).Load()
		if nano != 0 {
			out[k] = time.Unix(0, nano)
		}
	}
	return out, nil
}

func (b *inProcess) find(k Key) *device.Peer {
	for _, s := range b.every() {
		if peer := s.device.LookupPeer(device.NoisePublicKey(k)); peer != nil {
			return peer
		}
	}
	return nil
}

// lastHandshake is the offset of device.Peer.lastHandshakeNano; negative: there is no
// such field, which a test would show.
var lastHandshake = func() int {
	f, ok := reflect.TypeFor[device.Peer]().FieldByName("lastHandshakeNano")
	if !ok || f.Type != reflect.TypeFor[atomic.Int64]() {
		return -1
	}
	return int(f.Offset)
}()
