package enroll

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/enroll/cmp"
	"lazaret/enroll/code"
	"lazaret/quarantine"
)

func TestCreateOTP(t *testing.T) {
	g := newGateway(t)
	g.store.devices["d-old"] = quarantine.Record{Device: quarantine.Device{ID: "d-old", Owner: "anna"}}
	g.store.devices["d-blocked"] = quarantine.Record{Device: quarantine.Device{ID: "d-blocked", Owner: "anna", Stage: quarantine.Blocked}}
	g.store.devices["d-revoked"] = quarantine.Record{Device: quarantine.Device{ID: "d-revoked", Owner: "anna", Stage: quarantine.Revoked}}
	for _, c := range []struct {
		name  string
		r     Request
		field string // of a RequestError
		err   error
	}{
		{"plain", Request{User: "anna", Profile: "plain"}, "", nil},
		{"seven days", Request{User: "anna", Profile: "plain", Life: 7 * 24 * hour}, "", nil},
		{"a second longer", Request{User: "anna", Profile: "plain", Life: 7*24*hour + time.Second}, "life", ErrRequest},
		{"negative life", Request{User: "anna", Profile: "plain", Life: -1}, "life", ErrRequest},
		{"no user", Request{Profile: "plain"}, "user", ErrRequest},
		{"user of two lines", Request{User: "anna\nroot", Profile: "plain"}, "user", ErrRequest},
		{"no profile", Request{User: "anna"}, "", ErrNoProfile},
		{"unknown profile", Request{User: "anna", Profile: "nope"}, "", ErrNoProfile},
		{"serial needed", Request{User: "anna", Profile: "serial"}, "serial", ErrRequest},
		{"serial given", Request{User: "anna", Profile: "serial", Serial: "C02X1"}, "", nil},
		{"platform", Request{User: "anna", Profile: "linux", Platform: "windows", Ownership: "corporate"}, "platform", ErrRequest},
		{"ownership needed", Request{User: "anna", Profile: "linux"}, "ownership", ErrRequest},
		{"ownership", Request{User: "anna", Profile: "linux", Ownership: "personal"}, "ownership", ErrRequest},
		{"name", Request{User: "anna", Profile: "plain", Name: "../etc"}, "name", ErrRequest},
		{"device", Request{User: "anna", Profile: "plain", Device: "d-old"}, "", nil},
		{"unknown device", Request{User: "anna", Profile: "plain", Device: "d-none"}, "", quarantine.ErrUnknownDevice},
		{"another's device", Request{User: "bert", Profile: "plain", Device: "d-old"}, "device", ErrRequest},
		{"blocked device", Request{User: "anna", Profile: "plain", Device: "d-blocked"}, "device", ErrRequest},
		{"revoked device", Request{User: "anna", Profile: "plain", Device: "d-revoked"}, "", quarantine.ErrFinal},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(g.store.otps)
			shown, o, err := g.CreateOTP(t.Context(), administrator, c.r)
			if !errors.Is(err, c.err) {
				t.Fatalf("got %v, want %v", err, c.err)
			}
			if r, ok := errors.AsType[*RequestError](err); c.field != "" && (!ok || r.Field != c.field) {
				t.Errorf("got %v, want a fault of %q", err, c.field)
			}
			if err != nil {
				if len(g.store.otps) != before {
					t.Error("refused and recorded")
				}
				return
			}
			stored := g.store.otps[o.Reference]
			if o.Secret != nil || len(stored.Secret) == 0 || contains(string(stored.Secret), shown.Secret) {
				t.Error("the secret must be in the store, sealed, and nowhere else")
			}
			parsed, err := code.Parse(shown.String())
			if err != nil || parsed.Reference != o.Reference {
				t.Errorf("code does not parse back: %v", err)
			}
			want := c.r.Life
			if want == 0 {
				want = 8 * hour
			}
			if o.State != Pending || o.Expires.Sub(*g.clock.Load()) != want || o.By != administrator {
				t.Errorf("OTP %+v, want it pending for %v", o, want)
			}
		})
	}
}

// TestNamesLikeIDs: a device named like another's ID would be found in its place.
func TestNamesLikeIDs(t *testing.T) {
	g := newGateway(t)
	for name, ok := range map[string]bool{
		string(newID()): false, strings.ToUpper(string(newID())): false, "d-0123456789abcdef0123": false,
		"d-0123456789abcdef012": true, "d-0123456789abcdef01234": true, "d-0123456789abcdef012g": true, "e-0123456789abcdef0123": true,
	} {
		_, _, err := g.CreateOTP(t.Context(), administrator, Request{User: "anna", Profile: "plain", Name: name})
		if r, is := errors.AsType[*RequestError](err); (err == nil) != ok || !ok && (!is || r.Field != "name") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// once is a store in which the first references drawn were used before.
type once struct {
	*memory
	used int
}

func (o *once) CreateOTP(ctx context.Context, by quarantine.Actor, otp OTP) error {
	if o.used--; o.used >= 0 {
		return ErrExists
	}
	return o.memory.CreateOTP(ctx, by, otp)
}

func TestReferencesAreNeverReused(t *testing.T) {
	s := &once{used: 3}
	g := newGateway(t, func(c *Config) { s.memory = c.Store.(*memory); c.Store = s })
	g.device(t, Request{}).enroll() // sealed for the reference that was free at last
	s.used = 100
	if _, _, err := g.CreateOTP(t.Context(), administrator, Request{User: "anna", Profile: "plain"}); !errors.Is(err, ErrExists) {
		t.Errorf("got %v, want ErrExists once it is clear that something is wrong", err)
	}
}

func TestCancelOTP(t *testing.T) {
	g := newGateway(t)
	pending, used, over := g.device(t, Request{}), g.device(t, Request{}), g.device(t, Request{Life: hour})
	used.enroll()
	if err := g.CancelOTP(t.Context(), administrator, pending.code.Reference); err != nil {
		t.Fatal(err)
	}
	if o := g.store.otps[pending.code.Reference]; o.State != Cancelled || o.Secret != nil {
		t.Errorf("OTP is %s, secret of %d bytes; want it cancelled and erased", o.State, len(o.Secret))
	}
	g.later(hour)
	for _, d := range []*device{pending, used, over} {
		if err := g.CancelOTP(t.Context(), administrator, d.code.Reference); !errors.Is(err, ErrUsed) {
			t.Errorf("cancelling what is not pending: %v, want ErrUsed", err)
		}
	}
	if err := g.CancelOTP(t.Context(), administrator, "ZZZZZZZZ"); !errors.Is(err, ErrNoOTP) {
		t.Errorf("got %v, want ErrNoOTP", err)
	}
}

func TestListOTPs(t *testing.T) {
	g := newGateway(t)
	short := g.device(t, Request{Life: hour})
	g.later(time.Second)
	long := g.device(t, Request{})
	g.later(hour)
	all, err := g.ListOTPs(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("%d OTPs, %v", len(all), err)
	}
	if all[0].Reference != short.code.Reference || all[0].State != Expired || all[1].Reference != long.code.Reference || all[1].State != Pending {
		t.Errorf("listed %s %s, %s %s; want the first expired, the second pending", all[0].Reference, all[0].State, all[1].Reference, all[1].State)
	}
	for _, o := range all {
		if o.Secret != nil {
			t.Error("a list holds a secret")
		}
	}
}

// TestTryingProlongsNothing: wg-easy #2370, where using a link made it live longer.
func TestTryingProlongsNothing(t *testing.T) {
	g := newGateway(t)
	d := g.device(t, Request{Life: hour})
	before := g.store.otps[d.code.Reference]
	d.ask(d.genm())
	d.claim.Serial = "x"
	g.later(59 * time.Minute)
	d.ask(d.genm())
	if after := g.store.otps[d.code.Reference]; !after.Expires.Equal(before.Expires) || after.Revision != before.Revision {
		t.Error("a try changed the OTP")
	}
	g.later(time.Minute)
	if m := d.parse(d.post(d.genm())); m.Protection != nil {
		t.Error("usable after its expiry")
	}
}

// TestStoreKnowsBetter: the store compares with the highest time it ever saw, so a clock
// that was set back does not bring an OTP to life.
func TestStoreKnowsBetter(t *testing.T) {
	g := newGateway(t)
	d := g.device(t, Request{Life: hour})
	seen := g.clock.Load().Add(2 * hour)
	g.store.clock = func() time.Time { return seen }
	if m := d.parse(d.post(d.p10cr())); m.Protection != nil || g.store.live() != 0 {
		t.Errorf("kind %d, %d devices; want the uniform refusal", m.Body.Kind, g.store.live())
	}
}

func TestHousekeeping(t *testing.T) {
	g := newGateway(t)
	expiring, issued, confirmed, cancelled := g.device(t, Request{Life: hour}), g.device(t, Request{Life: 48 * hour}), g.device(t, Request{}), g.device(t, Request{})
	seen := g.device(t, Request{})
	lost := issued.certificate(issued.ask(issued.p10cr()))
	kept, _ := confirmed.enroll()
	met := seen.certificate(seen.ask(seen.p10cr()))
	if _, err := g.store.Confirm(t.Context(), administrator, quarantine.ID(met.Subject.CommonName)); err != nil { // it came in by mTLS
		t.Fatal(err)
	}
	o := g.store.otps[cancelled.code.Reference]
	o.State = Cancelled // with its secret left, as no path of ours leaves it
	g.store.otps[cancelled.code.Reference] = o

	type want struct {
		state  State
		secret bool
	}
	check := func(when string, wants map[*device]want) {
		t.Helper()
		if err := g.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		for d, w := range wants {
			if o := g.store.otps[d.code.Reference]; o.State != w.state || (len(o.Secret) > 0) != w.secret {
				t.Errorf("%s: OTP is %s, secret kept %v; want %s, %v", when, o.State, len(o.Secret) > 0, w.state, w.secret)
			}
		}
	}
	g.later(hour - time.Second)
	check("just before the hour", map[*device]want{
		expiring: {Pending, true}, issued: {Issued, true}, confirmed: {Confirmed, true}, cancelled: {Cancelled, false}, seen: {Issued, true}})
	g.later(time.Second)
	check("at the hour", map[*device]want{
		expiring: {Expired, false}, issued: {Issued, false}, confirmed: {Confirmed, false}, seen: {Issued, false}})
	g.later(23*hour - time.Second)
	check("just before the day", map[*device]want{issued: {Issued, false}, seen: {Issued, false}})
	writes := len(g.store.writes)
	if err := g.sweep(t.Context()); err != nil || len(g.store.writes) != writes {
		t.Errorf("a second round wrote again: %v", err)
	}
	g.later(time.Second)
	check("at the day", map[*device]want{issued: {Expired, false}, seen: {Confirmed, false}, confirmed: {Confirmed, false}})
	for cert, stage := range map[string]quarantine.Stage{lost.Subject.CommonName: quarantine.Revoked, kept.Subject.CommonName: quarantine.Quarantined, met.Subject.CommonName: quarantine.Quarantined} {
		if r := g.store.devices[quarantine.ID(cert)]; r.Stage != stage {
			t.Errorf("device is %s, want %s", r.Stage, stage)
		}
	}
}

// TestGateThatLags: the gate follows the store, and may hear of a device after the
// device has confirmed already.
func TestGateThatLags(t *testing.T) {
	g := newGateway(t)
	g.store.lag = true
	d := g.device(t, Request{})
	_, r := d.enroll()
	if o := g.store.otps[d.code.Reference]; o.State != Confirmed || r.Confirmed {
		t.Fatalf("OTP is %s, record confirmed %v", o.State, r.Confirmed)
	}
	g.store.lag = false
	if err := g.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := g.store.devices[r.ID]; !r.Confirmed {
		t.Error("housekeeping did not tell the gate")
	}
}

// TestShorterRepeat: a gateway may give lost answers again for less than an hour, never longer.
func TestShorterRepeat(t *testing.T) {
	for set, want := range map[time.Duration]time.Duration{time.Minute: time.Minute, 2 * hour: hour, 0: hour} {
		g := newGateway(t, func(c *Config) { c.RepeatFor = set })
		d := g.device(t, Request{})
		d.enroll()
		g.later(want - time.Second)
		if m := d.ask(d.p10cr()); m.Body.Kind != cmp.CP {
			t.Errorf("set to %v: refused before %v: %v", set, want, m.Body.Error.Status)
		}
		g.later(time.Second)
		if m := d.parse(d.post(d.p10cr())); m.Protection != nil {
			t.Errorf("set to %v: answered after %v", set, want)
		}
	}
}

// TestUnconfirmedButReplaced: what a later OTP made of the device is not taken away for
// the earlier one's sake.
func TestUnconfirmedButReplaced(t *testing.T) {
	g := newGateway(t)
	first := g.device(t, Request{})
	cert := first.certificate(first.ask(first.p10cr()))
	id := quarantine.ID(cert.Subject.CommonName)
	g.device(t, Request{Device: id}).enroll()
	g.later(24 * hour)
	if err := g.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := g.store.devices[id]; r.Stage != quarantine.Quarantined {
		t.Errorf("device is %s", r.Stage)
	}
}

// TestOldOTPConfirmsNothingNewer: neither housekeeping nor a repeated certConf takes the
// confirmation of one certificate for that of the next.
func TestOldOTPConfirmsNothingNewer(t *testing.T) {
	g := newGateway(t)
	first := g.device(t, Request{})
	answer := first.ask(first.p10cr())
	cert := first.certificate(answer)
	first.ask(first.certConf(answer, cert))
	id := quarantine.ID(cert.Subject.CommonName)
	second := g.device(t, Request{Device: id})
	lost := second.certificate(second.ask(second.p10cr()))
	if err := g.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := g.store.devices[id]; r.Confirmed || r.Certificate.Sum != sha256.Sum256(lost.Raw) {
		t.Errorf("after housekeeping: confirmed %v", r.Confirmed)
	}
	if m := first.ask(first.certConf(answer, cert)); m.Body.Kind != cmp.PKIConf {
		t.Errorf("the old confirmation again: kind %d", m.Body.Kind)
	}
	if r := g.store.devices[id]; r.Confirmed {
		t.Error("the old certConf confirmed the new certificate")
	}
	g.later(24 * hour)
	if err := g.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := g.store.devices[id]; r.Stage != quarantine.Revoked {
		t.Errorf("never confirmed and never seen: %s, want revoked", r.Stage)
	}
}

// TestSeenIsAsGoodAsConfirmed: a device whose certConf never came, but which was seen
// with its certificate, stays; one that was seen only with an earlier one does not.
func TestSeenIsAsGoodAsConfirmed(t *testing.T) {
	g := newGateway(t)
	ask := func(d *device) quarantine.ID {
		return quarantine.ID(d.certificate(d.ask(d.p10cr())).Subject.CommonName)
	}
	seen := g.device(t, Request{})
	stays := ask(seen)
	goes := ask(g.device(t, Request{}))
	for _, id := range []quarantine.ID{stays, goes} { // as the agent API does at the first request
		if _, err := g.store.Confirm(t.Context(), quarantine.Actor{Kind: "device", Name: string(id)}, id); err != nil {
			t.Fatal(err)
		}
	}
	again := g.device(t, Request{Device: goes})
	if ask(again) != goes {
		t.Fatal("enrolled as another device")
	}
	g.later(24 * hour)
	if err := g.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := g.store.devices[stays]; r.Stage != quarantine.Quarantined || g.store.otps[seen.code.Reference].State != Confirmed {
		t.Errorf("seen and not confirmed: device %s, OTP %s", r.Stage, g.store.otps[seen.code.Reference].State)
	}
	if r := g.store.devices[goes]; r.Stage != quarantine.Revoked || g.store.otps[again.code.Reference].State != Expired {
		t.Errorf("enrolled again and never seen since: device %s, OTP %s", r.Stage, g.store.otps[again.code.Reference].State)
	}
}

func TestRunEndsAndGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGateway(t)
		g.config.Clock = time.Now
		g.restart(t)
		d := g.device(t, Request{Life: hour})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		g.store.down(errDown)
		go func() { done <- g.Run(ctx) }()
		time.Sleep(2*hour + time.Second) // not on a tick
		g.store.down(nil)
		time.Sleep(time.Minute)
		o, err := g.store.OTP(t.Context(), d.code.Reference)
		if err != nil {
			t.Fatal(err)
		}
		if o.State != Expired || o.Secret != nil {
			t.Errorf("OTP is %s after the store came back, want it expired", o.State)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}
