package daemon

import (
	"crypto"
	"errors"
	"testing"
	"time"

	"lazaret/internal/agentapi"
	"lazaret/internal/manage"
	"lazaret/pki"
	"lazaret/quarantine"
)

// TestManagementSigner: made at the first start, the same at the next and for another
// gateway, another after two thirds of its life; what it has leads to the root for a device.
func TestManagementSigner(t *testing.T) {
	s, h := newStore(t)
	ca, err := loadAuthorities(t.Context(), s.Secrets())
	if err != nil {
		t.Fatal(err)
	}
	k := &control{store: s, ca: ca}
	serial := func(now time.Time) string {
		t.Helper()
		m := &manager{k: k}
		if err := m.renew(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		key, chain := m.signer()
		if err := ca.VerifyManager(chain[0], time.Now()); err != nil {
			t.Error(err)
		}
		var der [][]byte
		for _, c := range chain {
			der = append(der, c.Raw)
		}
		signer, err := agentapi.CheckSigner(der, h.Root.Certificate, time.Now())
		if err != nil || signer.ID != agentapi.SignerID(chain[0]) {
			t.Errorf("a device does not believe it: %v", err)
		}
		if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(signer.Key) {
			t.Error("the key is another's")
		}
		return chain[0].SerialNumber.String()
	}
	first := serial(time.Now())
	if again := serial(time.Now().Add(managerLife / 2)); again != first {
		t.Error("another one at the next start")
	}
	other := &manager{k: k}
	pair, err := ca.NewManager(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.save(t.Context(), pair, false); err == nil {
		t.Error("a second first one was kept")
	}
	if next := serial(time.Now().Add(managerLife * 3 / 4)); next == first {
		t.Error("not renewed near its end")
	}
	if _, err := agentapi.CheckSigner([][]byte{h.Responder.Certificate.Raw, ca.Issuing(pki.Responder).Raw}, h.Root.Certificate, time.Now()); err == nil {
		t.Error("the CMP responder passes as the management signer")
	}
}

// TestCommandsAreKept in the store's settings, each device's where it was left unless it
// was written meanwhile.
func TestCommandsAreKept(t *testing.T) {
	s, _ := newStore(t)
	n := namedSettings{s.Settings()}
	by := quarantine.Actor{Kind: "gateway", Name: "gw"}
	if _, err := n.Get(t.Context(), "command/d-1"); !errors.Is(err, manage.ErrNotFound) {
		t.Errorf("nothing there: %v", err)
	}
	first, err := n.Put(t.Context(), by, manage.Item{Name: "command/d-1", Value: []byte(`{"v":1}`)})
	if err != nil {
		t.Fatal(err)
	}
	for name, it := range map[string]manage.Item{"new": {Name: "command/d-1", Value: []byte(`{}`)}, "later": {Name: "command/d-1", Value: []byte(`{}`), Revision: first.Revision + 100}, "gone": {Name: "command/d-2", Value: []byte(`{}`), Revision: 7}} {
		if _, err := n.Put(t.Context(), by, it); !errors.Is(err, quarantine.ErrConflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := n.Put(t.Context(), by, manage.Item{Name: "other/d-1", Value: []byte(`{}`)}); err != nil {
		t.Fatal(err)
	}
	list, err := n.List(t.Context(), "command/")
	if err != nil || len(list) != 1 || list[0].Name != "command/d-1" || string(list[0].Value) != `{"v":1}` {
		t.Errorf("listed %+v, %v", list, err)
	}
	for range 2 {
		if err := n.Delete(t.Context(), by, "command/d-1"); err != nil {
			t.Error(err)
		}
	}
}
