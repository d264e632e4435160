// Package store records: devices, one-time passwords, pools, profiles, sources, tokens
// and secrets in an embedded etcd, each change in one transaction with its unique
// indexes and its audit entry. It implements quarantine.Store and enroll.Store, decides
// nothing, and is the only importer of etcd.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"golang.org/x/sys/unix"

	"lazaret/enroll"
	"lazaret/internal/audit"
	"lazaret/internal/seal"
	"lazaret/quarantine"
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
	Ballast     int64         // optional: bytes kept aside for a full disk; DefaultBallast, negative for none
	Reserve     int64         // optional: bytes of disk that strangers' audit entries may not touch; DefaultReserve, negative for none
	SegmentSize int64         // optional: bytes of an audit segment; audit.DefaultSegmentSize
	Keep        time.Duration // optional: history kept for watches to resume; DefaultKeep

	// Behind is how many revisions a watch may resume behind; DefaultBehind. etcd reads all of
	// them again for every 1,000 that it tells, and lets nobody write meanwhile, so that one who
	// is further behind is told to take a new snapshot, which holds up nobody. Optional.
	Behind int64

	// AcceptAuditBreak starts a new audit segment where the files do not reach the
	// stored head any more, and says so in it. Without it Open refuses.
	AcceptAuditBreak bool

	// CheckSet refuses a policy set that cannot be evaluated or, where strict is true, cannot
	// be assigned in strict mode. Every way to write a set, and to turn strict mode on, passes
	// it. Optional: then the form of a set is all that is checked.
	CheckSet func(set quarantine.PolicySet, strict bool) error

	hook func(step string)               // tests: called between two steps, by name
	free func(dir string) (int64, error) // tests: bytes left on a directory's disk
	tick time.Duration                   // tests: etcd's tick

	snapshots uint64 // tests: entries between etcd's snapshots
}

// What a zero Config field means.
const (
	DefaultMaxJump = 30 * 24 * time.Hour
	DefaultQuota   = 8 << 30
	DefaultBallast = 64 << 20
	DefaultReserve = 256 << 20
	DefaultKeep    = 15 * time.Minute
	DefaultBehind  = 2000
)

// Sentinels of this package; enroll and quarantine own the rest.
var (
	ErrNotFound = errors.New("no such entry")
	ErrInUse    = errors.New("still in use")
	ErrInvalid  = errors.New("not acceptable")
	ErrLocked   = errors.New("another program has the store open")
	ErrClock    = enroll.ErrClock
	ErrReserve  = errors.New("the disk is nearly full: what is left is kept for changes")
)

// Store is the organization's state as one gateway sees it. Its methods are safe for
// concurrent use.
type Store struct {
	cfg    Config
	lock   *os.File // held while the store is open
	etcd   *etcdserver.EtcdServer
	client *clientv3.Client

	issuing sync.Mutex // spares Issues of this gateway the retry that a collision costs

	confirming sync.Mutex
	confirmed  int64 // highest revision this gateway confirmed; under confirming

	chaining sync.Mutex
	chain    *audit.Chain    // nil until opened, and after an error; under chaining
	headRev  int64           // revision of the stored head; under chaining
	chained  map[string]bool // IDs chained but not yet acknowledged; under chaining
}

var (
	_ quarantine.Store   = (*Store)(nil)
	_ quarantine.Batcher = (*Store)(nil)
	_ enroll.Store       = (*Store)(nil)
)

// Open starts etcd and waits until it answers, at most until ctx ends. It refuses an
// audit log that does not reach the stored head (audit.ErrBroken).
func Open(ctx context.Context, c Config) (*Store, error) {
	if c.Dir == "" || c.AuditDir == "" || c.Ring == nil || c.Gateway == "" {
		return nil, errors.New("opening store: Dir, AuditDir, Ring and Gateway are required")
	}
	c = c.withDefaults()
	if strings.ContainsAny(c.Gateway, "=,/ ") || checkName("gateway", c.Gateway) != nil {
		return nil, fmt.Errorf("opening store: gateway name %q: want letters, digits, '-' and '.': %w", c.Gateway, ErrInvalid)
	}
	if err := private(c.Dir); err != nil {
		return nil, fmt.Errorf("opening store: %w", err)
	}
	lock, err := lockDir(ctx, c.Dir)
	if err != nil {
		return nil, fmt.Errorf("opening store: %w", err)
	}
	if !makeRoom(c) {
		c.snapshots = max(c.snapshots, snapshotSeldom)
	}
	e, err := startEtcd(ctx, c)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("opening store: %w", err)
	}
	if err := holdAhead(c); err != nil { // a first start has made the file only now
		c.Log.Debug("etcd's database has no room ahead", "err", err)
	}
	s := &Store{cfg: c, lock: lock, etcd: e, client: v3client.New(e), chained: map[string]bool{}}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("opening store: %w", err), s.Close())
	}
	return s, nil
}

// Close stops etcd. Run must have returned.
func (s *Store) Close() error {
	s.chaining.Lock()
	defer s.chaining.Unlock()
	var err error
	if s.chain != nil {
		err = s.chain.Close()
		s.chain = nil
	}
	if e := s.client.Close(); e != nil && !errors.Is(e, context.Canceled) {
		err = errors.Join(err, e)
	}
	s.etcd.Stop()
	return errors.Join(err, s.lock.Close())
}

func (c Config) withDefaults() Config {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.MaxJump <= 0 {
		c.MaxJump = DefaultMaxJump
	}
	if c.Quota <= 0 {
		c.Quota = DefaultQuota
	}
	if c.Ballast == 0 {
		c.Ballast = DefaultBallast
	}
	if c.Reserve == 0 {
		c.Reserve = DefaultReserve
	}
	if c.Keep <= 0 {
		c.Keep = DefaultKeep
	}
	if c.Behind <= 0 {
		c.Behind = DefaultBehind
	}
	if c.hook == nil {
		c.hook = func(string) {}
	}
	if c.CheckSet == nil {
		c.CheckSet = func(quarantine.PolicySet, bool) error { return nil }
	}
	if c.free == nil {
		c.free = diskFree
	}
	if c.tick == 0 {
		c.tick = tick
	}
	if c.snapshots == 0 {
		c.snapshots = snapshotEntries
	}
	return c
}

// prepare makes the keys that transactions compare with, registers the gateway and
// checks that the audit log reaches its head.
func (s *Store) prepare(ctx context.Context) error {
	wanted := []struct{ key, value string }{
		{timeKey, encodeTime(s.cfg.Clock())}, {seatKey, "0"}, {markNumberKey, "0"}, {poolsKey, "1"}, {setsKey, "1"}, {markKey, "1"}, {epochKey, "1"},
		{gatewayPrefix + s.cfg.Gateway, mustJSON(storedGateway{V: 1})},
	}
	var looks []clientv3.Op // one read spares all starts but the first eight writes
	for _, kv := range wanted {
		looks = append(looks, clientv3.OpGet(kv.key, clientv3.WithCountOnly()))
	}
	there, err := s.client.Txn(ctx).Then(looks...).Commit()
	if err != nil {
		return fmt.Errorf("looking for what is prepared: %w", err)
	}
	for i, kv := range wanted {
		if there.Responses[i].GetResponseRange().GetCount() > 0 {
			continue
		}
		_, err := s.client.Txn(ctx).If(absent(kv.key)).Then(clientv3.OpPut(kv.key, kv.value)).Commit()
		if err != nil {
			return fmt.Errorf("preparing %s: %w", kv.key, err)
		}
	}
	return s.openChain(ctx)
}

// private makes dir with mode 0700, or takes everybody else's rights from it.
func private(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making data directory: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("closing data directory to others: %w", err)
	}
	return nil
}

// lockWait is how long the lock is waited for: one that was killed a moment ago, and what it
// was about to start, may hold it still.
const lockWait = 2 * time.Second

// lockDir makes sure that one program at a time has the store open. etcd would wait for
// the other without a word. The lock ends with the program, however it ends.
func lockDir(ctx context.Context, dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking data directory: %w", err)
	}
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	enough := time.NewTimer(lockWait)
	defer enough.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case !errors.Is(err, unix.EWOULDBLOCK):
			f.Close()
			return nil, fmt.Errorf("locking data directory: %w", err)
		}
		select {
		case <-again.C:
		case <-enough.C:
			f.Close()
			return nil, fmt.Errorf("%w (%s)", ErrLocked, dir)
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("%w (%s): %w", ErrLocked, dir, ctx.Err())
		}
	}
}
