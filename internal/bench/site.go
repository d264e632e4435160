package main

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"lazaret/enroll"
	"lazaret/enroll/client"
	"lazaret/enroll/cmp"
	"lazaret/internal/audit"
	"lazaret/internal/seal"
	"lazaret/internal/store"
	"lazaret/pki"
	"lazaret/quarantine"
	"lazaret/quarantine/storetest"
)

var administrator = quarantine.Actor{Kind: "administrator", Name: "bench"}

// site is an enrollment service in this process: the real store, authorities, gate and
// desk behind TLS 1.3 on the loopback; only the data plane is left out.
type site struct {
	dir       string
	store     *store.Store
	hierarchy pki.Hierarchy
	authority *pki.Authority
	gate      *quarantine.Gate
	desk      *enroll.Desk
	listener  net.Listener // of the desk
	tls       *tls.Config
	server    *http.Server
	journal   *quarantine.Journal
	parts     *errgroup.Group
	cancel    context.CancelFunc
}

// memoryKeys keeps a listener's keys as long as the process.
type memoryKeys struct{ blob []byte }

func (m *memoryKeys) Load(context.Context) ([]byte, error) {
	if m.blob == nil {
		return nil, fs.ErrNotExist
	}
	return m.blob, nil
}

func (m *memoryKeys) Save(_ context.Context, blob []byte) error {
	m.blob = blob
	return nil
}

// auditor takes the desk's events into the store's audit log, as the daemon does.
type auditor struct{ store *store.Store }

func (a auditor) Audit(ctx context.Context, e enroll.Event) error {
	return a.store.Audit(ctx, audit.Entry{
		Actor: audit.Actor{Kind: e.By.Kind, Name: e.By.Name}, Action: e.Action, Device: string(e.Device), Subject: e.OTP,
		Detail: map[string]string{"why": e.Why},
	})
}

// openSite starts a site with two pools, one profile and no device.
func openSite(ctx context.Context) (s *site, err error) {
	s = &site{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if s.dir, err = os.MkdirTemp("", "lazaret-bench-"); err != nil {
		return s, err
	}
	ring, err := seal.LoadOrCreate(filepath.Join(s.dir, "node.key"))
	if err != nil {
		return s, err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	s.store, err = store.Open(ctx, store.Config{
		Dir: filepath.Join(s.dir, "etcd"), AuditDir: filepath.Join(s.dir, "audit"), Ring: ring, Gateway: "bench", Log: log,
	})
	if err != nil {
		return s, err
	}
	if err := s.organize(ctx); err != nil {
		return s, err
	}
	ctx, s.cancel = context.WithCancel(ctx)
	s.parts, ctx = errgroup.WithContext(ctx)
	s.parts.Go(func() error { return s.store.Run(ctx) })
	if s.journal, err = quarantine.OpenJournal(filepath.Join(s.dir, "tightenings")); err != nil {
		return s, err
	}
	s.gate, err = quarantine.NewGate(quarantine.Config{
		Store: s.store, Enforcer: storetest.NewEnforcer(), Journal: s.journal, Policy: quarantine.PlainPolicy{},
		Control: "bench", Gateway: "bench", Log: log,
	})
	if err != nil {
		return s, err
	}
	s.parts.Go(func() error { return s.gate.Run(ctx) })
	if err := s.openDesk(ctx, ring, log); err != nil {
		return s, err
	}
	s.parts.Go(func() error { return s.desk.Run(ctx) })
	select {
	case <-s.gate.Ready():
		return s, nil
	case <-ctx.Done():
		return s, ctx.Err()
	}
}

// organize saves the pools, the quarantine pool first, and a profile.
func (s *site) organize(ctx context.Context) error {
	for _, name := range []string{"quarantine", fullPool} {
		p := moverPools()[name]
		p.Mark = 0 // the store gives it
		if err := s.store.PutPool(ctx, administrator, p); err != nil {
			return err
		}
	}
	return s.store.PutProfile(ctx, administrator, quarantine.Profile{Name: "default", Pool: fullPool})
}

func (s *site) openDesk(ctx context.Context, ring *seal.Ring, log *slog.Logger) (err error) {
	if s.hierarchy, err = pki.NewHierarchy(pki.HierarchyConfig{Organization: "Bench"}); err != nil {
		return err
	}
	h := s.hierarchy
	s.authority, err = pki.New(pki.Config{Root: h.Root.Certificate, Devices: h.Devices, Servers: h.Servers, Administrators: h.Administrators})
	if err != nil {
		return err
	}
	keys, err := pki.NewListener(ctx, pki.ListenerConfig{
		Authority: s.authority, Name: "bench", IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Life: 24 * time.Hour, Store: &memoryKeys{}, Log: log,
	})
	if err != nil {
		return err
	}
	proof, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	gateway := cmp.Gateway{Name: "bench", WireGuard: deviceKey(0).String(), Endpoints: []string{"127.0.0.1:51820"}}
	s.desk, err = enroll.New(enroll.Config{
		Store: s.store, Issuer: s.authority, Gate: s.gate, Organization: s.store, Sealer: ring, Audit: auditor{s.store}, Log: log,
		Responder: func() enroll.Responder {
			return enroll.Responder{Key: h.Responder.Key, Certs: []*x509.Certificate{h.Responder.Certificate, s.authority.Issuing(pki.Responder)}}
		},
		ProofKeys: []enroll.ProofKey{{ID: "1", Key: proof}}, Gateways: func() []cmp.Gateway { return []cmp.Gateway{gateway} },
		ListenerKeys: func() [][]byte {
			var out [][]byte
			for _, sum := range keys.Keys() {
				out = append(out, sum[:])
			}
			return out
		},
		Exporter: true,
	})
	if err != nil {
		return err
	}
	s.tls = &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: keys.GetCertificate}
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	s.server = &http.Server{Handler: s.desk, TLSConfig: s.tls, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	s.parts.Go(func() error {
		if err := s.server.ServeTLS(s.listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return nil
}

// Close ends everything and leaves nothing behind.
func (s *site) Close() error {
	var faults []error
	if s.server != nil {
		faults = append(faults, s.server.Close())
	}
	if s.cancel != nil {
		s.cancel()
	}
	if s.parts != nil {
		if err := s.parts.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			faults = append(faults, err)
		}
	}
	if s.journal != nil {
		faults = append(faults, s.journal.Close())
	}
	if s.store != nil {
		faults = append(faults, s.store.Close())
	}
	if s.dir != "" {
		faults = append(faults, os.RemoveAll(s.dir))
	}
	return errors.Join(faults...)
}

// keyStore is a device that keeps nothing: its disk is not measured.
type keyStore struct {
	keys client.Keys
}

func newKeyStore() (*keyStore, error) {
	certificate, err := pki.GenerateKey()
	if err != nil {
		return nil, err
	}
	wireguard, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return &keyStore{keys: client.Keys{Certificate: certificate, WireGuard: wireguard}}, nil
}

func (k *keyStore) Keys(context.Context) (client.Keys, error) { return k.keys, nil }

func (k *keyStore) Save(context.Context, *client.Result) error { return nil }

// quiet is the log of a device.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func deviceName(n int) string { return fmt.Sprintf("user%d@example.org", n) }
