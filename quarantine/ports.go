package quarantine

import (
	"context"
	"net/netip"
	"time"

	"lazaret/firewall"
	"lazaret/quarantine/tunnel"
)

// Policy judges compliance. Its zero answer is no.
type Policy interface {
	// Judge says whether facts release the device, until when, and why. It must not
	// look at anything but f.
	Judge(f Facts) Judgement
}

// Store records. Every write is one transaction with its audit entry; reads are of
// one revision. Implementations pass the suite in quarantine/storetest.
type Store interface {
	// Snapshot returns everything the gate needs, at one revision.
	Snapshot(ctx context.Context) (Snapshot, error)
	// Watch sends, in order, one Event for every revision after the given one, until ctx
	// ends (channel closed, Err of the last event nil), the revision was compacted (last
	// event: ErrCompacted) or the watch broke (last event: another error). A revision that
	// touched nothing of the gate's comes too, as an Event with its Revision alone (runs of
	// them may be joined into the last): a reader that has seen Now's revision has seen all.
	Watch(ctx context.Context, after int64) <-chan Event
	// Record writes next if the stored record still has next.Revision, else ErrConflict;
	// it returns the new revision. A device that is gone gets ErrUnknownDevice. It never
	// creates one: that is the enrollment desk's transaction.
	Record(ctx context.Context, c Change, next Record) (int64, error)
	// Now makes a linearizable read and returns the store's current revision.
	Now(ctx context.Context) (int64, error)
	// Confirm notes that this gateway has applied a complete plan up to revision, so
	// that freed seats may be given out again.
	Confirm(ctx context.Context, revision int64) error
}

// MaxBatch is how many records a Batcher takes at once: with their audit entries they are
// well within one transaction of the store, and hold up others by a few milliseconds.
const MaxBatch = 40

// Batcher is a Store that writes several records, each with its audit entry, in one
// transaction. A gate uses it where many devices change at once.
type Batcher interface {
	// RecordAll writes all or nothing, and returns the revision of all. Each is written as
	// Record would; ErrConflict where one or another cannot be, or not together: then they
	// are to be written one by one.
	RecordAll(ctx context.Context, all []Write) (int64, error)
}

// Write is a record to write, and the change that it comes of.
type Write struct {
	Change Change
	Next   Record
}

// Snapshot is the organization's state at one revision.
type Snapshot struct {
	Revision int64
	Time     time.Time // the highest that any gateway saw; zero: not known
	Records  map[ID]Record
	Pools    map[string]Pool
	Profiles map[string]Profile
	Sources  map[string]Source
	Sets     map[string]PolicySet
	Conduct  Conduct
}

// Event is one revision's worth of change: records written, with their Revision set, and
// the IDs of those deleted.
type Event struct {
	Revision int64
	Records  []Record
	Gone     []ID
	Settings bool // pools, profiles, sources, policy sets or the conduct changed: take a new Snapshot
	Err      error
}

// Enforcer makes the kernel match. It refuses a loosening that has not taken in the
// last tightening (ErrOutdated).
type Enforcer interface {
	// Apply moves one device.
	Apply(ctx context.Context, e Entry) error
	// Replace makes the kernel hold this plan and nothing else.
	Replace(ctx context.Context, p Plan) error
	// Refresh prolongs freshness; refused unless a complete plan of the same control
	// plane, at p.Revision or later, is applied.
	Refresh(ctx context.Context, f Freshness) error
}

// Entry is all the data plane knows of one device. An Entry without Key removes it.
type Entry struct {
	Device      ID                `json:"device"`
	Key         tunnel.Key        `json:"key"`
	Next        tunnel.Key        `json:"next"`
	Quarantined []netip.Addr      `json:"quarantined,omitempty"`
	Routed      []netip.Addr      `json:"routed,omitempty"`
	Mark        firewall.Mark     `json:"mark,omitempty"`
	Until       firewall.Deadline `json:"until,omitempty"` // of Routed
	Revision    int64             `json:"revision"`
	Tighten     uint64            `json:"tighten"`
}

// Plan is the whole of what a gateway enforces.
type Plan struct {
	Control  string          `json:"control"` // names this run of the control plane
	Revision int64           `json:"revision"`
	Pools    []firewall.Pool `json:"pools"`
	Gateway  []netip.Prefix  `json:"gateway"` // gateway's own address in each pool, with the pool's length
	Entries  []Entry         `json:"entries"`
}

// Freshness is the control plane's word that it was current at a revision.
type Freshness struct {
	Control  string            `json:"control"`
	Revision int64             `json:"revision"`
	Fresh    firewall.Deadline `json:"fresh"`
	Alive    firewall.Deadline `json:"alive"`
}
