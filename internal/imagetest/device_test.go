package imagetest

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/tun/netstack"

	"lazaret/enroll/client"
	"lazaret/enroll/code"
)

// phone is a device in this process: enrolled by our client, with a tunnel and two network
// stacks of its own, one for each of its addresses. It needs no privilege.
type phone struct {
	keys   client.Keys
	wg     *ecdh.PrivateKey
	result *client.Result
	tunnel *device.Device

	quarantine, full *netstack.Net
}

func (p *phone) Keys(context.Context) (client.Keys, error) { return p.keys, nil }

func (p *phone) Save(_ context.Context, r *client.Result) error { p.result = r; return nil }

// enroll enrolls a new device with a one-time password, through the gateway's port at.
func enroll(t testing.TB, at netip.AddrPort, otp string) *phone {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	wg, err2 := ecdh.X25519().GenerateKey(rand.Reader)
	password, err3 := code.Parse(otp)
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	p := &phone{keys: client.Keys{Certificate: key, WireGuard: wg}, wg: wg}
	c, err := client.New(client.Config{
		Server: "https://" + gatewayName, Log: slog.New(slog.DiscardHandler),
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, at.String())
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Enroll(soon(t), password, p); err != nil {
		t.Fatal(err)
	}
	return p
}

// connect brings the tunnel up, with both addresses, whatever the gateway thinks of it. Who
// connects closes it.
func (p *phone) connect(t testing.TB, at netip.AddrPort, quarantine, full netip.Addr) {
	t.Helper()
	p.close()
	m := &mux{in: make(chan []byte, 64), done: make(chan struct{}), events: make(chan tun.Event, 1)}
	for _, side := range []struct {
		addr  netip.Addr
		stack **netstack.Net
	}{{quarantine, &p.quarantine}, {full, &p.full}} {
		link, stack, err := netstack.CreateNetTUN([]netip.Addr{side.addr}, nil, mtu)
		if err != nil {
			t.Fatal(err)
		}
		*side.stack = stack
		m.add(side.addr, link)
	}
	m.events <- tun.EventUp
	p.tunnel = device.NewDevice(m, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, ""))
	gateway, err := base64.StdEncoding.DecodeString(p.result.Settings.Gateways[0].WireGuard)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.tunnel.IpcSet(fmt.Sprintf(
		"private_key=%s\npublic_key=%s\nendpoint=%s\nallowed_ip=0.0.0.0/0\npersistent_keepalive_interval=5\n",
		hex.EncodeToString(p.wg.Bytes()), hex.EncodeToString(gateway), at)), p.tunnel.Up()); err != nil {
		t.Fatal(err)
	}
}

func (p *phone) close() {
	if p.tunnel != nil {
		p.tunnel.Close()
		p.tunnel = nil
	}
}

// dial opens a TCP connection through the tunnel.
func dial(ctx context.Context, from *netstack.Net, to netip.AddrPort) (net.Conn, error) {
	return from.DialContextTCPAddrPort(ctx, to)
}

const mtu = 1280

// mux is several tunnel ends as one, each with an address of its own: packets from any go
// out, and those that come in go to whose address they name.
type mux struct {
	in     chan []byte
	done   chan struct{}
	events chan tun.Event
	ends   []muxEnd
}

type muxEnd struct {
	addr netip.Addr
	tun.Device
}

func (m *mux) add(a netip.Addr, d tun.Device) {
	m.ends = append(m.ends, muxEnd{a, d})
	go func() { // ends when the device is closed
		for {
			b, size := [][]byte{make([]byte, 2048)}, []int{0}
			n, err := d.Read(b, size, 0)
			if err != nil {
				return
			}
			if n > 0 {
				select {
				case m.in <- b[0][:size[0]]:
				case <-m.done:
					return
				}
			}
		}
	}()
}

func (m *mux) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	select {
	case b := <-m.in:
		sizes[0] = copy(bufs[0][offset:], b)
		return 1, nil
	case <-m.done:
		return 0, os.ErrClosed
	}
}

func (m *mux) Write(bufs [][]byte, offset int) (int, error) {
	for _, b := range bufs {
		packet := b[offset:]
		if len(packet) < 20 || packet[0]>>4 != 4 {
			continue
		}
		to, _ := netip.AddrFromSlice(packet[16:20])
		for _, e := range m.ends {
			if e.addr == to {
				if _, err := e.Device.Write([][]byte{packet}, 0); err != nil {
					return 0, err
				}
			}
		}
	}
	return len(bufs), nil
}

func (m *mux) Close() error {
	close(m.done)
	var err error
	for _, e := range m.ends {
		err = errors.Join(err, e.Device.Close())
	}
	close(m.events)
	return err
}

func (m *mux) File() *os.File           { return nil }
func (m *mux) MTU() (int, error)        { return mtu, nil }
func (m *mux) Name() (string, error)    { return "phone", nil }
func (m *mux) Events() <-chan tun.Event { return m.events }
func (m *mux) BatchSize() int           { return 1 }
