package stream

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"lazaret/internal/audit"
	"lazaret/quarantine"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

var boss = quarantine.Actor{Kind: "administrator", Name: "root"}

func TestEventsOfTheAuditLog(t *testing.T) {
	l, r := newLab(t), newReceiver(t)
	l.moved("d0", "quarantined", "routed") // before there is a receiver
	l.add(r, "siem", nil)
	for _, e := range []audit.Entry{
		{Action: "device.enroll", Device: "d1", Subject: "laptop", Detail: map[string]string{"to": "quarantined", "pool": "quarantine", "user": "a@example.com", "profile": "default", "otp": "2AJWTAEH"}},
		{Action: "device.report", Device: "d1", Detail: map[string]string{"from": "routed", "to": "routed", "pool": "full"}},
		{Action: "device.lapse", Device: "d1", Subject: "laptop", Detail: map[string]string{"from": "routed", "to": "quarantined", "from pool": "full", "pool": "quarantine", "rule": "release.report", "reason": "the report ran out"}},
		{Action: "device.block", Device: "d1", Actor: audit.Actor{Kind: "administrator", Name: "ada", Address: "192.0.2.1:5"}, Detail: map[string]string{"from": "quarantined", "to": "blocked", "why": "lost"}},
		{Action: "device.unblock", Device: "d1", Detail: map[string]string{"from": "blocked", "to": "quarantined"}},
		{Action: "device.review", Device: "d1", Detail: map[string]string{"from": "routed", "to": "routed", "from pool": "full", "pool": "other"}},
		{Action: "setting.put", Subject: "stream/siem"}, {Action: "otp.create", Subject: "2AJWTAEH"},
		{Action: "device.renew", Device: "d1", Detail: map[string]string{"from": "routed", "to": "routed"}},
		{Action: "command.result", Device: "d1", Subject: "c-1", Detail: map[string]string{"kind": "lock", "state": "done"}},
		{Action: "device.revoke", Device: "d1", Detail: map[string]string{"from": "blocked", "to": "revoked"}},
	} {
		l.book.write(e)
	}
	want := []string{"device.enrolled", "device.lapsed", "device.moved", "device.blocked", "device.moved", "device.unblocked", "device.moved",
		"device.moved", "device.renewed", "command.result", "device.revoked", "device.moved"}
	until(t, func() bool { return len(r.events()) >= len(want) })
	var got []string
	for _, e := range r.events() {
		got = append(got, e.Type)
		if e.Version != 1 || e.Gateway != "gw" || e.Sequence == 0 || e.Revision != int64(10*e.Sequence) || e.Data.By != nil && e.Data.By.Address != "" {
			t.Errorf("event %+v", e)
		}
	}
	if !slices.Equal(got, want) || len(r.bad) > 0 {
		t.Fatalf("told %v\nwant %v\nnot signed: %q", got, want, r.bad)
	}
	all := r.events()
	lapse := all[2].Data
	if *lapse.From != (Place{"routed", "full"}) || *lapse.To != (Place{"quarantined", "quarantine"}) || lapse.Rule != "release.report" || lapse.Reason != "the report ran out" || *lapse.Device != (Device{"d1", "laptop"}) {
		t.Errorf("the lapse is %+v", lapse)
	}
	if all[3].Data.Why != "lost" || all[3].Data.By.Name != "ada" || all[0].Data.User != "a@example.com" || all[9].Data.Detail["kind"] != "lock" {
		t.Errorf("told %+v, %+v, %+v", all[3].Data, all[0].Data, all[9].Data)
	}
	if raw, _ := json.Marshal(all); strings.Contains(string(raw), "2AJWTAEH") {
		t.Error("the reference of a one-time password is told")
	}
	for i, id := range r.ids {
		if id != all[i].ID || slices.Contains(r.ids[:i], id) {
			t.Errorf("message %d has the id %s, its event %s", i, id, all[i].ID)
		}
	}
}

func TestSelectionAndAddresses(t *testing.T) {
	l, r := newLab(t), newReceiver(t)
	l.add(r, "siem", func(v *Receiver) { v.Events, v.Addresses = []string{"device.moved", "alert.*"}, true })
	l.book.write(audit.Entry{Action: "device.block", Device: "d1", Detail: map[string]string{"from": "routed", "to": "blocked"}})
	l.book.write(audit.Entry{Action: "alert.raise", Subject: "inactive", Actor: audit.Actor{Kind: "gateway", Name: "gw"}, Detail: map[string]string{"rule": "inactive"}})
	l.moved("d2", "quarantined", "routed")
	until(t, func() bool { return len(r.events()) == 3 })
	all := r.events()
	if all[0].Type != "device.moved" || all[1].Type != "alert.raised" || all[1].Data.Subject != "inactive" || all[2].Data.By.Address != "192.0.2.7:443" {
		t.Errorf("told %+v", all)
	}
}

// TestRefusedReceivers lists what no administrator may set up by mistake.
func TestRefusedReceivers(t *testing.T) {
	good := Receiver{Name: "siem", Kind: Webhook, URL: "https://siem.example.com/in"}
	if err := good.Check(false); err != nil {
		t.Fatal(err)
	}
	for why, alter := range map[string]func(*Receiver){
		"no name": func(r *Receiver) { r.Name = "" }, "a path": func(r *Receiver) { r.Name = "a/b" }, "no kind": func(r *Receiver) { r.Kind = "" },
		"no URL": func(r *Receiver) { r.URL = "" }, "plain": func(r *Receiver) { r.URL = "http://siem.example.com" },
		"loopback": func(r *Receiver) { r.URL = "http://127.0.0.1:80/" }, "a password": func(r *Receiver) { r.URL = "https://a:b@siem.example.com/" },
		"a file": func(r *Receiver) { r.URL = "file:///etc/passwd" }, "opaque": func(r *Receiver) { r.URL = "https:siem" }, "a fragment": func(r *Receiver) { r.URL += "#x" },
		"an unknown event": func(r *Receiver) { r.Events = []string{"device.eaten"} }, "half an event": func(r *Receiver) { r.Events = []string{"dev*"} },
		"no certificate": func(r *Receiver) { r.CA = "hello" },
	} {
		r := good
		alter(&r)
		if err := r.Check(false); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", why, err)
		}
	}
}
