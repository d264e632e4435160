package tunnel

import (
	"errors"
	"testing"
	"time"
)

// The link answers to the key it was given last, over both ways of driving WireGuard.
func TestSetKey(t *testing.T) {
	if !inside(t) {
		return
	}
	l := openLink(t, Config{ForceUserspace: true, Addresses: prefixes("10.66.0.1/16")})
	expose(t, l)
	first, second, third := l.Public(), key(t), key(t)
	over, err := openKernel(Config{Name: "lz0", PrivateKey: second, ListenPort: port})
	if err != nil {
		t.Fatal(err)
	}
	defer over.close()
	at := listen(t, "10.66.0.1:0")
	const soon, never = 10 * time.Second, 400 * time.Millisecond
	old, new, newest := newClient(t, first, "10.66.0.2"), newClient(t, second.Public(), "10.66.0.3"), newClient(t, third.Public(), "10.66.0.4")
	set(t, l, old.key.Public(), "10.66.0.2/32")
	set(t, l, new.key.Public(), "10.66.0.3/32")
	set(t, l, newest.key.Public(), "10.66.0.4/32")
	if old.reaches(t, "10.66.0.2", at, never) || !new.reaches(t, "10.66.0.3", at, soon) {
		t.Error("opening with another key did not set it")
	}
	if err := l.SetKey(third); err != nil {
		t.Fatal(err)
	}
	if l.Public() != third.Public() || !newest.reaches(t, "10.66.0.4", at, soon) {
		t.Error("the new key does not answer")
	}
	if err := l.SetPeer(Peer{Key: third.Public()}); !errors.Is(err, ErrPeer) {
		t.Errorf("the link's own key as a peer: %v", err)
	}
	if err := over.setKey(second); err != nil {
		t.Fatal(err)
	}
	if !new.reaches(t, "10.66.0.3", at, soon) {
		t.Error("a key set over the control interface does not answer")
	}
	if err := l.SetKey(PrivateKey{}); err == nil {
		t.Error("no key was taken for one")
	}
}
