package imagetest

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"lazaret/appliance/update"
	"lazaret/enroll/client"
	"lazaret/enroll/code"
	"lazaret/image"
	"lazaret/image/release"
	"lazaret/internal/console/api"
	"lazaret/internal/testneed"
	"lazaret/internal/vm"
)

// TestFullDisk takes the room of a machine's data partition, of its EFI partition, and gives
// it back. Whatever is full, the gateway enforces; a device that is not compliant is cut,
// while what would open something is refused; a person is told, nothing is damaged, and all
// is as it was once there is room.
func TestFullDisk(t *testing.T) {
	long(t)
	key, err := release.LoadKey(updateKey())
	if err != nil {
		t.Skipf("needs the key that the image takes updates from: %v", err)
	}
	i := ofOurs(t, image.Config{Version: "0.1.1"}, "-tags", "lazarettest")
	next := ofOurs(t, image.Config{Version: "0.1.2"}, "-tags", "lazarettest")
	f := &full{life: newLife(t, func(c *vm.Config) {
		patiently(c)
		c.Disks, c.Limit = []vm.Disk{{Path: vm.Copy(t, i.Raw, 0)}}, 40*time.Minute
	}), key: key, slot: next.UKI}
	f.orders = true
	f.turnOn()
	f.live(t, step{"Claim", f.claim}, step{"Enroll", f.enroll}, step{"Quarantine", f.quarantined}, step{"Release", f.released}, step{"Outsiders", f.outsiders},
		step{"Ballast", f.ballast}, step{"Full", f.full}, step{"PowerCut", f.restarted}, step{"Room", f.room}, step{"EFIPartition", f.partition})
}

// full is a life in which there is no room.
type full struct {
	*life
	key  ed25519.PrivateKey
	slot string // of a newer version
}

// fill leaves so many MiB of the data partition. What the firmware wrote on the line of orders
// has no end of its own: an order to show something takes it in.
func (f *full) fill(t *testing.T, leave string) {
	t.Helper()
	f.order(t, "show /proc/version")
	f.order(t, "fill "+leave)
}

// alarmed waits until an alert of the store is raised that says so.
func (f *full) alarmed(t *testing.T, severity, says string) {
	t.Helper()
	until(t, "an alert says "+says, func() error {
		var all []api.Alert
		if _, err := f.ask(shortly(t), f.admin, "GET", "/api/v1/alerts", nil, &all); err != nil {
			return err
		}
		for _, a := range all {
			if a.Kind == "quota" && a.State == "raised" && a.Severity == severity && strings.Contains(a.Text, says) {
				t.Logf("alert %s, %s: %s", a.Kind, a.Severity, a.Text)
				return nil
			}
		}
		return fmt.Errorf("alerts are %+v", all)
	})
}

// guess tries to enroll with a password that nobody was given.
func (f *full) guess(t *testing.T) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	wg, err2 := ecdh.X25519().GenerateKey(rand.Reader)
	otp, err3 := code.Draw(rand.Reader)
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	at := f.v.Port("tcp", 443)
	c, err := client.New(client.Config{
		Server: "https://" + gatewayName, Log: slog.New(slog.DiscardHandler),
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, at.String())
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &phone{keys: client.Keys{Certificate: key, WireGuard: wg}, wg: wg}
	if _, err := c.Enroll(soon(t), otp, p); err == nil {
		t.Fatal("enrolled with a password that nobody was given")
	}
}

// strangers counts what the audit log holds of them.
func (f *full) strangers(t *testing.T) (n int) {
	t.Helper()
	var all []api.AuditEntry
	f.must(t, "GET", "/api/v1/audit", nil, &all)
	for _, e := range all {
		if strings.HasPrefix(e.By, "stranger") {
			n++
		}
	}
	return n
}

// outsiders: while there is room, what strangers try is recorded; where little is left, it
// is kept for others. Everything else goes on.
func (f *full) outsiders(t *testing.T) {
	f.guess(t)
	until(t, "the guess is in the audit log", func() error {
		if f.strangers(t) == 0 {
			return errors.New("it is not")
		}
		return nil
	})
	f.fill(t, "150")
	f.alarmed(t, "critical", "nearly full")
	before := f.strangers(t)
	for range 3 {
		f.guess(t)
	}
	if now := f.strangers(t); now != before {
		t.Errorf("%d more entries of strangers on a disk that is nearly full", now-before)
	}
	f.cut(t)
	f.released(t)
}

// ballast: what is kept aside is given up when nothing is left, and a device is cut.
func (f *full) ballast(t *testing.T) {
	f.fill(t, "0")
	f.cutOff(t)
	until(t, "the ballast is given up", func() error {
		_, err := f.said(t, "gave up the disk ballast")
		return err
	})
	f.enforces(t)
	f.alarmed(t, "critical", "full")
	f.releases(t)
}

// said looks for words in the machine's log.
func (f *full) said(t *testing.T, words string) (string, error) {
	t.Helper()
	var lines []api.MachineLine
	if _, err := f.ask(shortly(t), f.admin, "GET", "/api/v1/machine/log?n=5&contains="+strings.ReplaceAll(words, " ", "+"), nil, &lines); err != nil {
		return "", err
	}
	if len(lines) == 0 {
		return "", fmt.Errorf("the log does not say %q", words)
	}
	return lines[len(lines)-1].Text, nil
}

// cutOff says of a released device that it is not compliant, until that was taken, and holds
// it to be cut.
func (f *full) cutOff(t *testing.T) {
	t.Helper()
	last := f.flow(t)
	asked := time.Now()
	tries := 0
	until(t, "the report is taken", func() error {
		tries++
		stage, err := f.place(shortly(t), f.device.ID, "noncompliant")
		if err == nil && stage != "quarantined" {
			err = errors.New("the device is " + stage)
		}
		return err
	})
	t.Logf("the report was taken after %v, at try %d; the last packet was %v after the first", time.Since(asked), tries, (<-last).Sub(asked))
	f.forbidden(t)
}

// releases is released for a gateway that may be starting again.
func (f *full) releases(t *testing.T) {
	t.Helper()
	until(t, "the device is released", func() error {
		stage, err := f.place(shortly(t), f.device.ID, "compliant")
		if err == nil && stage != "routed" {
			err = errors.New("the device is " + stage)
		}
		return err
	})
	until(t, "the intranet answers", func() error { return echoes(t, f.phone.full, f.intranet) })
}

// full: nothing is left at all, also no ballast.
func (f *full) full(t *testing.T) {
	f.fill(t, "0")
	f.cutOff(t)
	var last error
	for range 5 {
		stage, err := f.place(soon(t), f.device.ID, "compliant")
		if last = err; err == nil {
			t.Errorf("on a full disk a device becomes %s", stage)
		}
	}
	t.Logf("a compliant device on a full disk: %v", last)
	f.forbidden(t)
	f.fill(t, "0") // a control plane that starts again gives back what it was about to use
	_, err := f.ask(soon(t), f.admin, "POST", "/api/v1/machine/update", bytes.NewReader(bundle(t, update.Manifest{Version: "0.1.2", Architecture: "amd64"}, f.slot, f.key)), nil)
	if err == nil || !strings.Contains(err.Error(), "the data partition is full") {
		t.Errorf("an update that cannot be recorded: %v", err)
	}
}

// filler is a file that leaves no room for a slot on the EFI partition of 512 MiB.
const filler = 455 << 20

// restarted: a machine that starts on a full disk enforces. Its EFI partition is full, too.
func (f *full) restarted(t *testing.T) {
	f.v.Kill()
	f.mtools(t, "mcopy", vm.Empty(t, filler), "::/FILLER")
	f.turnsOn()
	awaits(t, f.v, "the data plane enforces", func(w map[string]string) bool { return strings.Contains(w["ready"], "dataplane") })
	f.connect(t)
	until(t, "the management server answers", func() error { return echoes(t, f.phone.quarantine, f.management) })
	f.forbidden(t)
}

// room: all is as it was.
func (f *full) room(t *testing.T) {
	f.fill(t, "none")
	f.enforces(t)
	var d api.Device
	f.must(t, "GET", "/api/v1/devices/"+f.device.ID, nil, &d)
	if d.Key != f.device.Key || d.Stage != "quarantined" {
		t.Errorf("the device is %+v, and was %+v", d, f.device)
	}
	f.releases(t)
	f.cut(t)
	until(t, "no alert of the store is open", func() error {
		var all []api.Alert
		if _, err := f.ask(shortly(t), f.admin, "GET", "/api/v1/alerts", nil, &all); err != nil {
			return err
		}
		for _, a := range all {
			if a.Kind == "quota" && a.State != "resolved" {
				return fmt.Errorf("alert %s", a.Text)
			}
		}
		return nil
	})
}

// mtools runs a program of that package on the EFI partition, which begins a megabyte into
// the disk.
func (f *full) mtools(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(soon(t), testneed.Program(t, name), append([]string{"-i", f.config.Disks[0].Path + "@@1M"}, args...)...)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v %s", name, err, text)
	}
}

// partition: an EFI partition without room takes no update, and one with room again does.
func (f *full) partition(t *testing.T) {
	b := bundle(t, update.Manifest{Version: "0.1.2", Architecture: "amd64"}, f.slot, f.key)
	code, err := f.ask(soon(t), f.admin, "POST", "/api/v1/machine/update?reboot=true", bytes.NewReader(b), nil)
	if err == nil || code >= 500 || !strings.Contains(err.Error(), "the EFI system partition has no room") {
		t.Errorf("an update without room: %d, %v", code, err)
	}
	t.Logf("an update without room: %v", err)
	f.enforces(t)
	f.forbidden(t)
	awaitsBlessed(t, f.life, "0.1.1")
	f.v.Kill()
	f.mtools(t, "mdel", "::/FILLER")
	f.turnsOn()
	awaits(t, f.v, "enforcing", ready)
	f.enforces(t)
	awaitsBlessed(t, f.life, "0.1.1")
	f.must(t, "POST", "/api/v1/machine/update?reboot=true", bytes.NewReader(b), nil)
	f.startsAgain(t)
	awaits(t, f.v, "the new version enforces", func(w map[string]string) bool { return ready(w) && w["version"] == "0.1.2" })
	f.enforces(t)
	awaitsBlessed(t, f.life, "0.1.2")
}
