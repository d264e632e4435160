package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"lazaret/enroll"
	"lazaret/internal/audit"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// claim is one unique index entry of a device.
type claim struct {
	key  string
	what string // as TakenError names it
}

// claims lists the index entries that a record holds. A revoked device gives up its
// name and seat; its keys stay reserved until it is forgotten, so that nobody enrolls
// them again, save a WireGuard key it never proved to hold: that one yields to its owner.
func claims(r quarantine.Record) []claim {
	var out []claim
	add := func(key, what string) {
		for _, c := range out {
			if c.key == key {
				return
			}
		}
		out = append(out, claim{key, what})
	}
	revoked := r.Stage == quarantine.Revoked
	for _, k := range []tunnel.Key{r.Key, r.Next} {
		if !k.IsZero() && (!revoked || r.Proven) {
			add(wireguardKey(k), "WireGuard key")
		}
	}
	if r.Certificate.SPKI != ([32]byte{}) {
		add(spkiKey(r.Certificate.SPKI), "certificate key")
	}
	if revoked {
		return out
	}
	if r.Name != "" {
		add(nameKey(r.Name), "name")
	}
	if r.Seat != 0 {
		add(seatIndexKey(r.Seat), "seat")
	}
	return out
}

// taken returns a *enroll.TakenError if one of the claims belongs to another device.
// The comparisons make the transaction fail if that changes meanwhile.
func (s *Store) taken(ctx context.Context, id quarantine.ID, want []claim, ch *change) error {
	if len(want) == 0 {
		return nil
	}
	ops := make([]clientv3.Op, len(want))
	for i, c := range want {
		ops[i] = readOp(c.key)
	}
	got, err := s.read(ctx, ops...)
	if err != nil {
		return fmt.Errorf("reading indexes: %w", err)
	}
	for i, c := range want {
		switch {
		case len(got[i]) == 0:
			ch.require(absent(c.key))
		case string(got[i][0].Value) == string(id):
			ch.require(unchanged(c.key, got[i][0].ModRevision))
		default:
			return &enroll.TakenError{What: c.what}
		}
	}
	return nil
}

// reindex writes the difference between two records' claims, and frees the seat if
// next does not hold it any more.
func (s *Store) reindex(prev, next quarantine.Record, ch *change) {
	kept := map[string]bool{}
	for _, c := range claims(next) {
		kept[c.key] = true
	}
	for _, c := range added(prev, next) {
		ch.put(c.key, string(next.ID))
	}
	for _, c := range claims(prev) {
		if kept[c.key] {
			continue
		}
		ch.delete(c.key)
		if c.what == "seat" {
			at := s.cfg.Clock().UTC()
			ch.put(freeKey(at, prev.Seat), mustJSON(storedSeat{recordVersion, prev.Seat, at}))
		}
	}
}

// added returns the claims of next that prev does not hold.
func added(prev, next quarantine.Record) []claim {
	had := map[string]bool{}
	for _, c := range claims(prev) {
		had[c.key] = true
	}
	var out []claim
	for _, c := range claims(next) {
		if !had[c.key] {
			out = append(out, c)
		}
	}
	return out
}

// Record implements quarantine.Store. Besides ErrConflict it returns
// quarantine.ErrUnknownDevice, quarantine.ErrFinal for a change of a revoked device, and
// *enroll.TakenError when a key or name that next brings belongs to another device.
func (s *Store) Record(ctx context.Context, c quarantine.Change, next quarantine.Record) (int64, error) {
	rev, err := s.replace(ctx, c, next, time.Time{})
	if err != nil {
		return 0, fmt.Errorf("recording %s of device %s: %w", c.Kind, next.ID, err)
	}
	return rev, nil
}

// Renewed implements enroll.Store; it returns the errors of Record, and ErrClock. Like an
// issuance, a renewal is not recorded behind the highest time ever stored, and moves it.
func (s *Store) Renewed(ctx context.Context, c quarantine.Change, next quarantine.Record) (int64, error) {
	s.issuing.Lock()
	defer s.issuing.Unlock()
	for {
		now, err := s.SigningTime(ctx)
		if err == nil {
			var rev int64
			if rev, err = s.replace(ctx, c, next, now); err == nil {
				return rev, nil
			}
		}
		if !errors.Is(err, errAgain) {
			return 0, fmt.Errorf("recording renewal of device %s: %w", next.ID, err)
		}
		if ctx.Err() != nil {
			return 0, fmt.Errorf("recording renewal of device %s: %w", next.ID, ctx.Err())
		}
	}
}

// replace writes next over the record it came from. With a time it is errAgain where a
// comparison failed: perhaps only that of the time.
func (s *Store) replace(ctx context.Context, c quarantine.Change, next quarantine.Record, now time.Time) (int64, error) {
	ch := change{state: true}
	if err := s.rewrite(ctx, c, next, &ch); err != nil {
		return 0, err
	}
	if !now.IsZero() {
		ch.notLater(now)
	}
	rev, ok, err := s.commit(ctx, ch)
	if err != nil {
		return 0, err
	}
	switch {
	case !ok && !now.IsZero():
		return 0, errAgain
	case !ok:
		return 0, quarantine.ErrConflict
	}
	return rev, nil
}

// rewrite adds the writing of next, over the record it came from, to a transaction.
func (s *Store) rewrite(ctx context.Context, c quarantine.Change, next quarantine.Record, ch *change) error {
	prev, err := s.Device(ctx, next.ID)
	if err != nil {
		return err
	}
	if prev.Revision != next.Revision {
		return quarantine.ErrConflict
	}
	if prev.Stage == quarantine.Revoked && next.Stage != quarantine.Revoked {
		return quarantine.ErrFinal
	}
	if prev.Seat != next.Seat {
		return fmt.Errorf("seat %d became %d, but a device keeps its seat: %w", prev.Seat, next.Seat, ErrInvalid)
	}
	if err := s.mayOpen(prev, next); err != nil {
		return err
	}
	value, err := encodeRecord(next)
	if err != nil {
		return err
	}
	ch.entries = append(ch.entries, s.changeEntry(c, prev, next))
	ch.require(unchanged(deviceKey(next.ID), next.Revision))
	if err := s.taken(ctx, next.ID, added(prev, next), ch); err != nil {
		return err
	}
	ch.put(deviceKey(next.ID), value)
	s.reindex(prev, next, ch)
	return nil
}

// mayOpen refuses what lets a device out of quarantine, or into another pool, on a disk so full
// that the ballast is to go: what is left is for tightenings, and for their audit entries.
// Quarantine itself is given to devices that enroll or are no longer blocked.
func (s *Store) mayOpen(prev, next quarantine.Record) error {
	if next.Stage != quarantine.Routed || prev.Stage == quarantine.Routed && prev.Pool == next.Pool {
		return nil
	}
	if free, err := s.free(); err != nil || free < s.cfg.Ballast/2 {
		return errors.Join(quarantine.ErrNoRoom, err)
	}
	return nil
}

// mostBytes bounds one transaction of many records, well below etcd's limit of a request,
// 1.5 MiB.
const mostBytes = 1 << 20

// RecordAll implements quarantine.Batcher.
func (s *Store) RecordAll(ctx context.Context, all []quarantine.Write) (int64, error) {
	ch := change{state: true}
	bytes := 0
	for _, w := range all {
		if err := s.rewrite(ctx, w.Change, w.Next, &ch); err != nil {
			if ctx.Err() != nil {
				return 0, fmt.Errorf("recording %d devices: %w", len(all), err)
			}
			return 0, fmt.Errorf("recording %d devices: device %s: %w: %w", len(all), w.Next.ID, quarantine.ErrConflict, err)
		}
	}
	for _, op := range ch.ops {
		bytes += len(op.KeyBytes()) + len(op.ValueBytes())
	}
	if len(all) > quarantine.MaxBatch || len(ch.ops)+len(all)+1 > mostOps || len(ch.compares) > mostOps || bytes > mostBytes {
		return 0, fmt.Errorf("recording %d devices: too much for one transaction: %w", len(all), quarantine.ErrConflict)
	}
	rev, ok, err := s.commit(ctx, ch)
	if err == nil && !ok {
		err = quarantine.ErrConflict
	}
	if err != nil {
		return 0, fmt.Errorf("recording %d devices: %w", len(all), err)
	}
	return rev, nil
}

// changeEntry describes a change for the audit log: what arrived, from where to where
// it moved the device, and the first reason.
func (s *Store) changeEntry(c quarantine.Change, prev, next quarantine.Record) audit.Entry {
	d := map[string]string{"from": string(prev.Stage), "to": string(next.Stage)}
	set := func(key, value string) {
		if value != "" {
			d[key] = value
		}
	}
	if prev.Pool != next.Pool {
		set("from pool", prev.Pool)
	}
	set("pool", next.Pool)
	set("why", c.Why)
	set("reason", next.Reason)
	if len(next.Reasons) > 0 {
		first := next.Reasons[0]
		set("rule", first.Rule)
		set("reason", first.Text)
		set("fact", first.Fact)
		if first.Set != "" {
			set("set", fmt.Sprintf("%s v%d", first.Set, first.Version))
		}
	}
	factDetail(c, set)
	if !next.Until.IsZero() {
		set("until", next.Until.UTC().Format("2006-01-02T15:04:05Z"))
	}
	if c.Tighten > 0 {
		set("tighten", strconv.FormatUint(c.Tighten, 10))
	}
	return audit.Entry{
		Time: s.cfg.Clock(), Actor: actor(c.By), Action: "device." + string(c.Kind),
		Device: string(next.ID), Subject: next.Name, Detail: d,
	}
}

// factDetail tells what the change itself brought.
func factDetail(c quarantine.Change, set func(key, value string)) {
	if r := c.Report; r != nil {
		set("source", r.Source)
		set("verdict", string(r.Verdict))
		set("reported", r.At.UTC().Format("2006-01-02T15:04:05.999Z"))
		set("detail", r.Detail)
	}
	if c.Certificate != nil {
		set("certificate", c.Certificate.Serial)
	}
	if c.Kind == quarantine.Clear {
		set("waived", c.Rule)
		set("waived until", c.Until.UTC().Format("2006-01-02T15:04:05Z"))
	}
	if c.Kind == quarantine.Regroup {
		set("groups", strings.Join(c.Groups, " "))
	}
	if s := c.Session; s != nil {
		set("user", s.User)
		set("how", s.How)
		set("session until", s.Until.UTC().Format("2006-01-02T15:04:05Z"))
	}
}

// Forget deletes a revoked device's record and what it still reserved.
// Errors: quarantine.ErrUnknownDevice, quarantine.ErrConflict, ErrInUse if it is not revoked.
func (s *Store) Forget(ctx context.Context, by quarantine.Actor, id quarantine.ID, revision int64) error {
	rec, err := s.Device(ctx, id)
	if err != nil {
		return fmt.Errorf("forgetting device %s: %w", id, err)
	}
	if rec.Revision != revision {
		return fmt.Errorf("forgetting device %s: %w", id, quarantine.ErrConflict)
	}
	if rec.Stage != quarantine.Revoked {
		return fmt.Errorf("forgetting device %s: it is %s, not revoked: %w", id, rec.Stage, ErrInUse)
	}
	ch := change{state: true, entry: audit.Entry{
		Actor: actor(by), Action: "device.forget", Device: string(id), Subject: rec.Name,
	}}
	ch.require(unchanged(deviceKey(id), revision))
	ch.delete(deviceKey(id))
	for _, c := range claims(rec) {
		ch.delete(c.key)
	}
	_, ok, err := s.commit(ctx, ch)
	if err == nil && !ok {
		err = quarantine.ErrConflict
	}
	if err != nil {
		return fmt.Errorf("forgetting device %s: %w", id, err)
	}
	return nil
}

// Device implements enroll.Store.
func (s *Store) Device(ctx context.Context, id quarantine.ID) (quarantine.Record, error) {
	kv, err := s.get(ctx, deviceKey(id))
	if err != nil {
		return quarantine.Record{}, fmt.Errorf("reading device %s: %w", id, err)
	}
	if kv == nil {
		return quarantine.Record{}, quarantine.ErrUnknownDevice
	}
	return decodeRecord(kv)
}

// ByKey implements enroll.Store. Only the key of the device's present certificate finds
// it, also while it is blocked or revoked.
func (s *Store) ByKey(ctx context.Context, spki [32]byte) (quarantine.Record, error) {
	return s.byIndex(ctx, spkiKey(spki), func(r quarantine.Record) bool { return r.Certificate.SPKI == spki })
}

// ByWireGuard implements enroll.Store.
func (s *Store) ByWireGuard(ctx context.Context, k tunnel.Key) (quarantine.Record, error) {
	return s.byIndex(ctx, wireguardKey(k), func(r quarantine.Record) bool { return r.Key == k || r.Next == k })
}

// byIndex follows an index entry to its record. The record may have moved on between
// the two reads, so it must still hold what was asked for.
func (s *Store) byIndex(ctx context.Context, key string, holds func(quarantine.Record) bool) (quarantine.Record, error) {
	kv, err := s.get(ctx, key)
	if err != nil {
		return quarantine.Record{}, fmt.Errorf("reading index: %w", err)
	}
	if kv == nil {
		return quarantine.Record{}, quarantine.ErrUnknownDevice
	}
	r, err := s.Device(ctx, quarantine.ID(kv.Value))
	if err != nil {
		return quarantine.Record{}, err
	}
	if !holds(r) {
		return quarantine.Record{}, quarantine.ErrUnknownDevice
	}
	return r, nil
}

// one returns the only key of a read, or nil.
func one(kvs []*mvccpb.KeyValue) *mvccpb.KeyValue {
	if len(kvs) == 0 {
		return nil
	}
	return kvs[0]
}
