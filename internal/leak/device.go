package leak

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"lazaret/internal/testnet"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// Stage is what has become of a device when it attacks.
type Stage string

// The demoted ones had flows of every kind open until a moment ago. Their names say how
// they were addressed while routed (following the pool, or fixed), and whether their flows
// were masqueraded.
const (
	Pending          Stage = "pending"
	Quarantined      Stage = "quarantined"
	Blocked          Stage = "blocked"
	Revoked          Stage = "revoked"
	NeverEnrolled    Stage = "never enrolled"
	DemotedFollow    Stage = "demoted, follow"
	DemotedFixed     Stage = "demoted, fixed"
	DemotedFollowNAT Stage = "demoted, follow, masquerade"
	DemotedFixedNAT  Stage = "demoted, fixed, masquerade"
	ExpiredFixed     Stage = "certificate over"
	LapsedFollow     Stage = "lease over, follow"
	LapsedFixed      Stage = "lease over, fixed"
)

// Stages is all of them.
func Stages() []Stage {
	return []Stage{Pending, Quarantined, Blocked, Revoked, NeverEnrolled, DemotedFollow, DemotedFixed,
		DemotedFollowNAT, DemotedFixedNAT, ExpiredFixed, LapsedFollow, LapsedFixed}
}

// peer reports whether a device in this stage has one: it may speak to the management
// server.
func (s Stage) peer() bool {
	switch s {
	case Pending, Blocked, Revoked, NeverEnrolled:
		return false
	default:
		return true
	}
}

// profile is what the device of a stage is enrolled with.
func (s Stage) profile() string {
	switch s {
	case Pending:
		return "approved"
	case DemotedFixed, ExpiredFixed, LapsedFixed:
		return "staff-fixed"
	case DemotedFollowNAT:
		return "guests"
	case DemotedFixedNAT:
		return "guests-fixed"
	default:
		return "staff"
	}
}

// released reports whether the device was routed before.
func (s Stage) released() bool {
	switch s {
	case Pending, Quarantined, NeverEnrolled:
		return false
	default:
		return true
	}
}

// device is a WireGuard client with a place in the lab.
type device struct {
	stage      Stage
	id         quarantine.ID
	seat       quarantine.Seat
	iface      string
	table      int // of its routes
	host       *testnet.Host
	key        tunnel.PrivateKey
	quarantine testnet.Both
	full       testnet.Both
	fixed      bool
	until      time.Time     // when it lapses by itself; zero: it does not
	cut        testnet.Stamp // when it was surely over: after the order was answered
}

func (d *device) addresses() []netip.Addr { return append(d.quarantine.All(), d.full.All()...) }

// routed is the address it has while routed.
func (d *device) routed() testnet.Both {
	if d.fixed {
		return d.quarantine
	}
	return d.full
}

var (
	mdm   = quarantine.Actor{Kind: "token", Name: "mdm"}
	admin = quarantine.Actor{Kind: "administrator", Name: "root"}
)

// certificateLife is that of the device whose certificate runs out, leaseLife that of the
// reports that run out: long enough for its flows to be opened.
const (
	certificateLife = 8 * time.Second
	leaseLife       = 8 * time.Second
)

// enroll makes every device and puts it into the store, except the one that never was.
func (s *site) enroll(ctx context.Context) error {
	for i, stage := range Stages() {
		if s.stages != nil && !slices.Contains(s.stages, stage) {
			continue
		}
		d, err := s.newDevice(i+1, stage, s.net.Dev1)
		if err != nil {
			return err
		}
		s.devices = append(s.devices, d)
	}
	for i, v := range []**device{&s.victim, &s.guest, &s.neighbour} {
		d, err := s.newDevice(100+i, []Stage{DemotedFollow, DemotedFollowNAT, Quarantined}[i], s.net.Dev2)
		if err != nil {
			return err
		}
		d.id = quarantine.ID([]string{"victim", "guest", "neighbour"}[i])
		*v = d
	}
	now := time.Now().UTC()
	for _, d := range s.all() {
		if d.stage == NeverEnrolled {
			continue
		}
		life := 24 * time.Hour
		if d.stage == ExpiredFixed {
			life = certificateLife + 4*time.Second // it is released after the tunnels are open
		}
		s.store.Put(quarantine.Record{
			Device:  quarantine.Device{ID: d.id, Name: string(d.id), Key: d.key.Public(), Seat: d.seat},
			Profile: d.stage.profile(), Proven: true, Confirmed: true,
			Certificate: quarantine.Certificate{Serial: fmt.Sprintf("%02x", d.seat), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(life)},
		})
	}
	return nil
}

// all are attackers and victims.
func (s *site) all() []*device {
	return append(append([]*device(nil), s.devices...), s.victim, s.guest, s.neighbour)
}

func (s *site) newDevice(n int, stage Stage, host *testnet.Host) (*device, error) {
	key, err := tunnel.GeneratePrivateKey()
	if err != nil {
		return nil, err
	}
	d := &device{stage: stage, id: quarantine.ID(fmt.Sprintf("device-%d", n)), seat: quarantine.Seat(n), host: host,
		iface: fmt.Sprintf("wg%d", n), table: 7000 + n, key: key}
	profile := s.settings().Profiles[stage.profile()]
	d.fixed = profile.Addressing == quarantine.Fixed
	if d.quarantine, err = both(s.pools["quarantine"], d.seat); err != nil {
		return nil, err
	}
	d.full, err = both(s.pools[profile.Pool], d.seat)
	return d, err
}

func both(p quarantine.Pool, seat quarantine.Seat) (testnet.Both, error) {
	v4, v6, err := p.Address(seat)
	return testnet.Both{V4: v4, V6: v6}, err
}

// openTunnels starts a WireGuard client for each device, which sends everything into the
// tunnel that is bound to its interface.
func (s *site) openTunnels(ctx context.Context) error {
	everything := []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	var g errgroup.Group
	for _, d := range s.all() {
		g.Go(func() error {
			var own []netip.Prefix
			for _, a := range d.addresses() {
				own = append(own, netip.PrefixFrom(a, a.BitLen()))
			}
			_, err := d.host.WireGuard(ctx, testnet.WireGuardSpec{Device: d.iface, Key: d.key, Addrs: own, Peers: []tunnel.Peer{{
				Key: s.key, Endpoint: netip.AddrPortFrom(s.net.Plan.GatewayOuter.V4, tunnelPort), AllowedIPs: everything,
			}}})
			if err != nil {
				return err
			}
			return d.host.ForceRoutes(ctx, d.iface, d.table)
		})
	}
	return g.Wait()
}

// report brings a report of the management server's.
func (s *site) report(ctx context.Context, d *device, v quarantine.Verdict, valid time.Duration) (quarantine.Placement, error) {
	var p quarantine.Placement
	err := until(ctx, "the gate knows "+string(d.id), func() (bool, error) {
		var err error
		p, err = s.gate.Report(ctx, mdm, quarantine.Report{Device: d.id, Source: "mdm", Verdict: v, At: time.Now(), Validity: valid})
		if errors.Is(err, quarantine.ErrUnknownDevice) {
			return false, nil
		}
		return true, err
	})
	return p, err
}

// release routes every device that is to have been routed.
func (s *site) release(ctx context.Context) error {
	for _, d := range append([]*device{s.victim, s.guest}, s.devices...) {
		if !d.stage.released() {
			continue
		}
		valid := time.Hour
		if d.stage == LapsedFollow || d.stage == LapsedFixed {
			valid = leaseLife
		}
		p, err := s.report(ctx, d, quarantine.Compliant, valid)
		if err != nil {
			return err
		}
		if p.Stage != quarantine.Routed {
			return fmt.Errorf("device of stage %q was to be routed, and is %s: %v", d.stage, p.Stage, p.Reasons)
		}
		d.until = time.Time{}
		if d.stage == LapsedFollow || d.stage == LapsedFixed || d.stage == ExpiredFixed {
			d.until = p.Until
		}
	}
	return nil
}

// tighten brings every device into the stage it attacks in, and notes when that was done.
func (s *site) tighten(ctx context.Context) error {
	for _, d := range s.devices {
		var p quarantine.Placement
		var err error
		want := quarantine.Quarantined
		switch d.stage {
		case Blocked:
			want = quarantine.Blocked
			p, err = s.gate.Block(ctx, admin, d.id, "")
		case Revoked:
			want = quarantine.Revoked
			p, err = s.gate.Revoke(ctx, admin, d.id, "")
		case DemotedFollow, DemotedFixed, DemotedFollowNAT, DemotedFixedNAT:
			p, err = s.report(ctx, d, quarantine.NonCompliant, time.Hour)
		case ExpiredFixed, LapsedFollow, LapsedFixed:
			if err := sleepUntil(ctx, d.until); err != nil {
				return err
			}
			d.cut = testnet.Now()
			continue
		default:
			continue
		}
		if err != nil {
			return err
		}
		d.cut = testnet.Now()
		if p.Stage != want {
			return fmt.Errorf("device of stage %q is %s", d.stage, p.Stage)
		}
	}
	return nil
}

// sleepUntil waits for an instant that a lease ends at.
func sleepUntil(ctx context.Context, at time.Time) error {
	t := time.NewTimer(time.Until(at))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
