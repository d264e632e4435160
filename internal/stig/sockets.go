package stig

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"lazaret/firewall"
)

// socket is one line of /proc/net/tcp and its like.
type socket struct {
	local netip.AddrPort
	peer  netip.AddrPort
	state uint8
	inode string
}

const (
	tcpListen = 0x0a
	udpOpen   = 0x07 // not connected
)

// readSockets reads the text of /proc/net/tcp, tcp6, udp or udp6: addresses are 32 bit
// words in the machine's own order, ports are numbers.
func readSockets(r io.Reader) ([]socket, error) {
	var list []socket
	s := bufio.NewScanner(r)
	for first := true; s.Scan(); first = false {
		if first {
			continue // the head
		}
		f := strings.Fields(s.Text())
		if len(f) < 10 {
			return nil, fmt.Errorf("a line of %d fields", len(f))
		}
		local, err := readAddress(f[1])
		peer, err2 := readAddress(f[2])
		state, err3 := strconv.ParseUint(f[3], 16, 8)
		if err = errors.Join(err, err2, err3); err != nil {
			return nil, err
		}
		list = append(list, socket{local, peer, uint8(state), f[9]})
	}
	return list, s.Err()
}

func readAddress(s string) (netip.AddrPort, error) {
	address, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(address)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if err = errors.Join(err, err2); err != nil {
		return netip.AddrPort{}, err
	}
	for i := 0; i+4 <= len(b); i += 4 {
		binary.BigEndian.PutUint32(b[i:], binary.NativeEndian.Uint32(b[i:]))
	}
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("an address of %d bytes", len(b))
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), nil
}

var socketTitles = map[string]string{
	"sockets.listening": "everything that listens is a service that the configuration names",
	"sockets.packet":    "no packet socket sees or sends frames past the rules",
}

// sockets matches what listens on more than the loopback with the services there should be.
func (c Config) sockets(r *report) {
	var wrong, found []string
	owners := c.owners()
	for _, protocol := range []string{"tcp", "tcp6", "udp", "udp6"} {
		list, err := c.open(protocol)
		if err != nil {
			r.unmade("sockets.listening", socketTitles["sockets.listening"], err, asRoot)
			return
		}
		for _, s := range list {
			if !s.listens(protocol) || s.local.Addr().IsLoopback() {
				continue
			}
			line := fmt.Sprintf("%s/%d at %s%s", strings.TrimSuffix(protocol, "6"), s.local.Port(), s.local.Addr(), owners[s.inode])
			switch {
			case c.named(firewall.Protocol(strings.TrimSuffix(protocol, "6")), s.local.Port()):
				found = append(found, line)
			case strings.HasPrefix(protocol, "udp") && c.passing(s.local.Port()):
				found = append(found, line+": of a client, since its port is one that the kernel hands out; input drops what is no answer")
			default:
				wrong = append(wrong, line)
			}
		}
	}
	r.add("sockets.listening", socketTitles["sockets.listening"], wrong, found, "stop what listens there, bind it to the loopback, or name its port in firewall.in")
	c.packetSockets(r, owners)
}

func (s socket) listens(protocol string) bool {
	if strings.HasPrefix(protocol, "tcp") {
		return s.state == tcpListen
	}
	return s.state == udpOpen && s.peer.Port() == 0
}

// open reads one protocol's sockets; a protocol that the kernel lacks has none.
func (c Config) open(protocol string) ([]socket, error) {
	f, err := os.Open(filepath.Join(c.Proc, "thread-self/net", protocol))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := readSockets(f)
	if err != nil {
		return nil, fmt.Errorf("reading the sockets of %s: %w", protocol, err)
	}
	return list, nil
}

// named says whether the configuration opens the port, from outside or inside the tunnel.
func (c Config) named(p firewall.Protocol, port uint16) bool {
	is := func(s firewall.Service) bool { return s.Protocol == p && s.Port == port }
	return p == "udp" && port == c.Host.ListenPort || slices.ContainsFunc(c.Host.Outside, is) || slices.ContainsFunc(c.Host.Inside, is)
}

// passing says whether the kernel hands this port out by itself (ip(7), ip_local_port_range).
func (c Config) passing(port uint16) bool {
	text, err := c.sysctl("net/ipv4/ip_local_port_range")
	var low, high uint16
	if _, err2 := fmt.Sscan(text, &low, &high); errors.Join(err, err2) != nil {
		return false
	}
	return port >= low && port <= high
}

// packetSockets: a packet socket stands before the rules (packet(7)).
func (c Config) packetSockets(r *report, owners map[string]string) {
	const id = "sockets.packet"
	text, err := os.ReadFile(filepath.Join(c.Proc, "thread-self/net/packet"))
	if errors.Is(err, fs.ErrNotExist) {
		r.add(id, socketTitles[id], nil, []string{"the kernel has none"}, "")
		return
	}
	if err != nil {
		r.unmade(id, socketTitles[id], err, asRoot)
		return
	}
	var wrong, found []string
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		f := strings.Fields(line)
		if i == 0 || len(f) == 0 {
			continue
		}
		said := fmt.Sprintf("one of type %s, protocol %s, interface %s%s", f[min(2, len(f)-1)], f[min(3, len(f)-1)], f[min(4, len(f)-1)], owners[f[len(f)-1]])
		if c.ofDHCP(f) {
			found = append(found, said+": asks for an address by DHCP")
		} else {
			wrong = append(wrong, said)
		}
	}
	r.add(id, socketTitles[id], wrong, found, "stop the program that holds it; a DHCP client may need one for a moment")
}

// ofDHCP says whether a packet socket is what DHCPv4 needs before there is an address, and
// nothing more: a datagram socket (the kernel writes the link's header) for IPv4 on one
// interface, held by the process that asks by DHCP, and by no other.
func (c Config) ofDHCP(f []string) bool {
	const datagram, ipv4 = "2", "0800" // SOCK_DGRAM, ETH_P_IP
	if c.DHCP == 0 || len(f) < 9 || f[2] != datagram || f[3] != ipv4 || f[4] == "0" {
		return false
	}
	holders := c.holders(f[8])
	return len(holders) == 1 && holders[0] == c.DHCP
}

// holders are the processes that hold a socket, as far as this process may see. One that it
// may not look into is no reason to trust the socket: then nobody is seen to hold it.
func (c Config) holders(inode string) []int {
	var list []int
	dirs, err := filepath.Glob(filepath.Join(c.Proc, "[0-9]*"))
	if err != nil {
		return nil
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil {
			continue
		}
		fds, err := os.ReadDir(filepath.Join(d, "fd"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone meanwhile
		}
		if err != nil {
			return nil
		}
		for _, e := range fds {
			if to, err := os.Readlink(filepath.Join(d, "fd", e.Name())); err == nil && to == "socket:["+inode+"]" {
				list = append(list, pid)
				break
			}
		}
	}
	return list
}

// owners names the processes that hold sockets, by inode, as far as this process may see.
func (c Config) owners() map[string]string {
	m := map[string]string{}
	links, err := filepath.Glob(filepath.Join(c.Proc, "[0-9]*/fd/*"))
	if err != nil {
		return m // a bad pattern: none of this matters more than a name
	}
	for _, l := range links {
		to, err := os.Readlink(l)
		inode, ok := strings.CutPrefix(to, "socket:[")
		if err != nil || !ok {
			continue
		}
		pid := strings.Split(strings.TrimPrefix(l, c.Proc+"/"), "/")[0]
		name, err := os.ReadFile(filepath.Join(c.Proc, pid, "comm"))
		if err != nil {
			continue
		}
		m[strings.TrimSuffix(inode, "]")] = fmt.Sprintf(" (%s, process %s)", strings.TrimSpace(string(name)), pid)
	}
	return m
}
