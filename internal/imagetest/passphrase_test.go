package imagetest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lazaret/appliance"
	"lazaret/internal/testneed"
)

// What a person types at the start; the second replaces the first.
const (
	firstWords  = "seven lamps burn at the pier"
	secondWords = "a kettle, a rope and 12 geese"
)

const passphraseAsked = `Passphrase of this machine's data `

// headerOf copies what lies before the data of the data partition: the LUKS2 header and its
// keyslots, for cryptsetup.
func (l *life) headerOf(t *testing.T) string {
	t.Helper()
	disk, err := os.Open(l.config.Disks[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	path := filepath.Join(t.TempDir(), "header")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.Copy(out, io.NewSectionReader(disk, dataPartition(t, disk), 32<<20)); err != nil {
		t.Fatal(err)
	}
	return path
}

// opens has cryptsetup, which knows nothing of us, try a secret at the data partition of
// the disk.
func (l *life) opens(t *testing.T, secret []byte) bool {
	t.Helper()
	c := exec.Command(testneed.Program(t, "cryptsetup"), "open", "--test-passphrase", "--key-file", "-", l.headerOf(t))
	c.Stdin = strings.NewReader(string(secret))
	out, err := c.CombinedOutput()
	switch code := c.ProcessState.ExitCode(); code {
	case 0:
		return true
	case 2: // no permission, which is a wrong passphrase (cryptsetup(8))
		return false
	default:
		t.Fatalf("cryptsetup: %d, %v %s", code, err, out)
		return false
	}
}

// keyFile reads the key file that lies on the EFI partition, with a program of others'. It
// is nil where there is none.
func (l *life) keyFile(t *testing.T) []byte {
	t.Helper()
	disk := l.config.Disks[0].Path + "@@1M" // the partition begins there, by image's layout
	list, err := exec.Command(testneed.Program(t, "mdir"), "-/", "-b", "-i", disk, "::").Output()
	if err != nil {
		t.Fatalf("mdir: %v", err)
	}
	for _, name := range strings.Fields(string(list)) {
		if strings.Contains(name, ".key") {
			b, err := exec.Command(testneed.Program(t, "mtype"), "-i", disk, name).Output()
			if err != nil || len(b) == 0 {
				t.Fatalf("mtype %s: %v", name, err)
			}
			return b
		}
	}
	if !strings.Contains(string(list), "loader.conf") {
		t.Fatalf("what was listed is no EFI partition: %s", list)
	}
	return nil
}

// TestPassphrase: a machine without a TPM says that its data are not protected, until it has
// a passphrase; from then on it asks for that at each start, and the disk tells nobody
// anything who does not know it.
func TestPassphrase(t *testing.T) {
	long(t)
	l := newLife(t, nil)
	l.turnOn()
	var file []byte
	l.live(t,
		step{"Claim", l.claim}, step{"Enroll", l.enroll}, step{"Quarantine", l.quarantined},
		step{"KeyFile", func(t *testing.T) { file = l.unprotected(t) }},
		step{"Chosen", func(t *testing.T) { l.choosesPassphrase(t, firstWords, file) }},
		step{"Asked", func(t *testing.T) { l.reboots(t); l.typesPassphrase(t, firstWords) }},
		step{"Changed", func(t *testing.T) { l.changesPassphrase(t, secondWords, firstWords) }},
		step{"AskedAgain", func(t *testing.T) { l.v.Kill(); l.turnsOn(); l.typesPassphrase(t, secondWords) }},
		step{"AtRest", func(t *testing.T) { l.atRest(t); l.nothingOpens(t, file) }})
}

// reboots restarts the machine by the API.
func (l *life) reboots(t *testing.T) {
	t.Helper()
	l.must(t, "POST", "/api/v1/machine/reboot", nil, nil)
	l.startsAgain(t)
}

// unprotected: with the key file the disk opens itself, and the machine says so.
func (l *life) unprotected(t *testing.T) []byte {
	if m := l.machine(t); m.Disk.Protection != appliance.ByFile || !l.complains(t, "NOT PROTECTED") {
		t.Errorf("kept by %q, and it says %q", m.Disk.Protection, m.Problems)
	}
	file := l.keyFile(t)
	if file == nil {
		t.Fatal("there is no key file")
	}
	if !l.opens(t, file) {
		t.Error("the key file does not open the data")
	}
	return file
}

// choosesPassphrase has whoever stands before the screen set one.
func (l *life) choosesPassphrase(t *testing.T, words string, file []byte) {
	if err := l.v.Type("d"); err != nil {
		t.Fatal(err)
	}
	l.answers(t, `Number: `, "1")
	l.answers(t, `New passphrase, 12 characters at least: `, "too short")
	l.asked(t, `That does not work: `)
	l.answers(t, `New passphrase, 12 characters at least: `, words)
	l.answers(t, `The same once more: `, words+"x")
	l.asked(t, `The two were not the same`)
	l.answers(t, `New passphrase, 12 characters at least: `, words)
	l.answers(t, `The same once more: `, words)
	l.asked(t, `(Done\.|That failed: [^\r\n]*)\r`)
	if m := l.machine(t); m.Disk.Protection != appliance.ByPassphrase || l.complains(t, "NOT PROTECTED") {
		t.Errorf("kept by %q, and it says %q", m.Disk.Protection, m.Problems)
	}
	if l.opens(t, file) {
		t.Error("the key file from before still opens the data")
	}
	if !l.opens(t, []byte(words)) {
		t.Error("the passphrase does not open the data")
	}
	if l.keyFile(t) != nil {
		t.Error("the key file is still there")
	}
	if strings.Contains(l.v.Transcript(), words) {
		t.Error("the screen shows the passphrase")
	}
}

// typesPassphrase starts a machine that asks: while nobody has answered rightly, nothing of
// it answers.
func (l *life) typesPassphrase(t *testing.T, words string) {
	l.locked(t)
	l.answers(t, passphraseAsked, "no words of mine")
	l.asked(t, `That is wrong\. `)
	l.mute(t)
	l.answers(t, passphraseAsked, "") // a key too many is no attempt
	l.answers(t, passphraseAsked, words)
	l.isBack(t)
	if strings.Contains(l.v.Transcript(), words) {
		t.Error("the screen shows the passphrase")
	}
}

// changesPassphrase has lazaretctl set another.
func (l *life) changesPassphrase(t *testing.T, words, old string) {
	if text, err := l.ctl(t, "too short\n", "machine", "passphrase", "--file", "-"); err == nil || !l.opens(t, []byte(old)) {
		t.Errorf("a passphrase that is too short: %v %s", err, text)
	}
	text, err := l.ctl(t, words+"\n", "machine", "passphrase", "--file", "-")
	if strings.Contains(text, words) {
		t.Errorf("lazaretctl shows the passphrase: %s", text)
	}
	if err != nil && !strings.Contains(text, "Client.Timeout") { // a minute, which an emulated processor may take
		t.Errorf("lazaretctl machine passphrase: %v\n%s", err, text)
	}
	until(t, "the new passphrase opens the data, and the one from before does not", func() error {
		if !l.opens(t, []byte(words)) || l.opens(t, []byte(old)) {
			return errors.New("not yet")
		}
		return nil
	})
}

// nothingOpens looks at the disk with the power off: what is on it does not open it, and no
// passphrase stands there.
func (l *life) nothingOpens(t *testing.T, file []byte) {
	if l.opens(t, file) || l.opens(t, []byte(firstWords)) || !l.opens(t, []byte(secondWords)) {
		t.Error("another secret than the second passphrase opens the data, or that does not")
	}
	if l.keyFile(t) != nil {
		t.Error("there is a key file")
	}
	f, err := os.Open(l.config.Disks[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if found := look(t, extents(t, f), []byte(firstWords), []byte(secondWords), file); fmt.Sprint(found) != "[0 0 0]" {
		t.Errorf("on the disk as they are, of first and second passphrase and key file: %v", found)
	}
}
