package dataplane

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"lazaret/firewall"
	"lazaret/quarantine"
)

// six is device n's address in fd66::/64 or fd77::/64.
func six(pool byte, n int) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfd, 1: pool, 12: byte(n >> 24), 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n + 2)})
}

func many(n int, until firewall.Deadline) []quarantine.Entry {
	out := make([]quarantine.Entry, n)
	for i := range out {
		out[i] = manyth(i, false, until)
	}
	return out
}

func manyth(i int, routed bool, until firewall.Deadline) quarantine.Entry {
	e := quarantine.Entry{Device: id(i), Key: peerKey(i), Revision: 1, Quarantined: []netip.Addr{six(0x66, i*256)}}
	if routed {
		e.Routed, e.Mark, e.Until = []netip.Addr{six(0x77, i*256)}, 7, until
	}
	return e
}

// BenchmarkMove is one device moved there or back through the socket, until the data
// plane answered: with the books of a table alone, and with the kernel's.
func BenchmarkMove(b *testing.B) {
	if !inside(b) {
		return
	}
	for _, kernel := range []bool{false, true} {
		for _, size := range []int{1000, 100_000} {
			b.Run(fmt.Sprintf("kernel=%v/devices=%d", kernel, size), func(b *testing.B) { benchmarkMove(b, kernel, size) })
		}
	}
}

func benchmarkMove(b *testing.B, kernel bool, size int) {
	until := epoch + 600*second
	r := run(b, func(c *Config) {
		if !kernel {
			return
		}
		table, err := firewall.Open(firewall.Config{Log: slog.New(slog.DiscardHandler)})
		check(b, err)
		b.Cleanup(func() { table.Close() })
		c.Table, c.Clock = table, SystemTimes
		until = firewall.After(time.Hour)
	})
	c := r.dial(b)
	check(b, c.Replace(b.Context(), somePlan(10, many(size, until)...)))
	moves := 0
	for b.Loop() {
		moves++
		n := moves / 2 * 7919 % size // there, and back
		e := manyth(n, moves%2 == 0, until)
		e.Revision, e.Tighten = int64(10+moves), uint64(moves)
		if err := c.Apply(b.Context(), e); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPlan is a whole plan through the socket into the books of a table.
func BenchmarkPlan(b *testing.B) {
	for _, size := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("devices=%d", size), func(b *testing.B) {
			r := run(b, nil)
			c := r.dial(b)
			p := somePlan(10, many(size, epoch+600*second)...)
			for b.Loop() {
				p.Revision++
				if err := c.Replace(b.Context(), p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
