package quarantine

import (
	"slices"
	"strings"
)

// remedy tells, with every reason that does not hold and has no remedy of its own, what would
// change it.
func (d *decision) remedy() {
	for i := range d.reasons {
		if r := &d.reasons[i]; !r.Holds && r.Remedy == "" {
			r.Remedy = d.remedyFor(*r)
		}
	}
}

func (d *decision) remedyFor(r Reason) string {
	device := d.Record.Name
	if device == "" {
		device = string(d.Record.ID)
	}
	command := func(verb string) string { return "lazaretctl device " + verb + " " + device }
	switch r.Rule {
	case RuleFacts:
		return "see the gateway's log: something that every decision needs is missing or over"
	case RuleRevocation:
		return "nothing: a revoked device must be enrolled as a new one"
	case RuleBlock:
		return "unblock it: " + command("unblock")
	case RuleApproval:
		return "approve it: " + command("approve")
	case RuleHold:
		return "lift the hold: " + command("approve")
	case RuleWipe:
		return "take the order back: " + command("unwipe")
	case RuleCertificate:
		return "enroll it again: lazaretctl otp create --device " + device
	case RuleProof:
		return "let its agent connect: its first handshake shows the key"
	case RuleProfile:
		return "create its enrollment profile, or enroll it under another"
	case RulePool:
		return "correct the profile's pool, or the pool's prefixes"
	case RuleUser:
		return "let its owner sign in: " + command("signin") + " --user " + d.Record.Owner
	case RuleReport, "release":
		return d.remedyForReport(r)
	}
	return ""
}

// remedyForReport is what would change a report that does not release, or the lack of one.
func (d *decision) remedyForReport(r Reason) string {
	last, known := d.Record.Reports[r.Source]
	if known && last.Verdict == NonCompliant && d.Now.Before(lifeOf(last, d.Sources[r.Source]).until) {
		return "set right what " + r.Source + " found; its next report says so"
	}
	if slices.ContainsFunc(d.reasons, func(o Reason) bool { return o.Rule == RuleReport && o.Holds }) {
		return "" // another releases it
	}
	from := releasing(d.Facts)
	if len(from) == 0 {
		return "give a source the right to release"
	}
	return "a compliant report of " + strings.Join(from, " or ")
}
