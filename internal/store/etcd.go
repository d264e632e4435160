package store

import (
	"context"
	"errors"
	"expvar"
	"fmt"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	etcdconfig "go.etcd.io/etcd/server/v3/config"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3compactor"
	"go.etcd.io/etcd/server/v3/features"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// What a member says of itself. Nobody dials the addresses: they are what the member's number
// was computed from when its data was made.
const (
	clusterToken = "etcd-cluster"
	peerURL      = "http://localhost:2380"
	clientURL    = "http://localhost:2379"
)

// A lone member has no network to wait for: it is asked to lead as soon as it may, and would
// elect itself a second later at most. That it tries seldom, as it may not see that it is early.
const (
	tick          = 100 * time.Millisecond
	electionTicks = 10
	askAgain      = 5 * time.Millisecond
)

// How much of etcd's write-ahead log there is to read again at a start, twice, and every entry
// of it: two files, or what came since the last snapshot. etcd's own bounds, five files of
// 64 MB and 10,000 entries, are for members that catch up from each other, and let a start
// take seconds.
const (
	walSegment      = 4 << 20 // bytes; where a file ends
	walFiles        = 2
	snapshotEntries = 1000

	// catchUpEntries stay in memory below a snapshot. raft reads what it has not applied yet when
	// its time to elect itself comes, and panics where that is gone: etcd's own number, as with it
	// that is a matter of 5,000 entries handed over at once, in 1 MB. See also mayLead.
	catchUpEntries = etcdserver.DefaultSnapshotCatchUpEntries
)

func init() { wal.SegmentSizeBytes = walSegment } // of all stores of a process; etcd has no other way

// Bounds of one request: etcd's own.
const (
	maxOperations   = 128
	maxRequestBytes = 3 << 20 / 2
)

// startEtcd starts one member without any listener: nothing but this process reaches it.
func startEtcd(ctx context.Context, c Config) (*etcdserver.EtcdServer, error) {
	ec, err := memberConfig(c)
	if err != nil {
		return nil, fmt.Errorf("configuring etcd: %w", err)
	}
	if err := dropUnfinished(c, ec.Logger); err != nil {
		return nil, fmt.Errorf("starting etcd: %w", err)
	}
	server, err := etcdserver.NewServer(ec)
	if err != nil {
		return nil, fmt.Errorf("starting etcd: %w", err)
	}
	server.Start()
	if err := awaitEtcd(ctx, server); err != nil {
		server.Stop()
		return nil, fmt.Errorf("waiting for etcd: %w", err)
	}
	return server, nil
}

// awaitEtcd waits until etcd answers, and has it lead as soon as it may.
func awaitEtcd(ctx context.Context, server *etcdserver.EtcdServer) error {
	ask := time.NewTicker(askAgain)
	defer ask.Stop()
	for {
		select {
		case <-server.ReadyNotify():
			return nil
		case <-server.StopNotify():
			return errors.New("it stopped")
		case <-ctx.Done():
			return ctx.Err()
		case <-ask.C:
			if !mayLead(server) {
				continue
			}
			if err := lead(ctx, server); err != nil {
				return fmt.Errorf("asking it to lead: %w", err)
			}
		}
	}
}

// mayLead reports whether server is a lone member without a leader, and raft has ticked off all
// that it knows to be agreed. Only then has a campaign nothing to look for among entries that are
// not: raft panics where some of them have left its memory, which takes more than catchUpEntries
// small ones that are handed over at once. As nothing is agreed without a leader, what is so now
// stays so until it is asked.
//
// etcd tells raft's own view as a variable of the process, of the server made last. A process
// that opens several stores may find another's there: that one's number is another, or what is
// asked too early is asked in vain.
func mayLead(server *etcdserver.EtcdServer) bool {
	view, ok := expvar.Get("raft.status").(expvar.Func)
	if !ok {
		return false
	}
	status, ok := view.Value().(raft.Status)
	if !ok || status.ID != uint64(server.MemberID()) || status.Lead != raft.None {
		return false
	}
	return status.Applied != 0 && status.Applied == status.GetCommit() &&
		server.AppliedIndex() >= server.CommittedIndex() && len(server.Cluster().Members()) == 1
}

// lead has a lone member campaign at once, by the message of a leader who hands over
// (MsgTimeoutNow). Whoever leads, or is about to, takes no notice.
func lead(ctx context.Context, server *etcdserver.EtcdServer) error {
	if _, term := schema.ReadConsistentIndex(server.Backend().ReadTx()); term == 0 {
		server.Backend().ForceCommit() // new: whoever leads looks in the file for the term
	}
	me := uint64(server.MemberID())
	return server.Process(ctx, &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), To: &me, From: &me})
}

// memberConfig is what etcd's embed package makes of its defaults, for a member without
// listeners, without users and without tracing. That package is not used for what it brings:
// sixty packages of gateways, exporters and servers, set up whenever the program starts.
func memberConfig(c Config) (etcdconfig.ServerConfig, error) {
	peers, err := types.NewURLs([]string{peerURL})
	if err != nil {
		return etcdconfig.ServerConfig{}, err
	}
	clients, err := types.NewURLs([]string{clientURL})
	if err != nil {
		return etcdconfig.ServerConfig{}, err
	}
	log := zapTo(c.Log)
	return etcdconfig.ServerConfig{
		Name: c.Gateway, DataDir: c.Dir, Logger: log,
		PeerURLs: peers, ClientURLs: clients,
		NewCluster: true, InitialClusterToken: clusterToken, InitialPeerURLsMap: types.URLsMap{c.Gateway: peers},
		StrictReconfigCheck: true, MaxLearners: membership.DefaultMaxLearners, PreVote: true,
		TickMs: uint(c.tick / time.Millisecond), ElectionTicks: electionTicks,

		SnapshotCount: c.snapshots, SnapshotCatchUpEntries: catchUpEntries, MaxSnapFiles: 5, MaxWALFiles: walFiles,
		BackendFreelistType: "hashmap", // bbolt's own, an array, is searched from its beginning
		QuotaBackendBytes:   c.Quota, MaxTxnOps: maxOperations, MaxRequestBytes: maxRequestBytes,
		AutoCompactionMode: v3compactor.ModePeriodic, AutoCompactionRetention: c.Keep,
		BcryptCost:           10, // there are no users; else it complains
		WarningApplyDuration: 100 * time.Millisecond, WarningUnaryRequestDuration: 300 * time.Millisecond,
		CompactHashCheckTime: time.Minute, DowngradeCheckTime: 5 * time.Second,

		V2Deprecation: etcdconfig.V2DeprDefault, Metrics: "basic",
		ServerFeatureGate: features.NewDefaultServerFeatureGate(c.Gateway, log),
	}, nil
}
