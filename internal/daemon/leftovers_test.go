package daemon

import (
	"encoding/json"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"lazaret/firewall"
	"lazaret/internal/attest"
	"lazaret/internal/store/enrolltest"
	"lazaret/quarantine"
)

// records is a gate that knows some devices.
type records map[string]quarantine.Record

func (r records) Device(id string) (quarantine.Record, error) {
	if d, ok := r[id]; ok {
		return d, nil
	}
	return quarantine.Record{}, quarantine.ErrUnknownDevice
}

// TestLeftoversOfRevokedDevices: what is kept of the TPM of a revoked or forgotten device goes.
// One that the gate does not know yet keeps it, as do others' settings.
func TestLeftoversOfRevokedDevices(t *testing.T) {
	s, _ := newStore(t)
	ctx, admin := t.Context(), quarantine.Actor{Kind: "administrator", Name: "root"}
	for _, p := range []quarantine.Pool{
		{Name: "quarantine", Quarantine: true, IPv4: netip.MustParsePrefix("10.80.0.0/20"),
			Reach: []firewall.Reach{{To: netip.MustParsePrefix("203.0.113.5/32"), Protocol: "tcp", From: 443, Up: 443}}},
		{Name: "staff", IPv4: netip.MustParsePrefix("10.81.0.0/20")},
	} {
		if err := s.PutPool(ctx, admin, p); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.PutProfile(ctx, admin, quarantine.Profile{Name: "laptop", Pool: "staff"}); err != nil {
		t.Fatal(err)
	}
	known, fresh, revoked := enrolltest.Enroll(t, s, 1), enrolltest.Enroll(t, s, 2), enrolltest.Enroll(t, s, 3)
	tpms := newAttestation(s, "gw", slog.New(slog.DiscardHandler)).tpms
	for _, id := range []quarantine.ID{known.ID, fresh.ID, revoked.ID, "d-gone"} {
		if err := tpms.Save(ctx, string(id), attest.State{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := tpms.SetTrust(ctx, admin, attest.Trust{}); err != nil {
		t.Fatal(err)
	}
	next := revoked
	next.Stage, next.Revocation = quarantine.Revoked, quarantine.Decision{By: admin, At: time.Now()}
	if _, err := s.Record(ctx, quarantine.Change{Kind: quarantine.Revoke, Device: revoked.ID, By: admin, At: time.Now()}, next); err != nil {
		t.Fatal(err)
	}
	gate := records{string(known.ID): known, string(revoked.ID): next}
	l := leftovers{s, tpms, gate, slog.New(slog.DiscardHandler)}
	if err := l.sweep(ctx); err != nil {
		t.Fatal(err)
	}
	left, err := s.Settings().Names(ctx, "")
	want := []string{"attest/" + string(known.ID), "attest/" + string(fresh.ID), trustSetting}
	slices.Sort(want)
	if err != nil || !slices.Equal(left, want) {
		t.Errorf("left: %q, %v; want %q", left, err, want)
	}
	var state json.RawMessage
	if _, ok, err := tpms.get(ctx, "attest/"+string(known.ID), &state); !ok || err != nil {
		t.Errorf("of a device that is well: %v, %v", ok, err)
	}
}
