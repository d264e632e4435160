package daemon

import (
	"errors"
	"testing"

	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// An outlet's password is for one server and one user: it goes to no other, and a change
// that is refused leaves it as it was.
func TestPasswordStaysWithItsServer(t *testing.T) {
	s, _ := newStore(t)
	admin := quarantine.Actor{Kind: "administrator", Name: "root"}
	a := &alerts{store: s, gateway: "gw"}
	secret, other := "mail-s3cr3t", "of-another"
	q := api.OutletRequest{URL: "smtps://mail.example.com", From: "a@example.com", To: []string{"b@example.com"}, User: "u", Password: &secret}
	put := func() api.Outlet {
		t.Helper()
		o, err := a.PutOutlet(t.Context(), admin, "ops", q)
		if err != nil {
			t.Fatal(err)
		}
		q.Password, q.Revision = nil, o.Revision
		return o
	}
	put()
	good := q.Revision
	q.Password, q.Revision, q.URL = &other, 0, "smtps://other.example.com"
	if _, err := a.PutOutlet(t.Context(), admin, "ops", q); !errors.Is(err, quarantine.ErrConflict) {
		t.Fatalf("taken at revision 0: %v", err)
	}
	if text, _, _ := a.password(t.Context(), "ops"); text != secret {
		t.Errorf("after a change that was refused the password is %q", text)
	}
	q.Password, q.Revision, q.URL = nil, good, "smtps://mail.example.com"
	q.To = []string{"c@example.com"}
	if o := put(); !o.Password {
		t.Error("another recipient: the password is gone")
	}
	for what, change := range map[string]func(){
		"server": func() { q.URL = "smtps://evil.example.net" },
		"user":   func() { q.User = "v" },
	} {
		q.Password = &secret
		if o := put(); !o.Password {
			t.Fatal("no password where one was given")
		}
		change()
		if o := put(); o.Password {
			t.Errorf("the password goes along to another %s", what)
		}
	}
}
