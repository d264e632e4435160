package claim

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"lazaret/appliance"
)

// ofGateway has a machine be a gateway that makes an administrator.
func ofGateway(c *KeeperConfig) {
	c.Administrator = true
	issue := c.Make
	c.Make = func(ctx context.Context, r Request, step func(string)) (Answer, error) {
		a, err := issue(ctx, r, step)
		a.Token = ""
		return a, err
	}
}

// only is a request for an administrator.
func only(t *testing.T, s appliance.Setup) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := NewRequest(Request{Setup: s, AdministratorOnly: true}, key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestAdministratorOnly: a gateway makes an administrator and nothing else, a machine that
// is nobody's makes a gateway and no less; each says which it is.
func TestAdministratorOnly(t *testing.T) {
	gateway, nobodys := newMachine(t, ofGateway), newMachine(t, nil)
	for m, want := range map[*machine]bool{gateway: true, nobodys: false} {
		if got, err := AskOffer(t.Context(), m.address); got.Administrator != want || err != nil {
			t.Errorf("for an administrator: %v, %v; want %v", got, err, want)
		}
	}
	for name, x := range map[string]struct {
		m       *machine
		request []byte
	}{
		"a set-up for a gateway":                {gateway, request(t)},
		"an administrator of nobody's":          {nobodys, only(t, appliance.Setup{Administrator: "ada"})},
		"an administrator, and another name":    {gateway, only(t, appliance.Setup{Administrator: "ada", Name: "other"})},
		"an administrator, and his networks":    {gateway, only(t, appliance.Setup{Masquerade: true})},
		"an administrator nobody could display": {gateway, only(t, appliance.Setup{Administrator: "a\nb"})},
	} {
		if _, err := dial(t, x.m, x.request).Claim(t.Context(), nil); refused(err) != Invalid {
			t.Errorf("%s: %v", name, err)
		}
		if made, _ := x.m.count(); made != 0 {
			t.Fatalf("%s: made", name)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewRequest(Request{AdministratorOnly: true, APINames: []string{"gw.example.com"}}, key); err == nil {
		t.Error("a request for an administrator names the API")
	}
	k := dial(t, gateway, only(t, appliance.Setup{Administrator: "ada"}))
	a, err := k.Claim(t.Context(), nil)
	if err != nil || a.Token != "" || len(a.Administrator) != 2 {
		t.Fatalf("%d certificates, %v", len(a.Administrator), err)
	}
	if err := k.Kept(t.Context()); err != nil {
		t.Fatal(err)
	}
	if keeper, door := gateway.end(); keeper != nil || door != nil {
		t.Errorf("keeper ended with %v, door with %v", keeper, door)
	}
}

// TestAdministratorPage asks code and name, and nothing of the gateway.
func TestAdministratorPage(t *testing.T) {
	m := newMachine(t, ofGateway)
	v := newVisitor(t, m)
	status, text := v.get("/")
	if status != http.StatusOK || !strings.Contains(text, "Make a new administrator") || !strings.Contains(text, m.print) {
		t.Errorf("%d %s", status, text)
	}
	for _, not := range []string{"enroll_names", "nobody's", "Claim this gateway", "admin_networks"} {
		if strings.Contains(text, not) {
			t.Errorf("the page says %q", not)
		}
	}
	if status, _ := v.post("/", url.Values{"code": {DrawCode().String()}, "clock": {"on"}, "administrator": {"ada"}}); status != http.StatusUnprocessableEntity {
		t.Errorf("a wrong code: %d", status)
	}
	_, text = v.post("/", url.Values{"code": {m.code.String()}, "clock": {"on"}, "administrator": {"ada"}, "enroll_names": {"evil.example"}})
	for strings.Contains(text, "looks again by itself") {
		_, text = v.get("/progress")
	}
	if !strings.Contains(text, "The administrator is made") || strings.Contains(text, "token") {
		t.Errorf("the result: %s", text)
	}
	if r := m.made[0]; !r.AdministratorOnly || r.Setup.Administrator != "ada" || len(r.Setup.EnrollNames) != 0 {
		t.Errorf("asked for %+v", r)
	}
	v.post("/credential", nil)
	if c, err := ParseCredential([]byte(v.raw)); err != nil || c.Server != "https://gw.example.com:8443" {
		t.Errorf("the credential: %v", err)
	}
	if _, text = v.post("/start", nil); !strings.Contains(text, "The gateway goes on") {
		t.Errorf("the end: %s", text)
	}
}
