package attest

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2/transport"
)

// attestedBy has a TPM attest for a device with the AK that it would have for another name,
// and says what the gateway makes of it.
func attestedBy(t *testing.T, g *gateway, tpm *chipset, device, name string) (bool, string) {
	t.Helper()
	facts := map[string]string{"disk.encrypted": "true"}
	hello, err := tpm.Hello(t.Context(), name, true)
	must(t, err)
	text, err := g.Challenge(t.Context(), device, hello, channel)
	must(t, err)
	q, err := ParseChallenge(text)
	must(t, err)
	e := Evidence{Version: version}
	must(t, tpm.talk(t.Context(), func(c transport.TPM) error {
		key, err := create(c, akFor(name))
		if err != nil {
			return err
		}
		if err := e.fill(c, key, q.challenge, qualifying(q.challenge.Nonce, channel, device, facts)); err != nil {
			return err
		}
		return key.close(c)
	}))
	return judged(g.Check(t.Context(), device, must2(json.Marshal(e))(t), facts))
}

// TestAnotherKeyOfTheTPM: a TPM that is bound may show another AK, and what is remembered
// of it stays: that makes no other PCRs right, and no clock that went back.
func TestAnotherKeyOfTheTPM(t *testing.T) {
	g, tpm := newGateway(Trust{FirstUse: true}), powerOn(t, t.TempDir())
	if ok, note := attested(t, g, tpm.Device, "d1"); !ok {
		t.Fatal(note)
	}
	first := g.states["d1"]
	if ok, note := attestedBy(t, g, tpm, "d1", "second"); !ok || !strings.Contains(note, "vouches for this report") {
		t.Errorf("unchanged PCRs, another key: %q", note)
	}
	now := g.states["d1"]
	if bytes.Equal(now.AK, first.AK) || now.Baseline != first.Baseline || !now.Since.Equal(first.Since) || now.Clock.Millis < first.Clock.Millis {
		t.Errorf("remembered: %+v; before: %+v", now, first)
	}

	tpm.extend(t, 4)
	for _, name := range []string{"second", "third", "d1", "third"} {
		ok, note := attestedBy(t, g, tpm, "d1", name)
		refused(t, ok, note, "PCR 4 is not as it was")
		if s := g.states["d1"]; s.Baseline != first.Baseline || s.Seen == nil || *s.Seen == first.Baseline {
			t.Fatalf("key %q moved the baseline, or what was seen is not noted: %+v", name, s)
		}
	}

	ahead := g.states["d1"]
	ahead.Clock.Resets++
	g.states["d1"] = ahead
	ok, note := attestedBy(t, g, tpm, "d1", "fourth")
	refused(t, ok, note, "clock went back")
	if s := g.states["d1"]; !bytes.Equal(s.AK, ahead.AK) || s.Clock != ahead.Clock {
		t.Error("a key with an old clock was taken")
	}

	delete(g.states, "d1") // forgotten by an administrator: what it shows now is right
	if ok, note := attestedBy(t, g, tpm, "d1", "fourth"); !ok || !strings.Contains(note, "was bound") {
		t.Errorf("after it was forgotten: %q", note)
	}
	if g.states["d1"].Baseline == first.Baseline {
		t.Error("the old baseline outlived its forgetting")
	}
}
