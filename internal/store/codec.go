package store

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"lazaret/enroll"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// The shapes below are what is stored. Every one begins with its version; a later
// version than this program's is refused, since what it means is not known.
const recordVersion = 1

// sum is a SHA-256 in hexadecimal; the zero sum is the empty text.
type sum [32]byte

func (s sum) MarshalText() ([]byte, error) {
	if s == (sum{}) {
		return nil, nil
	}
	return hex.AppendEncode(nil, s[:]), nil
}

func (s *sum) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*s = sum{}
		return nil
	}
	if len(b) != 64 {
		return fmt.Errorf("sum of %d characters, want 64", len(b))
	}
	_, err := hex.Decode(s[:], b)
	return err
}

type storedCertificate struct {
	Serial    string    `json:"serial,omitempty"`
	NotBefore time.Time `json:"not_before,omitzero"`
	NotAfter  time.Time `json:"not_after,omitzero"`
	SPKI      sum       `json:"spki,omitzero"`
	Sum       sum       `json:"sum,omitzero"`
}

type storedRecord struct {
	V           int                          `json:"v"`
	ID          quarantine.ID                `json:"id"`
	Name        string                       `json:"name,omitempty"`
	Owner       string                       `json:"owner,omitempty"`
	Key         tunnel.Key                   `json:"key,omitzero"`
	Next        tunnel.Key                   `json:"next,omitzero"`
	Seat        quarantine.Seat              `json:"seat,omitempty"`
	Serial      string                       `json:"serial,omitempty"`
	Pool        string                       `json:"pool,omitempty"`
	Stage       quarantine.Stage             `json:"stage,omitempty"`
	Since       time.Time                    `json:"since,omitzero"`
	Reason      string                       `json:"reason,omitempty"`
	Profile     string                       `json:"profile,omitempty"`
	Platform    string                       `json:"platform,omitempty"`
	Ownership   string                       `json:"ownership,omitempty"`
	Certificate storedCertificate            `json:"certificate,omitzero"`
	Reports     map[string]quarantine.Report `json:"reports,omitzero"`
	Approval    quarantine.Decision          `json:"approval,omitzero"`
	Hold        quarantine.Decision          `json:"hold,omitzero"`
	Block       quarantine.Decision          `json:"block,omitzero"`
	Unblocking  quarantine.Decision          `json:"unblocking,omitzero"`
	Revocation  quarantine.Decision          `json:"revocation,omitzero"`
	Proven      bool                         `json:"proven,omitempty"`
	Confirmed   bool                         `json:"confirmed,omitempty"`
	Tighten     uint64                       `json:"tighten,omitempty"`
	Reasons     []quarantine.Reason          `json:"reasons,omitzero"`
	Until       time.Time                    `json:"until,omitzero"`
	Groups      []string                     `json:"groups,omitzero"`
	Seen        time.Time                    `json:"seen,omitzero"`
	Session     quarantine.UserSession       `json:"session,omitzero"`
	Waivers     map[string]quarantine.Waiver `json:"waivers,omitzero"`
	Failing     map[string]time.Time         `json:"failing,omitzero"`
	Marks       map[string]quarantine.Mark   `json:"marks,omitzero"`
	Wipe        quarantine.Decision          `json:"wipe,omitzero"`
	Unwiping    quarantine.Decision          `json:"unwiping,omitzero"`
}

func encodeRecord(r quarantine.Record) (string, error) {
	b, err := json.Marshal(storedRecord{
		V: recordVersion, ID: r.ID, Name: r.Name, Owner: r.Owner, Key: r.Key, Next: r.Next, Seat: r.Seat,
		Serial: r.Serial, Pool: r.Pool, Stage: r.Stage, Since: r.Since, Reason: r.Reason,
		Profile: r.Profile, Platform: r.Platform, Ownership: r.Ownership,
		Certificate: storedCertificate{
			r.Certificate.Serial, r.Certificate.NotBefore, r.Certificate.NotAfter,
			r.Certificate.SPKI, r.Certificate.Sum,
		},
		Reports: r.Reports, Approval: r.Approval, Hold: r.Hold, Block: r.Block, Unblocking: r.Unblocking, Revocation: r.Revocation,
		Proven: r.Proven, Confirmed: r.Confirmed, Tighten: r.Tighten, Reasons: r.Reasons, Until: r.Until,
		Groups: r.Groups, Seen: r.Seen, Session: r.Session, Waivers: r.Waivers, Failing: r.Failing, Marks: r.Marks, Wipe: r.Wipe, Unwiping: r.Unwiping,
	})
	if err != nil {
		return "", fmt.Errorf("encoding record of device %s: %w", r.ID, err)
	}
	return string(b), nil
}

func decodeRecord(kv *mvccpb.KeyValue) (quarantine.Record, error) {
	var r storedRecord
	if err := decode(kv.Value, &r, func() int { return r.V }); err != nil {
		return quarantine.Record{}, fmt.Errorf("decoding record: %w", err)
	}
	return quarantine.Record{
		Device: quarantine.Device{
			ID: r.ID, Name: r.Name, Owner: r.Owner, Key: r.Key, Next: r.Next, Seat: r.Seat,
			Serial: r.Serial, Pool: r.Pool, Stage: r.Stage, Since: r.Since, Reason: r.Reason,
		},
		Profile: r.Profile, Platform: r.Platform, Ownership: r.Ownership,
		Certificate: quarantine.Certificate{
			Serial: r.Certificate.Serial, NotBefore: r.Certificate.NotBefore, NotAfter: r.Certificate.NotAfter,
			SPKI: r.Certificate.SPKI, Sum: r.Certificate.Sum,
		},
		Reports: r.Reports, Approval: r.Approval, Hold: r.Hold, Block: r.Block, Unblocking: r.Unblocking, Revocation: r.Revocation,
		Proven: r.Proven, Confirmed: r.Confirmed, Tighten: r.Tighten, Reasons: r.Reasons, Until: r.Until,
		Groups: r.Groups, Seen: r.Seen, Session: r.Session, Waivers: r.Waivers, Failing: r.Failing, Marks: r.Marks, Wipe: r.Wipe, Unwiping: r.Unwiping,
		Revision: kv.ModRevision,
	}, nil
}

type storedAnswer struct {
	Device      quarantine.ID `json:"device,omitempty"`
	SPKI        sum           `json:"spki,omitzero"`
	WireGuard   tunnel.Key    `json:"wireguard,omitzero"`
	Transaction []byte        `json:"transaction,omitzero"`
	Certificate []byte        `json:"certificate,omitzero"`
	Issued      time.Time     `json:"issued,omitzero"`
	Confirmed   time.Time     `json:"confirmed,omitzero"`
}

type storedOTP struct {
	V         int              `json:"v"`
	Reference string           `json:"reference"`
	User      string           `json:"user,omitempty"`
	Device    quarantine.ID    `json:"device,omitempty"`
	Name      string           `json:"name,omitempty"`
	Serial    string           `json:"serial,omitempty"`
	Platform  string           `json:"platform,omitempty"`
	Ownership string           `json:"ownership,omitempty"`
	Profile   string           `json:"profile,omitempty"`
	Secret    []byte           `json:"secret,omitzero"`
	By        quarantine.Actor `json:"by"`
	Created   time.Time        `json:"created,omitzero"`
	Expires   time.Time        `json:"expires,omitzero"`
	State     enroll.State     `json:"state"`
	Answer    storedAnswer     `json:"answer,omitzero"`
}

func encodeOTP(o enroll.OTP) (string, error) {
	a := o.Answer
	b, err := json.Marshal(storedOTP{
		V: recordVersion, Reference: o.Reference, User: o.User, Device: o.Device, Name: o.Name, Serial: o.Serial,
		Platform: o.Platform, Ownership: o.Ownership, Profile: o.Profile, Secret: o.Secret, By: o.By,
		Created: o.Created, Expires: o.Expires, State: o.State,
		Answer: storedAnswer{a.Device, a.SPKI, a.WireGuard, a.Transaction, a.Certificate, a.Issued, a.Confirmed},
	})
	if err != nil {
		return "", fmt.Errorf("encoding one-time password %s: %w", o.Reference, err)
	}
	return string(b), nil
}

func decodeOTP(kv *mvccpb.KeyValue) (enroll.OTP, error) {
	var o storedOTP
	if err := decode(kv.Value, &o, func() int { return o.V }); err != nil {
		return enroll.OTP{}, fmt.Errorf("decoding one-time password: %w", err)
	}
	a := o.Answer
	return enroll.OTP{
		Reference: o.Reference, User: o.User, Device: o.Device, Name: o.Name, Serial: o.Serial,
		Platform: o.Platform, Ownership: o.Ownership, Profile: o.Profile, Secret: o.Secret, By: o.By,
		Created: o.Created, Expires: o.Expires, State: o.State,
		Answer: enroll.Answer{
			Device: a.Device, SPKI: a.SPKI, WireGuard: a.WireGuard, Transaction: a.Transaction,
			Certificate: a.Certificate, Issued: a.Issued, Confirmed: a.Confirmed,
		},
		Revision: kv.ModRevision,
	}, nil
}

// storedGateway is what a gateway confirmed.
type storedGateway struct {
	V        int   `json:"v"`
	Revision int64 `json:"revision"`
}

// storedSeat is a freed seat.
type storedSeat struct {
	V    int             `json:"v"`
	Seat quarantine.Seat `json:"seat"`
	At   time.Time       `json:"at"`
}

// decode reads a stored shape and checks its version.
func decode(b []byte, into any, version func() int) error {
	if err := json.Unmarshal(b, into); err != nil {
		return err
	}
	if v := version(); v != recordVersion {
		return fmt.Errorf("stored with version %d, this program reads %d", v, recordVersion)
	}
	return nil
}
