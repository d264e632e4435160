package tunnel

import (
	"errors"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// A link whose interface is deleted under it says so, at once and by itself, and can be
// opened again under the same name and port.
func TestLost(t *testing.T) {
	if !inside(t) {
		return
	}
	own := Config{ForceUserspace: true, Addresses: prefixes("10.66.0.1/16")}
	l := openLink(t, own)
	other := openLink(t, Config{Name: "lz1", ForceUserspace: true, ListenPort: port + 1})
	set(t, l, key(t).Public(), "10.66.0.2/32")
	deleteInterface(t, "lz0")
	if err := l.SetPeer(Peer{Key: key(t).Public()}); !errors.Is(err, ErrLost) { // before the news is through
		t.Errorf("setting a peer: %v", err)
	}
	waitLost(t, l)
	_, err1 := l.Peers()
	_, err2 := l.Handshakes([]Key{{1}})
	_, err3 := l.Status(Key{1})
	for i, err := range []error{err1, err2, err3, l.Apply(nil), l.RemovePeer(Key{1}), l.SetAddresses(nil), l.SetRoutes(nil), l.SetKey(key(t))} {
		if !errors.Is(err, ErrLost) {
			t.Errorf("call %d: %v", i, err)
		}
	}
	select {
	case <-other.Lost():
		t.Error("another link was lost as well")
	default:
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	again := openLink(t, own)
	a := newClient(t, again.Public(), "10.66.0.2")
	set(t, again, a.key.Public(), "10.66.0.2/32")
	if !a.reaches(t, "10.66.0.2", listen(t, "10.66.0.1:0"), soon) {
		t.Error("the link that was opened again carries nothing")
	}
	if err := l.Remove(); err != nil { // as does the cleanup: what has the name now is another's
		t.Error(err)
	}
	if _, err := again.Peers(); err != nil {
		t.Errorf("removing the lost link took the new one: %v", err)
	}
}

// Ending a link by itself is no loss, and may be said twice.
func TestCloseIsNoLoss(t *testing.T) {
	if !inside(t) {
		return
	}
	for _, end := range []func(*Link) error{(*Link).Close, (*Link).Remove} {
		l := openLink(t, Config{ForceUserspace: true})
		for range 2 {
			if err := end(l); err != nil {
				t.Error(err)
			}
		}
		select {
		case <-l.Lost():
			t.Error("ending the link lost it")
		default:
		}
	}
}

// The watch learns of the loss from its own question, as after news that were dropped;
// and an interface that is there, or another's, is not lost.
func TestWatchAsks(t *testing.T) {
	if !inside(t) {
		return
	}
	there, err := newWatch("lo", func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer there.close()
	socket, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		t.Fatal(err)
	}
	gone := watchIndex(socket, 4242, func() {})
	defer gone.close()
	if err := errors.Join(there.ask(), gone.ask()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-gone.lost:
	case <-time.After(soon):
		t.Error("the kernel's answer was not understood")
	}
	select {
	case <-there.lost:
		t.Error("an interface that is there was taken for lost")
	default:
	}
	if _, err := newWatch("none", func() {}); err == nil {
		t.Error("watching what is not there")
	}
}

func waitLost(t *testing.T, l *Link) {
	t.Helper()
	select {
	case <-l.Lost():
	case <-time.After(soon):
		t.Fatal("the loss was not noticed")
	}
}

func deleteInterface(t *testing.T, name string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		t.Fatal(err)
	}
}
