package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/google/nftables"

	"lazaret/internal/testnet"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

const roleBoot = "boot"

// mostPeers is how many peers a userspace link is given: close to the 65,536 that it takes.
const mostPeers = 65_000

func (s *session) peersAtBoot() int {
	if s.quick {
		return 5000
	}
	return mostPeers
}

// bootRounds is in how many parts the peers are loaded, with all sets in between.
const bootRounds = 5

// measureBoot compares the two things that a start has to load. Peers are loaded in parts,
// one after the other onto the same link, until all are there; the sets whole, each time, in
// a process of their own, since at a start the table comes before any peer.
func measureBoot(ctx context.Context, s *session) error {
	lab, err := testnet.Start(ctx, testnet.Config{})
	if err != nil {
		return err
	}
	defer lab.Close()
	n := s.most()
	var w [2]*worker // for sets, and for peers
	for i, name := range []string{"sets", "peers"} {
		h, err := lab.AddHost(ctx, name)
		if err != nil {
			return err
		}
		if w[i], err = startWorker(ctx, h, roleBoot, false, n, nil); err != nil {
			return err
		}
	}
	var sets, both, weights, parts samples
	for range bootRounds {
		var four, dual loaded
		if err := w[0].ask(ctx, order{Do: "sets"}, &four); err != nil {
			return err
		}
		if err := w[0].ask(ctx, order{Do: "both"}, &dual); err != nil {
			return err
		}
		sets, both, weights = append(sets, four.Took), append(both, dual.Took), append(weights, time.Duration(four.Kernel))
		var part time.Duration
		if err := w[1].ask(ctx, order{Do: "peers", N: s.peersAtBoot() / bootRounds}, &part); err != nil {
			return err
		}
		parts = append(parts, part)
	}
	peers := bootRounds * parts.least()
	how := fmt.Sprintf("%d peers with as many addresses, loaded in %d parts in between, %d times the least", s.peersAtBoot(), bootRounds, bootRounds)
	for _, x := range []struct {
		name string
		took samples
	}{{"IPv4", sets}, {"both families", both}} {
		s.add(row{Name: fmt.Sprintf("boot: table with the sets of %d devices, %s", n, x.name), Value: millis(x.took.least()), Unit: "ms", Base: number(millis(peers)),
			Ratio: number(float64(x.took.least()) / float64(peers)), Bound: number(0.1), ComparedWith: how + fmt.Sprintf("; least of %d rounds", bootRounds)})
	}
	var weight float64
	if err := w[1].ask(ctx, order{Do: "weight"}, &weight); err != nil {
		return err
	}
	s.add(row{Name: "memory of the link", Value: weight / float64(s.peersAtBoot()), Unit: "bytes a peer",
		ComparedWith: fmt.Sprintf("resident set of the process, %d peers, userspace WireGuard", s.peersAtBoot())})
	if w := float64(weights.median()); w > 0 {
		s.add(row{Name: "kernel memory of the sets", Value: w / float64(n), Unit: "bytes a device",
			ComparedWith: fmt.Sprintf("two IPv4 addresses each, %d devices; growth of slab and vmalloc of the whole machine, median of %d", n, bootRounds)})
	} else {
		s.progress("kernel memory of the sets: not measured, /proc/meminfo tells nothing here")
	}
	return nil
}

// loaded is what loading took: time, and the kernel's memory in bytes.
type loaded struct {
	Took   time.Duration
	Kernel int64
}

// boot is the state of the role.
type boot struct {
	devices int
	link    *tunnel.Link
	before  float64 // resident set without peers
	peers   int
}

// runBoot is the role of a data plane that starts.
func runBoot(ctx context.Context, args []string) error {
	b := &boot{}
	if err := arguments(args, &b.devices); err != nil {
		return err
	}
	key, err := tunnel.GeneratePrivateKey()
	if err != nil {
		return err
	}
	b.link, err = tunnel.Open(ctx, tunnel.Config{Name: tunnelName, PrivateKey: key, ListenPort: tunnelPort, ForceUserspace: true,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return err
	}
	defer b.link.Close()
	if b.before, err = resident(); err != nil {
		return err
	}
	return obey(ctx, nil, b.obey)
}

func (b *boot) obey(_ context.Context, o order) (any, error) {
	switch o.Do {
	case "sets":
		return b.sets(false)
	case "both":
		return b.sets(true)
	case "peers":
		return b.loadPeers(o.N)
	case "weight":
		now, err := resident()
		return now - b.before, err
	}
	return unknown(o)
}

// sets makes the table from nothing and takes it away again.
func (b *boot) sets(six bool) (loaded, error) {
	e, err := elementsOf(b.devices, six)
	if err != nil {
		return loaded{}, err
	}
	debug.FreeOSMemory() // else the collector does it meanwhile
	before := kernelMemory()
	start := time.Now()
	table, err := openTable()
	if err != nil {
		return loaded{}, err
	}
	err = table.Adopt(rigRules())
	if err == nil {
		err = table.Fill(rigRules(), e)
	}
	l := loaded{Took: time.Since(start)}
	l.Kernel = kernelMemory() - before
	if err == nil {
		err = inKernel("lazaret", map[string]int{"routed4": b.devices, "quarantined4": b.devices})
	}
	return l, errors.Join(err, table.Close(), removeTable("lazaret"))
}

// removeTable removes a table that no process owns any more.
func removeTable(name string) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	c.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: name})
	return c.Flush()
}

// loadPeers adds n more peers, with the addresses of agents that are released.
func (b *boot) loadPeers(n int) (time.Duration, error) {
	var changes []tunnel.PeerChange
	for range n {
		p := tunnel.Peer{Key: deviceKey(b.peers)}
		b.peers++
		for _, pool := range moverPools() {
			v4, v6, err := pool.Address(quarantine.Seat(b.peers))
			if err != nil {
				return 0, err
			}
			p.AllowedIPs = append(p.AllowedIPs, netip.PrefixFrom(v4, 32), netip.PrefixFrom(v6, 128))
		}
		changes = append(changes, tunnel.PeerChange{Peer: p})
	}
	start := time.Now()
	err := b.link.Apply(changes)
	return time.Since(start), err
}

// resident is the resident set of this process in bytes, after what could be given back was.
func resident() (float64, error) {
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, fmt.Errorf("reading the resident set: %w", err)
	}
	f := bytes.Fields(text)
	if len(f) < 2 {
		return 0, fmt.Errorf("reading the resident set: %q", text)
	}
	pages, err := strconv.ParseFloat(string(f[1]), 64)
	if err != nil {
		return 0, fmt.Errorf("reading the resident set: %w", err)
	}
	return pages * float64(os.Getpagesize()), nil
}

// kernelMemory is what the kernel holds for itself, in bytes; zero where it does not tell.
// It is the whole machine's, so that others' work is in it.
func kernelMemory() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	return parseMeminfo(text, "SUnreclaim", "VmallocUsed")
}

// parseMeminfo adds up fields that are given in kB.
func parseMeminfo(text []byte, fields ...string) (sum int64) {
	for line := range bytes.Lines(text) {
		name, rest, _ := bytes.Cut(line, []byte(":"))
		for _, want := range fields {
			if f := bytes.Fields(rest); string(name) == want && len(f) > 0 {
				if kb, err := strconv.ParseInt(string(f[0]), 10, 64); err == nil {
					sum += kb << 10
				}
			}
		}
	}
	return sum
}
