package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"lazaret/firewall"
	"lazaret/internal/testnet"
	"lazaret/quarantine/dataplane"
	"lazaret/quarantine/tunnel"
)

const rolePlane = "plane"

// Of every data plane here.
const (
	tunnelName = "lz0"
	tunnelPort = 51820
	agentPort  = 8444
)

// planeArgs says what a data plane process is made of.
type planeArgs struct {
	Dir    string // its key
	Socket string
	// Peers is how many devices have a real WireGuard peer, from the first one on; zero: all.
	Peers int
	// Link is the tunnel's interface where another one stands in for it in the rules.
	Link string
}

// hostRules is the table without pools.
func hostRules() firewall.Ruleset {
	return firewall.Ruleset{
		Table: "lazaret", Tunnel: tunnelName, ListenPort: tunnelPort,
		Inside:    []firewall.Service{{Protocol: "tcp", Port: agentPort}},
		Freshness: time.Minute, QuarantineLife: 24 * time.Hour,
	}
}

// runPlane is the role of a data plane: the product's own, over the real table and a real
// link, both within reach for doing the same without it.
func runPlane(ctx context.Context, args []string) error {
	var a planeArgs
	if err := arguments(args, &a); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	key, err := tunnel.LoadOrCreateKey(filepath.Join(a.Dir, "wireguard.key"))
	if err != nil {
		return err
	}
	// The control plane tells devices this key.
	public := filepath.Join(filepath.Dir(a.Socket), "wireguard.pub")
	if err := os.WriteFile(public, []byte(key.Public().String()+"\n"), 0o644); err != nil {
		return err
	}
	table, err := firewall.Open(firewall.Config{Log: log})
	if err != nil {
		return err
	}
	defer table.Close()
	listener, err := dataplane.Listen(a.Socket, -1)
	if err != nil {
		return err
	}
	if a.Link == "" {
		a.Link = tunnelName
	}
	t := &tape{table: table}
	plane, err := dataplane.New(dataplane.Config{
		Table: tapedTable{table, t}, Host: hostRules(), Listener: listener, Log: log,
		OpenLink: func(ctx context.Context) (dataplane.Link, error) {
			link, err := tunnel.Open(ctx, tunnel.Config{Name: a.Link, PrivateKey: key, ListenPort: tunnelPort, Log: log})
			if err != nil {
				return nil, err
			}
			t.link = link
			if a.Peers > 0 {
				return newSomePeers(link, a.Peers), nil
			}
			return tapedLink{link, t}, nil
		},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- plane.Run(ctx) }()
	select {
	case <-plane.Ready():
	case err := <-ended:
		return err
	}
	err = obey(ctx, nil, t.obey)
	cancel()
	return errors.Join(err, <-ended)
}

// tape remembers the last release and the last demotion as the data plane made them, to
// make the very same changes without it.
type tape struct {
	table *firewall.Table
	link  *tunnel.Link

	mu       sync.Mutex
	step     firewall.Change // the table's part of the move under way
	up, down bare
}

// bare is the two changes that a move comes down to.
type bare struct {
	step  firewall.Change
	peers []tunnel.PeerChange
}

// tapedTable and tapedLink are what the data plane works on.
type (
	tapedTable struct {
		*firewall.Table
		tape *tape
	}
	tapedLink struct {
		*tunnel.Link
		tape *tape
	}
)

func (t tapedTable) Apply(c firewall.Change) error {
	t.tape.mu.Lock()
	t.tape.step = c
	t.tape.mu.Unlock()
	return t.Table.Apply(c)
}

func (l tapedLink) Apply(peers []tunnel.PeerChange) error {
	t := l.tape
	t.mu.Lock()
	b := bare{t.step, peers}
	switch {
	case len(b.step.AddRouted) > 0:
		t.up = b
	case len(b.step.DelRouted) > 0:
		t.down = b
	}
	t.step = firewall.Change{}
	t.mu.Unlock()
	return l.Link.Apply(peers)
}

// span is when an order to the gateway began and when it was answered.
type span struct{ From, To testnet.Stamp }

func (t *tape) obey(_ context.Context, o order) (any, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch o.Do {
	case "up":
		return t.play(t.up)
	case "down":
		return t.play(t.down)
	case "count":
		return nil, inKernel(hostRules().Table, map[string]int{"routed4": o.N, "routed6": o.N, "quarantined4": o.N})
	}
	return unknown(o)
}

func (t *tape) play(b bare) (span, error) {
	if len(b.peers) == 0 {
		return span{}, errors.New("nothing was recorded")
	}
	s := span{From: testnet.Now()}
	if err := t.table.Apply(b.step); err != nil {
		return s, err
	}
	err := t.link.Apply(b.peers)
	s.To = testnet.Now()
	return s, err
}

// somePeers is a link that has real peers for the first devices only: a userspace link
// holds at most 65,536 of them, at 24 KB each. Of the others it keeps the books.
type somePeers struct {
	*tunnel.Link
	real map[tunnel.Key]bool

	mu    sync.Mutex
	books map[tunnel.Key]tunnel.Peer
}

func newSomePeers(link *tunnel.Link, n int) *somePeers {
	s := &somePeers{Link: link, real: make(map[tunnel.Key]bool, n), books: make(map[tunnel.Key]tunnel.Peer)}
	for i := range n {
		s.real[deviceKey(i)] = true
	}
	return s
}

func (s *somePeers) Apply(changes []tunnel.PeerChange) error {
	var real []tunnel.PeerChange
	s.mu.Lock()
	for _, c := range changes {
		switch {
		case s.real[c.Peer.Key]:
			real = append(real, c)
		case c.Remove:
			delete(s.books, c.Peer.Key)
		default:
			s.books[c.Peer.Key] = c.Peer
		}
	}
	s.mu.Unlock()
	if len(real) == 0 {
		return nil
	}
	return s.Link.Apply(real)
}

func (s *somePeers) Peers() ([]tunnel.PeerStatus, error) {
	all, err := s.Link.Peers()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.books {
		all = append(all, tunnel.PeerStatus{Peer: p})
	}
	return all, err
}
