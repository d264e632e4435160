package ssf

import (
	"context"
	"errors"
	"fmt"

	"lazaret/quarantine"
	"lazaret/quarantine/source"
	"lazaret/quarantine/source/set"
)

// take verifies a token and lets its events take effect. nil: it was taken in, now or
// before. An *set.Error is a refusal for good, and changed nothing; any other error means
// that the transmitter is to send it again.
func (r *Receiver) take(ctx context.Context, st *stream, text, from string) error {
	by := source.Actor(st.name, from)
	vouched, err := r.taken(ctx, st, text, by)
	refusal, refused := errors.AsType[*set.Error](err)
	st.state.count(func(s *Counts) {
		switch {
		case err == nil:
			s.Accepted++
		case refused:
			s.Refused[refusal.Code]++
		default:
			s.Postponed++
		}
	})
	switch {
	case err == nil:
		r.heard(st, 1)
	case !vouched:
		// Strangers move neither the health of a source nor its entries. That keys could not be
		// fetched, or settings are wrong, is told where it happens.
		if refused {
			r.strange(ctx, st, from, "token: "+refusal.Error())
		}
	case refused:
		r.refused(ctx, st, by, "", "token: "+refusal.Error())
		r.cfg.Ledger.Failed(st.name, quarantine.SourceSSF, r.cfg.Now(), err)
	case ctx.Err() != nil: // whoever sent it hung up
	default:
		r.cfg.Log.Error("a token could not be taken in yet", "stream", st.name, "err", err)
		r.cfg.Ledger.Failed(st.name, quarantine.SourceSSF, r.cfg.Now(), err)
	}
	return err
}

// taken is take without the bookkeeping; vouched says that the transmitter signed the token.
func (r *Receiver) taken(ctx context.Context, st *stream, text string, by quarantine.Actor) (vouched bool, err error) {
	if st.fault != nil {
		return false, fmt.Errorf("the stream's settings are wrong: %w", st.fault)
	}
	u, err := set.Parse(text)
	if err != nil {
		return false, err
	}
	var keys set.Keys
	if u.Issuer == st.settings.Issuer {
		if keys, err = st.keys.find(ctx, u.KeyID); err != nil {
			return false, err
		}
	}
	now := r.cfg.Now()
	t, err := u.Verify(keys, set.Expect{Issuer: st.settings.Issuer, Audience: st.settings.Audience, Now: now, MaxAge: st.settings.maxAge()})
	if err != nil {
		return false, err
	}
	acts, err := read(t, now)
	if err != nil {
		return true, err
	}
	select { // one token of a stream after the other, so that copies of one count once
	case st.turn <- struct{}{}:
		defer func() { <-st.turn }()
	case <-ctx.Done():
		return true, ctx.Err()
	}
	before, err := st.seen.check(t)
	if err != nil {
		return true, err
	}
	if before {
		st.state.count(func(s *Counts) { s.Repeated++ })
		return true, nil // RFC 8935 section 2: as if it had not been received before
	}
	for _, a := range acts {
		if err := r.act(ctx, st, by, a); err != nil {
			return true, err
		}
	}
	// Remembered after it took effect: if the gateway ends in between, the transmitter sends it
	// again, and a report of the same time changes nothing.
	return true, st.seen.add(t, now.Add(-st.settings.maxAge()))
}

// heard notes that the transmitter was heard of. A stream that is paused stays a problem:
// nothing more comes on it. So does one whose words on accounts are not all kept.
func (r *Receiver) heard(st *stream, accepted int) {
	now := r.cfg.Now()
	var err error
	full := false
	st.state.set(func(s *Status) {
		full = st.state.full
		if s.Stream == "paused" || s.Stream == "disabled" {
			err = &notEnabled{s.Stream, s.Reason}
		}
	})
	if full {
		r.cfg.Ledger.Noted(st.name, quarantine.SourceSSF, now, accepted, 0, errFull.Error())
	} else {
		r.cfg.Ledger.Heard(st.name, quarantine.SourceSSF, now, accepted, 0)
	}
	if err != nil {
		r.cfg.Ledger.Failed(st.name, quarantine.SourceSSF, now, err)
	}
}
