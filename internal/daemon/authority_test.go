package daemon

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"lazaret/internal/seal"
	"lazaret/internal/store"
	"lazaret/pki"
)

// newStore opens an empty store with a hierarchy in it.
func newStore(t *testing.T) (*store.Store, pki.Hierarchy) {
	t.Helper()
	dir := t.TempDir()
	s, err := store.Open(t.Context(), store.Config{
		Dir: filepath.Join(dir, "etcd"), AuditDir: filepath.Join(dir, "audit"), Ring: seal.New(), Gateway: "gw", Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	h, err := pki.NewHierarchy(pki.HierarchyConfig{Organization: "Example"})
	if err != nil {
		t.Fatal(err)
	}
	if err := saveHierarchy(t.Context(), s.Secrets(), h); err != nil {
		t.Fatal(err)
	}
	if err := newProof(t.Context(), s.Secrets()); err != nil {
		t.Fatal(err)
	}
	return s, h
}

func TestAuthoritiesComeBackWithoutTheRootKey(t *testing.T) {
	s, h := newStore(t)
	root := keyPair{Version: 1, Certificate: h.Root.Certificate.Raw}
	if err := saveBlob(t.Context(), s.Secrets(), secretRoot, root); err != nil {
		t.Fatal(err)
	}
	a, err := loadAuthorities(t.Context(), s.Secrets())
	if err != nil {
		t.Fatal(err)
	}
	if !a.Root().Equal(h.Root.Certificate) || len(a.proof) != 1 {
		t.Errorf("loaded root %v, %d proof keys", a.Root().Subject, len(a.proof))
	}
	key, err := pki.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := a.Issue(context.Background(), pki.Request{Kind: pki.Device, PublicKey: key.Public(), CommonName: "d-1", NotAfter: time.Now().Add(time.Hour)})
	if err != nil || a.VerifyDevice(leaf, time.Now()) != nil {
		t.Errorf("issuing without the root's key: %v", err)
	}
}

func TestResponderIsRenewedAtTwoThirds(t *testing.T) {
	s, h := newStore(t)
	a, err := loadAuthorities(t.Context(), s.Secrets())
	if err != nil {
		t.Fatal(err)
	}
	first := h.Responder.Certificate
	life := first.NotAfter.Sub(first.NotBefore)
	if err := a.renewResponder(t.Context(), s.Secrets(), first.NotBefore.Add(life*2/3-time.Hour)); err != nil || !a.Responder().Certs[0].Equal(first) {
		t.Errorf("renewed too early: %v", err)
	}
	if err := a.renewResponder(t.Context(), s.Secrets(), first.NotBefore.Add(life*2/3+time.Hour)); err != nil {
		t.Fatal(err)
	}
	next := a.Responder().Certs[0]
	if next.Equal(first) || a.VerifyResponder(next, time.Now()) != nil {
		t.Error("no new responder that verifies")
	}
	again, err := loadAuthorities(t.Context(), s.Secrets())
	if err != nil || !again.Responder().Certs[0].Equal(next) {
		t.Errorf("after a restart: %v", err)
	}
}
