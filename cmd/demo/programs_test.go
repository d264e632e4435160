package main

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
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

// TestPrograms takes a device through its life with the programs themselves: enroll, up,
// status, report, down on the device, and lazaretctl on the management host.
func TestPrograms(t *testing.T) {
	p := newPrograms(t)
	admin := p.gateway()
	dev, mgmt := p.net.Dev1, p.net.Management
	intranet := netip.AddrPortFrom(p.net.Plan.Intranet.V4, 443)
	if _, err := p.net.Intranet.Serve(p.soon(), intranet); err != nil {
		t.Fatal(err)
	}
	ctl := func(args ...string) string {
		t.Helper()
		return p.must(mgmt, "", "lazaretctl", append([]string{"--dir", admin}, args...)...)
	}
	agentArgs := []string{"--dir", filepath.Join(dev.Dir(), "agent"), "--socket", filepath.Join(dev.Dir(), "agent.sock")}
	lazaret := func(args ...string) []string { return append(append([]string{}, agentArgs...), args...) }

	otp := decode[api.OTPCreated](t, ctl("otp", "create", "--user", "alice", "--name", "alice-laptop", "--json"))
	server := "https://" + p.net.Plan.GatewayOuter.V4.String()
	enroll := lazaret("enroll", "--server", server, "--code-file", "-")
	for name, text := range map[string]string{"nothing": "", "no code": "hello", "a slip": otp.Code[:len(otp.Code)-1] + "!"} {
		if out, err := p.run(dev, text+"\n", "lazaret", enroll...); err == nil {
			t.Errorf("enrolled with %s: %s", name, out)
		}
	}
	if out, err := p.run(dev, "", "lazaret", lazaret("status")...); err == nil || !strings.Contains(out, "lazaret up") {
		t.Errorf("status without an agent: %v, %s", err, out)
	}
	p.must(dev, strings.ToLower(otp.Code)+"\n", "lazaret", enroll...)
	if out, err := p.run(dev, otp.Code+"\n", "lazaret", enroll...); err == nil || !strings.Contains(out, "--force") {
		t.Errorf("enrolled twice: %v, %s", err, out)
	}

	up := p.start(dev, testnet.Spec{}, "lazaret", lazaret("up")...)
	p.await(up, "tunnel is up")
	status := func() agent.State {
		t.Helper()
		return decode[agent.State](t, p.must(dev, "", "lazaret", lazaret("status", "--json")...))
	}
	staged := func(want string) time.Duration {
		t.Helper()
		began := time.Now()
		err := until(p.soon(), 20*time.Millisecond, func() (bool, error) {
			st := status()
			return st.Status != nil && st.Status.Stage == want, nil
		})
		if err != nil {
			t.Fatalf("waiting for stage %s: %v; %+v", want, err, status())
		}
		return time.Since(began)
	}
	reaches := func() bool {
		t.Helper()
		r, err := dev.Probe(p.soon(), testnet.ProbeSpec{Proto: testnet.TCP, To: intranet, Device: tunnelDevice, Timeout: 700 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		return r.Outcome == testnet.Echoed
	}
	staged("quarantined")
	if out := p.must(dev, "", "lazaret", lazaret("report", "--verdict", "compliant")...); !strings.Contains(out, "quarantined") || reaches() {
		t.Errorf("after its own report: %s", out)
	}

	token := filepath.Join(admin, "management-token")
	ctl("report", "alice-laptop", "compliant", "--token-file", token)
	if took := staged("routed"); took > time.Second {
		t.Errorf("the agent followed after %s", took)
	}
	if !reaches() {
		t.Error("routed, and the intranet server does not answer")
	}
	if out := ctl("device", "list"); !strings.Contains(out, "alice-laptop") || !strings.Contains(out, "routed") {
		t.Errorf("device list: %s", out)
	}
	ctl("report", "alice-laptop", "noncompliant", "--token-file", token)
	if took := staged("quarantined"); took > time.Second || reaches() {
		t.Errorf("the agent followed after %s", took)
	}
	if out := ctl("device", "explain", "alice-laptop"); !strings.Contains(out, "not compliant") {
		t.Errorf("explain: %s", out)
	}
	p.onlyOwner(dev, lazaret("status"))
	p.audit(ctl, mgmt.Dir())

	p.must(dev, "", "lazaret", lazaret("down")...)
	if err := up.Wait(p.soon()); err != nil {
		t.Errorf("the agent ended: %v", err)
	}
	r, err := dev.Probe(p.soon(), testnet.ProbeSpec{Proto: testnet.UDP, To: intranet, Device: tunnelDevice})
	if err != nil || r.Outcome != testnet.NotSent {
		t.Errorf("after down there still is a tunnel: %+v, %v", r, err)
	}
}

// onlyOwner checks that another user may not drive the agent. Only a lab of real root has
// other users.
func (p *programs) onlyOwner(dev *testnet.Host, args []string) {
	p.t.Helper()
	if !p.net.Root() {
		return
	}
	for _, dir := range []string{p.net.Dir(), dev.Dir(), filepath.Dir(p.bin), p.bin} {
		if err := os.Chmod(dir, 0o755); err != nil {
			p.t.Fatal(err)
		}
	}
	x := p.start(dev, testnet.Spec{UID: 65534, GID: 65534, Dir: "/"}, "lazaret", args...)
	if err := x.Wait(p.soon()); err == nil || !strings.Contains(x.Output(), "only root and the user who enrolled") {
		p.t.Errorf("another user: %v, %s", err, x.Output())
	}
}

// audit exports the log, checks it offline, and sees that a changed copy is found out.
func (p *programs) audit(ctl func(...string) string, dir string) {
	p.t.Helper()
	export, head := filepath.Join(dir, "audit.tar"), filepath.Join(dir, "head.json")
	ctl("audit", "export", export)
	if err := os.WriteFile(head, []byte(ctl("audit", "head")), 0o600); err != nil {
		p.t.Fatal(err)
	}
	ctl("audit", "verify", export, "--head", head)
	text, err := os.ReadFile(export)
	if err != nil {
		p.t.Fatal(err)
	}
	altered := strings.Replace(string(text), "alice", "malic", 1)
	if altered == string(text) {
		p.t.Fatal("the export does not name the user")
	}
	if err := os.WriteFile(export+".altered", []byte(altered), 0o600); err != nil {
		p.t.Fatal(err)
	}
	if out, err := p.run(p.net.Management, "", "lazaretctl", "audit", "verify", export+".altered", "--head", head); err == nil {
		p.t.Errorf("an altered export passes: %s", out)
	}
}
