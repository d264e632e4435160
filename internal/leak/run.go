package leak

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"lazaret/firewall"
	"lazaret/internal/testnet"
)

// Options say what a run consists of. The zero Options are the whole matrix, once.
type Options struct {
	Short  bool      // the whole table in two stages only, and one probe of each group in the others
	Rounds int       // of all attacks; zero: one
	Vary   bool      // random order, sizes and pauses
	Seed   uint64    // of what is random
	Log    io.Writer // progress, for people; optional
	Detail io.Writer // what the processes in the lab print; optional

	// Probes replaces the table; optional.
	Probes []Probe
	// stages are those that devices are made for; nil: all.
	stages []Stage
	// wide is what quarantine reaches besides, to see that a leak is found.
	wide []firewall.Reach
}

// run is one run of the suite.
type run struct {
	Options
	site   *site
	random *rand.Rand
	probes []*Probe
	port   map[*Probe]uint16
	shots  map[uint32]*shot
}

// firstPort is the source port of the first probe; the others follow.
const firstPort = 20000

// Run runs the suite and says what became of each case. The error says that it could not
// be judged; that something leaked is a result.
func Run(ctx context.Context, o Options) (*Report, error) {
	began := time.Now()
	r := &run{Options: o, random: rand.New(rand.NewPCG(o.Seed, 1)), port: make(map[*Probe]uint16), shots: make(map[uint32]*shot)}
	if r.Rounds == 0 {
		r.Rounds = 1
	}
	if r.Probes == nil {
		r.Probes = Probes()
	}
	for i := range r.Probes {
		p := &r.Probes[i]
		r.probes = append(r.probes, p)
		r.port[p] = firstPort + uint16(i)
	}
	var err error
	if r.site, err = openSite(ctx, o); err != nil {
		return nil, err
	}
	defer r.site.close()
	r.say("lab, gateway, %d devices and the control are up", len(r.site.all()))
	if err := r.all(ctx); err != nil {
		return nil, err
	}
	report := r.report()
	report.Took = time.Since(began)
	return report, nil
}

func (r *run) say(format string, a ...any) {
	if r.Log != nil {
		fmt.Fprintf(r.Log, "leak: "+format+"\n", a...)
	}
}

// all is the course of a run.
func (r *run) all(ctx context.Context) error {
	s := r.site
	if err := s.release(ctx); err != nil {
		return err
	}
	if err := s.openVictims(ctx); err != nil {
		return err
	}
	if err := s.openFlows(ctx); err != nil {
		return err
	}
	if err := s.fence(ctx); err != nil {
		return err
	}
	for _, d := range s.devices {
		if d.stage.released() {
			if err := r.fire(ctx, d, before, r.due(d)); err != nil {
				return err
			}
		}
	}
	if err := s.fence(ctx); err != nil {
		return err
	}
	r.say("released, and %d flows are open", s.countFlows())
	if err := s.tighten(ctx); err != nil {
		return err
	}
	r.say("demoted, blocked, revoked; leases and a certificate are over")
	for round := range r.Rounds {
		if err := r.round(ctx); err != nil {
			return err
		}
		if round == 0 {
			if err := r.endFlows(ctx); err != nil {
				return err
			}
		}
		if err := r.look(ctx); err != nil {
			return err
		}
		r.say("round %d of %d: %d shots so far", round+1, r.Rounds, len(r.shots))
	}
	return nil
}

// endFlows waits until enough was sent on the flows that were open before, and judges them.
func (r *run) endFlows(ctx context.Context) error {
	for _, step := range []func(context.Context) error{r.site.awaitFlows, r.site.closeFlows, r.site.settle} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	r.site.judgeFlows()
	return nil
}

// look judges what was captured since the last time. A packet of an earlier round that
// shows up only now is found as well.
func (r *run) look(ctx context.Context) error {
	if err := r.site.fence(ctx); err != nil {
		return err
	}
	if err := r.site.settle(ctx); err != nil {
		return err
	}
	for _, c := range r.site.caps {
		for _, p := range c.capture.Records(func(p testnet.Record) bool { return p.Stream != 0 }) {
			if s := r.shots[p.Stream]; s != nil {
				r.site.note(s, c.host, p)
			}
		}
		c.capture.Forget()
	}
	return nil
}

// due are the probes that are tried from a device.
func (r *run) due(d *device) []*Probe {
	if !r.Short || d.stage == Quarantined || d.stage == DemotedFixed {
		return r.probes
	}
	var list []*Probe
	for i, p := range r.probes {
		if i == 0 || p.Group != r.probes[i-1].Group {
			list = append(list, p)
		}
	}
	return list
}

// round fires every probe from every device, through the gateway and through the control.
func (r *run) round(ctx context.Context) error {
	for _, d := range r.site.devices {
		for _, on := range []side{real, control} {
			list := r.due(d)
			if r.Vary {
				list = shuffled(r.random, list)
			}
			if err := r.fire(ctx, d, on, list); err != nil {
				return err
			}
		}
	}
	return nil
}
