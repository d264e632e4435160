package imagetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/tun/netstack"

	"lazaret/internal/console/api"
)

const gatewayName = "gateway.test"

// host is this machine, as QEMU's network of its own shows it to the guest: a port there is
// the same port of loopback here.
var host = netip.AddrFrom4([4]byte{10, 0, 2, 2})

// explain logs what the gateway says of itself, for whoever reads that a step failed.
func (l *life) explain(t *testing.T) {
	registers, err := l.v.Do(shortly(t), "human-monitor-command", map[string]any{"command-line": "info registers"})
	t.Logf("the processor: %.200s (%v)", registers, err)
	if l.operator == nil {
		return
	}
	for _, path := range []string{"/api/v1/machine/log?n=60", "/api/v1/status", "/api/v1/machine", "/api/v1/devices/" + l.device.ID} {
		var text json.RawMessage
		_, err := l.ask(shortly(t), l.admin, "GET", path, nil, &text)
		t.Logf("%s: %v\n%s", path, err, text)
	}
}

// claim has lazaretctl make the machine a gateway, with the code that the serial line shows.
func (l *life) claim(t *testing.T) {
	ctl := program(t, "./cmd/lazaretctl") // while it starts
	said, at := awaits(t, l.v, "unclaimed", func(w map[string]string) bool {
		return w["stage"] == "unclaimed" && w["code"] != "" && w["ready"] == "claim"
	})
	t.Logf("power-on to unclaimed: %v", at)
	web := l.v.Port("tcp", 443).String()
	args := []string{
		"--dir", l.dir, "claim", web, "--code-file", "-", "--name", "gateway-1", "--enroll-name", gatewayName,
		"--management", fmt.Sprintf("%s tcp/%d", host, l.management.port), "--endpoint", l.v.Port("udp", 51820).String(),
		"--admin-network", "10.0.2.0/24", "--masquerade", "--route", "10.0.2.0/24", "--time-server", "10.0.2.2",
	}
	args = append(args, l.args...)
	run := func(code string) (string, error) {
		c := exec.CommandContext(soon(t), ctl, args...)
		c.Stdin = strings.NewReader(code + "\n")
		text, err := c.CombinedOutput()
		return string(text), err
	}
	wrong := []byte(said["code"])
	if wrong[0] = 'A'; said["code"][0] == 'A' {
		wrong[0] = 'B'
	}
	if text, err := run(string(wrong)); err == nil {
		t.Errorf("claimed with a wrong code: %s", text)
	}
	text, err := run(said["code"])
	if err != nil {
		t.Fatalf("lazaretctl claim: %v\n%s", err, text)
	}
	if strings.Contains(text, said["code"]) {
		t.Error("lazaretctl shows the code")
	}
	now, at := awaits(t, l.v, "enforcing", ready)
	if now["code"] != "" {
		t.Error("the code is still on the screen")
	}
	t.Logf("power-on to enforcing, with the claim: %v", at)
	l.operator = newOperator(t, l.dir, l.v.Port("tcp", 8443))
	l.enforces(t)
	if text, err := run(said["code"]); err == nil {
		t.Errorf("claimed a second time: %s", text)
	}
}

// enforces waits until a complete plan is enforced.
func (l *life) enforces(t *testing.T) {
	t.Helper()
	until(t, "the gateway enforces a plan", func() error {
		var s api.Status
		_, err := l.ask(shortly(t), l.admin, "GET", "/api/v1/status", nil, &s)
		if err == nil && !s.Ready {
			err = errors.New("not ready")
		}
		return err
	})
}

// hides has the gateway speak for the devices of a pool: this lab's network knows no way
// back to their addresses.
func (l *life) hides(t *testing.T, name string) {
	t.Helper()
	var pools []api.Pool
	l.must(t, "GET", "/api/v1/pools", nil, &pools)
	for _, p := range pools {
		if p.Name == name {
			p.Masquerade = true
			l.must(t, "PUT", "/api/v1/pools/"+name, p, nil)
			return
		}
	}
	t.Fatalf("there is no pool %s", name)
}

func (l *life) enroll(t *testing.T) {
	l.hides(t, "quarantine")
	var otp api.OTPCreated
	l.must(t, "POST", "/api/v1/otps", api.OTPRequest{User: "anna@example.com"}, &otp)
	l.phone = enroll(t, l.v.Port("tcp", 443), otp.Code)
	until(t, "the device is listed", func() error {
		_, err := l.ask(shortly(t), l.admin, "GET", "/api/v1/devices/"+l.phone.result.Settings.Device, nil, &l.device)
		return err
	})
	l.connect(t)
}

func (l *life) connect(t *testing.T) {
	t.Helper()
	seat := func(prefix string) netip.Addr {
		a := netip.MustParsePrefix(prefix).Addr()
		for range l.device.Seat + 1 { // the gateway is the first
			a = a.Next()
		}
		return a
	}
	l.phone.connect(t, l.v.Port("udp", 51820), seat("10.66.0.0/16"), seat("10.67.0.0/16"))
}

// quarantined reaches the management server, and nothing else.
func (l *life) quarantined(t *testing.T) {
	until(t, "the management server answers through the kernel's WireGuard", func() error {
		return echoes(t, l.phone.quarantine, l.management)
	})
	l.forbidden(t)
}

// forbidden holds the intranet out of reach, from both addresses. What was allowed is tried
// beside it, so that a dead tunnel is not taken for a shut one.
func (l *life) forbidden(t *testing.T) {
	t.Helper()
	before := l.intranet.count()
	var both sync.WaitGroup
	for name, from := range map[string]*netstack.Net{"quarantine": l.phone.quarantine, "pool": l.phone.full} {
		both.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			if c, err := dial(ctx, from, l.intranet.at()); err == nil {
				t.Errorf("the intranet is reached from the %s address", name)
				c.Close()
			}
		})
	}
	both.Wait()
	if got := l.intranet.count(); got != before {
		t.Errorf("%d connections got to the intranet", got-before)
	}
	if err := echoes(t, l.phone.quarantine, l.management); err != nil {
		t.Errorf("the management server, meanwhile: %v", err)
	}
}

func (l *life) released(t *testing.T) {
	if stage := l.report(t, l.device.ID, "compliant"); stage != "routed" {
		t.Fatalf("a compliant device is %s", stage)
	}
	until(t, "the intranet answers", func() error { return echoes(t, l.phone.full, l.intranet) })
}

// cut demotes the device while a flow is open, and says how long that went on.
func (l *life) cut(t *testing.T) {
	last := l.flow(t)
	asked := time.Now()
	if stage := l.report(t, l.device.ID, "noncompliant"); stage != "quarantined" {
		t.Fatalf("a device that is not compliant is %s", stage)
	}
	answered := time.Now()
	end := <-last
	t.Logf("from the report to the last packet %v, its answer came after %v", end.Sub(asked), answered.Sub(asked))
	if end.After(answered) {
		t.Errorf("the flow went on for %v after the report was answered", end.Sub(answered))
	}
	l.forbidden(t)
}

// closed: of the ports that are forwarded, those nobody serves answer nothing.
func (l *life) closed(t *testing.T) {
	var both sync.WaitGroup
	for _, port := range []uint16{22, 2379} {
		at := l.v.Port("tcp", port).String()
		both.Go(func() {
			c, err := net.DialTimeout("tcp", at, 5*time.Second)
			if err != nil {
				return
			}
			defer c.Close()
			// QEMU takes the connection itself, and gives it up when the guest does not answer.
			if err := c.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
				t.Error(err)
			}
			if n, err := c.Read(make([]byte, 1)); n > 0 {
				t.Errorf("port %d answers (%v)", port, err)
			}
		})
	}
	both.Wait()
}

// restart keeps everything, and leaves a slot that has proven itself.
func (l *life) restart(t *testing.T) {
	l.must(t, "POST", "/api/v1/machine/reboot", nil, nil)
	l.startsAgain(t)
	_, at := awaits(t, l.v, "enforcing again", ready)
	t.Logf("power-on to enforcing: %v", at)
	l.kept(t)
	awaitsBlessed(t, l, "")
}

// kept: after a start the gateway enforces, and knows its device as it was.
func (l *life) kept(t *testing.T) {
	t.Helper()
	l.enforces(t)
	l.connect(t)
	var d api.Device
	l.must(t, "GET", "/api/v1/devices/"+l.device.ID, nil, &d)
	if d.Key != l.device.Key || d.Stage != "quarantined" {
		t.Errorf("the device is %+v, and was %+v", d, l.device)
	}
	until(t, "the management server answers again", func() error { return echoes(t, l.phone.quarantine, l.management) })
	l.forbidden(t)
}

// startsAgain waits until the machine ends to start anew, and turns it on.
func (l *life) startsAgain(t *testing.T) {
	t.Helper()
	if err := l.v.Wait(soon(t)); err != nil {
		t.Fatalf("waiting for the machine to restart: %v", err)
	}
	l.turnsOn()
}

// turnsOn is turnOn for a machine that is a gateway already.
func (l *life) turnsOn() {
	l.turnOn()
	l.operator.at = l.v.Port("tcp", 8443)
	l.operator.admin.CloseIdleConnections()
	l.operator.bare.CloseIdleConnections()
}

// powerCut takes the power away and gives it back: everything is as it was.
func (l *life) powerCut(t *testing.T) {
	l.v.Kill()
	l.turnsOn()
	_, at := awaits(t, l.v, "enforcing after a power cut", ready)
	t.Logf("power-on to enforcing: %v", at)
	if l.orders {
		// Behind what the firmware said on that line.
		t.Logf("seconds since the kernel started, and of them idle: %s", regexp.MustCompile(`[\d.]+ [\d.]+\s*$`).FindString(l.order(t, "show /proc/uptime")))
	}
	l.kept(t)
}

// awaitsBlessed waits until the slot that runs is blessed, and of this version if one is given.
func awaitsBlessed(t *testing.T, l *life, version string) {
	t.Helper()
	until(t, "the slot is blessed", func() error {
		var m api.Machine
		if _, err := l.ask(shortly(t), l.admin, "GET", "/api/v1/machine", nil, &m); err != nil {
			return err
		}
		for _, s := range m.Slots {
			if s.Booted && s.Blessed && (version == "" || s.Version == version) {
				return nil
			}
		}
		return fmt.Errorf("slots %+v", m.Slots)
	})
}
