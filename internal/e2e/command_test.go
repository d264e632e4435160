package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lazaret/internal/agent"
	"lazaret/internal/console/api"
	"lazaret/internal/testneed"
	"lazaret/internal/testnet"
)

// send orders a device to do something.
func (c *operator) send(t testing.TB, device, kind string, args map[string]string) (out api.Command) {
	t.Helper()
	c.want(t, http.StatusCreated, "POST", "/api/v1/devices/"+device+"/commands", api.CommandRequest{Kind: kind, Why: "a test", Args: args}, &out)
	return out
}

// over waits until nothing more is to come of a command.
func (c *operator) over(t testing.TB, of api.Command) (out api.Command) {
	t.Helper()
	until(t, of.Kind+" is over", func() bool {
		c.want(t, http.StatusOK, "GET", "/api/v1/devices/"+of.Device+"/commands/"+of.ID, nil, &out)
		return out.Over
	})
	return out
}

// logged counts a device's audit entries about a command.
func (c *operator) logged(t testing.TB, of api.Command, action string) (n int) {
	t.Helper()
	for _, e := range c.audit(t, of.Device) {
		if e.Action == action && e.Subject == of.ID {
			n++
		}
	}
	return n
}

// TestDeviceCommands: a device that runs is woken by its long poll and does what it is told, and
// the answer tells the effect.
func TestDeviceCommands(t *testing.T) {
	t.Parallel()
	g := newGateway(t, options{})
	l, _, to := routedLaptop(t, g)
	notice := g.over(t, g.send(t, l.id, "notify", map[string]string{"text": "Please update."}))
	if notice.State != "done" || g.logged(t, notice, "command.issue") != 1 || g.logged(t, notice, "command.result") != 1 {
		t.Errorf("notify: %+v", notice)
	}
	st := l.ask(t, "status")
	if len(st.Notices) != 1 || st.Notices[0].Text != "Please update." || len(st.Commands) != 1 || st.Sessions != 0 {
		t.Errorf("the device shows %+v, %+v and %d sessions of the schedule", st.Notices, st.Commands, st.Sessions)
	}
	before, key := g.show(t, l.id), l.wireguardKey(t, "wireguard.key").Public()
	renewed := g.over(t, g.send(t, l.id, "renew", nil))
	now := g.show(t, l.id)
	if renewed.State != "done" || now.Certificate == before.Certificate || !strings.Contains(renewed.Detail, strings.TrimLeft(now.Certificate, "0")) {
		t.Errorf("renew: %s %s, certificate %s before, %s now", renewed.State, renewed.Detail, before.Certificate, now.Certificate)
	}
	l.settled(t, key)
	key = l.wireguardKey(t, "wireguard.key").Public()
	rotated := g.over(t, g.send(t, l.id, "rotate", nil))
	if other := l.settled(t, key).Public(); rotated.State != "done" || !strings.Contains(rotated.Detail, other.String()) {
		t.Errorf("rotate: %s %s, the key is %s", rotated.State, rotated.Detail, other)
	}
	for kind, want := range map[string]string{"pool": "done", "gateway": "done", "erase": "refused"} { // nobody named a program that erases
		if c := g.over(t, g.send(t, l.id, kind, nil)); c.State != want {
			t.Errorf("%s: %s %s", kind, c.State, c.Detail)
		}
	}
	if !l.reaches(t, testnet.UDP, to, late) {
		t.Error("after all that the intranet is not reached")
	}
	if a := g.call(t, "POST", "/api/v1/devices/"+l.id+"/commands", api.CommandRequest{Kind: "format"}, nil); a.status != http.StatusUnprocessableEntity {
		t.Errorf("a command that does not exist: %s", a)
	}

	// While the device is away a command waits, and can be taken back.
	l.end(t)
	waits := g.send(t, l.id, "pool", nil)
	var cancelled api.Command
	g.want(t, http.StatusOK, "DELETE", "/api/v1/devices/"+l.id+"/commands/"+waits.ID, nil, &cancelled)
	kept := g.send(t, l.id, "notify", map[string]string{"text": "Later."})
	g.restartServe(t)
	l.start(t, "")
	if c := g.over(t, kept); c.State != "done" || cancelled.State != "cancelled" {
		t.Errorf("after both were started again: %+v, cancelled: %+v", c, cancelled)
	}
}

// restartServe ends the control plane and starts it again.
func (g *gateway) restartServe(t testing.TB) {
	t.Helper()
	if err := g.serve.Kill(soon(t)); err != nil {
		t.Fatal(err)
	}
	g.startServe(t)
	g.awaitReady(t)
}

// TestCommandKilled: an agent that dies with a command begun does not begin it again, and
// says so.
func TestCommandKilled(t *testing.T) {
	t.Parallel()
	g := newGateway(t, options{})
	l := newLaptop(t, g)
	l.enroll(t, g.url(), api.OTPRequest{User: "agent@example.com"})
	c := g.send(t, l.id, "notify", map[string]string{"text": "once"})
	l.start(t, "command begun")
	<-l.run.Done()
	l.start(t, "")
	if got := g.over(t, c); got.State != "unknown" || len(l.ask(t, "status").Notices) != 0 {
		t.Errorf("it is %s: %s", got.State, got.Detail)
	}
}

// residue is what must not be left of an enrollment, by what it is.
func (l *laptop) residue(t testing.TB) map[string][]byte {
	t.Helper()
	read := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join(l.config.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	key := read("device.key")
	block, _ := pem.Decode(key)
	var st struct {
		Certificate, Root []byte
		Settings          struct {
			Device   string
			Gateways []struct{ WireGuard string }
		}
	}
	if err := json.Unmarshal(read("device.json"), &st); err != nil || block == nil || len(st.Certificate) == 0 || st.Settings.Device != l.id {
		t.Fatalf("what to look for cannot be read: %v %+v", err, st)
	}
	wg := l.wireguardKey(t, "wireguard.key")
	out := map[string][]byte{
		"the certificate's key, PEM": bytes.TrimSpace(key), "the certificate's key": block.Bytes, "the certificate": st.Certificate, "the root": st.Root,
		"the tunnel's key": wg.Bytes(), "the tunnel's key, as wg has it": []byte(base64.StdEncoding.EncodeToString(wg.Bytes())),
		"the gateway's key": []byte(st.Settings.Gateways[0].WireGuard), "the device's name for itself": []byte(l.id),
	}
	for _, line := range strings.Split(strings.TrimSpace(string(key)), "\n")[1:] {
		if !strings.HasPrefix(line, "-----") {
			out["a line of the certificate's key "+line[:8]] = []byte(line)
		}
	}
	for what, b := range map[string][]byte{"the certificate's key, base64": block.Bytes, "the certificate, base64": st.Certificate, "the root, base64": st.Root} {
		out[what] = []byte(base64.StdEncoding.EncodeToString(b))
	}
	// The scalar of a P-256 key stands alone in its PKCS#8.
	if i := bytes.Index(block.Bytes, []byte{0x04, 0x20}); i > 0 {
		out["the scalar of the certificate's key"] = block.Bytes[i+2 : i+34]
	}
	return out
}

// find returns what of it is in any file below a directory.
func find(t testing.TB, dir string, residue map[string][]byte) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		for what, b := range residue {
			if bytes.Contains(text, b) {
				found = append(found, what+" in "+path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// wearing is a laptop with DNS servers of its own, which the tunnel's take the place of.
func wearing(t testing.TB, g *gateway, user string) *laptop {
	t.Helper()
	l := newLaptop(t, g)
	l.config.Etc = filepath.Join(l.host.Dir(), "etc")
	if err := os.Mkdir(l.config.Etc, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.config.Etc, "resolv.conf"), []byte(ownResolvConf), 0o644); err != nil {
		t.Fatal(err)
	}
	l.enroll(t, g.url(), api.OTPRequest{User: user})
	g.reported(t, l.id, "compliant")
	l.start(t, "")
	l.stands(t, "routed")
	return l
}

// bare fails unless nothing of the enrollment is left on the device.
func (l *laptop) bare(t testing.TB, when string, residue map[string][]byte) {
	t.Helper()
	if found := find(t, l.config.Dir, residue); len(found) > 0 {
		t.Errorf("%s there is %s", when, strings.Join(found, ", "))
	}
	if found := find(t, l.config.Etc, residue); len(found) > 0 {
		t.Errorf("%s there is %s", when, strings.Join(found, ", "))
	}
	list, err := os.ReadDir(l.config.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.Name() != "lock" && e.Name() != "wiped.json" {
			t.Errorf("%s there is the file %s", when, e.Name())
		}
	}
	text, err := os.ReadFile(filepath.Join(l.config.Etc, "resolv.conf"))
	if err != nil || string(text) != ownResolvConf {
		t.Errorf("%s resolv.conf holds %q, %v", when, text, err)
	}
	for _, family := range []string{"-4", "-6"} {
		for _, what := range [][]string{{family, "rule", "show"}, {family, "route", "show", "table", "all"}, {family, "address", "show"}} {
			out := command(t, l.host, testneed.Program(t, "ip"), what...)
			for _, sign := range []string{"lazaret0", "51820", "51821", "31000", "31001", l.g.quarantine.Addr().String()[:7], l.g.full.Addr().String()[:7]} {
				if strings.Contains(out, sign) {
					t.Errorf("%s ip %s has %s:\n%s", when, strings.Join(what, " "), sign, out)
				}
			}
		}
	}
	if _, err := agent.Ask(soon(t), l.config.Socket, agent.Request{Op: "status"}); err == nil {
		t.Errorf("%s the agent still answers", when)
	}
}

// TestWipeLeavesNothing: after a selective wipe nothing of the enrollment is on the device:
// no key, no certificate, no route, rule or address, no DNS server, no tunnel; and the
// gateway, which has the device's signed word, has revoked it.
func TestWipeLeavesNothing(t *testing.T) {
	t.Parallel()
	g := newGateway(t, options{})
	g.setDNS(t, "quarantine", "192.0.2.53")
	g.setDNS(t, "full", "10.10.0.53")
	l := wearing(t, g, "gone@example.com")
	residue := l.residue(t)
	control := strings.Join(find(t, l.config.Dir, residue), ", ") // what is looked for can be found
	for _, what := range []string{"the certificate's key, PEM", "the certificate, base64", "the root, base64", "the tunnel's key, as wg has it", "the gateway's key"} {
		if !strings.Contains(control, what) {
			t.Fatalf("before the wipe %s is not found: %s", what, control)
		}
	}
	stays := newLaptop(t, g)
	stays.enroll(t, g.url(), api.OTPRequest{User: "stays@example.com"})
	c := g.send(t, l.id, "wipe", nil)
	<-l.run.Done()
	if out := l.run.Output(); !strings.Contains(out, agent.ErrWiped.Error()) {
		t.Errorf("the agent ended otherwise:\n%s", out)
	}
	l.run = nil
	l.bare(t, "after the wipe", residue)
	if got := g.over(t, c); got.State != "done" || g.logged(t, c, "command.result") != 1 {
		t.Errorf("the gateway has %+v", got)
	}
	until(t, "the device is revoked", func() bool { return g.show(t, l.id).Stage == "revoked" })
	if s := g.show(t, stays.id).Stage; s != "quarantined" {
		t.Errorf("another device is %s", s)
	}
	if a := g.call(t, "POST", "/api/v1/devices/"+l.id+"/commands", api.CommandRequest{Kind: "lock"}, nil); a.status != http.StatusConflict {
		t.Errorf("a command to a revoked device: %s", a)
	}
	p, err := l.host.Run(soon(t), "agent", string(mustJSON(t, l.config)))
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if !strings.Contains(p.Output(), agent.ErrWiped.Error()) {
		t.Errorf("started again it says:\n%s", p.Output())
	}
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// wipeSteps are those of a wipe, in order.
var wipeSteps = []string{"wipe ordered", "wipe begun", "wipe undressed", "wipe told", "wipe shredded", "wipe unplugged", "wipe buried"}

// TestWipeKilledAtEachStep: wherever the agent is killed, its next start ends the wipe
// before all else, and the gateway comes to know of it.
func TestWipeKilledAtEachStep(t *testing.T) {
	t.Parallel()
	g := newGateway(t, options{})
	g.setDNS(t, "full", "10.10.0.53")
	var gone []*laptop
	for i, step := range wipeSteps {
		l := wearing(t, g, "user"+string(rune('a'+i))+"@example.com")
		residue := l.residue(t)
		l.end(t)
		c := g.send(t, l.id, "wipe", nil)
		l.start(t, step)
		<-l.run.Done()
		if l.run.ExitCode() != -1 {
			t.Fatalf("at %q the agent was not killed: %s", step, l.run.Output())
		}
		p, err := l.host.Run(soon(t), "agent", string(mustJSON(t, l.config)))
		if err != nil {
			t.Fatal(err)
		}
		<-p.Done()
		if !strings.Contains(p.Output(), agent.ErrWiped.Error()) || strings.Contains(p.Output(), "management session for commands") {
			t.Errorf("killed at %q: %s", step, p.Output())
		}
		l.run = nil
		l.bare(t, "killed at \""+step+"\",", residue)
		if got := g.over(t, c); got.State != "done" || g.logged(t, c, "command.result") != 1 {
			t.Errorf("killed at %q: the gateway has %+v", step, got)
		}
		gone = append(gone, l)
	}
	for _, l := range gone {
		until(t, "the device is revoked", func() bool { return g.show(t, l.id).Stage == "revoked" })
	}
}
