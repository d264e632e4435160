package tunnel

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"unsafe"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// shard is one wireguard-go device, which takes no more than device.MaxPeers peers. A
// link that grows has several, all with the link's key, one interface and one UDP port.
type shard struct {
	number int // its place in hub.shards
	device *device.Device
	tun    *toldTUN
	count  int // peers; guarded by Link.mu

	// Of a link that grows:
	index     *device.IndexTable    // the receiver indexes of its sessions
	cookies   *device.CookieChecker // what it demands under load
	packets   *queue                // from the interface; unused in the first shard
	datagrams *queue                // from the UDP port
}

// set hands text of the configuration protocol to the device.
func (s *shard) set(text string) error { return s.device.IpcSet(text) }

// setKey does not return wireguard-go's error, which quotes the line.
func (s *shard) setKey(k PrivateKey) error {
	if s.set("private_key="+hex.EncodeToString(k.Bytes())+"\n") != nil {
		return errors.New("wireguard-go refused the key")
	}
	return nil
}

func (s *shard) peers() ([]PeerStatus, error) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(s.device.IpcGetOperation(w)) }() // ends with the text, or at r.Close
	defer r.Close()
	return parsePeers(r)
}

func (s *shard) close() {
	s.device.Close()
	<-s.device.Wait()
}

// reach finds the parts of the device that wireguard-go has exported types for and no
// way to. Without them a link cannot grow.
func (s *shard) reach() error {
	s.index = fieldOf[device.IndexTable](s.device, "indexTable")
	s.cookies = fieldOf[device.CookieChecker](s.device, "cookieChecker")
	if s.index == nil || s.cookies == nil {
		return errors.New("this build's wireguard-go does not let a link grow")
	}
	return nil
}

// fieldOf returns the field of that name, or nil if there is none of type T.
func fieldOf[T any](d *device.Device, name string) *T {
	f, ok := reflect.TypeFor[device.Device]().FieldByName(name)
	if !ok || f.Type != reflect.TypeFor[T]() {
		return nil
	}
	return (*T)(unsafe.Add(unsafe.Pointer(d), f.Offset))
}

// has reports whether a session or handshake of the shard has this receiver index.
func (s *shard) has(index uint32) bool {
	return s.index.Lookup(index) != (device.IndexTableEntry{})
}

// laterTUN is the interface as a shard after the first sees it: it reads what the
// first one read for it, writes for itself, and leaves closing to the first.
type laterTUN struct {
	*toldTUN
	packets *queue
}

func (t *laterTUN) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	p := t.packets.get()
	if p == nil {
		return 0, os.ErrClosed
	}
	defer p.free()
	return p.unpack(bufs, sizes, nil, offset), nil
}

func (t *laterTUN) Close() error {
	t.endEvents()
	t.packets.close()
	return nil
}

// shardBind is the UDP port as a shard sees it. The first shard's opens and closes the
// sockets; the others' only send through them. Each receives what its queue brings.
type shardBind struct {
	conn.Bind // the link's own
	hub       *hub
	first     bool
	datagrams *queue
}

func (b *shardBind) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	receive := []conn.ReceiveFunc{b.receive}
	if b.first {
		sockets, actual, err := b.Bind.Open(port)
		if err != nil {
			return nil, 0, err
		}
		port = actual
		for _, socket := range sockets {
			receive = append(receive, b.hub.sorted(socket))
		}
	}
	b.datagrams.reopen()
	return receive, port, nil
}

func (b *shardBind) receive(bufs [][]byte, sizes []int, from []conn.Endpoint) (int, error) {
	p := b.datagrams.get()
	if p == nil {
		return 0, net.ErrClosed
	}
	defer p.free()
	return p.unpack(bufs, sizes, from, 0), nil
}

func (b *shardBind) Close() error {
	b.datagrams.close()
	if b.first {
		return b.Bind.Close()
	}
	return nil
}

func (b *shardBind) SetMark(mark uint32) error {
	if b.first {
		return b.Bind.SetMark(mark)
	}
	return nil
}

// start makes the device on its ends of the interface and the port, and brings it up.
func (s *shard) start(t tun.Device, b conn.Bind, c Config) error {
	s.device = device.NewDevice(t, b, logger(c.Log))
	if err := s.setKey(c.PrivateKey); err != nil {
		s.device.Close()
		return err
	}
	if err := s.set(fmt.Sprintf("listen_port=%d\nfwmark=%d\n", c.ListenPort, c.Mark)); err != nil {
		s.device.Close()
		return fmt.Errorf("setting port and mark: %w", err)
	}
	if err := s.device.Up(); err != nil {
		s.device.Close()
		return fmt.Errorf("listening on UDP port %d: %w", c.ListenPort, err)
	}
	return nil
}
