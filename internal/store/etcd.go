package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	etcdconfig "go.etcd.io/etcd/server/v3/config"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3compactor"
	"go.etcd.io/etcd/server/v3/features"
	"go.etcd.io/raft/v3/raftpb"
)

// What a member says of itself. Nobody dials the addresses: they are what the member's number
// was computed from when its data was made.
const (
	clusterToken = "etcd-cluster"
	peerURL      = "http://localhost:2380"
	clientURL    = "http://localhost:2379"
)

// A lone member has no network to wait for, and is asked to lead when it starts; where it
// cannot yet, as its data is new, it elects itself after three ticks at most.
const (
	tick          = 100 * time.Millisecond
	electionTicks = 2
)

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
	server, err := etcdserver.NewServer(ec)
	if err != nil {
		return nil, fmt.Errorf("starting etcd: %w", err)
	}
	server.Start()
	if err := lead(ctx, server); err != nil {
		c.Log.Debug("etcd elects itself in its own time", "err", err)
	}
	select {
	case <-server.ReadyNotify():
		return server, nil
	case <-server.StopNotify():
		err = errors.New("it stopped")
	case <-ctx.Done():
		err = ctx.Err()
	}
	server.Stop()
	return nil, fmt.Errorf("waiting for etcd: %w", err)
}

// lead has a lone member campaign at once, by the message that a leader sends who hands over
// (MsgTimeoutNow). One that has others, or may not campaign yet, takes no notice of it.
func lead(ctx context.Context, server *etcdserver.EtcdServer) error {
	if len(server.Cluster().Members()) != 1 {
		return errors.New("there are other members")
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
		TickMs: uint(tick / time.Millisecond), ElectionTicks: electionTicks,

		SnapshotCount: etcdserver.DefaultSnapshotCount, SnapshotCatchUpEntries: etcdserver.DefaultSnapshotCatchUpEntries,
		MaxSnapFiles: 5, MaxWALFiles: 5,
		QuotaBackendBytes: c.Quota, MaxTxnOps: maxOperations, MaxRequestBytes: maxRequestBytes,
		AutoCompactionMode: v3compactor.ModePeriodic, AutoCompactionRetention: c.Keep,
		WarningApplyDuration: 100 * time.Millisecond, WarningUnaryRequestDuration: 300 * time.Millisecond,
		CompactHashCheckTime: time.Minute, DowngradeCheckTime: 5 * time.Second,

		V2Deprecation: etcdconfig.V2DeprDefault, Metrics: "basic",
		ServerFeatureGate: features.NewDefaultServerFeatureGate(c.Gateway, log),
	}, nil
}
