package main

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"lazaret/internal/agentapi"
	"lazaret/internal/console/api"
	"lazaret/internal/testnet"
)

// laptops is the policy set of step l.
const laptops = `name = "laptops"
text = "What corporate laptops fulfil"
[for]
ownerships = ["corporate"]
[[rule]]
name = "firewall"
text = "the device's own firewall is on"
remedy = "Turn the firewall on."
expression = 'firewall.enabled'
`

// decideByPolicy is step l: dev1's agent tells whether its firewall is on, which it reads
// from its own kernel.
func (d *demo) decideByPolicy(ctx context.Context, r *result) error {
	q, err := d.hookReport("compliant", "malware removed")
	if err != nil {
		return err
	}
	if _, _, err := d.posting(q, http.StatusOK)(ctx); err != nil {
		return err
	}
	if _, err := d.agentReports(ctx); err != nil {
		return err
	}
	if err := d.untilThrough(ctx); err != nil {
		return err
	}
	s, err := d.running(ctx)
	if err != nil {
		return err
	}
	if err := d.tryPolicy(ctx, r, s); err != nil {
		return err
	}
	if err := d.assignPolicy(ctx, r, s); err != nil {
		return err
	}
	if err := d.failRule(ctx, r); err != nil {
		return err
	}
	if err := s.Close(ctx); err != nil {
		return err
	}
	if err := d.explainRule(ctx, r); err != nil {
		return err
	}
	if err := d.mendRule(ctx, r); err != nil {
		return err
	}
	return d.sessionLives(ctx, r, "", d.session, d.opened)
}

// agentReports is lazaret report on dev1: the agent looks at the device and tells.
func (d *demo) agentReports(ctx context.Context) (a asked, err error) {
	if a, err = d.ask(ctx, "report"); err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	return a, err
}

// firewall turns a table of dev1's own on or off.
func (d *demo) firewall(ctx context.Context, table, to string) error {
	var done string
	return once(ctx, d.honest.host, "firewall", "", &done, table, to)
}

// goesThrough counts the messages of a flow that arrive from now on, until there are some.
func goesThrough(ctx context.Context, s *testnet.Stream) (n uint64, err error) {
	before, err := s.Server(ctx)
	if err != nil {
		return 0, err
	}
	return n, until(ctx, pollEvery, func() (bool, error) {
		now, err := s.Server(ctx)
		n = now.Received - before.Received
		return n >= 20, err
	})
}

// tryPolicy asks who would move if the set were assigned, and sees that nobody does.
func (d *demo) tryPolicy(ctx context.Context, r *result, s *testnet.Stream) error {
	var t api.PolicyTried
	if _, err := d.operator.post(ctx, "/api/v1/policies/try", api.PolicyTry{TOML: laptops}, &t); err != nil {
		return err
	}
	n, err := goesThrough(ctx, s)
	if err != nil {
		return err
	}
	x, err := d.operator.explain(ctx, d.honest.enrolled.Name)
	if err != nil {
		return err
	}
	var m api.PolicyMove
	if len(t.Listed) == 1 {
		m = t.Listed[0]
	}
	r.figure("tried_devices", t.Devices)
	r.figure("tried_moves", t.Moves)
	r.figure("messages_after_trial", n)
	r.check(t.Moves == 1 && m.Device == d.honest.enrolled.Device && m.From == "routed" && m.To == "quarantined" && m.Rule == "laptops/firewall" && x.Decided.Stage == "routed",
		"policy try: %d of %d devices would move (%s, from %s to %s by %s) and none does: it is %s, %d more messages of its flow pass", t.Moves, t.Devices, m.Name, m.From, m.To, m.Rule, x.Decided.Stage, n)
	return nil
}

// assignPolicy turns dev1's firewall on and assigns the set, which then holds.
func (d *demo) assignPolicy(ctx context.Context, r *result, s *testnet.Stream) error {
	if err := d.firewall(ctx, ownTable, "on"); err != nil {
		return err
	}
	if _, err := d.agentReports(ctx); err != nil {
		return err
	}
	yes := true
	if err := d.operator.put(ctx, "/api/v1/policies/laptops", api.Policy{TOML: laptops, Assigned: &yes}, nil); err != nil {
		return err
	}
	var x api.Explanation
	var rule api.Reason
	err := until(ctx, pollEvery, func() (ok bool, err error) {
		x, err = d.operator.explain(ctx, d.honest.enrolled.Name)
		rule, ok = reasonOf(x, "laptops")
		return ok, err
	})
	if err != nil {
		return err
	}
	n, err := goesThrough(ctx, s)
	if err != nil {
		return err
	}
	r.figure("messages_after_assignment", n)
	r.check(rule.Holds && x.Decided.Stage == "routed", "dev1's firewall is on, the set is assigned: %s v%d/%s holds, dev1 stays %s", rule.Set, rule.Version, rule.Rule, x.Decided.Stage)
	return nil
}

// reasonOf is what was found of the one rule of a set.
func reasonOf(x api.Explanation, set string) (api.Reason, bool) {
	i := slices.IndexFunc(x.Decided.Reasons, func(q api.Reason) bool { return q.Set == set })
	if i < 0 {
		return api.Reason{}, false
	}
	return x.Decided.Reasons[i], true
}

// failRule turns dev1's firewall off, and shows when its packets stop.
func (d *demo) failRule(ctx context.Context, r *result) error {
	if err := d.firewall(ctx, ownTable, "off"); err != nil {
		return err
	}
	watch, err := d.watch(ctx)
	if err != nil {
		return err
	}
	there, err := d.net.Intranet.Capture(ctx, "intra")
	if err != nil {
		return err
	}
	own, err := d.honest.host.Capture(ctx, tunnelDevice)
	if err != nil {
		return err
	}
	from := func(p testnet.Record) bool { return p.Proto == 17 && p.From.Addr() == d.honest.full.V4 }
	if _, err := there.AwaitN(ctx, 20, from); err != nil {
		return err
	}
	a, err := d.agentReports(ctx)
	if err != nil {
		return err
	}
	commit, err := awaitCommit(ctx, watch, d.honest)
	if err != nil {
		return err
	}
	trials, err := d.probe(ctx, d.honest.host, anyAddress, tunnelDevice, d.intranetTarget())
	if err != nil {
		return err
	}
	if err := stopAll(ctx, there, own); err != nil {
		return err
	}
	arrived := there.Records(func(p testnet.Record) bool { return !p.Out && from(p) })
	late := own.Records(func(p testnet.Record) bool { return p.Out && p.At > commit && from(p) })
	passed, last := len(testnet.Arrived(late, arrived)), arrived[len(arrived)-1].At
	took := last.Sub(a.Sent)
	n, _ := count(trials, testnet.Echoed)
	r.figure("posture_to_commit_ms", commit.Sub(a.Sent))
	r.figure("posture_to_last_packet_ms", took)
	r.figure("posture_offered_after_commit", len(late))
	r.figure("posture_passed_after_commit", passed)
	r.figure("posture_denied_answered", n)
	r.check(took > -time.Second && took < 2*time.Second && passed == 0 && n == 0, "its firewall is turned off, lazaret report: the last packet arrives %s later, %d of %d sent after the commit do, and the intranet server answers %d of %d probes",
		ms(took), passed, len(late), n, len(trials))
	return watch.Stop(ctx)
}

// explainRule shows what lazaretctl device explain says, and what lazaret status tells the user.
func (d *demo) explainRule(ctx context.Context, r *result) error {
	x, err := d.operator.explain(ctx, d.honest.enrolled.Name)
	if err != nil {
		return err
	}
	rule, _ := reasonOf(x, "laptops")
	r.figure("rule", map[string]any{"set": rule.Set, "version": rule.Version, "rule": rule.Rule, "fact": rule.Fact, "holds": rule.Holds,
		"report_of": rule.Source, "report_at": rule.At, "remedy": rule.Remedy, "stage": x.Decided.Stage})
	r.check(x.Decided.Stage == "quarantined" && rule.Version > 0 && rule.Rule == "firewall" && rule.Fact == "firewall.enabled" && !rule.Holds && rule.Source == "agent" &&
		time.Since(rule.At) < stepTime, "explain: set %s, version %d, rule %s, fact %s, by the report of %s at %s", rule.Set, rule.Version, rule.Rule, rule.Fact, rule.Source, rule.At.UTC().Format("15:04:05 MST"))
	r.check(rule.Text != "", "explain: %s", rule.Text)
	a, err := d.ask(ctx, "status")
	if err != nil {
		return err
	}
	told := a.State.Status != nil && slices.ContainsFunc(a.State.Status.Reasons, func(q agentapi.Reason) bool { return !q.Holds && q.Text == rule.Text })
	r.check(told && rule.Text != "", "lazaret status on dev1 says so, too")
	r.check(slices.Contains(x.Remedies, rule.Remedy) && rule.Remedy != "", "what would change it: %s", rule.Remedy)
	return nil
}

// mendRule turns dev1's firewall on, and times the way back.
func (d *demo) mendRule(ctx context.Context, r *result) error {
	if err := d.firewall(ctx, ownTable, "on"); err != nil {
		return err
	}
	took, answered, err := d.timeRelease(ctx, d.honest, netip.Addr{}, "", func(ctx context.Context) (sent, done testnet.Stamp, err error) {
		a, err := d.agentReports(ctx)
		return a.Sent, a.Answered, err
	})
	if err != nil {
		return err
	}
	x, err := d.operator.explain(ctx, d.honest.enrolled.Name)
	if err != nil {
		return err
	}
	r.figure("mended_to_first_packet_ms", took)
	r.figure("mended_answered_ms", answered)
	r.check(took > 0 && took < 5*time.Second && x.Decided.Stage == "routed", "its firewall is on again, lazaret report: dev1 is %s, first packet at the intranet server %s later", x.Decided.Stage, ms(took))
	return nil
}
