package disk

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"lazaret/internal/testneed"
)

// command has the TPM behind a socket carry out one, in hexadecimal digits.
func command(t *testing.T, socket, digits string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 4096)
	n, err := c.Read(answer)
	if err != nil || n < 10 || binary.BigEndian.Uint32(answer[6:]) != 0 {
		t.Fatalf("%s: %x, %v", digits, answer[:n], err)
	}
	return answer[:n]
}

// patientTPM is one that locks after 32 wrong PINs, and forgets none in a test's time
// (TPM 2.0 library, part 3, TPM2_DictionaryAttackParameters).
func patientTPM(t *testing.T) string {
	t.Helper()
	socket := testneed.TPMSocket(t, t.TempDir())
	command(t, socket, "8002 00000027 0000013a 4000000a 00000009 40000009 0000 00 0000 00000020 00010000 00010000")
	return socket
}

// wrongPINs is how many the TPM counts (TPM_PT_LOCKOUT_COUNTER).
func wrongPINs(t *testing.T, socket string) int {
	t.Helper()
	answer := command(t, socket, "8001 00000016 0000017a 00000006 0000020e 00000001")
	return int(binary.BigEndian.Uint32(answer[len(answer)-4:]))
}

const likeRecovery = "12345678901234567890123456789012"

// TestPINLikeRecovery: a PIN that looks like a recovery passphrase is not set, and opens the
// data where it was set before. What looks like one costs no try at the TPM that it need not.
func TestPINLikeRecovery(t *testing.T) {
	m := newMachine()
	m.tpm, m.pin = patientTPM(t), true
	m.answers = []string{likeRecovery, "another one", "another one"}
	d := m.mustBoot(t)
	if len(m.prompts) != 3 || !strings.Contains(m.prompts[1], "The PIN looks like a recovery passphrase") {
		t.Errorf("at the first start: %q", m.prompts)
	}
	m.save(t)
	if _, err := d.Reseal(context.Background(), []byte(likeRecovery)); err == nil || !strings.Contains(err.Error(), "looks like a recovery passphrase") {
		t.Error("sealed anew:", err)
	}
	mistyped := strings.Repeat("0000-", 7) + "0001"
	m.answers = []string{mistyped, "another one"}
	if d = m.mustBoot(t); d.opened != byTPM || len(m.pauses) != 1 || wrongPINs(t, m.tpm) != 0 {
		t.Error("a mistyped recovery passphrase:", d.opened, m.pauses, wrongPINs(t, m.tpm))
	}

	older, _, err := d.c.tpmSlot(context.Background(), []byte(likeRecovery))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.change(func(kind string) bool { return kind == byTPM }, older); err != nil {
		t.Fatal(err)
	}
	m.answers = []string{likeRecovery}
	if d = m.mustBoot(t); d.opened != byTPM || !m.hasData() || len(m.pauses) != 0 || wrongPINs(t, m.tpm) != 0 {
		t.Error("set before:", d.opened, m.pauses, wrongPINs(t, m.tpm))
	}
	m.answers = []string{m.recovery}
	if d = m.mustBoot(t); d.opened != byRecovery || len(m.pauses) != 0 || wrongPINs(t, m.tpm) != 0 {
		t.Error("the recovery passphrase:", d.opened, m.pauses, wrongPINs(t, m.tpm))
	}
	m.answers = []string{mistyped, likeRecovery}
	if d = m.mustBoot(t); d.opened != byTPM || len(m.pauses) != 1 || wrongPINs(t, m.tpm) != 1 {
		t.Error("mistyped first:", d.opened, m.pauses, wrongPINs(t, m.tpm))
	}
}

// TestPINAttempts: after ten wrong answers, each of which costs more time, the PIN opens
// nothing at this start, and the recovery passphrase does.
func TestPINAttempts(t *testing.T) {
	m := newMachine()
	m.tpm, m.pin = patientTPM(t), true
	m.answers = []string{"the right one", "the right one"}
	m.mustBoot(t)
	m.save(t)
	wrong := slices.Repeat([]string{"a wrong one"}, 10)
	m.answers = slices.Concat(wrong[:9], []string{"the right one"})
	if d := m.mustBoot(t); d.opened != byTPM || wrongPINs(t, m.tpm) != 9 {
		t.Error("the tenth is right:", d.opened, wrongPINs(t, m.tpm))
	}
	m.answers = slices.Concat(wrong, []string{"the right one", m.recovery})
	d := m.mustBoot(t)
	if d.opened != byRecovery || !m.hasData() || len(m.prompts) != 12 || wrongPINs(t, m.tpm) != 19 {
		t.Error("the eleventh:", d.opened, len(m.prompts), wrongPINs(t, m.tpm))
	}
	if p := m.prompts[10]; !strings.HasPrefix(p, "The TPM does not give the key (the PIN is wrong)") {
		t.Error(p)
	}
	s := time.Second
	if want := []time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 30 * s, 30 * s, 30 * s, 30 * s, s}; !slices.Equal(m.pauses, want) {
		t.Error("pauses:", m.pauses)
	}
	m.answers = append(slices.Repeat([]string{strings.Repeat("0000-", 7) + "0001"}, 10), m.recovery)
	if d := m.mustBoot(t); d.opened != byRecovery || len(m.prompts) != 11 || !strings.HasPrefix(m.prompts[10], "The TPM does not give the key") || wrongPINs(t, m.tpm) != 19 {
		t.Error("ten that are no PIN:", d.opened, m.prompts, wrongPINs(t, m.tpm))
	}
}

// TestPassphraseForPIN: where a PIN is wanted and no TPM is there, a passphrase has its length.
func TestPassphraseForPIN(t *testing.T) {
	m := newMachine()
	m.tpm, m.pin = testneed.TPMSocket(t, t.TempDir())+".gone", true
	m.answers = []string{"471100", "471100", "471100", "long enough for all", "long enough for all"}
	if d := m.mustBoot(t); d.opened != byPassphrase || len(m.answers) > 0 || !strings.Contains(m.prompts[3], "That is too short") {
		t.Errorf("%s %q", d.opened, m.prompts)
	}
}
