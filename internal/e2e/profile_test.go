package e2e

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"lazaret/enroll/cmp"
	"lazaret/internal/console/api"
	"lazaret/internal/testneed"
)

// TestApproval is X10: a device of a profile that asks for approval has a certificate and
// no peer, whatever is reported, until a person admits it; and then it is in quarantine.
func TestApproval(t *testing.T) {
	t.Parallel()
	nft := testneed.Program(t, "nft")
	g := newGateway(t, options{})
	g.want(t, http.StatusOK, "PUT", "/api/v1/profiles/asked", api.Profile{Pool: "full", NeedApproval: true}, nil)
	d := enrolled(t, g, theLab(t).Dev1, api.OTPRequest{Profile: "asked"})
	other := enrolled(t, g, theLab(t).Dev1, api.OTPRequest{})
	table := func() string { return command(t, g.host, nft, "list", "table", "inet", "lazaret") }
	d.open(t)
	other.open(t)
	if !other.shut(t) || !strings.Contains(table(), other.quarantine.String()) {
		t.Fatalf("a device that needs no approval is not in quarantine:\n%s", table())
	}
	pending := func(when string) {
		t.Helper()
		if e := g.explain(t, d.id); e.Decided.Stage != "pending" || !unmet(e, "approval") {
			t.Errorf("%s: %+v; want it pending for want of approval", when, e.Decided)
		}
		if text := table(); strings.Contains(text, d.quarantine.String()) || strings.Contains(text, d.full.String()) {
			t.Errorf("%s: the table names a pending device:\n%s", when, text)
		}
		if got := reach(t, d)[0]; got != (seen{}) {
			t.Errorf("%s: a pending device reaches %+v", when, got)
		}
	}
	pending("enrolled")
	if s := g.reported(t, d.id, "compliant"); s != "pending" {
		t.Errorf("a report made a pending device %s", s)
	}
	pending("reported compliant")
	g.reported(t, d.id, "noncompliant")
	g.want(t, http.StatusOK, "POST", "/api/v1/devices/"+d.id+"/approve", api.ActionRequest{Why: "seen it"}, nil)
	d.reopen(t)
	if !d.shut(t) {
		t.Error("an approved device is not in quarantine")
	}
	var entry api.AuditEntry
	for _, e := range g.audit(t, d.id) {
		if e.Action == "device.approve" {
			entry = e
		}
	}
	if entry.By == "" || !strings.Contains(entry.By, "tester") {
		t.Errorf("the audit log tells of the approval as %+v", entry)
	}
}

// TestSkipQuarantine is M12: only a profile that says so starts a device with full routing,
// the audit log says so, and the first bad report ends it.
func TestSkipQuarantine(t *testing.T) {
	t.Parallel()
	g := newGateway(t, options{})
	g.want(t, http.StatusOK, "PUT", "/api/v1/profiles/fast", api.Profile{Pool: "full", SkipQuarantine: true}, nil)
	d := enrolled(t, g, theLab(t).Dev2, api.OTPRequest{Profile: "fast"})
	if e := g.explain(t, d.id); e.Decided.Stage != "routed" || e.Decided.Reasons[0].Rule != "release.profile" || !e.Decided.Until.Equal(d.result.Certificate.NotAfter) {
		t.Errorf("%+v; want it routed by its profile until its certificate ends, %s", e.Decided, d.result.Certificate.NotAfter)
	}
	d.open(t)
	if !d.routed(t) {
		t.Error("a device that skips quarantine reaches nothing")
	}
	told := false
	for _, e := range g.audit(t, d.id) {
		for _, v := range e.Detail {
			told = told || e.Action == "enroll.note" && strings.Contains(v, "skips quarantine")
		}
	}
	if !told {
		t.Error("the audit log does not tell that quarantine was skipped")
	}
	if s := g.reported(t, d.id, "noncompliant"); s != "quarantined" || !d.shut(t) {
		t.Errorf("after a bad report it is %s", s)
	}

	s := newStock(t, g, theLab(t).Dev2) // and nobody skips the proof of the WireGuard key
	s.makeKey("dev.key")
	s.cmp("", s.ir("dev.key", "dev.crt", g.otp(t, api.OTPRequest{User: "stock@example.com", Profile: "fast"}).Code)...)
	if e := g.explain(t, s.certificate("dev.crt").Subject.CommonName); e.Decided.Stage != "quarantined" || !unmet(e, "proof") {
		t.Errorf("an unproven device of that profile: %+v", e.Decided)
	}
}

// TestConstraints is M11: a profile and a one-time password say which device may come.
func TestConstraints(t *testing.T) {
	t.Parallel()
	g := newGateway(t, options{})
	host := theLab(t).Dev1
	g.want(t, http.StatusOK, "PUT", "/api/v1/profiles/strict", api.Profile{
		Pool: "full", NeedSerial: true, Platforms: []string{"linux", "macos"}, Ownerships: []string{"corporate"},
	}, nil)
	for name, r := range map[string]api.OTPRequest{
		"serial": {User: "x", Profile: "strict"}, "platform": {User: "x", Profile: "strict", Serial: "S1", Ownership: "corporate", Platform: "windows"},
		"ownership": {User: "x", Profile: "strict", Serial: "S1"},
	} {
		before := g.everything(t)
		if a := g.call(t, "POST", "/api/v1/otps", r, nil); a.status != http.StatusUnprocessableEntity || !strings.HasPrefix(a.problem.Error, name+" ") {
			t.Errorf("a password without a fitting %s: %s", name, a)
		}
		if g.everything(t) != before {
			t.Errorf("a refused password for want of a %s changed something", name)
		}
	}
	o := g.otp(t, api.OTPRequest{User: "x", Profile: "strict", Serial: "S1", Ownership: "corporate", Platform: "linux"})
	d := newDevice(t, g, host)
	good := cmp.Claim{Version: 1, Serial: "S1", Platform: "linux", Ownership: "corporate"}
	with := func(change func(*cmp.Claim)) *cmp.Claim {
		c := good
		change(&c)
		return &c
	}
	for name, claim := range map[string]*cmp.Claim{
		"nothing said": nil, "no serial": with(func(c *cmp.Claim) { c.Serial = "" }), "another serial": with(func(c *cmp.Claim) { c.Serial = "S2" }),
		"a platform of the profile, not of the password": with(func(c *cmp.Claim) { c.Platform = "macos" }),
		"another platform":  with(func(c *cmp.Claim) { c.Platform = "windows" }),
		"another ownership": with(func(c *cmp.Claim) { c.Ownership = "personal" }),
	} {
		before := g.everything(t)
		err := d.enroll(soon(t), t, o.Code, claim)
		if s, ok := errors.AsType[cmp.StatusInfo](err); !ok || s.Fail != cmp.NotAuthorized || len(s.Text) == 0 {
			t.Errorf("%s: %v; want a protected notAuthorized that says why", name, err)
		}
		if g.everything(t) != before {
			t.Errorf("%s: a refused enrollment changed something", name)
		}
	}
	if err := d.enroll(soon(t), t, o.Code, &good); err != nil {
		t.Fatal(err)
	}
	if a := g.show(t, d.id); a.Serial != "S1" || a.Platform != "linux" || a.Ownership != "corporate" || a.Profile != "strict" {
		t.Errorf("admitted as %+v", a)
	}
}
