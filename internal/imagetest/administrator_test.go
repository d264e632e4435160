package imagetest

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lazaret/appliance"
)

// TestAdministrator: whoever stands before the screen makes a new administrator, while the
// tunnel goes on, and nothing else changes. Then the machine proves from its kernel that it
// is shut as configured.
func TestAdministrator(t *testing.T) {
	long(t)
	l := newLife(t, nil)
	l.turnOn()
	dir := filepath.Join(t.TempDir(), "ada")
	l.live(t,
		step{"Claim", l.claim}, step{"Enroll", l.enroll}, step{"Quarantine", l.quarantined}, step{"Check", l.checks},
		step{"Claimed", func(t *testing.T) { l.newAdministrator(t, dir) }},
		step{"Both", func(t *testing.T) { l.bothAdministrate(t, dir) }},
		step{"CheckAgain", l.checks})
}

// checks has the machine look at itself: every check is made, and passes.
func (l *life) checks(t *testing.T) {
	text, err := l.ctl(t, "", "machine", "check")
	if err != nil {
		t.Errorf("lazaretctl machine check: %v\n%s", err, text)
	}
	var r appliance.Report
	l.must(t, "GET", "/api/v1/machine/check", nil, &r)
	for _, c := range r.Checks {
		if c.Result != appliance.Pass || c.Remedy != "" {
			t.Errorf("%+v", c)
		}
	}
	t.Logf("%d checks", len(r.Checks))
	if len(r.Checks) < 15 {
		t.Error("that are too few")
	}
}

// newAdministrator asks at the screen for a code, and has lazaretctl claim with it.
func (l *life) newAdministrator(t *testing.T, dir string) {
	claims := func(dir, code string, more ...string) (string, error) {
		c := exec.CommandContext(soon(t), l.lazaretctl(t), append([]string{"--dir", dir, "claim", l.v.Port("tcp", 443).String(), "--code-file", "-"}, more...)...)
		c.Stdin = strings.NewReader(code + "\n")
		text, err := c.CombinedOutput()
		return string(text), err
	}
	eve := func() string { return filepath.Join(t.TempDir(), "eve") }
	if err := l.v.Type("n"); err != nil {
		t.Fatal(err)
	}
	l.answers(t, `Type yes to go on, Esc to leave: `, "yes")
	said, _ := awaits(t, l.v, "a code for a new administrator", func(w map[string]string) bool {
		return w["stage"] == "running" && w["code"] != "" && strings.Contains(w["ready"], "claim")
	})
	code := said["code"]
	if err := l.greets(t, 8443); err == nil {
		t.Error("the API answers, and its store is another's now")
	}
	until(t, "the management server answers meanwhile", func() error { return echoes(t, l.phone.quarantine, l.management) })
	l.forbidden(t)

	wrong := []byte(code)
	if wrong[0] = 'A'; code[0] == 'A' {
		wrong[0] = 'B'
	}
	if text, err := claims(eve(), string(wrong), "--administrator", "eve"); err == nil {
		t.Errorf("a wrong code makes an administrator: %s", text)
	}
	if text, err := claims(eve(), code, "--administrator", "eve", "--enroll-name", "elsewhere.test", "--management", "10.0.2.2 tcp/1"); err == nil {
		t.Errorf("whoever has the code may change the gateway: %s", text)
	}
	text, err := claims(dir, code, "--administrator", "ada")
	if err != nil || !strings.Contains(text, "You are an administrator of gateway-1") || strings.Contains(text, code) {
		t.Fatalf("lazaretctl claim: %v\n%s", err, text)
	}
	if now, _ := awaits(t, l.v, "enforcing, with its control plane back", ready); now["code"] != "" {
		t.Error("the code is still on the screen")
	}
	l.enforces(t)
	if text, err := claims(eve(), code, "--administrator", "eve"); err == nil {
		t.Errorf("the code is good for a second administrator: %s", text)
	}
}

// bothAdministrate: the new credential is good for everything, the one from before still is,
// and the audit log, which is whole, tells of the one administrator that was made.
func (l *life) bothAdministrate(t *testing.T, dir string) {
	for _, d := range []string{dir, l.dir} {
		if text, err := l.ctlAs(t, d, "", "otp", "create", "--user", "ben@example.com"); err != nil {
			t.Errorf("with the credential in %s: %v %s", filepath.Base(d), err, text)
		}
	}
	var entries []struct{ By, Action, Subject string }
	l.must(t, "GET", "/api/v1/audit?limit=1000", nil, &entries)
	var made []string
	for _, e := range entries {
		if e.Action == "administrator.make" {
			made = append(made, fmt.Sprint(e.By, " ", e.Subject))
		}
	}
	if len(made) != 1 || !strings.Contains(made[0], "screen") || !strings.HasSuffix(made[0], " ada") {
		t.Errorf("the audit log has %q made", made)
	}
	exported := filepath.Join(t.TempDir(), "audit.tar")
	l.mustCtl(t, "", "audit", "export", exported)
	if out, err := exec.Command(l.lazaretctl(t), "audit", "verify", exported).CombinedOutput(); err != nil {
		t.Errorf("the audit log is not whole: %v %s", err, out)
	}
}
