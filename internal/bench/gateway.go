package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"

	"lazaret/enroll"
	"lazaret/internal/daemon"
	"lazaret/internal/seal"
	"lazaret/internal/store"
	"lazaret/quarantine"
)

// gatewayPlan is a whole gateway as it is made before it starts.
type gatewayPlan struct {
	dir               string // everything of it
	outer, management netip.Addr
	quarantine, full  []netip.Prefix
	devices           int // enrolled already
}

const gatewayName = "bench"

func (g gatewayPlan) socket() string { return filepath.Join(g.dir, "control") }

// init makes the gateway's configuration and store, and its devices.
func (g gatewayPlan) init(ctx context.Context) (daemon.Initialized, error) {
	values := map[string]any{
		"name": gatewayName, "state": filepath.Join(g.dir, "state"),
		"enroll.listen": []string{enrollAt}, "enroll.names": []string{"127.0.0.1"}, "api.listen": []string{apiAt},
		"tunnel.endpoints": []string{netip.AddrPortFrom(g.outer, tunnelPort).String()}, "tunnel.agent_port": agentPort,
		"tunnel.interface": tunnelName, "tunnel.port": tunnelPort,
		"dataplane.socket": g.socket(), "dataplane.state": g.dir, "log.level": "warn",
	}
	made, err := daemon.Init(ctx, daemon.InitOptions{
		ConfigPath: filepath.Join(g.dir, "lazaret.toml"), Values: values, Organization: "Bench", Administrator: "bench",
		AdminDir: filepath.Join(g.dir, "admin"), Management: []string{g.management.String() + " tcp/443"},
		Quarantine: g.quarantine, Full: g.full, MayRelease: true, MaxValidity: 2 * time.Hour,
	}, slog.New(slog.DiscardHandler))
	if err != nil || g.devices == 0 {
		return made, err
	}
	return made, g.fill(ctx)
}

// fill enrolls the devices into the store, in the order of their numbers, so that number i
// has seat i+1. The audit log is brought up to date, which the gateway would do else while
// it is measured.
func (g gatewayPlan) fill(ctx context.Context) (err error) {
	state := filepath.Join(g.dir, "state")
	ring, err := seal.LoadOrCreate(filepath.Join(state, "node.key"))
	if err != nil {
		return err
	}
	s, err := store.Open(ctx, store.Config{Dir: filepath.Join(state, "etcd"), AuditDir: filepath.Join(state, "audit"), Ring: ring, Gateway: gatewayName})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	now := time.Now().UTC()
	for i := range g.devices {
		if err := issue(ctx, s, i, now); err != nil {
			return fmt.Errorf("enrolling device %d: %w", i, err)
		}
	}
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		h, err := s.Health(ctx)
		if err != nil || h.Waiting == 0 {
			return err
		}
		select {
		case <-look.C:
		case err := <-ended:
			ended <- err
			return fmt.Errorf("running the store: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// issue enrolls device i, quarantined, without a certificate that anybody holds.
func issue(ctx context.Context, s *store.Store, i int, now time.Time) error {
	by := quarantine.Actor{Kind: "gateway", Name: gatewayName}
	o := enroll.OTP{Reference: fmt.Sprintf("B%07d", i), User: fmt.Sprintf("user%d@example.org", i), Profile: "default",
		Secret: []byte("none"), By: by, Created: now, Expires: now.Add(time.Hour), State: enroll.Pending}
	if err := s.CreateOTP(ctx, by, o); err != nil {
		return err
	}
	o, err := s.OTP(ctx, o.Reference)
	if err != nil {
		return err
	}
	r := quarantine.Record{
		Device: quarantine.Device{ID: deviceID(i), Name: fmt.Sprintf("laptop-%d", i), Owner: o.User, Key: deviceKey(i),
			Pool: "quarantine", Stage: quarantine.Quarantined, Since: now},
		Profile: "default", Proven: true, Confirmed: true,
		Certificate: quarantine.Certificate{Serial: fmt.Sprintf("%032x", i), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(90 * 24 * time.Hour),
			SPKI: sha256.Sum256(fmt.Append(nil, "certificate of device ", i))},
	}
	o.Answer = enroll.Answer{Device: r.ID, SPKI: r.Certificate.SPKI, WireGuard: r.Key, Transaction: []byte("none"), Certificate: []byte("none"), Issued: now, Confirmed: now}
	r, err = s.Issue(ctx, enroll.Issuance{By: by, OTP: o, Record: r, LastSeat: 60_000})
	if err == nil && r.Seat != quarantine.Seat(i+1) {
		err = fmt.Errorf("it has seat %d", r.Seat)
	}
	return err
}
