package ssf

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source"
	"lazaret/quarantine/source/set"
)

// A word on an account is about a user and not about a device: it stands whatever is said of
// the user's devices afterwards, also of devices that are enrolled later, until the
// transmitter or an administrator takes it back. It is kept in the store.
//
// Two things are kept of each account, the newer word winning by the transmitter's time:
// whether it exists (disabled, purged, enabled), and its credentials (to be changed,
// compromised, updated). Nothing but an administrator takes "purged" back: an account of
// that name that appears later is another one.

// accountWord is one word that was said.
type accountWord struct {
	Event      string    `json:"event"` // its type, without the front
	At         time.Time `json:"at"`
	Sequence   uint64    `json:"sequence,omitempty"`
	Credential string    `json:"credential,omitempty"` // kind of credential, if it was said
}

// account is the last word of each sort; the zero word is none.
type account struct {
	Existence  accountWord `json:"existence,omitzero"`
	Credential accountWord `json:"credential,omitzero"`
}

// accounts are by ownerKey.
type accounts map[string]account

// maxAccounts bounds what is kept of a stream, far below the largest value of the store.
const maxAccounts = 4000

// errFull reports that a word on an account is not kept.
var errFull = fmt.Errorf("words stand against %d accounts already, and no more are kept: take some back", maxAccounts)

const (
	disabled     = "account-disabled"
	purged       = "account-purged"
	enabled      = "account-enabled"
	required     = "account-credential-change-required"
	compromised  = "credential-compromise"
	renewed      = "credential-change"
	accountStart = "account "             // of the detail of a report that rests on a word alone
	deviceStart  = "device not compliant" // of one that rests on the device
)

// bad reports whether the word stands against the account.
func (w accountWord) bad() bool {
	switch w.Event {
	case disabled, purged, required, compromised:
		return true
	}
	return false
}

// text is what a report says that rests on the word.
func (w accountWord) text() string {
	return fmt.Sprintf("%s%s since %s", accountStart, words[eventType(w.Event)], w.At.UTC().Format("2006-01-02 15:04:05 UTC"))
}

// eventType is the whole of a type in words.
func eventType(short string) string {
	for full := range words {
		if strings.HasSuffix(full, "/"+short) {
			return full
		}
	}
	return short
}

// newer orders words as reports are: by time and sequence, the worse one at a tie.
func (w accountWord) newer(than accountWord) bool {
	if d := w.At.Compare(than.At); d != 0 {
		return d > 0
	}
	if w.Sequence != than.Sequence {
		return w.Sequence > than.Sequence
	}
	return w.bad() && !than.bad()
}

// with takes a word in, and reports whether it changed anything.
func (a account) with(w accountWord) (account, bool) {
	switch w.Event {
	case disabled, purged, enabled:
		if a.Existence.Event == purged || w.Event != purged && !w.newer(a.Existence) {
			return a, false
		}
		a.Existence = w
	default:
		old := a.Credential
		other := w.Event == renewed && old.bad() && old.Credential != "" && old.Credential != w.Credential
		if other || !w.newer(old) {
			return a, false
		}
		a.Credential = w
	}
	return a, true
}

// standing is the word that stands against the account, or nil.
func (a account) standing() *accountWord {
	for _, w := range []accountWord{a.Existence, a.Credential} {
		if w.bad() {
			return &w
		}
	}
	return nil
}

// put takes a word in on one account, and makes room for it: words that say nothing bad and
// are too old to matter go first. False: there is none.
func (all accounts) put(name string, a account, oldest time.Time) bool {
	if _, ok := all[name]; !ok && len(all) >= maxAccounts {
		var idle []string
		for n, have := range all {
			if have.standing() == nil && have.Existence.At.Before(oldest) && have.Credential.At.Before(oldest) {
				idle = append(idle, n)
			}
		}
		for _, n := range idle {
			delete(all, n)
		}
		if len(all) >= maxAccounts {
			return false
		}
	}
	all[name] = a
	return true
}

func (r *Receiver) readAccounts(ctx context.Context, st *stream) (accounts, int64, error) {
	raw, revision, err := r.cfg.Store.Accounts(ctx, st.name)
	if err != nil {
		return nil, 0, fmt.Errorf("reading the accounts of %s: %w", st.name, err)
	}
	all := accounts{}
	if raw != nil {
		if err := json.Unmarshal(raw, &all); err != nil {
			return nil, 0, fmt.Errorf("reading the accounts of %s: %w", st.name, err)
		}
	}
	return all, revision, nil
}

func (r *Receiver) writeAccounts(ctx context.Context, st *stream, by quarantine.Actor, all accounts, revision int64) error {
	raw, err := json.Marshal(all)
	if err == nil {
		err = r.cfg.Store.PutAccounts(ctx, by, st.name, raw, revision)
	}
	if err != nil {
		return fmt.Errorf("keeping the accounts of %s: %w", st.name, err)
	}
	if len(all) < maxAccounts {
		st.state.fill(false)
	}
	return nil
}

// standing is the word that stands against a device's owner, or nil.
func (r *Receiver) standing(ctx context.Context, st *stream, owner string) (*accountWord, error) {
	if owner == "" {
		return nil, nil
	}
	all, _, err := r.readAccounts(ctx, st)
	if err != nil {
		return nil, err
	}
	return all[ownerKey(owner)].standing(), nil
}

// account takes a word on an account. A bad one reaches the gate before it is kept, since
// tightening waits for nothing; a good one after.
func (r *Receiver) account(ctx context.Context, st *stream, by quarantine.Actor, a act) error {
	names := owners(st.settings, *a.subject)
	if len(names) == 0 {
		r.note(st, a, "is about no user that could be known here")
		return nil
	}
	w := accountWord{Event: a.event.Type[strings.LastIndex(a.event.Type, "/")+1:], At: a.at, Sequence: a.sequence}
	w.Credential, _ = a.event.Text("credential_type")
	if !w.bad() {
		return r.better(ctx, st, by, a, names, w)
	}
	if all, _, err := r.readAccounts(ctx, st); err == nil && !all.changes(names, w) {
		st.state.count(func(c *Counts) { c.Late++ })
		return nil // something newer is known; where the store does not answer, it is taken for new
	}
	on := r.ownedBy(names)
	told := r.reportAccount(ctx, st, by, a, on, w)
	refusal, refused := errors.AsType[*set.Error](told)
	if told != nil && !refused {
		return told // it comes again
	}
	// The word is about the account, and is kept also where the source may not speak for a
	// device that the user has today: another that is enrolled later rests on it.
	if _, err := r.keep(ctx, st, by, names, w, len(on) > 0); err != nil {
		return err
	}
	if refused && refusal.Code != set.AccessDenied {
		return told
	}
	return nil
}

// reportAccount reports a bad word on a user's devices. What the source said of a device
// itself is told apart: that does not end with the word.
func (r *Receiver) reportAccount(ctx context.Context, st *stream, by quarantine.Actor, a act, on []quarantine.Record, w accountWord) error {
	if len(on) == 0 {
		r.note(st, a, "is about a user without a device")
	}
	var alone, besides []quarantine.Record
	for _, rec := range on {
		if last := rec.Reports[st.name]; last.Verdict == quarantine.NonCompliant && !strings.HasPrefix(last.Detail, accountStart) {
			besides = append(besides, rec)
		} else {
			alone = append(alone, rec)
		}
	}
	return worst(
		r.report(ctx, st, by, a, alone, quarantine.NonCompliant, detail(w.text(), a.why)),
		r.report(ctx, st, by, a, besides, quarantine.NonCompliant, detail(deviceStart+", and "+w.text(), a.why)))
}

// detail joins what is said with the transmitter's reason.
func detail(text, why string) string {
	if why != "" {
		text += ": " + why
	}
	return text
}

// changes reports whether the word changes any of the accounts.
func (all accounts) changes(names []string, w accountWord) bool {
	return slices.ContainsFunc(names, func(n string) bool { _, ok := all[n].with(w); return ok })
}

// keep takes a word in on accounts, and returns those that it changed. One that need not be
// kept, of a user without a device, is left out where there is no room.
func (r *Receiver) keep(ctx context.Context, st *stream, by quarantine.Actor, names []string, w accountWord, must bool) (changed []string, err error) {
	all, revision, err := r.readAccounts(ctx, st)
	if err != nil {
		return nil, err
	}
	oldest := r.cfg.Now().Add(-st.settings.maxAge())
	for _, name := range names {
		next, ok := all[name].with(w)
		if !ok {
			continue
		}
		if !all.put(name, next, oldest) {
			if !must {
				if w.bad() {
					st.state.fill(true) // shown as the source's problem until there is room
				}
				continue
			}
			return nil, fmt.Errorf("keeping a word on an account: %w", errFull)
		}
		changed = append(changed, name)
	}
	if len(changed) == 0 {
		return nil, nil
	}
	return changed, r.writeAccounts(ctx, st, by, all, revision)
}

// better takes a word in that takes another back. It releases nobody: where a device is
// held by the word that is over, its report becomes "unknown", and the device waits for the
// transmitter, or for another source, to call it compliant.
func (r *Receiver) better(ctx context.Context, st *stream, by quarantine.Actor, a act, names []string, w accountWord) error {
	changed, err := r.keep(ctx, st, by, names, w, false)
	if err != nil || len(changed) == 0 {
		return err
	}
	all, _, err := r.readAccounts(ctx, st)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(changed, func(n string) bool { return all[n].standing() != nil })
	return r.withdraw(ctx, st, by, a, names)
}

// withdraw makes unknown what was reported because of an account.
func (r *Receiver) withdraw(ctx context.Context, st *stream, by quarantine.Actor, a act, names []string) error {
	held := slices.DeleteFunc(r.ownedBy(names), func(rec quarantine.Record) bool {
		last := rec.Reports[st.name]
		return last.Verdict != quarantine.NonCompliant || !strings.HasPrefix(last.Detail, accountStart)
	})
	var errs []error
	for _, rec := range held {
		// The report that it replaces may be dated later, by an event on the device itself.
		one, last := a, rec.Reports[st.name]
		if last.At.After(one.at) {
			one.at, one.sequence = last.At, last.Sequence+1
		}
		errs = append(errs, r.report(ctx, st, by, one, []quarantine.Record{rec}, "", "the account is in order again: waiting for a word on the device"))
	}
	return worst(errs...)
}

// ErrNothingStands reports an account that nothing stands against.
var ErrNothingStands = errors.New("nothing stands against that account")

// AccountWord is what stands against an account, for people.
type AccountWord struct {
	Account string    `json:"account"`
	Text    string    `json:"text"`
	At      time.Time `json:"at"`
}

// Standing lists what stands against accounts of a stream, by account.
func (r *Receiver) Standing(ctx context.Context, name string) ([]AccountWord, error) {
	st, err := r.stream(name)
	if err != nil {
		return nil, err
	}
	all, _, err := r.readAccounts(ctx, st)
	if err != nil {
		return nil, err
	}
	out := []AccountWord{}
	for account, a := range all {
		if w := a.standing(); w != nil {
			out = append(out, AccountWord{account, w.text(), w.At})
		}
	}
	slices.SortFunc(out, func(a, b AccountWord) int { return cmp.Compare(a.Account, b.Account) })
	return out, nil
}

// Lift takes back, for an administrator, whatever stands against an account.
func (r *Receiver) Lift(ctx context.Context, by quarantine.Actor, name, owner string) error {
	st, err := r.stream(name)
	if err != nil {
		return err
	}
	select {
	case st.turn <- struct{}{}:
		defer func() { <-st.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	all, revision, err := r.readAccounts(ctx, st)
	if err != nil {
		return err
	}
	key := ownerKey(owner)
	if all[key].standing() == nil {
		return fmt.Errorf("taking back what stands against %q: %w", owner, ErrNothingStands)
	}
	delete(all, key)
	if err := r.writeAccounts(ctx, st, by, all, revision); err != nil {
		return err
	}
	now := r.cfg.Now()
	a := act{at: now, sequence: uint64(now.UnixMicro()), event: set.Event{Type: enabled}}
	return r.withdraw(ctx, st, source.Actor(st.name, by.Address), a, []string{key})
}

// decimal is a hexadecimal number in decimal, or empty.
func decimal(hex string) string {
	n, ok := new(big.Int).SetString(hex, 16)
	if !ok {
		return ""
	}
	return n.String()
}
