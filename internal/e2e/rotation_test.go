package e2e

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"lazaret/internal/agent"
	"lazaret/internal/console/api"
	"lazaret/internal/testnet"
	"lazaret/quarantine/tunnel"
)

// steps are those of a renewal, in order: what is on the disk, and what the gateway knows.
var steps = []string{
	"tunnel key",      // the tunnel's next key is on the disk
	"both keys",       // the certificate's, too; the gateway knows nothing
	"answered",        // the gateway knows both; nothing is kept
	"certificate",     // it is kept, its key not yet in place
	"certificate key", // both are; the gateway is not told
	"confirmed",
	"told",    // the gateway says that it holds the next key
	"turned",  // an answer came over it
	"rotated", // and it is the only one
}

// wireguardKey reads one of a device's tunnel keys.
func (l *laptop) wireguardKey(t testing.TB, name string) tunnel.PrivateKey {
	t.Helper()
	k, err := tunnel.LoadOrCreateKey(filepath.Join(l.config.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// settled waits until device and gateway agree on one key, other than that.
func (l *laptop) settled(t testing.TB, other tunnel.Key) tunnel.PrivateKey {
	t.Helper()
	var k tunnel.PrivateKey
	until(t, l.id+" has rotated its key", func() bool {
		k = l.wireguardKey(t, "wireguard.key")
		_, err := os.Stat(filepath.Join(l.config.Dir, "wireguard-next.key"))
		return os.IsNotExist(err) && k.Public() != other && l.g.show(t, l.id).Key == k.Public().String()
	})
	return k
}

// routedLaptop is a device that is released, and the server it talks to.
func routedLaptop(t testing.TB, g *gateway) (*laptop, *testnet.Server, netip.AddrPort) {
	t.Helper()
	l := newLaptop(t, g)
	l.enroll(t, g.url(), api.OTPRequest{User: "agent@example.com"})
	g.reported(t, l.id, "compliant")
	l.start(t, "")
	l.stands(t, "routed")
	to := netip.AddrPortFrom(theLab(t).Plan.Intranet.V4, 7000+uint16(laptops.Add(1)))
	srv, err := theLab(t).Intranet.Serve(soon(t), to)
	if err != nil {
		t.Fatal(err)
	}
	return l, srv, to
}

// TestRenewalRotatesTheTunnelsKey: an agent whose certificate runs out soon renews by
// itself, twice; its tunnel moves to a new key each time, a stream goes on, and the first
// key opens nothing any more.
func TestRenewalRotatesTheTunnelsKey(t *testing.T) {
	t.Parallel()
	g := newGateway(t, options{life: 12 * time.Second})
	l, srv, to := routedLaptop(t, g)
	first := l.wireguardKey(t, "wireguard.key")
	certificate := g.show(t, l.id).Certificate
	s, err := l.host.Stream(soon(t), srv, testnet.StreamSpec{Proto: testnet.UDP, Direction: testnet.Echo, To: to, Every: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	second := l.settled(t, first.Public())
	l.settled(t, second.Public())
	var before, st testnet.StreamStat
	if before, err = s.Client(soon(t)); err != nil {
		t.Fatal(err)
	}
	until(t, "the stream goes on", func() bool {
		st, err = s.Client(soon(t))
		return err == nil && st.Received > before.Received+20
	})
	t.Logf("two rotations under a stream of 5 ms: longest silence %s, %d of %d came back", st.MaxGap.Round(time.Millisecond), st.Received, st.Sent)
	if d := g.show(t, l.id); d.Certificate == certificate || d.Stage != "routed" {
		t.Errorf("after two renewals: certificate %s, %s", d.Certificate, d.Stage)
	}

	// Whoever has the first key has nothing.
	l.end(t)
	thief := &device{g: g, host: l.host, wg: first, id: l.id}
	thief.open(t)
	if got := reach(t, thief)[0].stage(); got != "blocked" {
		t.Errorf("with the old key: %s", got)
	}
}

// TestRenewalKilledAtEachStep: wherever the agent is killed, after its next start it
// reaches the gateway and the intranet, and the rotation comes to its end.
func TestRenewalKilledAtEachStep(t *testing.T) {
	t.Parallel()
	g := newGateway(t, options{})
	l, _, to := routedLaptop(t, g)
	l.end(t)
	for _, step := range steps {
		before := l.wireguardKey(t, "wireguard.key").Public()
		certificate := g.show(t, l.id).Certificate
		l.start(t, step)
		// It may die before it answers.
		_, _ = agent.Ask(soon(t), l.config.Socket, agent.Request{Op: "renew"})
		<-l.run.Done()
		if l.run.ExitCode() != -1 {
			t.Fatalf("at %q the agent was not killed: %s", step, l.run.Output())
		}
		l.start(t, "")
		l.stands(t, "routed")
		if !l.reaches(t, testnet.UDP, to, late) {
			t.Fatalf("killed at %q: the intranet is not reached", step)
		}
		if step == "tunnel key" { // not begun: nobody was asked for anything
			l.ask(t, "renew")
		}
		l.settled(t, map[bool]tunnel.Key{false: before}[step == "rotated"])
		if d := g.show(t, l.id); d.Certificate == certificate || !l.reaches(t, testnet.UDP, to, late) {
			t.Fatalf("killed at %q: certificate %s, as before: %v", step, d.Certificate, d.Certificate == certificate)
		}
		l.end(t)
	}
}
