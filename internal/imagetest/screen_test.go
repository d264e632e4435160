package imagetest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"lazaret/internal/console/api"
)

// asked waits until the serial line says this, and returns its groups.
func (l *life) asked(t *testing.T, re string) []string {
	t.Helper()
	said, err := l.v.Expect(soon(t), regexp.MustCompile(re))
	if err != nil {
		t.Fatal(err)
	}
	return said.Groups
}

// answers types a line on the serial line, once it was asked for.
func (l *life) answers(t *testing.T, question, text string) {
	t.Helper()
	l.asked(t, question)
	if err := l.v.Type(text + "\r"); err != nil {
		t.Fatal(err)
	}
}

// locked waits until the machine says that its data partition is shut.
func (l *life) locked(t *testing.T) {
	t.Helper()
	awaits(t, l.v, "locked", func(w map[string]string) bool { return w["stage"] == "locked" && w["ready"] == "" })
}

// mute: no port answers, and the tunnel, if the device has one, leads nowhere.
func (l *life) mute(t *testing.T) {
	t.Helper()
	for _, port := range []uint16{443, 8443} {
		if err := l.greets(t, port); err == nil {
			t.Errorf("port %d answers", port)
		}
	}
	l.closed(t)
	if l.phone != nil {
		l.connect(t)
		if err := echoes(t, l.phone.quarantine, l.management); err == nil {
			t.Error("the tunnel leads to the management server")
		}
	}
}

// greets makes a TLS connection; whose certificate that is, is no question here.
func (l *life) greets(t *testing.T, port uint16) error {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}}
	c, err := d.DialContext(ctx, "tcp", l.v.Port("tcp", port).String())
	if err != nil {
		return err
	}
	return c.Close()
}

// isBack: the gateway enforces, and all that mute tries answers again.
func (l *life) isBack(t *testing.T) {
	t.Helper()
	awaits(t, l.v, "enforcing", ready)
	l.enforces(t)
	for _, port := range []uint16{443, 8443} {
		until(t, fmt.Sprintf("port %d answers", port), func() error { return l.greets(t, port) })
	}
	l.connect(t)
	var d api.Device
	l.must(t, "GET", "/api/v1/devices/"+l.device.ID, nil, &d)
	if d.Key != l.device.Key || d.Stage != "quarantined" {
		t.Errorf("the device is %+v, and was %+v", d, l.device)
	}
	until(t, "the management server answers", func() error { return echoes(t, l.phone.quarantine, l.management) })
	l.forbidden(t)
}

// unasked is isBack for a machine that must have opened its data by itself.
func (l *life) unasked(t *testing.T) {
	t.Helper()
	l.isBack(t)
	if m := regexp.MustCompile(`(?i)(recovery )?passphrase[^\n]* of this machine's data`).FindString(l.v.Transcript()); m != "" {
		t.Errorf("it asked %q, and ought to open its data by itself", m)
	}
}

// shows reads a file of the guest's.
func (l *life) shows(t *testing.T, path string) string {
	t.Helper()
	l.order(t, "show /proc/version") // takes what the firmware said on that line before
	return strings.TrimSpace(l.order(t, "show "+path))
}

// machine is what the machine says of itself.
func (l *life) machine(t *testing.T) api.Machine {
	t.Helper()
	var m api.Machine
	l.must(t, "GET", "/api/v1/machine", nil, &m)
	return m
}

// complains says whether one of the machine's problems holds this.
func (l *life) complains(t *testing.T, of string) bool {
	t.Helper()
	return strings.Contains(strings.Join(l.machine(t).Problems, "\n"), of)
}

// ctl runs lazaretctl as the administrator that the claim made.
func (l *life) ctl(t *testing.T, in string, args ...string) (string, error) {
	t.Helper()
	return l.ctlAs(t, l.dir, in, args...)
}

// ctlAs is ctl with the credential in dir.
func (l *life) ctlAs(t *testing.T, dir, in string, args ...string) (string, error) {
	t.Helper()
	server := filepath.Join(dir, "server") // QEMU forwards another port at each start
	if err := os.WriteFile(server, []byte("https://"+l.operator.at.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(soon(t), l.lazaretctl(t), append([]string{"--dir", dir}, args...)...)
	c.Stdin = strings.NewReader(in)
	text, err := c.CombinedOutput()
	return string(text), err
}

// lazaretctl is where the program is, built when it is first needed.
func (l *life) lazaretctl(t *testing.T) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(l.dir), "lazaretctl")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(program(t, "./cmd/lazaretctl"), path); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// mustCtl is ctl for what has to work.
func (l *life) mustCtl(t *testing.T, in string, args ...string) string {
	t.Helper()
	text, err := l.ctl(t, in, args...)
	if err != nil {
		t.Fatalf("lazaretctl %v: %v\n%s", args, err, text)
	}
	return text
}
