package imagetest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"lazaret/appliance/claim"
	"lazaret/appliance/seed"
	"lazaret/internal/console/api"
	"lazaret/internal/testneed"
	"lazaret/internal/vm"
)

// seedFile writes a file of a seed.
func seedFile(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// seedSetup is all that a gateway of this lab needs to be told.
func (l *life) seedSetup() string {
	return fmt.Sprintf(`name: gateway-s
organization: Seed and Sons
enroll_names: [%s]
endpoints: ["%[1]s:51820"]
management: ["%s tcp/%d"]
admin_networks: [10.0.2.0/24]
routes: [10.0.2.0/24]
masquerade: true
time_servers: [10.0.2.2]
`, gatewayName, host, l.management.port)
}

// seedDisk has lazaretctl make a seed disk, and returns the code that it draws.
func seedDisk(t testing.TB, ctl, setup string) (iso, code string) {
	t.Helper()
	iso = filepath.Join(t.TempDir(), "seed.iso")
	text, err := exec.CommandContext(soon(t), ctl, "seed", "make", "-f", seedFile(t, "setup.yaml", setup), "-o", iso).CombinedOutput()
	m := regexp.MustCompile(`claim code: (\S+)\n`).FindStringSubmatch(string(text))
	if err != nil || m == nil {
		t.Fatalf("lazaretctl seed make: %v\n%s", err, text)
	}
	return iso, m[1]
}

// claimSeeded claims the machine with a seed's code, and nothing else is said. Nobody types
// on the machine.
func (l *life) claimSeeded(t *testing.T, ctl, code string) {
	t.Helper()
	said, at := awaits(t, l.v, "unclaimed", func(w map[string]string) bool {
		return w["stage"] == "unclaimed" && w["ready"] == "claim"
	})
	if said["code"] != "" {
		t.Error("the screen shows a code, where the seed has brought one")
	}
	if said["problems"] != "1" { // how the data partition's key is kept
		t.Errorf("there are problems: %v", said)
	}
	t.Logf("power-on to unclaimed, with a seed: %v", at)
	if text := l.takeSeeded(t, ctl, code); !strings.Contains(unwrapped(text), said["fingerprint"]) {
		t.Errorf("lazaretctl does not show the fingerprint that the screen has, %s:\n%s", said["fingerprint"], text)
	}
}

// takeSeeded is the claim itself; it returns what lazaretctl says.
func (l *life) takeSeeded(t *testing.T, ctl, code string) string {
	t.Helper()
	text, err := l.tryClaim(t, ctl, code)
	if err != nil {
		t.Fatalf("lazaretctl claim: %v\n%s", err, text)
	}
	_, at := awaits(t, l.v, "enforcing", ready)
	t.Logf("power-on to enforcing, by a seed and its code: %v", at)
	l.operator = newOperator(t, l.dir, l.v.Port("tcp", 8443))
	l.enforces(t)
	return text
}

func (l *life) tryClaim(t *testing.T, ctl, code string) (string, error) {
	c := exec.CommandContext(soon(t), ctl, "--dir", l.dir, "claim", l.v.Port("tcp", 443).String(), "--code-file", "-")
	c.Stdin = strings.NewReader(code + "\n")
	text, err := c.CombinedOutput()
	return string(text), err
}

// rootOf is the certificate of the gateway's authority, as the administrator has it.
func rootOf(t testing.TB, dir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// holdsSecrets fails if one of the secrets is to be read on the serial line or in the log.
func (l *life) holdsSecrets(t *testing.T, secrets map[string]string) {
	t.Helper()
	var log json.RawMessage
	l.must(t, "GET", "/api/v1/machine/log?n=5000", nil, &log)
	if !strings.Contains(string(log), "a seed is applied") {
		t.Errorf("the log does not say that a seed is applied, so it was not all looked at:\n%.3000s", log)
	}
	for name, secret := range secrets {
		for where, text := range map[string]string{"serial line": l.v.Transcript(), "log": string(log)} {
			if strings.Contains(text, secret) || strings.Contains(strings.ReplaceAll(text, "-", ""), strings.ReplaceAll(secret, "-", "")) {
				t.Errorf("%s stands in the %s", name, where)
			}
		}
	}
}

// TestSeed: a machine with a seed becomes the gateway that the seed says, by its code alone;
// it is used once, and nobody who looks at the machine reads it. Another machine with the
// same seed is another gateway.
func TestSeed(t *testing.T) {
	long(t)
	ctl := program(t, "./cmd/lazaretctl")
	l := newLife(t, nil)
	iso, code := seedDisk(t, ctl, l.seedSetup())
	l.config.Disks = append(l.config.Disks, vm.Disk{Path: iso, Bus: "cdrom"})
	l.turnOn()
	l.live(t,
		step{"Claim", func(t *testing.T) { l.claimSeeded(t, ctl, code) }},
		step{"Credential", l.credentialWorks},
		step{"Enroll", l.enroll}, step{"Quarantine", l.quarantined},
		step{"Unread", func(t *testing.T) {
			l.holdsSecrets(t, map[string]string{"the claim code": code, "the management token": l.token})
		}},
		step{"Restart", l.restart},
		step{"Once", func(t *testing.T) {
			if text, err := l.tryClaim(t, ctl, code); err == nil {
				t.Errorf("claimed a second time: %s", text)
			}
			dir := l.dir
			l.dir = filepath.Join(t.TempDir(), "other")
			text, err := l.tryClaim(t, ctl, code)
			if l.dir = dir; err == nil || !strings.Contains(text, "claimed already") {
				t.Errorf("somebody else's claim: %v\n%s", err, text)
			}
		}},
		step{"Another", func(t *testing.T) { l.isAnother(t, ctl, code) }})
}

// credentialWorks asks as an administrator does, with what the claim left.
func (l *life) credentialWorks(t *testing.T) {
	for command, want := range map[string]string{"status": "gateway-s", "machine status": "running"} {
		text, err := l.ctl(t, "", strings.Fields(command)...)
		if err != nil || !strings.Contains(text, want) {
			t.Errorf("lazaretctl %s: %v\n%s", command, err, text)
		}
	}
	if m := l.machine(t); m.Name != "gateway-s" {
		t.Errorf("the seed names it gateway-s, and it is %q", m.Name)
	}
}

// resetToSeed: after a factory reset the seed, still in the drive, sets the machine up once
// more. It is another gateway then.
func (l *life) resetToSeed(t *testing.T, ctl, code string) {
	before := rootOf(t, l.dir)
	l.must(t, "POST", "/api/v1/machine/reset", api.MachineReset{Name: "gateway-s"}, nil)
	if err := l.v.Wait(soon(t)); err != nil {
		t.Fatalf("waiting for the machine to restart: %v", err)
	}
	l.dir = filepath.Join(l.top.TempDir(), "again")
	l.turnOn()
	l.claimSeeded(t, ctl, code)
	if rootOf(t, l.dir) == before {
		t.Error("the authority outlived the reset")
	}
	var devices []api.Device
	if l.must(t, "GET", "/api/v1/devices", nil, &devices); len(devices) != 0 {
		t.Errorf("devices outlived the reset: %+v", devices)
	}
}

// isAnother: a second machine with the seed of the first is a gateway with keys of its own,
// and neither takes the other's administrator.
func (l *life) isAnother(t *testing.T, ctl, code string) {
	l.v.Kill()
	b := newLife(t, nil)
	b.config.Disks = append(b.config.Disks, l.config.Disks[1])
	b.turnOn()
	defer b.v.Kill()
	b.dir = l.dir // of the first one's credential, which is not lost to the second
	awaits(t, b.v, "the second is unclaimed", func(w map[string]string) bool { return w["stage"] == "unclaimed" && w["ready"] == "claim" })
	if text, err := b.tryClaim(t, ctl, code); err == nil || !strings.Contains(text, "holds a credential already") {
		t.Errorf("claiming the second over the first's credential: %v\n%s", err, text)
	}
	b.dir = filepath.Join(t.TempDir(), "second")
	b.takeSeeded(t, ctl, code)
	b.enroll(t)
	if rootOf(t, l.dir) == rootOf(t, b.dir) {
		t.Error("both have one authority")
	}
	if l.token == b.token {
		t.Error("both have one management token")
	}
	if x, y := l.phone.result.Settings.Gateways[0].WireGuard, b.phone.result.Settings.Gateways[0].WireGuard; x == y {
		t.Error("both have one WireGuard key")
	}
	l.at = b.at // the first one's administrator, at the second
	if _, err := l.ask(soon(t), l.admin, "GET", "/api/v1/status", nil, nil); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("the first one's administrator takes the second for the first: %v", err)
	}
	b.bare.Transport.(*http.Transport).TLSClientConfig.Certificates = l.admin.Transport.(*http.Transport).TLSClientConfig.Certificates
	if code, err := b.ask(soon(t), b.bare, "GET", "/api/v1/devices", nil, nil); err == nil {
		t.Errorf("the second takes the first one's administrator: %d", code)
	}
}

// TestSeedAfterReset: a seed that is still in the drive sets a machine up once more after a
// factory reset. It is another gateway then.
func TestSeedAfterReset(t *testing.T) {
	long(t)
	ctl := program(t, "./cmd/lazaretctl")
	l := newLife(t, nil)
	iso, code := seedDisk(t, ctl, l.seedSetup())
	l.config.Disks = append(l.config.Disks, vm.Disk{Path: iso, Bus: "cdrom"})
	l.turnOn()
	l.live(t, step{"Claim", func(t *testing.T) { l.claimSeeded(t, ctl, code) }}, step{"Enroll", l.enroll},
		step{"Reset", func(t *testing.T) { l.resetToSeed(t, ctl, code) }})
}

// TestBrokenSeed: everything that is wrong with a seed is on the serial line, with file and
// line, and the machine can be claimed as one without a seed.
func TestBrokenSeed(t *testing.T) {
	long(t)
	f := seed.Files{
		MetaData: []byte("instance-id: broken-1\nhostname: gateway-b\n"),
		UserData: []byte(`#lazaret
name: Gateway B
enroll_names: [gw.example.com]
manegement: ["10.0.2.2 tcp/443"]
management: ["10.0.2.2 tcp/99999", "mdm.example.com"]
admin_networks: [10.0.2.1/24, 10.0.2.0/64]
quarantine: [10.66.0.0/16]
full: [10.66.128.0/17]
time_servers: ["10.0.2.2:123"]
proxy: ftp://10.0.2.2/
updates: {channel: "http://updates.example.com/", window: "Sunday"}
claim_code: ABC-DEF
`),
		NetworkConfig: []byte("version: 2\nethernets:\n  eth0: {addresses: [10.0.2.300/24]\n  eth1: {dhcp4: maybe}\n"),
	}
	told := seed.Parse(f).Faults
	if len(told) < 10 {
		t.Fatalf("the seed has fewer faults than it was written to have: %q", told)
	}
	iso := filepath.Join(t.TempDir(), "seed.iso")
	out, err := os.Create(iso)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmp.Or(seed.Write(out, f), out.Close()); err != nil {
		t.Fatal(err)
	}
	l := newLife(t, nil)
	l.config.Disks = append(l.config.Disks, vm.Disk{Path: iso, Bus: "cdrom"})
	l.turnOn()
	l.live(t, step{"Claim", l.claim}, step{"Told", func(t *testing.T) {
		// Independently of how the seed is read: each line with a fault is named.
		told = append(told, "meta-data:2:", "user-data:2:", "user-data:4:", "user-data:5:", "user-data:6:",
			"user-data:8:", "user-data:9:", "user-data:10:", "user-data:11:", "network-config:")
		screen := unwrapped(l.v.Transcript())
		for _, fault := range told {
			if !strings.Contains(screen, unwrapped(fault)) {
				t.Errorf("not on the serial line: %s", fault)
			}
		}
	}}, step{"Enroll", l.enroll}, step{"Quarantine", l.quarantined})
	if l.complains(t, "seed") {
		t.Error("a gateway still has the problems of a seed that was not used")
	}
}

var times = regexp.MustCompile(`(?m)^ *[0-9]+\.[0-9]{3} (! )?`)

// unwrapped is text without what wrapping it on rows adds.
func unwrapped(text string) string {
	return strings.Join(strings.Fields(times.ReplaceAllString(text, "")), "")
}

// TestSeedNetwork: a seed on a FAT disk gives a fixed address; the machine has it from the
// first moment, and asks nobody for another.
func TestSeedNetwork(t *testing.T) {
	long(t)
	code := claim.DrawCode().String()
	l := newLife(t, func(c *vm.Config) { c.Capture = true })
	disk := fatSeed(t, map[string]string{
		"meta-data": "instance-id: fixed-1\n",
		"user-data": "#lazaret\nclaim_code: " + code + "\n" + l.seedSetup(),
		"network-config": `version: 2
ethernets:
  wan:
    match: {macaddress: "52:54:00:12:34:56"}
    addresses: [10.0.2.15/24]
    routes: [{to: default, via: 10.0.2.2}]
    nameservers: {addresses: [10.0.2.3]}
`,
	})
	l.config.Disks = append(l.config.Disks, vm.Disk{Path: disk})
	ctl := program(t, "./cmd/lazaretctl")
	l.turnOn()
	notAsked := step{"NotAsked", func(t *testing.T) {
		if asked := dhcpFrames(t, l.v.Capture()); asked != 0 {
			t.Errorf("the machine asked DHCP %d times, with an address that a seed gives", asked)
		}
	}}
	l.live(t,
		step{"Claim", func(t *testing.T) { l.claimSeeded(t, ctl, code) }}, notAsked, step{"Enroll", l.enroll}, step{"Quarantine", l.quarantined},
		step{"Restart", l.restart}, notAsked,
		step{"Fixed", func(t *testing.T) {
			var n api.MachineNetwork
			l.must(t, "GET", "/api/v1/machine/network", nil, &n)
			if got := n.Confirmed.Ethernets["wan"]; len(got.Addresses) != 1 || got.DHCP4 || len(n.Confirmed.Ethernets) != 1 {
				t.Errorf("the network that is kept is %+v", n.Confirmed)
			}
		}})
}

// fatSeed makes a seed disk as an administrator would without lazaretctl.
func fatSeed(t testing.TB, files map[string]string) string {
	t.Helper()
	mkfs, mcopy := testneed.Program(t, "mkfs.vfat"), testneed.Program(t, "mcopy")
	disk := vm.Empty(t, 2<<20)
	if text, err := exec.Command(mkfs, "-n", "CIDATA", disk).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.vfat: %v %s", err, text)
	}
	for name, text := range files {
		if text, err := exec.Command(mcopy, "-i", disk, seedFile(t, name, text), "::"+name).CombinedOutput(); err != nil {
			t.Fatalf("mcopy: %v %s", err, text)
		}
	}
	return disk
}
