package daemon

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"lazaret/appliance"
	"lazaret/appliance/claim"
	"lazaret/internal/audit"
	"lazaret/internal/config"
	"lazaret/internal/making"
)

// administratorOf is what somebody at the screen of a gateway asks for, with a new key.
func administratorOf(t *testing.T, s appliance.Setup) (making.Request, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := claim.NewRequest(claim.Request{Setup: s, AdministratorOnly: true}, key)
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := claim.ParseRequest(text)
	if err != nil {
		t.Fatal(err)
	}
	return making.Request{Claim: r}, key
}

// TestNewAdministratorServes: a new administrator is made beside the first in the store of a
// control plane that was stopped; the API takes both, the audit log has it, and the
// configuration is as it was.
func TestNewAdministratorServes(t *testing.T) {
	at := placesIn(t.TempDir())
	q, first := claimOf(t)
	m, err := made(t, q, at)
	if err != nil {
		t.Fatal(err)
	}
	if err := making.Keep(at, m.Config); err != nil {
		t.Fatal(err)
	}
	q, second := administratorOf(t, appliance.Setup{Administrator: "second"})
	n, err := made(t, q, at)
	if err != nil {
		t.Fatal(err)
	}
	if n.Answer.Token != "" || len(n.Config) != 0 {
		t.Error("it comes with a token or a configuration")
	}
	if n.Answer.API != m.Answer.API || n.Answer.RootSHA256 != m.Answer.RootSHA256 || n.Answer.Name != m.Answer.Name || n.Answer.Enroll != m.Answer.Enroll {
		t.Errorf("answer %s, %s, %s", n.Answer.API, n.Answer.RootSHA256, n.Answer.Name)
	}
	if _, err := claim.CredentialOf(n.Answer, second); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(at.Config); err != nil || !bytes.Equal(text, m.Config) {
		t.Errorf("the configuration was changed (%v)", err)
	}
	c, err := config.Load(at.Config)
	if err != nil {
		t.Fatal(err)
	}
	log, err := audit.List(auditDir(c), audit.Filter{Limit: 1})
	if err != nil || len(log) != 1 {
		t.Fatalf("%d audit entries, %v", len(log), err)
	}
	if e := log[0]; e.Action != administratorMade || e.Subject != "second" || e.Detail["how"] != "administrator made at the machine's screen" || e.Actor.Name != "screen" {
		t.Errorf("the newest audit entry is %+v", e)
	}
	c, stop := served(t, c)
	defer stop()
	if one, two := apiStatus(t, c, m.Answer, first), apiStatus(t, c, n.Answer, second); one != http.StatusOK || two != http.StatusOK {
		t.Errorf("the first administrator gets %d, the new one %d", one, two)
	}
	if got := apiStatus(t, c, n.Answer, first); got == http.StatusOK {
		t.Error("the new certificate works with the old key")
	}
}

// TestNoNewAdministrator: nothing is made where there is no gateway, and nothing but an
// administrator where there is one.
func TestNoNewAdministrator(t *testing.T) {
	at := placesIn(t.TempDir())
	q, _ := administratorOf(t, appliance.Setup{})
	if _, err := made(t, q, at); err == nil {
		t.Error("an administrator of no gateway")
	}
	if _, err := InitFromSetup(t.Context(), q, at, silent, nil); err == nil {
		t.Error("a gateway from a request for an administrator")
	}
	if _, err := os.Lstat(at.State); err == nil {
		t.Error("something was made")
	}
	whole, _ := claimOf(t)
	m, err := made(t, whole, at)
	if err != nil {
		t.Fatal(err)
	}
	if err := making.Keep(at, m.Config); err != nil {
		t.Fatal(err)
	}
	before := listing(t, at.State)
	for name, s := range map[string]appliance.Setup{
		"another name":      {Name: "other"},
		"networks":          {AdminNetworks: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}},
		"an impossible one": {Administrator: strings.Repeat("a", 65)},
	} {
		q, _ := administratorOf(t, s)
		refusal, ok := errors.AsType[*claim.Refusal](second(made(t, q, at)))
		if !ok || refusal.Kind != claim.Invalid {
			t.Errorf("%s: %v", name, refusal)
		}
	}
	if _, err := MakeAdministrator(t.Context(), whole, at, silent, func(string) {}); err == nil {
		t.Error("an administrator from a request for a gateway")
	}
	if after := listing(t, at.State); !slices.Equal(before, after) {
		t.Errorf("the gateway has changed: %v, %v", before, after)
	}
}

func second[T any](_ T, err error) error { return err }
