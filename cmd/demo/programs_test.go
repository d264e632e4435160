package main

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lazaret/internal/agent"
	"lazaret/internal/console/api"
	"lazaret/internal/testneed"
	"lazaret/internal/testnet"
)

// programs is a lab in which the three programs themselves run, as a person would use them.
type programs struct {
	t   *testing.T
	net *testnet.Net
	bin string
}

// newPrograms builds lazaretd, lazaretctl and lazaret.
func newPrograms(t *testing.T) *programs {
	t.Helper()
	if testing.Short() {
		t.Skip("builds three programs")
	}
	testneed.Namespaces(t)
	p := &programs{t: t, bin: t.TempDir()}
	build := exec.CommandContext(t.Context(), testneed.Program(t, "go"), "build", "-o", p.bin+"/", "./cmd/lazaretd", "./cmd/lazaretctl", "./cmd/lazaret")
	build.Dir, build.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	var err error
	if p.net, err = testnet.Standard(t.Context(), testnet.Config{Log: t.Output()}, testnet.Params{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.net.Close() })
	return p
}

// soon bounds what takes a second or two where nothing is wrong.
func (p *programs) soon() context.Context {
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	p.t.Cleanup(cancel)
	return ctx
}

// start starts a program on a host.
func (p *programs) start(h *testnet.Host, s testnet.Spec, program string, args ...string) *testnet.Process {
	p.t.Helper()
	s.Path, s.Args = filepath.Join(p.bin, program), args
	x, err := h.Start(p.soon(), s)
	if err != nil {
		p.t.Fatal(err)
	}
	return x
}

// run runs a program to its end, and returns what it printed.
func (p *programs) run(h *testnet.Host, stdin, program string, args ...string) (string, error) {
	p.t.Helper()
	x := p.start(h, testnet.Spec{Stdin: strings.NewReader(stdin)}, program, args...)
	err := x.Wait(p.soon())
	return x.Output(), err
}

func (p *programs) must(h *testnet.Host, stdin, program string, args ...string) string {
	p.t.Helper()
	out, err := p.run(h, stdin, program, args...)
	if err != nil {
		p.t.Fatalf("%s %v: %v\n%s", program, args, err, out)
	}
	return out
}

// await waits for a line of a process's output.
func (p *programs) await(x *testnet.Process, text string) {
	p.t.Helper()
	if _, err := x.AwaitOutput(p.soon(), text); err != nil {
		p.t.Fatalf("waiting for %q: %v", text, err)
	}
}

// decode reads the JSON in a program's output.
func decode[T any](t *testing.T, out string) (v T) {
	t.Helper()
	i := strings.IndexAny(out, "{[")
	if i < 0 {
		t.Fatalf("no JSON in %q", out)
	}
	if err := json.NewDecoder(strings.NewReader(out[i:])).Decode(&v); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	return v
}

// gateway makes and starts one with lazaretd, and returns the administrator's directory.
func (p *programs) gateway() string {
	p.t.Helper()
	g, plan := p.net.Gateway, p.net.Plan
	config, admin := filepath.Join(g.Dir(), "lazaret.toml"), filepath.Join(g.Dir(), "admin")
	args := []string{"init", "-c", config, "--state", filepath.Join(g.Dir(), "state"), "--dataplane-state", filepath.Join(g.Dir(), "dataplane"),
		"--admin-dir", admin, "--enroll-name", plan.GatewayOuter.V4.String(), "--enroll-listen", plan.GatewayOuter.V4.String() + ":443",
		"--api-listen", plan.GatewayMgmt.V4.String() + ":8443", "--management", plan.Management.V4.String() + " tcp/443",
		"--quarantine", "10.66.0.0/16,fd66::/64", "--full", "10.67.0.0/16,fd67::/64", "--route", "10.10.0.0/24"}
	p.must(g, "", "lazaretd", args...)
	if out, err := p.run(g, "", "lazaretd", args...); err == nil || !strings.Contains(out, "is there already") {
		p.t.Errorf("a second init: %v, %s", err, out)
	}
	p.must(g, "", "lazaretd", "check", "-c", config)
	if err := g.Configure(p.soon(), testnet.NetConfig{Sysctls: map[string]string{"net/ipv4/ip_unprivileged_port_start": "443"}}); err != nil {
		p.t.Fatal(err)
	}
	p.await(p.start(g, testnet.Spec{}, "lazaretd", "dataplane", "-c", config), "data plane is up")
	p.await(p.start(g, testnet.Spec{NoPrivileges: true}, "lazaretd", "serve", "-c", config), "control plane ready")
	return admin
}

// laptop is dev1 as its user and its administrator drive it.
type laptop struct {
	*programs
	admin string   // directory of the administrator's credential
	args  []string // where the agent lives
}

// ctl runs lazaretctl on the management host.
func (l *laptop) ctl(args ...string) string {
	l.t.Helper()
	return l.must(l.net.Management, "", "lazaretctl", append([]string{"--dir", l.admin}, args...)...)
}

// reported posts a report with the management server's token.
func (l *laptop) reported(verdict string) {
	l.t.Helper()
	l.ctl("report", "alice-laptop", verdict, "--token-file", filepath.Join(l.admin, "management-token"))
}

// lazaret are the arguments of the agent's program.
func (l *laptop) lazaret(args ...string) []string { return slices.Concat(l.args, args) }

// awaitStage waits until lazaret status says so, and returns how long that took.
func (l *laptop) awaitStage(want string) time.Duration {
	l.t.Helper()
	began := time.Now()
	var st agent.State
	err := until(l.soon(), 20*time.Millisecond, func() (bool, error) {
		st = decode[agent.State](l.t, l.must(l.net.Dev1, "", "lazaret", l.lazaret("status", "--json")...))
		return st.Status != nil && st.Status.Stage == want, nil
	})
	if err != nil {
		l.t.Fatalf("waiting for stage %s: %v; %+v", want, err, st)
	}
	return time.Since(began)
}

// intranet probes the intranet server through the tunnel.
func (l *laptop) intranet() testnet.Outcome {
	l.t.Helper()
	r, err := l.net.Dev1.Probe(l.soon(), testnet.ProbeSpec{Proto: testnet.TCP, Device: tunnelDevice, Timeout: 700 * time.Millisecond,
		To: netip.AddrPortFrom(l.net.Plan.Intranet.V4, servicePort)})
	if err != nil {
		l.t.Fatal(err)
	}
	return r.Outcome
}

// TestPrograms takes a device through its life with the programs themselves: enroll, up,
// status, report, down on the device, and lazaretctl on the management host.
func TestPrograms(t *testing.T) {
	p := newPrograms(t)
	dev := p.net.Dev1
	l := &laptop{programs: p, admin: p.gateway(),
		args: []string{"--dir", filepath.Join(dev.Dir(), "agent"), "--socket", filepath.Join(dev.Dir(), "agent.sock")}}
	if _, err := p.net.Intranet.Serve(p.soon(), netip.AddrPortFrom(p.net.Plan.Intranet.V4, servicePort)); err != nil {
		t.Fatal(err)
	}
	l.enroll()
	up := p.start(dev, testnet.Spec{}, "lazaret", l.lazaret("up", "--no-dns")...)
	p.await(up, "tunnel is up")
	l.move()
	l.policy()
	l.onlyOwner()
	l.audit()

	p.must(dev, "", "lazaret", l.lazaret("down")...)
	if err := up.Wait(p.soon()); err != nil {
		t.Errorf("the agent ended: %v", err)
	}
	if got := l.intranet(); got != testnet.NotSent {
		t.Errorf("after down there still is a tunnel: %s", got)
	}
}

// enroll enrolls with a code from lazaretctl, after trying what must not work.
func (l *laptop) enroll() {
	l.t.Helper()
	dev := l.net.Dev1
	otp := decode[api.OTPCreated](l.t, l.ctl("otp", "create", "--user", "alice", "--name", "alice-laptop", "--json"))
	enroll := l.lazaret("enroll", "--server", "https://"+l.net.Plan.GatewayOuter.V4.String(), "--code-file", "-")
	for name, text := range map[string]string{"nothing": "", "no code": "hello", "a slip": otp.Code[:len(otp.Code)-1] + "!"} {
		if out, err := l.run(dev, text+"\n", "lazaret", enroll...); err == nil {
			l.t.Errorf("enrolled with %s: %s", name, out)
		}
	}
	if out, err := l.run(dev, "", "lazaret", l.lazaret("status")...); err == nil || !strings.Contains(out, "lazaret up") {
		l.t.Errorf("status without an agent: %v, %s", err, out)
	}
	l.must(dev, strings.ToLower(otp.Code)+"\n", "lazaret", enroll...)
	if out, err := l.run(dev, otp.Code+"\n", "lazaret", enroll...); err == nil || !strings.Contains(out, "--force") {
		l.t.Errorf("enrolled twice: %v, %s", err, out)
	}
}

// move takes the device to routing and back; its agent follows within a second.
func (l *laptop) move() {
	l.t.Helper()
	l.awaitStage("quarantined")
	out := l.must(l.net.Dev1, "", "lazaret", l.lazaret("report", "--verdict", "compliant")...)
	if !strings.Contains(out, "quarantined") || l.intranet() == testnet.Echoed {
		l.t.Errorf("after its own report: %s", out)
	}
	l.reported("compliant")
	if took := l.awaitStage("routed"); took > time.Second {
		l.t.Errorf("the agent followed after %s", took)
	}
	if got := l.intranet(); got != testnet.Echoed {
		l.t.Errorf("routed, and the intranet server: %s", got)
	}
	if out := l.ctl("device", "list"); !strings.Contains(out, "alice-laptop") || !strings.Contains(out, "routed") {
		l.t.Errorf("device list: %s", out)
	}
	l.reported("noncompliant")
	if took := l.awaitStage("quarantined"); took > time.Second {
		l.t.Errorf("the agent followed after %s", took)
	}
	if got := l.intranet(); got == testnet.Echoed {
		l.t.Error("quarantined, and the intranet server answers")
	}
	if out := l.ctl("device", "explain", "alice-laptop"); !strings.Contains(out, "not compliant") {
		l.t.Errorf("explain: %s", out)
	}
}

// policy tries, saves and assigns a policy set that the agent's word fails: dev1 has no
// firewall of its own. explain says so by name.
func (l *laptop) policy() {
	l.t.Helper()
	file := filepath.Join(l.net.Management.Dir(), "laptops.toml")
	if err := os.WriteFile(file, []byte(strings.Replace(laptops, `ownerships = ["corporate"]`, "", 1)), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.reported("compliant")
	l.must(l.net.Dev1, "", "lazaret", l.lazaret("report")...)
	l.awaitStage("routed")
	if out := l.ctl("policy", "try", "-f", file); !strings.Contains(out, "1 of 1 devices would move") || l.intranet() != testnet.Echoed {
		l.t.Errorf("policy try: %s", out)
	}
	l.ctl("policy", "put", "-f", file)
	l.ctl("policy", "assign", "laptops")
	l.awaitStage("quarantined")
	out := l.ctl("device", "explain", "alice-laptop")
	for _, want := range []string{"policy set laptops v", "firewall.enabled", "as agent reported", "Turn the firewall on."} {
		if !strings.Contains(out, want) {
			l.t.Errorf("explain lacks %q: %s", want, out)
		}
	}
	var done string
	if err := once(l.soon(), l.net.Dev1, "firewall", "", &done, ownTable, "on"); err != nil {
		l.t.Fatal(err)
	}
	l.must(l.net.Dev1, "", "lazaret", l.lazaret("report")...)
	l.awaitStage("routed")
}

// onlyOwner checks that another user may not drive the agent. Only a lab of real root has
// other users.
func (l *laptop) onlyOwner() {
	l.t.Helper()
	dev := l.net.Dev1
	if !l.net.Root() {
		return
	}
	for _, dir := range []string{l.net.Dir(), dev.Dir(), filepath.Dir(l.bin), l.bin} {
		if err := os.Chmod(dir, 0o755); err != nil {
			l.t.Fatal(err)
		}
	}
	x := l.start(dev, testnet.Spec{UID: 65534, GID: 65534, Dir: "/"}, "lazaret", l.lazaret("status")...)
	if err := x.Wait(l.soon()); err == nil || !strings.Contains(x.Output(), "only root and the user who enrolled") {
		l.t.Errorf("another user: %v, %s", err, x.Output())
	}
}

// audit exports the log, checks it offline, and sees that a changed copy is found out.
func (l *laptop) audit() {
	l.t.Helper()
	dir := l.net.Management.Dir()
	export, head := filepath.Join(dir, "audit.tar"), filepath.Join(dir, "head.json")
	l.ctl("audit", "export", export)
	if err := os.WriteFile(head, []byte(l.ctl("audit", "head")), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.ctl("audit", "verify", export, "--head", head)
	text, err := os.ReadFile(export)
	if err != nil {
		l.t.Fatal(err)
	}
	altered := strings.Replace(string(text), "alice", "malic", 1)
	if altered == string(text) {
		l.t.Fatal("the export does not name the user")
	}
	if err := os.WriteFile(export+".altered", []byte(altered), 0o600); err != nil {
		l.t.Fatal(err)
	}
	if out, err := l.run(l.net.Management, "", "lazaretctl", "audit", "verify", export+".altered", "--head", head); err == nil {
		l.t.Errorf("an altered export passes: %s", out)
	}
}
