package e2e

import (
	"bytes"
	"context"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"lazaret/enroll/client"
	"lazaret/enroll/code"
	"lazaret/internal/audit"
	"lazaret/internal/console/api"
	"lazaret/internal/testneed"
	"lazaret/internal/testnet"
)

// fate is what decides where a device of the default profile stands.
type fate struct{ compliant, blocked bool }

func (f fate) stage() string {
	switch {
	case f.blocked:
		return "blocked"
	case f.compliant:
		return "routed"
	}
	return "quarantined"
}

// move is one order about a device, and what it makes of its fate.
type move struct {
	name string
	then func(fate) fate
	send func(context.Context, *operator, string) (answered, error)
}

func reports(verdict string) func(context.Context, *operator, string) (answered, error) {
	return func(ctx context.Context, o *operator, device string) (answered, error) {
		return o.report(ctx, api.ReportRequest{Device: device, Verdict: verdict}, nil)
	}
}

func acts(action string) func(context.Context, *operator, string) (answered, error) {
	return func(ctx context.Context, o *operator, device string) (answered, error) {
		return o.try(ctx, "POST", "/api/v1/devices/"+device+"/"+action, api.ActionRequest{Why: "test"}, nil)
	}
}

var moves = []move{
	{"compliant", func(f fate) fate { f.compliant = true; return f }, reports("compliant")},
	{"noncompliant", func(f fate) fate { f.compliant = false; return f }, reports("noncompliant")},
	{"block", func(f fate) fate { f.blocked = true; return f }, acts("block")},
	{"unblock", func(f fate) fate { f.blocked = false; return f }, acts("unblock")},
}

// subject is a device that is moved to and fro. An order that was answered counts; one
// whose answer the kill took may count or not.
type subject struct {
	*device
	possible map[fate]bool
}

// move sends orders until one is not answered.
func (s *subject) move(ctx context.Context, t *testing.T, random *rand.Rand) {
	for {
		m := moves[random.IntN(len(moves))]
		a, err := m.send(ctx, s.g.operator, s.id)
		after := map[fate]bool{}
		for f := range s.possible {
			after[m.then(f)] = true
			if err != nil {
				after[f] = true
			}
		}
		s.possible = after
		if err != nil {
			return
		}
		if a.status != http.StatusOK && a.status != http.StatusAccepted {
			t.Errorf("%s of %s: %s", m.name, s.id, a)
			return
		}
	}
}

// may says whether one possible fate is the stage.
func (s *subject) may(stage string) bool {
	for f := range s.possible {
		if f.stage() == stage {
			return true
		}
	}
	return false
}

// packets compares what the devices' packets reach with what they may and must. The
// tunnels are opened anew before: who was without a peer for a while must greet the
// gateway first.
func packets(t *testing.T, when string, subjects []*subject) {
	t.Helper()
	var devices []*device
	for _, s := range subjects {
		s.reopen(t)
		devices = append(devices, s.device)
	}
	for i, first := range reach(t, devices...) {
		s, got := subjects[i], first.stage()
		if !s.may(got) && !first.intranet {
			got = s.reaches(t, s.may) // it may take a while
		}
		if !s.may(got) {
			t.Errorf("%s: %s reaches what a device does that is %s; it may only be %v", when, s.id, got, s.possible)
		}
	}
}

// settled compares what the API says after a restart with what must be.
func (s *subject) settled(t *testing.T) {
	t.Helper()
	stage := s.g.show(t, s.id).Stage
	if !s.may(stage) {
		t.Errorf("%s is %s after the restart; it may only be %v", s.id, stage, s.possible)
	}
	var e api.Explanation
	until(t, s.id+" is enforced", func() bool { // what the journal held is being recorded, and applied once more
		e = s.g.explain(t, s.id)
		return e.Enforced
	})
	if e.Decided.Stage != stage {
		t.Errorf("%s is %s, and explained as %+v", s.id, stage, e)
	}
	maps.DeleteFunc(s.possible, func(f fate, _ bool) bool { return f.stage() != stage })
}

// applicant is a device whose enrollment is tried until it succeeds.
type applicant struct {
	*device
	otp api.OTPCreated
}

// enrollAll enrolls the applicants that were left over, then new ones, until an answer
// stays out; it returns all who ever tried.
func enrollAll(ctx context.Context, t *testing.T, g *gateway, h *testnet.Host, all []*applicant) []*applicant {
	try := func(a *applicant) bool {
		c, err := code.Parse(a.otp.Code)
		if err != nil {
			t.Error(err)
			return false
		}
		_, err = a.client(t, client.Config{Attempts: 1}).Enroll(ctx, c, a.device)
		return err == nil
	}
	for _, a := range all {
		if a.result == nil && !try(a) {
			return all
		}
	}
	for {
		a := &applicant{device: newDevice(t, g, h)}
		got, err := g.try(ctx, "POST", "/api/v1/otps", api.OTPRequest{User: "eve@example.com"}, &a.otp)
		if err != nil || got.status != http.StatusCreated {
			return all
		}
		all = append(all, a)
		if !try(a) {
			return all
		}
	}
}

// whole says that every device has all that makes one, shares none of it, and is what
// its password says: one for each that was used, none for the others.
func whole(t *testing.T, g *gateway, all []*applicant) {
	t.Helper()
	taken := map[any]string{}
	byKey := map[string]api.Device{}
	for _, d := range g.devices(t) {
		byKey[d.Key] = d
		if d.ID == "" || d.Name == "" || d.Seat == 0 || d.Key == "" || d.Certificate == "" || d.NotAfter.IsZero() || d.Stage == "" || len(d.Addresses) == 0 {
			t.Errorf("half a device: %+v", d)
		}
		for _, what := range []any{d.Seat, "id " + d.ID, "name " + d.Name, "key " + d.Key, "certificate " + d.Certificate} {
			if other := taken[what]; other != "" {
				t.Errorf("%s and %s share %v", other, d.ID, what)
			}
			taken[what] = d.ID
		}
	}
	var otps []api.OTP
	g.want(t, http.StatusOK, "GET", "/api/v1/otps", nil, &otps)
	for _, a := range all {
		d, there := byKey[a.wg.Public().String()]
		i := slices.IndexFunc(otps, func(o api.OTP) bool { return o.Reference == a.otp.Reference })
		switch {
		case i < 0:
			t.Errorf("password %s was answered, and is lost", a.otp.Reference)
		case there != (otps[i].State != "pending") || there && otps[i].Device != d.ID:
			t.Errorf("password %s is %s for %q, its device there: %v", a.otp.Reference, otps[i].State, otps[i].Device, there)
		case a.result != nil && (!there || d.Certificate != a.serial()):
			t.Errorf("a certificate %s was answered, and the gateway has %q", a.serial(), d.Certificate)
		}
	}
}

// TestKillControlPlane kills serve with SIGKILL at random moments of enrollments and
// moves. What was answered stands, what was not may; nothing is halved or shared; and a
// device never has more than was decided, neither while nobody is in control nor after.
func TestKillControlPlane(t *testing.T) {
	t.Parallel()
	g := newGateway(t, options{})
	lab := theLab(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var subjects []*subject
	for _, h := range []*testnet.Host{lab.Dev1, lab.Dev2} {
		s := &subject{device: enrolled(t, g, h, api.OTPRequest{User: "bob@example.com"}), possible: map[fate]bool{{}: true}}
		s.open(t)
		if !s.shut(t) {
			t.Fatal("a new device reaches the intranet")
		}
		subjects = append(subjects, s)
	}
	rounds := 15
	if testing.Short() {
		rounds = 4
	}
	var applicants []*applicant
	for range rounds {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		var busy sync.WaitGroup
		busy.Go(func() { applicants = enrollAll(ctx, t, g, lab.Dev1, applicants) })
		for _, s := range subjects {
			own := rand.New(rand.NewPCG(random.Uint64(), 0))
			busy.Go(func() { s.move(ctx, t, own) })
		}
		<-time.After(time.Duration(random.IntN(400)) * time.Millisecond)
		if err := g.serve.Kill(ctx); err != nil {
			t.Fatal(err)
		}
		busy.Wait()
		cancel()
		packets(t, "with the control plane dead", subjects)
		if t.Failed() {
			t.FailNow()
		}
		g.startServe(t)
		g.awaitReady(t)
		for _, s := range subjects {
			s.settled(t)
		}
		packets(t, "after the restart", subjects)
		whole(t, g, applicants)
		if t.Failed() {
			t.FailNow() // what follows would only say it again
		}
	}
	for _, a := range applicants { // whoever was cut off gets the certificate there is, or the first
		if a.result != nil {
			continue
		}
		if err := a.enroll(soon(t), t, a.otp.Code, nil); err != nil {
			t.Errorf("enrolling after the last kill: %v", err)
		}
	}
	whole(t, g, applicants)
	t.Logf("%d rounds, %d applicants", rounds, len(applicants))
	chained(t, g, len(applicants)+len(subjects))
}

// TestKillDataPlane kills the data plane. What is decided meanwhile is in force from its
// return on; and one that returns to a dead control plane lets nobody be routed whom the
// table that it finds still says to be.
func TestKillDataPlane(t *testing.T) {
	t.Parallel()
	g := newGateway(t, options{})
	lab := theLab(t)
	var subjects []*subject
	for _, h := range []*testnet.Host{lab.Dev1, lab.Dev2} {
		s := &subject{device: enrolled(t, g, h, api.OTPRequest{}), possible: map[fate]bool{{}: true}}
		s.open(t)
		subjects = append(subjects, s)
	}
	is := func(s *subject, f fate) { s.possible = map[fate]bool{f: true} }
	bad, good := subjects[0], subjects[1]
	for range 3 {
		g.reported(t, bad.id, "compliant")
		is(bad, fate{compliant: true})
		packets(t, "before", subjects)
		if err := g.plane.Kill(soon(t)); err != nil {
			t.Fatal(err)
		}
		for s, verdict := range map[*subject]string{bad: "noncompliant", good: "compliant"} {
			var p api.Placed
			a, err := g.report(soon(t), api.ReportRequest{Device: s.id, Verdict: verdict}, &p)
			if err != nil || a.status != http.StatusAccepted || p.Enforced {
				t.Errorf("a report without a data plane: %s, %v; want 202, and not enforced", a, err)
			}
		}
		if e := g.explain(t, bad.id); e.Enforced || e.Decided.Stage != "quarantined" || e.Problem == "" {
			t.Errorf("explained without a data plane: %+v", e)
		}
		g.startPlane(t)
		is(bad, fate{})
		is(good, fate{compliant: true})
		until(t, "the data plane confirms", func() bool { return g.explain(t, bad.id).Enforced && g.explain(t, good.id).Enforced })
		packets(t, "after the data plane's return", subjects)
		bad, good = good, bad
		g.reported(t, good.id, "noncompliant")
		is(good, fate{})
	}
	t.Run("with the control plane dead", func(t *testing.T) { returnsAlone(t, g, bad, good) })
}

// returnsAlone restarts the data plane while nobody controls it.
func returnsAlone(t *testing.T, g *gateway, routed, quarantined *subject) {
	nft := testneed.Program(t, "nft")
	list := func() string { return command(t, g.host, nft, "list", "table", "inet", "lazaret") }
	packets(t, "before", []*subject{routed, quarantined})
	if !strings.Contains(list(), routed.full.String()) {
		t.Fatalf("%s is routed, and the table does not name it", routed.full)
	}
	for _, p := range []*testnet.Process{g.serve, g.plane} {
		if err := p.Kill(soon(t)); err != nil {
			t.Fatal(err)
		}
	}
	if !strings.Contains(list(), routed.full.String()) {
		t.Error("the table went with the data plane")
	}
	g.startPlane(t)
	if text := list(); strings.Contains(text, routed.full.String()) {
		t.Errorf("a data plane without a plan has a device routed:\n%s", text)
	}
	for i, s := range reach(t, routed.device, quarantined.device) {
		if s.intranet {
			t.Errorf("device %d reaches the intranet through a data plane without a plan", i)
		}
	}
	g.startServe(t)
	g.awaitReady(t)
	packets(t, "after everything's return", []*subject{routed, quarantined})
}

// chained checks the exported audit log against the head that the gateway names, and that
// each device was enrolled once in it.
func chained(t *testing.T, g *gateway, devices int) {
	t.Helper()
	var head audit.Head
	until(t, "the audit log tells of every enrollment", func() bool {
		seen := map[string]int{}
		for _, e := range g.audit(t, "") {
			if e.Action == "device.enroll" {
				seen[e.Device]++
			}
		}
		for d, n := range seen {
			if n != 1 {
				t.Fatalf("the audit log tells %d times that %s enrolled", n, d)
			}
		}
		return len(seen) == devices
	})
	g.want(t, http.StatusOK, "GET", "/api/v1/audit/head", nil, &head)
	export := g.want(t, http.StatusOK, "GET", "/api/v1/audit/export", nil, nil)
	r, err := audit.VerifyTar(bytes.NewReader(export.body), head)
	if err != nil || !r.Saved || len(r.Breaks) > 0 || r.Entries < uint64(devices) {
		t.Errorf("the audit log: %+v, %v", r, err)
	}
}
