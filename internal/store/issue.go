package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"lazaret/enroll"
	"lazaret/internal/audit"
	"lazaret/quarantine"
)

// SeatRest is how long a freed seat rests when not every gateway has confirmed a plan
// without its old owner: the longest a gateway may go on without hearing anything.
const SeatRest = 24 * time.Hour

// errAgain reports a comparison that failed: read again and decide again.
var errAgain = errors.New("changed meanwhile")

// Issue implements enroll.Store. The OTP is stored as it was read, with i.OTP's Answer;
// whoever comes second finds it used. Besides the errors declared there it returns
// enroll.ErrNoOTP, ErrClock, quarantine.ErrConflict when the OTP or the retired record is
// not what was read, and quarantine.ErrFinal for a retired record that is revoked.
func (s *Store) Issue(ctx context.Context, i enroll.Issuance) (quarantine.Record, error) {
	s.issuing.Lock()
	defer s.issuing.Unlock()
	for {
		rec, err := s.tryIssue(ctx, i)
		if err == nil {
			return rec, nil
		}
		if !errors.Is(err, errAgain) {
			return quarantine.Record{}, fmt.Errorf("issuing for %s: %w", i.OTP.Reference, err)
		}
		if ctx.Err() != nil {
			return quarantine.Record{}, fmt.Errorf("issuing for %s: %w", i.OTP.Reference, ctx.Err())
		}
	}
}

// issueView is what an issuance is decided on, read at one revision.
type issueView struct {
	otp, device        *mvccpb.KeyValue
	time, seats, pools *mvccpb.KeyValue
	poolList           []*mvccpb.KeyValue
	free, gateways     []*mvccpb.KeyValue
}

func (s *Store) issueView(ctx context.Context, i enroll.Issuance) (issueView, error) {
	got, err := s.read(ctx,
		readOp(otpPrefix+i.OTP.Reference), readOp(deviceKey(i.Record.ID)),
		readOp(timeKey), readOp(seatKey), readOp(poolsKey),
		readOp(poolPrefix, clientv3.WithPrefix()),
		readOp(freePrefix, clientv3.WithPrefix(), clientv3.WithLimit(64)),
		readOp(gatewayPrefix, clientv3.WithPrefix()),
	)
	if err != nil {
		return issueView{}, err
	}
	v := issueView{one(got[0]), one(got[1]), one(got[2]), one(got[3]), one(got[4]), got[5], got[6], got[7]}
	if v.time == nil || v.seats == nil || v.pools == nil {
		return issueView{}, fmt.Errorf("reading stored time and seats: %w", ErrNotFound)
	}
	return v, nil
}

func (s *Store) tryIssue(ctx context.Context, i enroll.Issuance) (quarantine.Record, error) {
	none := quarantine.Record{}
	if err := checkName("device", string(i.Record.ID)); err != nil {
		return none, err
	}
	v, err := s.issueView(ctx, i)
	if err != nil {
		return none, err
	}
	mark, err := decodeTime(v.time.Value)
	if err != nil {
		return none, err
	}
	now, err := s.now(mark)
	if err != nil {
		return none, err
	}
	otp, err := usable(v.otp, i.OTP, now)
	if err != nil {
		return none, err
	}
	if _, err := s.signing(mark); err != nil { // an OTP that is over is told apart from a clock set back
		return none, err
	}
	var ch change
	ch.state = true
	ch.require(unchanged(otpPrefix+otp.Reference, otp.Revision))
	ch.notLater(now)

	rec := i.Record
	prev, err := retired(v.device, i, &ch)
	if err != nil {
		return none, err
	}
	if prev.Seat != 0 {
		rec.Seat = prev.Seat
	} else if rec.Seat, err = s.seat(v, i.LastSeat, now, &ch); err != nil {
		return none, err
	}
	if err := s.taken(ctx, rec.ID, added(prev, rec), &ch); err != nil {
		return none, err
	}
	otp.State, otp.Answer = enroll.Issued, i.OTP.Answer
	if otp.Answer.Device == "" {
		otp.Answer.Device = rec.ID
	}
	return s.commitIssue(ctx, ch, i, otp, prev, rec, now)
}

// usable returns the stored OTP if it may be issued on at now.
func usable(kv *mvccpb.KeyValue, read enroll.OTP, now time.Time) (enroll.OTP, error) {
	if kv == nil {
		return enroll.OTP{}, enroll.ErrNoOTP
	}
	o, err := decodeOTP(kv)
	switch {
	case err != nil:
		return enroll.OTP{}, err
	case o.State == enroll.Expired:
		return enroll.OTP{}, enroll.ErrExpired
	case o.State != enroll.Pending:
		return enroll.OTP{}, enroll.ErrUsed
	case !now.Before(o.Expires):
		return enroll.OTP{}, enroll.ErrExpired
	case o.Revision != read.Revision:
		return enroll.OTP{}, quarantine.ErrConflict
	}
	return o, nil
}

// retired returns the record that the issuance replaces, zero for a new device.
func retired(kv *mvccpb.KeyValue, i enroll.Issuance, ch *change) (quarantine.Record, error) {
	key := deviceKey(i.Record.ID)
	if i.Retires == nil {
		if kv != nil {
			return quarantine.Record{}, &enroll.TakenError{What: "device id"}
		}
		ch.require(absent(key))
		return quarantine.Record{}, nil
	}
	if i.Retires.ID != i.Record.ID {
		return quarantine.Record{}, fmt.Errorf("device %s cannot take the place of %s: %w", i.Record.ID, i.Retires.ID, ErrInvalid)
	}
	if kv == nil {
		return quarantine.Record{}, quarantine.ErrUnknownDevice
	}
	prev, err := decodeRecord(kv)
	switch {
	case err != nil:
		return quarantine.Record{}, err
	case prev.Stage == quarantine.Revoked:
		return quarantine.Record{}, quarantine.ErrFinal
	case prev.Revision != i.Retires.Revision:
		return quarantine.Record{}, quarantine.ErrConflict
	}
	ch.require(unchanged(key, prev.Revision))
	return prev, nil
}

// seat chooses a seat: the one freed longest ago, if it has rested and fits, else the
// next above the highest ever given.
func (s *Store) seat(v issueView, last quarantine.Seat, now time.Time, ch *change) (quarantine.Seat, error) {
	for _, kv := range v.poolList {
		p, err := decodeValue[quarantine.Pool](kv)
		if err != nil {
			return 0, fmt.Errorf("reading pool: %w", err)
		}
		last = min(last, p.LastSeat())
	}
	ch.require(unchanged(poolsKey, v.pools.ModRevision))
	confirmed := int64(math.MaxInt64)
	for _, kv := range v.gateways {
		var g storedGateway
		if err := decode(kv.Value, &g, func() int { return g.V }); err != nil {
			return 0, fmt.Errorf("reading gateway %s: %w", kv.Key, err)
		}
		confirmed = min(confirmed, g.Revision)
	}
	for _, kv := range v.free {
		var f storedSeat
		if err := decode(kv.Value, &f, func() int { return f.V }); err != nil {
			return 0, fmt.Errorf("reading freed seat %s: %w", kv.Key, err)
		}
		rested := confirmed >= kv.CreateRevision || now.Sub(f.At) >= SeatRest
		if rested && f.Seat <= last {
			ch.require(unchanged(string(kv.Key), kv.ModRevision))
			ch.delete(string(kv.Key))
			return f.Seat, nil
		}
	}
	highest, err := decodeNumber(v.seats.Value)
	if err != nil {
		return 0, fmt.Errorf("reading highest seat: %w", err)
	}
	if highest >= uint64(last) {
		return 0, enroll.ErrFull
	}
	ch.require(unchanged(seatKey, v.seats.ModRevision))
	ch.put(seatKey, encodeNumber(highest+1))
	return quarantine.Seat(highest + 1), nil
}

func (s *Store) commitIssue(ctx context.Context, ch change, i enroll.Issuance, otp enroll.OTP, prev, rec quarantine.Record, now time.Time) (quarantine.Record, error) {
	recValue, err := encodeRecord(rec)
	if err != nil {
		return quarantine.Record{}, err
	}
	otpValue, err := encodeOTP(otp)
	if err != nil {
		return quarantine.Record{}, err
	}
	ch.put(otpPrefix+otp.Reference, otpValue)
	ch.put(deviceKey(rec.ID), recValue)
	s.reindex(prev, rec, &ch)
	ch.entry = audit.Entry{
		Time: now, Actor: actor(i.By), Action: "device.enroll", Device: string(rec.ID), Subject: rec.Name,
		Detail: map[string]string{
			"otp": otp.Reference, "user": rec.Owner, "profile": rec.Profile, "to": string(rec.Stage), "pool": rec.Pool,
			"seat": strconv.FormatUint(uint64(rec.Seat), 10), "wireguard": rec.Key.String(),
			"certificate": rec.Certificate.Serial, "proven": strconv.FormatBool(rec.Proven),
		},
	}
	if i.Retires != nil {
		ch.entry.Action = "device.reenroll"
		ch.entry.Detail["from"] = string(prev.Stage)
		ch.entry.Detail["retired certificate"] = prev.Certificate.Serial
	}
	if len(rec.Reasons) > 0 {
		ch.entry.Detail["reason"] = rec.Reasons[0].Text
	}
	rev, ok, err := s.commit(ctx, ch)
	if err != nil {
		return quarantine.Record{}, err
	}
	if !ok {
		return quarantine.Record{}, errAgain
	}
	rec.Revision = rev
	return rec, nil
}

// Confirm implements quarantine.Store.
func (s *Store) Confirm(ctx context.Context, revision int64) error {
	s.confirming.Lock()
	defer s.confirming.Unlock()
	if revision <= s.confirmed {
		return nil
	}
	_, err := s.client.Put(ctx, gatewayPrefix+s.cfg.Gateway, mustJSON(storedGateway{recordVersion, revision}))
	if err != nil {
		return fmt.Errorf("confirming plan of revision %d: %w", revision, err)
	}
	s.confirmed = revision
	return nil
}

func encodeNumber(n uint64) string { return strconv.FormatUint(n, 10) }

func decodeNumber(b []byte) (uint64, error) { return strconv.ParseUint(string(b), 10, 64) }

// storedValue is the envelope of a table's values.
type storedValue struct {
	V     int             `json:"v"`
	Value json.RawMessage `json:"value"`
}

// decodeValue opens the envelope.
func decodeValue[T any](kv *mvccpb.KeyValue) (T, error) {
	var out T
	var s storedValue
	if err := decode(kv.Value, &s, func() int { return s.V }); err != nil {
		return out, err
	}
	err := json.Unmarshal(s.Value, &out)
	return out, err
}
