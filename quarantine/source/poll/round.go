package poll

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source"
)

// A host that is not there any more says nothing by itself, and neither does one list that
// lacks it: pages move while they are read. Two complete lists in a row do, unless so many
// hosts are missing that rather the list is wrong: those devices' reports lapse by themselves.
const (
	goneAfter   = 2  // complete rounds that lack a device
	massLeast   = 10 // so few may always vanish at once
	massDivisor = 4  // and this part of those seen before
)

// Round asks for all hosts and reports on them. What was read before an error counts, but
// nothing follows from what was not read. Run calls it; nobody else may meanwhile.
func (p *Poller) Round(ctx context.Context) (err error) {
	at := p.Now()
	defer func() {
		if x := recover(); x != nil {
			err = fmt.Errorf("reading what %s answered: %v", p.Client.Host(), x)
			p.Ledger.Failed(p.Name, p.Source.Kind, at, err)
		}
	}()
	limited, cancel := context.WithTimeout(ctx, p.Deadline)
	defer cancel()
	p.Client.resetSkew()
	hosts, err := p.list(limited)
	if ctx.Err() != nil {
		return err
	}
	if err != nil && errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("one round took longer than %s: %w", p.Deadline, err)
	}
	r := p.take(ctx, hosts, err == nil)
	p.note(at, r, err)
	return err
}

// list asks for all hosts. With an error, it returns those read before.
func (p *Poller) list(ctx context.Context) ([]Host, error) {
	var hosts []Host
	seen := map[string]int{} // by the product's ID, in hosts
	err := p.Product.Hosts(ctx, p.Client, func(page []Host) error {
		fresh := false
		for _, h := range page {
			at, again := seen[h.ID]
			switch {
			case h.ID == "" || !again:
				fresh = true
				if len(hosts) == MaxHosts {
					return fmt.Errorf("%s has more than %d hosts", p.Client.Host(), MaxHosts)
				}
				seen[h.ID] = len(hosts)
				hosts = append(hosts, h)
			case hosts[at].CheckedIn.Before(h.CheckedIn) || worse(h.Verdict, hosts[at].Verdict):
				hosts[at] = h // it came twice, as the pages moved
			}
		}
		if len(page) > 0 && !fresh {
			return fmt.Errorf("%s gives the same page again and again", p.Client.Host())
		}
		return nil
	})
	return hosts, err
}

// askSome asks for some hosts, one by one; false where all must be asked instead.
func (p *Poller) askSome(ctx context.Context, ids []string) bool {
	one, ok := p.Product.(Single)
	if !ok {
		return false
	}
	at := p.Now()
	ctx, cancel := context.WithTimeout(ctx, p.Deadline)
	defer cancel()
	var hosts []Host
	for _, id := range ids {
		h, err := one.Host(ctx, p.Client, id)
		if errors.Is(err, ErrGone) {
			continue // the next complete rounds will tell
		}
		if err != nil {
			return false
		}
		hosts = append(hosts, h)
	}
	if r := p.take(ctx, hosts, false); r.senseless() { // of some hosts that says little: the next round will
		p.Ledger.Counted(p.Name, p.Source.Kind, r.accepted, r.refused)
	} else {
		p.note(at, r, nil)
	}
	return true
}

// result is what became of a round.
type result struct {
	accepted, refused int
	hosts             int
	faults            tally // of hosts
	remarks           []string
}

// senseless reports whether most of what was answered cannot be believed, as when the product
// has other answers than it had: nothing was heard of it then.
func (r result) senseless() bool { return 2*r.faults.n > r.hosts }

// tally counts things and keeps an example.
type tally struct {
	n       int
	example string
}

func (t *tally) add(example string) {
	t.n++
	t.example = cmp.Or(t.example, example)
}

// note tells the ledger and the log.
func (p *Poller) note(at time.Time, r result, err error) {
	if d := p.Client.Skew(); d != 0 {
		way := "ahead of"
		if d < 0 {
			way = "behind"
		}
		r.remarks = append(r.remarks, fmt.Sprintf("the clock of %s is %s %s this gateway's: set both by NTP", p.Client.Host(), d.Abs().Round(time.Second), way))
	}
	if r.faults.n > 0 {
		r.remarks = append(r.remarks, fmt.Sprintf("%d hosts are unknown, as of %s", r.faults.n, r.faults.example))
	}
	kind := p.Source.Kind
	if err == nil && r.senseless() {
		err = fmt.Errorf("most of what %s answers makes no sense", p.Client.Host())
	}
	if err != nil {
		p.Ledger.Counted(p.Name, kind, r.accepted, r.refused)
		err = errors.Join(append([]error{err}, texts(r.remarks)...)...)
		p.Ledger.Failed(p.Name, kind, at, errors.New(strings.ReplaceAll(err.Error(), "\n", "; ")))
		p.Log.Warn("asking a product failed", "source", p.Name, "err", err, "accepted", r.accepted, "refused", r.refused)
		return
	}
	problem := strings.Join(r.remarks, "; ")
	p.Ledger.Noted(p.Name, kind, at, r.accepted, r.refused, problem)
	if problem != "" {
		p.Log.Warn("a product's answers have faults", "source", p.Name, "problem", problem)
	}
}

func texts(remarks []string) []error {
	var out []error
	for _, r := range remarks {
		out = append(out, errors.New(r))
	}
	return out
}

// take reports on hosts; complete says that there are no others.
func (p *Poller) take(ctx context.Context, hosts []Host, complete bool) (r result) {
	now, skew := p.Now(), p.Client.Skew()
	byKey := map[string][]Host{}
	r.hosts = len(hosts)
	for _, h := range hosts {
		h, problem := h.settle(now, skew)
		if problem != "" {
			r.faults.add(fmt.Sprintf("host %.40q: %s", cmp.Or(h.Name, h.ID), problem))
		}
		key := p.Match.key(h)
		if key != "" {
			byKey[key] = append(byKey[key], h)
		}
		complete = complete && (key != "" || h.Fault == "") // it may be anybody's
	}
	devices := p.devices(ctx, &r)
	to := reporter{p.Name, p.Source, now, p.Interval}
	var reports []quarantine.Report
	var several tally
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		h := together(byKey[key])
		mine := devices[key]
		if !complete && p.twice[key] && len(byKey[key]) == 1 && h.Verdict == quarantine.Compliant {
			continue // its twin was not read this time, and may say otherwise
		}
		if len(mine) > 1 && h.Verdict == quarantine.Compliant {
			h.Verdict, h.Detail = "", fmt.Sprintf("%d devices here have its %s", len(mine), p.Match)
			several.add(key)
		}
		for _, device := range mine {
			delete(p.missing, device.ID)
			if n, news := to.report(device, h); news {
				reports = append(reports, n)
			}
		}
	}
	if complete {
		p.twice = map[string]bool{}
		for key, same := range byKey {
			if len(same) > 1 {
				p.twice[key] = true
			}
		}
		reports = append(reports, p.vanished(to, devices, byKey, &r)...)
	}
	if several.n > 0 {
		r.remarks = append(r.remarks, fmt.Sprintf("%d times several devices have one %s, like %.40q: none of them is released", several.n, p.Match, several.example))
	}
	p.tell(ctx, reports, &r)
	return r
}

// devices are those that the source may speak for, by key.
func (p *Poller) devices(ctx context.Context, r *result) map[string][]quarantine.Record {
	profiles := map[string]quarantine.Profile{}
	var unread tally
	out := map[string][]quarantine.Record{}
	for _, d := range p.Gate.Devices() {
		key := p.Match.keyOf(d)
		if key == "" || d.Revocation.Set() {
			continue
		}
		profile, known := profiles[d.Profile]
		if !known && p.Profile != nil && len(p.Source.For.Groups) > 0 {
			var err error
			if profile, err = p.Profile(ctx, d.Profile); err != nil {
				unread.add(fmt.Sprintf("profile %q: %v", d.Profile, err))
			}
			profiles[d.Profile] = profile
		}
		if p.Source.For.Selects(d, profile) {
			out[key] = append(out[key], d)
		}
	}
	if unread.n > 0 {
		r.remarks = append(r.remarks, "reading "+unread.example)
	}
	return out
}

// vanished are the reports on devices that were known to the product and are no more.
func (p *Poller) vanished(to reporter, devices map[string][]quarantine.Record, byKey map[string][]Host, r *result) []quarantine.Report {
	var gone []quarantine.Record
	before := 0
	for _, key := range slices.Sorted(maps.Keys(devices)) {
		for _, d := range devices[key] {
			last, had := d.Reports[p.Name]
			if !had || last.Detail == goneDetail {
				continue
			}
			before++
			if len(byKey[key]) == 0 {
				gone = append(gone, d)
			}
		}
	}
	if len(gone) > massLeast && len(gone) > before/massDivisor {
		r.remarks = append(r.remarks, fmt.Sprintf("%d of %d hosts are missing at once, which is not believed: what is known of them lapses in its time", len(gone), before))
		clear(p.missing)
		return nil
	}
	var reports []quarantine.Report
	for _, d := range gone {
		p.missing[d.ID]++
		if p.missing[d.ID] < goneAfter {
			continue
		}
		delete(p.missing, d.ID)
		if n, news := to.gone(d); news {
			reports = append(reports, n)
		}
	}
	return reports
}

// tell hands reports to the gate.
func (p *Poller) tell(ctx context.Context, reports []quarantine.Report, r *result) {
	reports = slices.DeleteFunc(reports, func(n quarantine.Report) bool {
		no, was := p.refused[n.Device]
		return was && no == refusal{n.At, n.Verdict}
	})
	var failed tally
	for part := range slices.Chunk(reports, chunk) {
		for i, res := range p.Gate.Reports(ctx, source.Actor(p.Name, p.Client.Host()), part) {
			n := part[i]
			switch {
			case res.Err == nil || errors.Is(res.Err, quarantine.ErrNotEnforced):
				r.accepted++
				delete(p.refused, n.Device)
				continue
			case errors.Is(res.Err, quarantine.ErrForbidden), errors.Is(res.Err, quarantine.ErrMalformed), errors.Is(res.Err, quarantine.ErrFinal):
				p.refused[n.Device] = refusal{n.At, n.Verdict}
			}
			r.refused++
			failed.add(res.Err.Error())
		}
	}
	if failed.n > 0 {
		r.remarks = append(r.remarks, fmt.Sprintf("%d reports were refused, as of: %s", failed.n, failed.example))
	}
}
