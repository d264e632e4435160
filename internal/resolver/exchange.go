package resolver

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	ednsSize   = 1232     // largest datagram asked for: no fragments (RFC 9715)
	maxMessage = 16 << 10 // largest answer read
	tryTime    = 2 * time.Second
	tries      = 2 // of each server
)

var (
	errSpoofed   = errors.New("the answer does not match the question")
	errTruncated = errors.New("the answer is cut off")
)

// exchanger asks servers, in their order.
type exchanger struct {
	servers func() ([]netip.AddrPort, error)
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
}

// ask returns the first answer that says something: success, or that the name does not
// exist. The message is bounded, and its question is the one that was asked.
func (e *exchanger) ask(ctx context.Context, name string, qtype uint16, secure bool) (*dns.Msg, error) {
	servers, err := e.servers()
	if err != nil {
		return nil, err
	}
	var last error = errors.New("no server to ask")
	for range tries {
		for _, server := range servers {
			reply, err := e.askOne(ctx, server, name, qtype, secure)
			if err == nil && (reply.Rcode == dns.RcodeSuccess || reply.Rcode == dns.RcodeNameError) {
				return reply, nil
			}
			if err == nil {
				err = fmt.Errorf("answered %s", dns.RcodeToString[reply.Rcode])
			}
			last = fmt.Errorf("asking %s: %w", server, err)
			if ctx.Err() != nil {
				return nil, last
			}
		}
	}
	return nil, last
}

// askOne asks one server, by TCP if its datagram was cut off, or was not to be trusted.
func (e *exchanger) askOne(ctx context.Context, server netip.AddrPort, name string, qtype uint16, secure bool) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(mixCase(dns.Fqdn(name)), qtype)
	q.Id = randomID()
	q.SetEdns0(ednsSize, secure)
	query, err := q.Pack()
	if err != nil {
		return nil, fmt.Errorf("writing the query: %w", err)
	}
	reply, err := e.byUDP(ctx, server, q, query)
	if errors.Is(err, errTruncated) || errors.Is(err, errSpoofed) {
		reply, err = e.byTCP(ctx, server, q, query)
	}
	return reply, err
}

// byUDP asks from a port that the kernel picks at random, for this question alone. Answers
// that do not match do not end the wait for one that does (RFC 5452).
func (e *exchanger) byUDP(ctx context.Context, server netip.AddrPort, q *dns.Msg, query []byte) (*dns.Msg, error) {
	c, err := e.open(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if _, err := c.Write(query); err != nil {
		return nil, err
	}
	spoofed := false
	buf := make([]byte, ednsSize+1)
	for {
		n, err := c.Read(buf)
		if err != nil && spoofed {
			return nil, errSpoofed
		}
		if err != nil {
			return nil, err
		}
		reply := new(dns.Msg)
		if n > ednsSize || reply.Unpack(buf[:n]) != nil && !reply.Truncated || !answers(reply, q, true) {
			spoofed = true
			continue
		}
		if reply.Truncated {
			return nil, errTruncated
		}
		return reply, nil
	}
}

// byTCP asks by TCP, where nobody off the path can answer, so that the case of letters,
// which some servers do not keep, need not match.
func (e *exchanger) byTCP(ctx context.Context, server netip.AddrPort, q *dns.Msg, query []byte) (*dns.Msg, error) {
	c, err := e.open(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(size[:]))
	if n > maxMessage {
		return nil, fmt.Errorf("an answer of %d bytes, and %d are read", n, maxMessage)
	}
	buf := make([]byte, n)
	if _, err := io.ReadFull(c, buf); err != nil {
		return nil, err
	}
	reply := new(dns.Msg)
	if err := reply.Unpack(buf); err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if !answers(reply, q, false) {
		return nil, errSpoofed
	}
	return reply, nil
}

func (e *exchanger) open(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTime)
	defer cancel()
	c, err := e.dial(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// answers reports whether reply belongs to q: its number, its question, and with strict the
// case of every letter of it (draft-vixie-dnsext-dns0x20).
func answers(reply, q *dns.Msg, strict bool) bool {
	if !reply.Response || reply.Id != q.Id || reply.Opcode != dns.OpcodeQuery || len(reply.Question) != 1 {
		return false
	}
	got, want := reply.Question[0], q.Question[0]
	same := got.Name == want.Name || !strict && strings.EqualFold(got.Name, want.Name)
	return same && got.Qtype == want.Qtype && got.Qclass == want.Qclass
}

func randomID() uint16 {
	var b [2]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint16(b[:])
}

// mixCase writes each letter small or large at random: bits that a forger must guess.
func mixCase(name string) string {
	b, coins := []byte(strings.ToLower(name)), make([]byte, len(name))
	rand.Read(coins)
	for i, c := range b {
		if c >= 'a' && c <= 'z' && coins[i]&1 == 1 {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}
