package tunnel

import (
	"errors"
	"net"
	"net/netip"
	"os"
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
	const never = 400 * time.Millisecond
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

// Another key ends a session in one direction: what the peer sends is taken, what is sent
// to it waits. Removed and set anew, the peer has no session in either.
func TestSetKeyEndsSending(t *testing.T) {
	if !inside(t) {
		return
	}
	l := openLink(t, Config{Addresses: prefixes("10.66.0.1/16"), ForceUserspace: true})
	expose(t, l)
	c := newClient(t, l.Public(), "10.66.0.2")
	set(t, l, c.key.Public(), "10.66.0.2/32")
	here, err := net.ListenPacket("udp", "10.66.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	there, err := c.net.DialUDPAddrPort(netip.MustParseAddrPort("10.66.0.2:9"), netip.MustParseAddrPort(here.LocalAddr().String()))
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	const never = 400 * time.Millisecond
	send := func(text string, within time.Duration) bool {
		t.Helper()
		if _, err := there.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		return heard(t, here, text, within)
	}
	if !send("before", soon) {
		t.Fatal("no session")
	}
	if err := l.SetKey(key(t)); err != nil {
		t.Fatal(err)
	}
	if !send("after", soon) {
		t.Error("what the peer sends under the old session is not taken")
	}
	if _, err := here.WriteTo([]byte("back"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("10.66.0.2:9"))); err != nil {
		t.Fatal(err)
	}
	if err := there.SetReadDeadline(time.Now().Add(never)); err != nil {
		t.Fatal(err)
	}
	if n, err := there.Read(make([]byte, 16)); err == nil {
		t.Errorf("%d bytes were sent to a peer that does not know the key", n)
	}
	if err := l.RemovePeer(c.key.Public()); err != nil {
		t.Fatal(err)
	}
	set(t, l, c.key.Public(), "10.66.0.2/32")
	if send("anew", never) {
		t.Error("a peer that was removed and set anew still has its session")
	}
}

// heard says whether text arrives in time.
func heard(t *testing.T, at net.PacketConn, text string, within time.Duration) bool {
	t.Helper()
	if err := at.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64)
	n, _, err := at.ReadFrom(b)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	return err == nil && string(b[:n]) == text
}
