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

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// inProcess is wireguard-go in this process, driven without a socket. It keeps what
// it set, so that a change of one address touches that address alone: replacing a
// peer's addresses as a whole would lose the packets between "none" and "all".
type inProcess struct {
	device *device.Device
	tun    *os.File
	set    map[Key]Peer         // what each peer was given; missing: in doubt
	owner  map[netip.Prefix]Key // who was given an address last
}

func openUserspace(c Config) (*inProcess, error) {
	inner, err := tun.CreateTUN(c.Name, c.MTU)
	if err != nil {
		return nil, fmt.Errorf("making the tun interface: %w", err)
	}
	d := device.NewDevice(steady(inner), conn.NewDefaultBind(), logger(c.Log))
	b := &inProcess{device: d, tun: inner.File(), set: make(map[Key]Peer), owner: make(map[netip.Prefix]Key)}
	config := fmt.Sprintf("private_key=%s\nlisten_port=%d\nfwmark=%d\n", hex.EncodeToString(c.PrivateKey.Bytes()), c.ListenPort, c.Mark)
	if err := d.IpcSet(config); err != nil {
		d.Close()
		return nil, errors.New("setting key and port: wireguard-go refused them") // its error quotes the line
	}
	if err := d.Up(); err != nil {
		d.Close()
		return nil, fmt.Errorf("listening on UDP port %d: %w", c.ListenPort, err)
	}
	return b, nil
}

// steadyTUN hides the interface's ups and downs: wireguard-go would stop and start
// with them, and the first "down" can arrive after the first "up".
type steadyTUN struct {
	tun.Device
	events chan tun.Event
}

func steady(inner tun.Device) tun.Device {
	s := &steadyTUN{inner, make(chan tun.Event)}
	go func() { // ends when the interface is closed
		defer close(s.events)
		for e := range inner.Events() {
			if e&tun.EventMTUUpdate != 0 {
				s.events <- tun.EventMTUUpdate
			}
		}
	}()
	return s
}

func (s *steadyTUN) Events() <-chan tun.Event { return s.events }

// logger passes on what wireguard-go calls errors. It logs every packet it dislikes
// as verbose, which strangers could fill a disk with.
func logger(l *slog.Logger) *device.Logger {
	return &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf:   func(format string, args ...any) { l.Warn("wireguard: " + fmt.Sprintf(format, args...)) },
	}
}

// userspaceBatch keeps one batch well under a megabyte of text.
const userspaceBatch = 1000

func (b *inProcess) apply(changes []PeerChange) Failures {
	return inBatches(changes, userspaceBatch, func(batch []PeerChange) error {
		var text strings.Builder
		for _, c := range batch {
			b.write(&text, c)
		}
		err := b.device.IpcSet(text.String())
		if err != nil { // some happened, some not: from here on, writes replace
			b.set, b.owner = make(map[Key]Peer), make(map[netip.Prefix]Key) // clear would walk all they ever held
		}
		return err
	})
}

// write appends the lines that make change c and notes them as made.
func (b *inProcess) write(w *strings.Builder, c PeerChange) {
	p := c.Peer
	fmt.Fprintf(w, "public_key=%s\n", hex.EncodeToString(p.Key[:]))
	if c.Remove {
		w.WriteString("remove=true\n")
		b.forget(p.Key)
		return
	}
	old, known := b.set[p.Key]
	if !known {
		w.WriteString("replace_allowed_ips=true\n")
	}
	for _, a := range old.AllowedIPs {
		if b.owner[a] == p.Key && !slices.Contains(p.AllowedIPs, a) {
			fmt.Fprintf(w, "allowed_ip=-%s\n", a)
			delete(b.owner, a)
		}
	}
	for _, a := range p.AllowedIPs {
		if !known || b.owner[a] != p.Key {
			fmt.Fprintf(w, "allowed_ip=%s\n", a)
			b.owner[a] = p.Key
		}
	}
	if p.Endpoint.IsValid() {
		fmt.Fprintf(w, "endpoint=%s\n", p.Endpoint)
	}
	fmt.Fprintf(w, "persistent_keepalive_interval=%d\n", int(p.KeepAlive.Seconds()))
	p.AllowedIPs = slices.Clone(p.AllowedIPs)
	b.set[p.Key] = p
}

func (b *inProcess) forget(k Key) {
	for _, a := range b.set[k].AllowedIPs {
		if b.owner[a] == k {
			delete(b.owner, a)
		}
	}
	delete(b.set, k)
}

func (b *inProcess) peers() ([]PeerStatus, error) {
	r, w := io.Pipe()
	go func() { w.CloseWithError(b.device.IpcGetOperation(w)) }() // ends with the text, or at r.Close
	defer r.Close()
	return parsePeers(r)
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

// present asks the file descriptor, which a deleted interface leaves behind.
func (b *inProcess) present() bool {
	c, err := b.tun.SyscallConn()
	if err != nil {
		return false
	}
	var size int
	asked := c.Control(func(fd uintptr) { size, err = unix.IoctlGetInt(int(fd), unix.TUNGETVNETHDRSZ) })
	return asked == nil && err == nil && size > 0
}

func (b *inProcess) ended() <-chan struct{} { return b.device.Wait() }

func (b *inProcess) close() error {
	b.device.Close()
	<-b.device.Wait()
	return nil
}
