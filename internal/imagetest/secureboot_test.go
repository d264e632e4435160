package imagetest

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"lazaret/appliance/update"
	"lazaret/image"
	"lazaret/image/release"
	"lazaret/image/sign"
	"lazaret/internal/testneed"
	"lazaret/internal/vm"
)

// signer is a key for Secure Boot.
type signer struct {
	key  crypto.Signer
	cert *x509.Certificate
}

func (s signer) sign(program []byte) ([]byte, error) { return sign.Sign(program, s.key, s.cert) }

// snakeoil is the key that firmware with the NVRAM of vm.SecureBoot trusts: Debian's ovmf
// publishes it for tests, together with its passphrase.
func snakeoil(t testing.TB) signer {
	t.Helper()
	const dir = "/usr/share/ovmf/"
	if _, err := os.Stat(dir + "PkKek-1-snakeoil.key"); err != nil {
		testneed.Skip(t, "needs the test keys of the firmware: install it (Debian: ovmf)")
	}
	plain := filepath.Join(t.TempDir(), "snakeoil.key")
	if out, err := exec.Command(testneed.Program(t, "openssl"), "pkey", "-in", dir+"PkKek-1-snakeoil.key", "-passin", "pass:snakeoil", "-out", plain).CombinedOutput(); err != nil {
		t.Fatalf("openssl: %v %s", err, out)
	}
	if err := os.Chmod(plain, 0o600); err != nil {
		t.Fatal(err)
	}
	key, cert, err := sign.Load(plain, dir+"PkKek-1-snakeoil.pem")
	if err != nil {
		t.Fatal(err)
	}
	return signer{key, cert}
}

// stranger is a key that no firmware trusts.
func stranger(t testing.TB) signer {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stranger.key")
	if _, err := sign.NewKey(path, "a stranger"); err != nil {
		t.Fatal(err)
	}
	key, cert, err := sign.Load(path, path+sign.CertSuffix)
	if err != nil {
		t.Fatal(err)
	}
	return signer{key, cert}
}

// ordered builds lazaretd with the door for orders.
func ordered(t testing.TB, version string) string {
	return program(t, "./cmd/lazaretd", "-buildvcs=false", "-ldflags", "-s -w -X lazaret/internal/version.Number="+version, "-tags", "lazarettest")
}

// signedImage builds a whole image that takes orders, with a loader and a slot that are signed.
func signedImage(t testing.TB, version string, by signer) image.Result {
	t.Helper()
	return ofOurs(t, image.Config{Version: version, Sign: by.sign}, "-tags", "lazarettest")
}

// given uploads a slot as an update that is signed as updates are, and restarts the machine.
func (l *life) given(t *testing.T, version string, slot []byte) {
	t.Helper()
	key, err := release.LoadKey(updateKey())
	if err != nil {
		t.Skipf("needs the key that the image takes updates from: %v", err)
	}
	path := filepath.Join(t.TempDir(), "slot.efi")
	if err := os.WriteFile(path, slot, 0o600); err != nil {
		t.Fatal(err)
	}
	b := bundle(t, update.Manifest{Version: version, Architecture: "amd64"}, path, key)
	l.must(t, "POST", "/api/v1/machine/update?reboot=true", bytes.NewReader(b), nil)
	l.startsAgain(t)
}

// mustSign signs what was read from a file.
func (s signer) mustSign(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err == nil {
		b, err = s.sign(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// panicking builds a slot that would not be overlooked if it were started.
func panicking(t testing.TB, version string) []byte {
	t.Helper()
	b, err := os.ReadFile(slot(t, version, program(t, "./internal/imagetest/testdata/panics")))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestSecureBoot: firmware that trusts one key starts what that key has signed and nothing
// else, whoever put it there.
func TestSecureBoot(t *testing.T) {
	long(t)
	ours := snakeoil(t)
	l := newSealed(t, vm.SecureBoot, ours)
	var slots map[string][]byte
	l.turnOn()
	l.live(t,
		step{"Claim", l.firstStart}, step{"Confirm", l.confirmed}, step{"Enroll", l.enroll}, step{"Quarantine", l.quarantined}, step{"LockedDown", l.lockedDown},
		step{"Uploaded", func(t *testing.T) { slots = untrusted(t, ours); l.uploaded(t, slots) }},
		step{"OnDisk", func(t *testing.T) { l.putOnDisk(t, slots) }},
		step{"Update", func(t *testing.T) { l.opensAfterUpdate(t, "0.1.4", ours); l.lockedDown(t) }},
		step{"SwitchedOff", l.switchedOff})
}

// untrusted are systems that the firmware is not to start, by why.
func untrusted(t *testing.T, ours signer) map[string][]byte {
	t.Helper()
	plain := panicking(t, "0.1.1")
	tampered, err := ours.sign(plain)
	if err != nil {
		t.Fatal(err)
	}
	tampered[len(tampered)/2] ^= 1
	strange, err := stranger(t).sign(plain)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"it is not signed": plain, "the firmware does not know who signed it": strange, "it was changed after it was signed": tampered}
}

// uploaded: as updates, signed as updates are, they are refused before anything is tried,
// since the firmware would leave the machine in its menu.
func (l *sealed) uploaded(t *testing.T, slots map[string][]byte) {
	key, err := release.LoadKey(updateKey())
	if err != nil {
		t.Skipf("needs the key that the image takes updates from: %v", err)
	}
	for why, b := range slots {
		path := filepath.Join(t.TempDir(), "slot.efi")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		b := bundle(t, update.Manifest{Version: "0.1.1", Architecture: "amd64"}, path, key)
		code, err := l.ask(soon(t), l.admin, "POST", "/api/v1/machine/update", bytes.NewReader(b), nil)
		if err == nil || code >= 500 || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %d, %v", why, code, err)
		}
	}
	if m := l.machine(t); m.Update.Staged != "" || len(m.Slots) != 1 {
		t.Errorf("staged %q, slots %+v", m.Update.Staged, m.Slots)
	}
}

// putOnDisk has somebody who holds the disk put them there. The firmware starts none of
// them, and the loader comes back to the one that is ours.
func (l *sealed) putOnDisk(t *testing.T, slots map[string][]byte) {
	l.v.Kill()
	names := map[string]bool{}
	for _, b := range slots {
		name := fmt.Sprintf("lazaret_0.1.%d+1.efi", len(names)+1)
		names[strings.TrimSuffix(name, "+1.efi")] = true
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(testneed.Program(t, "mcopy"), "-i", l.config.Disks[0].Path+"@@1M", path, "::EFI/Linux/"+name).CombinedOutput(); err != nil {
			t.Fatalf("mcopy: %v %s", err, out)
		}
	}
	denied := func() {
		name := l.asked(t, `Error loading [^\r\n]*(lazaret_[0-9.]+)\+0-1\.efi: Access Denied`)[1]
		t.Logf("%s: Access Denied", name)
		delete(names, name)
	}
	l.turnsOn()
	denied()
	denied() // the firmware has started the loader once more
	l.asked(t, `No bootable option or device was found`)
	l.v.Kill()
	l.turnsOn()
	denied()
	if len(names) != 0 {
		t.Errorf("not tried: %v", names)
	}
	l.unasked(t)
	if m := l.machine(t); !strings.HasPrefix(m.Version, "0.1.0") {
		t.Errorf("%s runs", m.Version)
	}
}

// switchedOff: with other settings of the firmware the TPM does not give the key, whatever
// system is started.
func (l *sealed) switchedOff(t *testing.T) {
	l.v.Kill()
	if err := os.Remove(filepath.Join(l.config.Dir, "nvram.fd")); err != nil {
		t.Fatal(err)
	}
	l.config.Vars = "/usr/share/OVMF/OVMF_VARS_4M.fd" // no keys: Secure Boot is off
	l.turnsOn()
	l.asked(t, regexp.QuoteMeta("The TPM does not give the key (what the firmware measured when the machine booted has changed). Recovery passphrase of this machine's data "))
	l.shut(t)
	if err := l.v.Type(l.recovery + "\r"); err != nil {
		t.Fatal(err)
	}
	l.isBack(t)
	if !l.complains(t, "the key is sealed again to how the machine started now") || !l.complains(t, "Secure Boot is off") {
		t.Errorf("it says %q", l.machine(t).Problems)
	}
}

// TestSecureBootLoader: firmware that does not trust the image's loader starts nothing of it.
func TestSecureBootLoader(t *testing.T) {
	long(t)
	v := vm.Start(t, vm.Config{Firmware: vm.SecureBoot, Disks: []vm.Disk{{Path: vm.Copy(t, built(t, ".raw"), 0)}}})
	if _, err := v.Expect(soon(t), regexp.MustCompile(`BdsDxe: failed to start Boot\d+ [^\r\n]*: (Access Denied|Security Violation)`)); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Expect(soon(t), regexp.MustCompile(`No bootable option or device was found`)); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(v.Transcript(), "Lazaret") {
		t.Error("it was started")
	}
}

// lockedDown: the kernel knows that Secure Boot is on, and is locked down.
func (l *life) lockedDown(t *testing.T) {
	if got := l.shows(t, "/sys/kernel/security/lockdown"); !strings.Contains(got, "[confidentiality]") {
		t.Errorf("lockdown: %s", got)
	}
	b := l.shows(t, "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")
	if len(b) < 5 || binary.LittleEndian.Uint32([]byte(b)) == 0 || b[4] != 1 {
		t.Errorf("the firmware's variable SecureBoot: %q", b)
	}
	if l.complains(t, "Secure Boot is off") {
		t.Error("it says that Secure Boot is off")
	}
	var lines []struct{ Text string }
	l.must(t, "GET", "/api/v1/machine/log?n=5000&part=kernel&contains=secureboot", nil, &lines)
	if !strings.Contains(strings.ToLower(strings.Join(texts(lines), "\n")), "secure boot enabled") {
		t.Errorf("the kernel says %q", lines)
	}
}

func texts(lines []struct{ Text string }) []string {
	var out []string
	for _, l := range lines {
		out = append(out, l.Text)
	}
	return out
}
