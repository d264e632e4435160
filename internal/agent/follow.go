package agent

import (
	"context"
	"errors"
	"time"

	"lazaret/internal/agentapi"
)

const (
	pollFor    = 25 * time.Second // one long poll
	retryFirst = 250 * time.Millisecond
	retryMost  = 5 * time.Second
	resolveAt  = 30 * time.Second // without an answer: look the endpoint up again
)

// follow keeps the device's network as the gateway says, by a long poll that answers as
// soon as something changes.
func (a *Agent) follow(ctx context.Context) error {
	retry := retryFirst
	var lost time.Time
	fresh := false // ask for the state as it is, instead of for a change
	for {
		st, err := a.ask(ctx, fresh)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			lost = time.Time{}
			if a.behind() {
				fresh = false
				if err := wait(ctx, retry); err != nil {
					return err
				}
				retry = min(2*retry, retryMost)
				continue
			}
			retry = retryFirst
			if fresh, err = a.handOver(ctx, st); err != nil && ctx.Err() == nil {
				a.log.Error("changing the tunnel's key", "err", err)
				fresh = false
			}
			continue
		}
		if errors.Is(err, errSuperseded) || errors.Is(err, errRefused) && a.renewing.Load() {
			if err := wait(ctx, retryFirst); err != nil { // the old certificate, while a new one arrives
				return err
			}
			continue
		}
		a.trouble(err)
		if lost.IsZero() || errors.Is(err, errRefused) { // a refusal is an answer: the tunnel works
			lost = time.Now()
		}
		if fresh = a.fallBack(lost); fresh {
			continue
		}
		if time.Since(lost) > resolveAt {
			lost = time.Now()
			a.reconnect(ctx)
		}
		if err := wait(ctx, retry); err != nil {
			return err
		}
		retry = min(2*retry, retryMost)
	}
}

// errSuperseded reports that the certificate asked with has been replaced meanwhile.
var errSuperseded = errors.New("the certificate was replaced")

// ask asks the gateway once and takes its answer; fresh: as things are now, else once they
// differ from what is known.
func (a *Agent) ask(ctx context.Context, fresh bool) (agentapi.Status, error) {
	a.mu.Lock()
	after, poll, turn, api, signer := a.status.Revision, pollFor, a.keys.turn, a.api, a.managed.signerID()
	fresh = fresh || a.unsure // the revision is known already, and is not in force
	a.mu.Unlock()
	if fresh {
		after, poll = 0, 0
	}
	st, err := api.status(ctx, after, poll, signer)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil || errors.Is(err, errRefused) {
		a.answered(turn)
	}
	switch {
	case err == nil:
		a.takeSigner(st.Signer)
		a.takeWake(st.Wake)
		st.Wake, st.Signer = "", nil
		a.takeLocked(st)
	case errors.Is(err, errRefused) && api != a.api:
		err = errSuperseded
	}
	return st, err
}

// take takes the gateway's word on where the device stands.
func (a *Agent) take(st agentapi.Status) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.takeLocked(st)
}

func (a *Agent) takeLocked(st agentapi.Status) {
	a.status, a.seen, a.problem = st, time.Now(), ""
	defer a.tell()
	want, err := layoutFor(st.Settings, a.via)
	if err == nil {
		err = a.apply(want)
	}
	if err != nil {
		a.problem = err.Error()
		a.log.Error("setting up the network", "err", err)
		return
	}
	if a.placed != st.Stage {
		a.placed = st.Stage
		a.log.Info("placed", "stage", st.Stage, "pool", st.Pool, "reason", firstReason(st))
		select {
		case a.moved <- struct{}{}:
		default:
		}
	}
	a.keep(st)
}

// behind says whether the network is not yet as the gateway last said.
func (a *Agent) behind() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.unsure
}

// keep remembers the settings for the next start.
func (a *Agent) keep(st agentapi.Status) {
	a.state.Settings = st.Settings
	if len(st.Listeners) > 0 {
		a.state.Listeners = st.Listeners
	}
	if err := a.store.save(a.state); err != nil {
		a.log.Error("keeping the settings", "err", err)
	}
}

func firstReason(st agentapi.Status) string {
	if len(st.Reasons) == 0 {
		return ""
	}
	return st.Reasons[0].Text
}

// trouble notes that the gateway did not answer. Where the device cannot reach it, its
// network stays as it was: the gateway enforces, not the agent.
func (a *Agent) trouble(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.problem != err.Error() {
		a.log.Warn("gateway does not answer", "err", err)
	}
	a.problem = err.Error()
}

// reconnect looks for another way to a gateway and starts over with fresh connections. DNS
// servers behind a tunnel that brings no answer are given up first: the device's own find
// the gateway.
func (a *Agent) reconnect(ctx context.Context) {
	a.mu.Lock()
	a.applyDNS(nil)
	a.mu.Unlock()
	if err := a.resolve(ctx); err != nil {
		a.log.Warn("finding the gateway", "err", err)
		return
	}
	a.mu.Lock()
	settings := a.state.Settings
	if !a.have.Routed {
		settings.Full.Addresses, settings.Full.Routes = nil, nil
	}
	want, err := layoutFor(settings, a.via)
	want.DNS = nil
	if err == nil {
		err = a.apply(want)
	}
	a.mu.Unlock()
	if err = errors.Join(err, a.connect()); err != nil {
		a.log.Error("setting up the network", "err", err)
	}
}

// sessions holds management sessions on M8's schedule: until one succeeds with a release,
// and anew after every return to quarantine.
func (a *Agent) sessions(ctx context.Context) error {
	for {
		a.mu.Lock()
		held, released := a.state.Sessions, a.state.Released
		a.mu.Unlock()
		next, ok := a.config.Schedule.next(held)
		if released || !ok {
			next = 365 * 24 * time.Hour // until the device is moved
		}
		t := time.NewTimer(next)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-a.moved:
			t.Stop()
			a.noteMove()
		case <-t.C:
			a.session(ctx)
			if err := a.manage(ctx); errors.Is(err, errWipe) {
				return err
			}
		}
	}
}

// noteMove starts the schedule over when the device came back to quarantine.
func (a *Agent) noteMove() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.status.Stage == "routed" {
		a.state.Released = true
	} else if a.state.Released {
		a.state.Released, a.state.Sessions = false, 0
	}
	if err := a.store.save(a.state); err != nil {
		a.log.Error("keeping the schedule", "err", err)
	}
}

// session holds one session: it tells the posture and takes the placement.
func (a *Agent) session(ctx context.Context) {
	s, err := a.client().session(ctx, a.newReport(ctx, ""))
	a.mu.Lock()
	a.state.Sessions++
	if err == nil && s.Released {
		a.state.Released = true
	}
	a.mu.Unlock()
	if err != nil {
		a.log.Warn("management session", "err", err)
		return
	}
	a.log.Info("management session", "released", s.Released)
	a.take(s.Status)
}

// newReport numbers a report; the number is on the disk before it is sent, so that a
// restart never sends an older one.
func (a *Agent) newReport(ctx context.Context, verdict string) agentapi.Report {
	facts := posture(ctx)
	said := a.voucher.vouch(ctx, a.client(), a.snapshot().Settings.Device, facts)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state.Sequence++
	if err := a.store.save(a.state); err != nil {
		a.log.Error("keeping the report's number", "err", err)
	}
	return agentapi.Report{Verdict: verdict, At: time.Now().UTC(), Sequence: a.state.Sequence, Facts: facts, Attestation: said}
}

// report sends a posture report now and takes the placement that follows.
func (a *Agent) report(ctx context.Context, verdict string) (agentapi.Status, error) {
	recent.forget() // whoever asks has just mended something, perhaps
	st, err := a.client().report(ctx, a.newReport(ctx, verdict))
	if err != nil {
		return st, err
	}
	a.take(st)
	return st, nil
}

var errNotYet = errors.New("the gateway has not answered yet")
