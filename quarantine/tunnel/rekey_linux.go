package tunnel

import (
	"fmt"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// SetKey gives the link another private key. Addresses, routes, peers and the UDP port
// stay. Nothing more is sent under a peer's session: the next packet to it begins one with
// the new key, and waits until the peer knows that key. What the peer sends under the old
// session is still taken, for as long as WireGuard keeps a session (180 s); to end that
// too, remove the peer and set it anew.
func (l *Link) SetKey(k PrivateKey) error {
	if k.IsZero() {
		return fmt.Errorf("changing the key of tunnel %s: no private key", l.name)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.gone(); err != nil {
		return fmt.Errorf("changing the key: %w", err)
	}
	if err := l.back.setKey(k); err != nil {
		return fmt.Errorf("changing the key of tunnel %s: %w", l.name, err)
	}
	l.public = k.Public()
	return nil
}

func (b *controlled) setKey(k PrivateKey) error {
	key := wgtypes.Key(k.Bytes())
	return b.client.ConfigureDevice(b.name, wgtypes.Config{PrivateKey: &key})
}

func (b *inProcess) setKey(k PrivateKey) error {
	b.config.PrivateKey = k // for the next shard
	for _, s := range b.shards {
		if err := s.setKey(k); err != nil {
			return err
		}
	}
	if b.hub != nil {
		b.hub.setKey(k)
	}
	return nil
}
