package agent

import (
	"errors"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
)

// ruleCount counts the routing rules that an agent made.
func ruleCount(t *testing.T) (n int) {
	t.Helper()
	list, err := netlink.RuleList(netlink.FAMILY_ALL)
	must(t, err)
	for _, r := range list {
		if r.Protocol == protocol {
			n++
		}
	}
	return n
}

// TestCleanUp: what a killed agent left is taken back, its rules also where it had set no
// DNS servers in the file; nothing of an agent that runs is, although nobody answers on the
// socket that was asked.
func TestCleanUp(t *testing.T) {
	if !inside(t) {
		return
	}
	a, _ := newAgent(t)
	f, _ := conf(t, own)
	c := Config{Dir: a.store.dir, ResolvConf: f.path, Log: a.log}
	leave := func(servers ...netip.Addr) {
		t.Helper()
		must(t, f.set(servers))
		must(t, setRules(endpoint.Addr()))
	}
	leave(addr("10.66.0.1"))
	unlock, err := a.store.lock() // it runs
	must(t, err)
	if cleaned, err := CleanUp(c); cleaned || !errors.Is(err, errInUse) {
		t.Errorf("under a running agent: %v, %v", cleaned, err)
	}
	elsewhere := c
	elsewhere.Dir = filepath.Join(t.TempDir(), "none")
	if cleaned, err := CleanUp(elsewhere); cleaned || err != nil {
		t.Errorf("where nobody enrolled: %v, %v", cleaned, err)
	}
	if f.servers(t) != "10.66.0.1" || ruleCount(t) != 7 {
		t.Fatalf("a running agent was left with servers %s and %d rules", f.servers(t), ruleCount(t))
	}
	unlock() // it was killed
	for _, servers := range [][]netip.Addr{{addr("10.66.0.1")}, nil} {
		leave(servers...)
		if cleaned, err := CleanUp(c); !cleaned || err != nil {
			t.Errorf("servers %v and rules were left: %v, %v", servers, cleaned, err)
		}
		if f.servers(t) != "203.0.113.53" || ruleCount(t) != 0 {
			t.Errorf("of servers %v there stay %s and %d rules", servers, f.servers(t), ruleCount(t))
		}
	}
	if cleaned, err := CleanUp(c); cleaned || err != nil {
		t.Errorf("nothing was left: %v, %v", cleaned, err)
	}
}
