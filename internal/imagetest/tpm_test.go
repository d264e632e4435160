package imagetest

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"lazaret/appliance"
	"lazaret/internal/console/api"
	"lazaret/internal/testneed"
	"lazaret/internal/vm"
)

// sealed is a machine with a TPM.
type sealed struct {
	*life
	recovery string // the passphrase, as the machine told it last
}

// newSealed is one whose image takes orders, and is signed with a key that the firmware may
// or may not look at.
func newSealed(t *testing.T, firmware vm.Firmware, by signer) *sealed {
	testneed.Program(t, "swtpm")
	l := &sealed{life: newLife(t, func(c *vm.Config) {
		c.Firmware, c.TPM, c.Dir, c.Limit = firmware, true, t.TempDir(), time.Hour
		c.Disks = []vm.Disk{{Path: signedImage(t, "0.1.0", by).Raw}}
	})}
	l.orders = true
	return l
}

// recovery is a recovery passphrase: eight groups of four.
const recovery = `((?:[0-9A-Z]{4}-){7}[0-9A-Z]{4})`

// firstStart claims a machine that shows its recovery passphrase, and waits for somebody to
// confirm it.
func (l *sealed) firstStart(t *testing.T) {
	l.recovery = l.asked(t, `for when the TPM cannot open it:\s+`+recovery)[1]
	l.claim(t)
	if m := l.machine(t); m.Disk.Protection != appliance.ByTPM || !l.complains(t, "Nobody has confirmed to have the recovery passphrase") {
		t.Errorf("kept by %q, and it says %q", m.Disk.Protection, m.Problems)
	}
}

// confirmed: whoever has read the recovery passphrase says so.
func (l *sealed) confirmed(t *testing.T) {
	if err := l.v.Type("\r"); err != nil {
		t.Fatal(err)
	}
	l.isConfirmed(t)
}

// isConfirmed: no question for the recovery passphrase stands any more, so that keys are the
// menu's.
func (l *sealed) isConfirmed(t *testing.T) {
	t.Helper()
	until(t, "the recovery passphrase is confirmed", func() error {
		var m api.Machine
		_, err := l.ask(shortly(t), l.admin, "GET", "/api/v1/machine", nil, &m)
		if err == nil && strings.Contains(strings.Join(m.Problems, " "), "Nobody has confirmed") {
			err = fmt.Errorf("it says %q", m.Problems)
		}
		return err
	})
	menu := regexp.MustCompile(`Number: `)
	until(t, "a key is the menu's", func() error { // those typed right after a question are nobody's
		if err := l.v.Type("d"); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := l.v.Expect(ctx, menu)
		return err
	})
	if err := l.v.Type("\x1b"); err != nil {
		t.Fatal(err)
	}
}

// measured is what the TPM's register holds (Linux shows it below /sys/class/tpm).
func (l *life) measured(t *testing.T, register int) string {
	t.Helper()
	return l.shows(t, fmt.Sprintf("/sys/class/tpm/tpm0/pcr-sha256/%d", register))
}

// TestTPM takes a machine whose TPM keeps the key of its data through what may happen to
// either.
func TestTPM(t *testing.T) {
	long(t)
	ours := snakeoil(t)
	l := newSealed(t, vm.UEFI, ours)
	l.turnOn()
	l.live(t,
		step{"Claim", l.firstStart}, step{"Enroll", l.enroll}, step{"Quarantine", l.quarantined}, step{"NewRecovery", l.newRecovery},
		step{"Update", func(t *testing.T) { l.opensAfterUpdate(t, "0.1.1", ours) }},
		step{"OtherTPM", l.otherTPM},
		step{"Sealed", func(t *testing.T) { l.reboots(t); l.unasked(t) }},
		step{"PIN", l.wantsPIN},
		step{"LostTPM", l.lostTPM},
		step{"AtRest", l.atRest})
}

// opensAfterUpdate: another system is measured otherwise, and the TPM gives it the key all
// the same, since that is sealed to the keys that Secure Boot trusts.
func (l *sealed) opensAfterUpdate(t *testing.T, version string, by signer) {
	keys, system := l.measured(t, 7), l.measured(t, 11)
	l.given(t, version, by.mustSign(t, slot(t, version, ordered(t, version))))
	l.unasked(t)
	if m := l.machine(t); !strings.HasPrefix(m.Version, version) || m.Disk.Protection != appliance.ByTPM {
		t.Errorf("%s runs, with its data kept by %q", m.Version, m.Disk.Protection)
	}
	now := l.measured(t, 11)
	t.Logf("PCR 11 was %.16s and is %.16s", system, now)
	if zero := strings.Repeat("0", 64); len(system) != 64 || system == zero || now == zero || now == system {
		t.Error("the update is not measured")
	}
	if got := l.measured(t, 7); len(got) != 64 || got != keys {
		t.Errorf("PCR 7 was %s and is %s", keys, got)
	}
	awaitsBlessed(t, l.life, version)
}

// shut looks into a machine whose data are shut: no packet is forwarded, nobody listens,
// and no card has an address.
func (l *sealed) shut(t *testing.T) {
	l.mute(t)
	for _, path := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
		if got := l.shows(t, path); got != "0" {
			t.Errorf("%s: %s", path, got)
		}
	}
	for _, path := range []string{"/proc/net/tcp", "/proc/net/tcp6", "/proc/net/udp", "/proc/net/udp6", "/proc/net/route"} {
		if rows := strings.Split(l.shows(t, path), "\n"); len(rows) > 1 {
			t.Errorf("%s: %q", path, rows)
		}
	}
}

// otherTPM puts the disk into a machine with a TPM of its own. Who has the recovery
// passphrase opens it there, and then it opens by itself.
func (l *sealed) otherTPM(t *testing.T) {
	l.v.Kill()
	l.config.Dir = l.top.TempDir()
	l.turnsOn()
	l.asked(t, regexp.QuoteMeta("The TPM does not give the key (the key was sealed by another TPM, or this one was cleared). Recovery passphrase of this machine's data "))
	l.shut(t)
	l.guesses(t)
	l.shut(t)
	if err := l.v.Type(strings.ToLower(strings.ReplaceAll(l.recovery, "-", " ")) + "\r"); err != nil {
		t.Fatal(err)
	}
	l.isBack(t)
	if !l.complains(t, "the key is sealed again to how the machine started now") {
		t.Errorf("it says %q", l.machine(t).Problems)
	}
}

// guesses types what is wrong, and has to wait longer each time.
func (l *sealed) guesses(t *testing.T) {
	wrong := "0"
	if l.recovery[0] == '0' {
		wrong = "1"
	}
	for i, guess := range []string{"no idea", wrong + l.recovery[1:], strings.Repeat("0000-", 7) + "0000"} {
		if err := l.v.Type(guess + "\r"); err != nil {
			t.Fatal(err)
		}
		typed := time.Now()
		l.asked(t, `That is wrong\. [^\r\n]*Recovery passphrase of this machine's data `)
		waited := time.Since(typed)
		t.Logf("wrong for the %d. time: asked again after %v", i+1, waited.Round(100*time.Millisecond))
		if least := time.Second << i; waited < least*9/10 { // its clock is not quite ours
			t.Errorf("asked again after %v, and not after %v at least", waited, least)
		}
	}
}

// newRecovery: the passphrase from before opens nothing any more, and nobody is asked to
// write it down.
func (l *sealed) newRecovery(t *testing.T) {
	before := l.recovery
	text := l.mustCtl(t, "", "machine", "recovery")
	m := regexp.MustCompile(recovery).FindString(text)
	if m == "" || m == before {
		t.Fatalf("no new recovery passphrase: %s", text)
	}
	l.recovery = m
	if l.opens(t, []byte(before)) || !l.opens(t, []byte(l.recovery)) {
		t.Error("the recovery passphrase from before opens the data, or the new one does not")
	}
	l.isConfirmed(t)
}

// wantsPIN has the key sealed with a PIN, and starts the machine with it.
func (l *sealed) wantsPIN(t *testing.T) {
	const pin = "482951"
	if text, err := l.ctl(t, "4829\n", "machine", "seal", "--pin-file", "-"); err == nil {
		t.Errorf("a PIN that is too short: %s", text)
	}
	if text := l.mustCtl(t, pin+"\n", "machine", "seal", "--pin-file", "-"); strings.Contains(text, pin) || regexp.MustCompile(recovery).MatchString(text) {
		t.Errorf("lazaretctl says %s", text)
	}
	l.reboots(t)
	l.answers(t, `PIN, or recovery passphrase, of this machine's data `, "482952")
	l.asked(t, `That PIN is wrong\. `)
	l.shut(t)
	l.answers(t, `PIN, or recovery passphrase, of this machine's data `, pin)
	l.isBack(t)
	if strings.Contains(l.v.Transcript(), pin) {
		t.Error("the screen shows the PIN")
	}
}

// lostTPM takes the TPM out: the recovery passphrase opens the data, and the machine says
// that it will be wanted again.
func (l *sealed) lostTPM(t *testing.T) {
	l.v.Kill()
	l.config.TPM = false
	l.turnsOn()
	l.asked(t, `The TPM does not give the key \([^\r\n]*there is no TPM 2\.0 that can be used[^\r\n]*\)\. Recovery passphrase of this machine's data `)
	l.shut(t)
	if err := l.v.Type(l.recovery + "\r"); err != nil {
		t.Fatal(err)
	}
	l.isBack(t)
	if !l.complains(t, "The recovery passphrase will be asked for at every start") {
		t.Errorf("it says %q", l.machine(t).Problems)
	}
}
