// Package store records: devices, one-time passwords, pools, profiles, sources, tokens
// and secrets in an embedded etcd, each change in one transaction with its unique
// indexes and its audit entry. It implements quarantine.Store and enroll.Store, decides
// nothing, and is the only importer of etcd.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"lazaret/enroll"
	"lazaret/internal/audit"
	"lazaret/internal/seal"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// Config says where the store keeps what.
type Config struct {
	Dir      string           // required: etcd's data directory, made with mode 0700
	AuditDir string           // required: audit segments, made with mode 0700
	Ring     *seal.Ring       // required: seals Secrets
	Gateway  string           // required: this gateway's name
	Log      *slog.Logger     // optional: discards
	Clock    func() time.Time // optional: time.Now

	MaxJump     time.Duration // optional: how far the clock may be ahead of the stored time; DefaultMaxJump
	Quota       int64         // optional: bytes etcd may take; DefaultQuota
	SegmentSize int64         // optional: bytes of an audit segment; audit.DefaultSegmentSize
	Keep        time.Duration // optional: history kept for watches to resume; DefaultKeep

	// AcceptAuditBreak starts a new audit segment where the files do not reach the
	// stored head any more, and says so in it. Without it Open refuses.
	AcceptAuditBreak bool
}

// Store is the organization's state as one gateway sees it. Its methods are safe for
// concurrent use.
type Store struct{}

// Open starts etcd and waits until it answers, at most until ctx ends.
func Open(ctx context.Context, c Config) (*Store, error) { return nil, errors.ErrUnsupported }

// Run chains audit entries, keeps the stored time, compacts, and watches the disk,
// until ctx ends or etcd stops. It returns nil when ctx ended.
func (s *Store) Run(ctx context.Context) error { return errors.ErrUnsupported }

// Close stops etcd. Run must have returned.
func (s *Store) Close() error { return errors.ErrUnsupported }

// Sentinels of this package; enroll and quarantine own the rest.
var (
	ErrNotFound = errors.New("no such entry")
	ErrExists   = errors.New("there is one of that name already")
	ErrInUse    = errors.New("still in use")
	ErrClock    = errors.New("the clock is too far ahead of the time last stored: set it right, or run `lazaretd clock reset`")
)

// Item is a named value and the revision at which it was last written.
type Item[T any] struct {
	Name     string
	Value    T
	Revision int64
}

// Table is one kind of named value.
type Table[T any] struct{}

// List returns all, by name.
func (t *Table[T]) List(ctx context.Context) ([]Item[T], error) { return nil, errors.ErrUnsupported }

// Get returns one, or ErrNotFound.
func (t *Table[T]) Get(ctx context.Context, name string) (Item[T], error) {
	return Item[T]{}, errors.ErrUnsupported
}

// Put writes it.Value if the stored one still has it.Revision (0: there is none yet), and
// returns it with its new revision. Errors: quarantine.ErrConflict, ErrExists.
func (t *Table[T]) Put(ctx context.Context, by quarantine.Actor, it Item[T]) (Item[T], error) {
	return Item[T]{}, errors.ErrUnsupported
}

// Delete removes one if it still has the revision; ErrNotFound, quarantine.ErrConflict, ErrInUse.
func (t *Table[T]) Delete(ctx context.Context, by quarantine.Actor, name string, revision int64) error {
	return errors.ErrUnsupported
}

// Token is an API token; only the SHA-256 of its text is kept.
type Token struct {
	Name    string
	Sum     [32]byte // SHA-256 of the token's text
	Scopes  []string // what it may do; none: nothing
	Source  string   // the source it may report as; empty: none
	Created time.Time
	Expires time.Time // zero: never
	By      quarantine.Actor
}

func (s *Store) Pools() *Table[quarantine.Pool]       { return nil }
func (s *Store) Profiles() *Table[quarantine.Profile] { return nil }
func (s *Store) Sources() *Table[quarantine.Source]   { return nil }
func (s *Store) Tokens() *Table[Token]                { return nil }

// Settings are named values of others' shape.
func (s *Store) Settings() *Table[json.RawMessage] { return nil }

// TokenBySum finds a token by the SHA-256 of its text, or ErrNotFound.
func (s *Store) TokenBySum(ctx context.Context, sum [32]byte) (Token, error) {
	return Token{}, errors.ErrUnsupported
}

// Secrets are sealed under the ring before they reach etcd.
type Secrets struct{}

func (s *Store) Secrets() *Secrets { return nil }

// Put keeps a secret, replacing what has the name.
func (s *Secrets) Put(ctx context.Context, name string, plaintext []byte) error {
	return errors.ErrUnsupported
}

// Create keeps a secret unless one has the name already (ErrExists).
func (s *Secrets) Create(ctx context.Context, name string, plaintext []byte) error {
	return errors.ErrUnsupported
}

// Get returns a secret, or ErrNotFound.
func (s *Secrets) Get(ctx context.Context, name string) ([]byte, error) {
	return nil, errors.ErrUnsupported
}

// Names lists the secrets' names.
func (s *Secrets) Names(ctx context.Context) ([]string, error) { return nil, errors.ErrUnsupported }

// Delete forgets a secret; ErrNotFound.
func (s *Secrets) Delete(ctx context.Context, name string) error { return errors.ErrUnsupported }

// Audit records something that changed nothing. ID, Revision and Version are filled in,
// and Time if it is zero.
func (s *Store) Audit(ctx context.Context, e audit.Entry) error { return errors.ErrUnsupported }

// FlushAudit chains what is waiting, so that a following read of the segments shows it.
func (s *Store) FlushAudit(ctx context.Context) error { return errors.ErrUnsupported }

// Time is max(clock, highest time ever stored), or ErrClock.
func (s *Store) Time(ctx context.Context) (time.Time, error) {
	return time.Time{}, errors.ErrUnsupported
}

// ResetClock sets the stored time to the clock and cancels every pending OTP.
func (s *Store) ResetClock(ctx context.Context, by quarantine.Actor) error {
	return errors.ErrUnsupported
}

// Forget deletes a revoked device's record and what it still reserved.
func (s *Store) Forget(ctx context.Context, by quarantine.Actor, id quarantine.ID, revision int64) error {
	return errors.ErrUnsupported
}

var (
	_ quarantine.Store = (*Store)(nil)
	_ enroll.Store     = (*Store)(nil)
)

func (s *Store) Snapshot(ctx context.Context) (quarantine.Snapshot, error) {
	return quarantine.Snapshot{}, errors.ErrUnsupported
}
func (s *Store) Watch(ctx context.Context, after int64) <-chan quarantine.Event { return nil }
func (s *Store) Record(ctx context.Context, c quarantine.Change, next quarantine.Record) (int64, error) {
	return 0, errors.ErrUnsupported
}
func (s *Store) Now(ctx context.Context) (int64, error)            { return 0, errors.ErrUnsupported }
func (s *Store) Confirm(ctx context.Context, revision int64) error { return errors.ErrUnsupported }
func (s *Store) CreateOTP(ctx context.Context, by quarantine.Actor, o enroll.OTP) error {
	return errors.ErrUnsupported
}
func (s *Store) OTP(ctx context.Context, reference string) (enroll.OTP, error) {
	return enroll.OTP{}, errors.ErrUnsupported
}
func (s *Store) OTPs(ctx context.Context) ([]enroll.OTP, error) { return nil, errors.ErrUnsupported }
func (s *Store) UpdateOTP(ctx context.Context, by quarantine.Actor, action string, o enroll.OTP) error {
	return errors.ErrUnsupported
}
func (s *Store) Issue(ctx context.Context, i enroll.Issuance) (quarantine.Record, error) {
	return quarantine.Record{}, errors.ErrUnsupported
}
func (s *Store) Renewed(ctx context.Context, c quarantine.Change, next quarantine.Record) (int64, error) {
	return 0, errors.ErrUnsupported
}
func (s *Store) Device(ctx context.Context, id quarantine.ID) (quarantine.Record, error) {
	return quarantine.Record{}, errors.ErrUnsupported
}
func (s *Store) ByKey(ctx context.Context, spki [32]byte) (quarantine.Record, error) {
	return quarantine.Record{}, errors.ErrUnsupported
}
func (s *Store) ByWireGuard(ctx context.Context, k tunnel.Key) (quarantine.Record, error) {
	return quarantine.Record{}, errors.ErrUnsupported
}

// The zero Config's defaults.
const (
	DefaultMaxJump = 30 * 24 * time.Hour
	DefaultQuota   = 8 << 30
	DefaultKeep    = 15 * time.Minute
)
