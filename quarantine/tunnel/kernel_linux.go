package tunnel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// controlled is WireGuard driven over its control interface: the kernel's.
type controlled struct {
	name   string
	client *wgctrl.Client // for changes
	reader *wgctrl.Client // so that reading 100,000 peers keeps no change waiting
}

// openKernel sets key, port and mark. Setting what is already set keeps every session.
func openKernel(c Config) (*controlled, error) {
	client, err := wgctrl.New()
	if err != nil {
		return nil, fmt.Errorf("reaching WireGuard: %w", err)
	}
	reader, err := wgctrl.New()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reaching WireGuard: %w", err), client.Close())
	}
	b := &controlled{c.Name, client, reader}
	key := wgtypes.Key(c.PrivateKey.Bytes())
	port, mark := int(c.ListenPort), int(c.Mark)
	set := wgtypes.Config{PrivateKey: &key, FirewallMark: &mark}
	if port != 0 { // zero would choose another port under living sessions
		set.ListenPort = &port
	}
	if err := client.ConfigureDevice(c.Name, set); err != nil {
		return nil, errors.Join(fmt.Errorf("setting key and port: %w", err), b.close())
	}
	return b, nil
}

// kernelBatch bounds one call; the client cuts it into messages as it must.
const kernelBatch = 1000

func (b *controlled) apply(changes []PeerChange) Failures {
	return inBatches(changes, kernelBatch, func(batch []PeerChange) error {
		config := wgtypes.Config{Peers: make([]wgtypes.PeerConfig, len(batch))}
		for i, c := range batch {
			config.Peers[i] = peerConfig(c)
		}
		err := b.client.ConfigureDevice(b.name, config)
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("%w: %w", ErrLost, err)
		}
		return err
	})
}

func peerConfig(c PeerChange) wgtypes.PeerConfig {
	key := wgtypes.Key(c.Peer.Key)
	if c.Remove {
		return wgtypes.PeerConfig{PublicKey: key, Remove: true}
	}
	out := wgtypes.PeerConfig{
		PublicKey:                   key,
		ReplaceAllowedIPs:           true,
		PersistentKeepaliveInterval: &c.Peer.KeepAlive,
	}
	if c.Peer.Endpoint.IsValid() {
		out.Endpoint = net.UDPAddrFromAddrPort(c.Peer.Endpoint)
	}
	for _, a := range c.Peer.AllowedIPs {
		out.AllowedIPs = append(out.AllowedIPs, *ipNet(a))
	}
	return out
}

func (b *controlled) peers() ([]PeerStatus, error) {
	device, err := b.reader.Device(b.name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("reading peers of %s: %w", b.name, ErrLost)
	}
	if err != nil {
		return nil, fmt.Errorf("reading peers: %w", err)
	}
	out := make([]PeerStatus, len(device.Peers))
	for i, p := range device.Peers {
		out[i] = status(p)
	}
	return out, nil
}

func status(p wgtypes.Peer) PeerStatus {
	s := PeerStatus{
		Peer:          Peer{Key: Key(p.PublicKey), KeepAlive: p.PersistentKeepaliveInterval},
		LastHandshake: p.LastHandshakeTime,
		Received:      uint64(max(p.ReceiveBytes, 0)),
		Sent:          uint64(max(p.TransmitBytes, 0)),
	}
	if s.LastHandshake.Equal(time.Unix(0, 0)) {
		s.LastHandshake = time.Time{}
	}
	if p.Endpoint != nil {
		e := p.Endpoint.AddrPort()
		s.Endpoint = netip.AddrPortFrom(e.Addr().Unmap(), e.Port())
	}
	for _, a := range p.AllowedIPs {
		s.AllowedIPs = append(s.AllowedIPs, prefix(&a))
	}
	return s
}

func (b *controlled) handshakes(keys []Key) (map[Key]time.Time, error) {
	all, err := b.peers()
	if err != nil {
		return nil, err
	}
	asked := make(map[Key]bool, len(keys))
	for _, k := range keys {
		asked[k] = true
	}
	out := make(map[Key]time.Time)
	for _, s := range all {
		if asked[s.Key] && !s.LastHandshake.IsZero() {
			out[s.Key] = s.LastHandshake
		}
	}
	return out, nil
}

func (b *controlled) mtuChanged() {} // the kernel's own

func (b *controlled) present() bool { return true } // the kernel says it with every change

func (b *controlled) ended() <-chan struct{} { return nil }

func (b *controlled) close() error { return errors.Join(b.client.Close(), b.reader.Close()) }

// inBatches calls set with at most size changes at a time. WireGuard takes a batch
// line by line and undoes nothing: after an error, each change of that batch is made
// by itself, so that one bad change costs no other. It returns those that failed.
func inBatches(changes []PeerChange, size int, set func([]PeerChange) error) Failures {
	var failed Failures
	for batch := range slices.Chunk(changes, size) {
		err := set(batch)
		if err == nil {
			continue
		}
		for _, c := range batch {
			if len(batch) > 1 {
				err = set([]PeerChange{c})
			}
			if err != nil {
				failed = append(failed, Failure{c, err})
			}
		}
	}
	return failed
}
