package disk

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/disk/block"
	"lazaret/appliance/disk/block/blocktest"
	"lazaret/appliance/disk/luks"
	"lazaret/internal/testneed"
)

// TestFirstBootAndAfter: each protection makes the partition once, grown to the disk's end,
// and opens it after a reboot with what was written to it.
func TestFirstBootAndAfter(t *testing.T) {
	for _, c := range []struct {
		name    string
		want    appliance.Protection
		tpm     bool
		answers [2][]string // at the first boot and after
		is      appliance.Protection
		problem string
	}{
		{"a key file", appliance.ByFile, false, [2][]string{}, appliance.ByFile, "NOT PROTECTED"},
		{"nobody wants a passphrase", "", false, [2][]string{{""}, nil}, appliance.ByFile, "NOT PROTECTED"},
		{"a passphrase", "", false, [2][]string{{"short", "long enough for all", "another one, then", "long enough for all", "long enough for all"}, {"long enough for all"}}, appliance.ByPassphrase, ""},
		{"a TPM", "", true, [2][]string{}, appliance.ByTPM, "The firmware measures nothing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine()
			m.want, m.answers = c.want, c.answers[0]
			if c.tpm {
				m.tpm = testneed.TPMSocket(t, t.TempDir())
			}
			d := m.mustBoot(t)
			s := d.Status()
			if !d.Made() || s.Protection != c.is || !s.Encrypted || s.Size < 180<<20 || len(m.answers) > 0 {
				t.Errorf("%+v made %v, left %q", s, d.Made(), m.answers)
			}
			if p := strings.Join(d.Problems(), " "); !strings.Contains(p, c.problem) || c.problem == "" && p != "" {
				t.Error("problems:", p)
			}
			if (m.recovery != "") != c.tpm {
				t.Errorf("recovery passphrase: %q", m.recovery)
			}
			m.save(t)
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			m.recovery = ""
			for range 2 {
				m.answers = c.answers[1]
				d = m.mustBoot(t)
				if d.Made() || !m.hasData() || d.Status().Protection != c.is || m.recovery != "" {
					t.Error("after a reboot:", d.Made(), m.hasData(), d.Status(), m.recovery)
				}
			}
			m.disk.Resize(300 << 20)
			m.answers = c.answers[1]
			if d := m.mustBoot(t); d.Made() || !m.hasData() || d.Status().Size < 280<<20 {
				t.Error("after growing the disk:", d.Status())
			}
		})
	}
}

// TestForeignIsNeverTouched: a partition that holds anything is left as it is, until a
// factory reset is asked for.
func TestForeignIsNeverTouched(t *testing.T) {
	grown := newMachine()
	if d := grown.mustBootAs(t, appliance.ByFile); d == nil {
		t.Fatal()
	}
	end := grown.now.mapped.Device.Size()
	for name, put := range map[string]struct {
		at   int64
		b    string
		like string
	}{
		"ext4":                    {1080, "\x53\xef", "ext"},
		"XFS":                     {0, "XFSB", "XFS"},
		"Btrfs":                   {65600, "_BHRfS_M", "Btrfs"},
		"LVM":                     {536, "LVM2 001", "LVM"},
		"a LUKS header in ruins":  {0, "LUKS\xba\xbe\x00\x02", "LUKS"},
		"a LUKS1 header":          {0, "LUKS\xba\xbe\x00\x01", "LUKS"},
		"a byte at the beginning": {500_000, "x", "unknown"},
		"a byte at the end":       {end - 9, "x", "unknown"},
	} {
		m := newMachine()
		m.want = appliance.ByFile
		_, _ = m.disk.WriteAt([]byte(put.b), dataAt+put.at)
		_ = m.disk.Sync()
		var written []int64
		m.disk.OnWrite(func(off int64, b []byte) {
			if off < dataAt+end && off+int64(len(b)) > dataAt {
				written = append(written, off)
			}
		})
		for range 2 {
			if _, err := m.boot(); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), put.like) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if len(written) > 1 { // the former backup of the partition table goes
			t.Errorf("%s: written at %d", name, written)
		}
		b, err := block.Read(m.disk, dataAt+put.at, len(put.b))
		if err != nil || string(b) != put.b {
			t.Errorf("%s: it is gone", name)
		}
		if name != "ext4" && name != "a byte at the end" {
			continue // those two stand for all
		}
		if err := Reset(context.Background(), m.config()); err != nil {
			t.Fatal(name, err)
		}
		if d := m.mustBoot(t); !d.Made() {
			t.Errorf("%s: after a reset, it is not made", name)
		}
	}
}

func (m *machine) mustBootAs(t *testing.T, p appliance.Protection) *Data {
	m.want = p
	return m.mustBoot(t)
}

// TestPowerCutsWhileMaking: with the power cut at every write and sync of a first boot, the
// next one makes the partition or has it whole, and never stands before it helpless.
func TestPowerCutsWhileMaking(t *testing.T) {
	base := newMachine()
	base.want = appliance.ByFile
	whole := base.clone()
	before := whole.disk.Steps()
	whole.mustBoot(t)
	steps := whole.disk.Steps() - before
	made, had := 0, 0
	for cut := range steps {
		n := seeds(1, 20)
		if cut >= steps-2 { // the header's first copy
			n = seeds(6, 50)
		}
		for seed := range n {
			m := base.clone()
			m.disk.CutAfter(cut, seed)
			if _, err := Open(context.Background(), m.config()); err == nil {
				t.Fatal("the power was not cut at", cut)
			}
			d, err := m.boot()
			if err != nil {
				t.Fatalf("cut %d seed %d: %v", cut, seed, err)
			}
			if d.Made() {
				made++
			} else {
				had++
			}
			m.save(t)
			if d := m.mustBoot(t); d.Made() || !m.hasData() {
				t.Fatalf("cut %d seed %d: not there at the next boot", cut, seed)
			}
		}
	}
	t.Logf("%d steps; %d times made anew, %d times whole", steps, made, had)
	if made == 0 || had == 0 {
		t.Error(made, had)
	}
}

// TestPowerCutsWhileResetting: the data are there whole, or the partition is made anew; from
// the first write on that is durable, nothing opens it any more, with all keys known.
func TestPowerCutsWhileResetting(t *testing.T) {
	base := newMachine()
	base.mustBootAs(t, appliance.ByFile)
	base.save(t)
	base.disk.Restart()
	run := func(m *machine, cut int, seed uint64) {
		d := m.mustBoot(t)
		m.disk.CutAfter(cut, seed)
		_ = d.Reset(context.Background())
	}
	whole := base.clone()
	d := whole.mustBoot(t)
	before := whole.disk.Steps()
	if err := d.Reset(context.Background()); err != nil {
		t.Fatal(err)
	}
	kept, made := 0, 0
	for cut := range whole.disk.Steps() - before {
		n := seeds(1, 20)
		if cut < 3 {
			n = seeds(6, 50)
		}
		for seed := range n {
			m := base.clone()
			run(m, cut, seed)
			if !m.disk.Cut() {
				t.Fatal("the power was not cut at", cut)
			}
			m.disk.Restart()
			header, _ := luks.Read(section{m.disk, dataAt, 190 << 20})
			d := m.mustBoot(t)
			switch {
			case !d.Made() && m.hasData() && cut < 2:
				kept++
			case d.Made() && !m.hasData():
				made++
				if cut >= 2 && header != nil {
					t.Fatalf("cut %d seed %d: there is a header still", cut, seed)
				}
			default:
				t.Fatalf("cut %d seed %d: made %v, data %v", cut, seed, d.Made(), m.hasData())
			}
		}
	}
	if kept == 0 || made == 0 {
		t.Error(kept, "times kept,", made, "times made")
	}
}

// TestPowerCutsWhileChangingKeys: from key file to passphrase and from passphrase to
// passphrase, one of the two opens the data at every cut.
func TestPowerCutsWhileChangingKeys(t *testing.T) {
	file := newMachine()
	file.mustBootAs(t, appliance.ByFile)
	file.save(t)
	pass := file.clone()
	if err := pass.mustBoot(t).SetPassphrase(context.Background(), []byte("the old one of the two")); err != nil {
		t.Fatal(err)
	}
	if pass.file != nil {
		t.Error("the key file is still there")
	}
	for name, base := range map[string]*machine{"from a file": file, "from a passphrase": pass} {
		base.disk.Restart()
		steps, olds, news := 1, 0, 0
		for cut := 0; cut < steps; cut++ {
			for seed := range seeds(2, 30) {
				m := base.clone()
				m.answers = []string{"the old one of the two"}
				d := m.mustBoot(t)
				before := m.disk.Steps()
				if cut > 0 || seed > 0 {
					m.disk.CutAfter(cut, seed)
				}
				if err := d.SetPassphrase(context.Background(), []byte("the new one of the two")); err == nil {
					steps = m.disk.Steps() - before // the first time, uncut
				}
				m.disk.Restart()
				m.answers = []string{"the new one of the two"}
				d, err := m.boot()
				if err != nil {
					m.answers = []string{"the old one of the two"}
					d, err = m.boot()
				}
				if err != nil || d.Made() || !m.hasData() {
					t.Fatalf("%s: cut %d seed %d: %v", name, cut, seed, err)
				}
				if d.opened == byPassphrase && len(m.prompts) == 1 && d.Status().Protection == appliance.ByPassphrase {
					news++
				} else {
					olds++
				}
			}
		}
		t.Logf("%s: %d steps", name, steps)
		if steps < 8 || news == 0 {
			t.Error(name, steps, olds, news)
		}
	}
}

// TestWrongPassphrase: it is said, each one costs more time than the one before, and the
// right one opens; with nobody there, the machine stays locked and nothing is changed.
func TestWrongPassphrase(t *testing.T) {
	m := newMachine()
	m.answers = []string{"right enough", "right enough"}
	m.mustBootAs(t, appliance.ByPassphrase)
	m.save(t)
	m.answers = []string{"wrong", "", "wrong again", "Right enough", "x", "y", "z", "right enough"}
	d := m.mustBoot(t)
	want := []time.Duration{1, 2, 4, 8, 16, 30, 30}
	for i := range want {
		want[i] *= time.Second
	}
	if !m.hasData() || !slices.Equal(m.pauses, want) || strings.HasPrefix(m.prompts[0], "That is wrong") || !strings.HasPrefix(m.prompts[1], "That is wrong") {
		t.Error(d.Status(), m.pauses, m.prompts)
	}
	m.disk.Restart()
	steps := m.disk.Steps()
	m.answers = []string{"wrong"}
	if _, err := m.boot(); !errors.Is(err, ErrLocked) || m.disk.Steps() != steps {
		t.Error(err, m.disk.Steps()-steps)
	}
	c := m.config()
	c.Ask = nil
	if _, err := Open(context.Background(), c); !errors.Is(err, ErrLocked) {
		t.Error(err)
	}
	if m.now.mapped != nil {
		t.Error("something stays mapped")
	}
}

// TestLostTPM: without its TPM, or with another, the machine asks for the recovery
// passphrase, however it is typed, changes nothing before, and seals the key again.
func TestLostTPM(t *testing.T) {
	m := newMachine()
	m.tpm = testneed.TPMSocket(t, t.TempDir())
	m.mustBoot(t)
	m.save(t)
	m.disk.Restart()
	steps := m.disk.Steps()
	recovery := m.recovery
	m.tpm = "none"
	if _, err := m.boot(); !errors.Is(err, ErrLocked) || len(m.prompts) != 1 || !strings.Contains(m.prompts[0], "Recovery passphrase") || m.disk.Steps() != steps {
		t.Fatal(err, m.prompts)
	}
	m.answers = []string{strings.ToLower(strings.ReplaceAll(recovery, "-", " ")), "nothing more is asked for"}
	d := m.mustBoot(t)
	if !m.hasData() || len(m.answers) != 1 || !strings.Contains(strings.Join(d.Problems(), " "), "will be asked for at every start") {
		t.Error(m.hasData(), m.answers, d.Problems())
	}
	m.tpm = testneed.TPMSocket(t, t.TempDir())
	m.answers = []string{recovery}
	d = m.mustBoot(t)
	if !m.hasData() || !strings.Contains(m.prompts[0], "another TPM") || !strings.Contains(strings.Join(d.Problems(), " "), "sealed again") || d.Made() {
		t.Error(m.hasData(), m.prompts, d.Problems())
	}
	m.answers = nil
	if d = m.mustBoot(t); d.opened != byTPM || !m.hasData() {
		t.Error("after it was sealed again:", d.opened)
	}
	fresh, err := d.NewRecovery(context.Background())
	if err != nil || fresh == recovery {
		t.Fatal(fresh, err)
	}
	m.tpm = "none"
	m.answers = []string{recovery, fresh}
	if m.mustBoot(t); len(m.pauses) != 1 || !m.hasData() {
		t.Error("the recovery passphrase before:", m.pauses)
	}
}

// TestPIN: the TPM gives the key for the PIN alone.
func TestPIN(t *testing.T) {
	m := newMachine()
	m.tpm, m.pin = testneed.TPMSocket(t, t.TempDir()), true
	m.answers = []string{"4711", "4711"}
	m.mustBoot(t)
	m.save(t)
	m.pin = false // it is the header that says
	m.answers = []string{"4712", "4711"}
	if d := m.mustBoot(t); d.opened != byTPM || !m.hasData() || len(m.pauses) != 1 {
		t.Error(d.opened, m.prompts)
	}
	// A screen takes no empty secret: who has lost the PIN types the recovery passphrase.
	wrong := strings.Repeat("0000-", 7) + "0000"
	m.answers = []string{"4712", wrong, strings.ToLower(m.recovery), "nothing more is asked for"}
	d := m.mustBoot(t)
	if d.opened != byRecovery || !m.hasData() || len(m.answers) != 1 || len(m.pauses) != 2 || !strings.Contains(m.prompts[2], "That is wrong") {
		t.Error(d.opened, m.prompts, m.pauses)
	}
	if p := strings.Join(d.Problems(), " "); !strings.Contains(p, "in place of the PIN") || strings.Contains(p, "every start") {
		t.Error(p)
	}
	m.answers = []string{"4711"}
	if d := m.mustBoot(t); d.opened != byTPM { // it is as it was
		t.Error(d.opened, m.prompts)
	}
	own := m.tpm
	for what, other := range map[string]string{"there is no TPM": "none", "another TPM": testneed.TPMSocket(t, t.TempDir())} {
		m.tpm, m.answers = other, []string{m.recovery}
		if m.mustBoot(t); len(m.prompts) != 1 || !strings.HasPrefix(m.prompts[0], "The TPM does not give the key") || !strings.Contains(m.prompts[0], what) {
			t.Errorf("%s: %q", what, m.prompts)
		}
	}
	m.tpm, m.answers = own, []string{"", m.recovery}
	if d = m.mustBoot(t); d.opened != byRecovery || !m.hasData() {
		t.Error(d.opened, m.prompts)
	}
	if _, err := d.Reseal(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	m.answers = nil
	if d := m.mustBoot(t); d.opened != byTPM {
		t.Error(d.opened)
	}
}

// TestOthersOpenIt: cryptsetup opens with the recovery passphrase what the TPM protects.
func TestOthersOpenIt(t *testing.T) {
	program := testneed.Program(t, "cryptsetup")
	m := newMachine()
	m.tpm = testneed.TPMSocket(t, t.TempDir())
	d := m.mustBoot(t)
	path := t.TempDir() + "/part"
	b, err := block.Read(d.part, 0, 20<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeFile(path, b); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program, "open", "--test-passphrase", path)
	c.Stdin = strings.NewReader(m.recovery + "\n")
	if out, err := c.CombinedOutput(); err != nil {
		t.Errorf("%v %s", err, out)
	}
	if bytes.Contains(b, []byte(userData)) {
		t.Error("in the clear")
	}
}

// TestFindsTheDiskBootedFrom: of several disks it takes the one that the loader names, of
// several that look the same none, and it waits for one that comes late.
func TestFindsTheDiskBootedFrom(t *testing.T) {
	m := newMachine()
	m.want = appliance.ByFile
	c := m.config()
	c.Wait = time.Nanosecond
	other := newDisk(200<<20, 6)
	id := "00000005-0000-0000-0000-000000000000"
	open := func(booted string, disks ...*blocktest.Disk) error {
		m.now.disks, m.now.booted, m.now.mapped, m.now.mounted = disks, booted, nil, false
		_, err := Open(context.Background(), c)
		return err
	}
	blank := blocktest.New(1<<30, 512)
	if err := open("", m.disk, other); err == nil || !strings.Contains(err.Error(), "vda, vdb") {
		t.Error(err)
	}
	if err := open(id, blank, other); !errors.Is(err, ErrNoDisk) {
		t.Error(err)
	}
	cut := newDisk(200<<20, 5)
	cut.Resize(100 << 20)
	if err := open(id, blank, cut); !errors.Is(err, ErrNoDisk) || !strings.Contains(err.Error(), "too small: vdb ends") {
		t.Error(err)
	}
	if err := open(strings.ToUpper(id), cut, blank, other, m.disk); err != nil {
		t.Error(err)
	}
	if err := open("", blank, m.disk); err != nil {
		t.Error(err)
	}
	came := make(chan struct{})
	c.Changed, c.Wait = came, time.Hour
	on := &late{fake: m.now, came: came, all: []*blocktest.Disk{m.disk}}
	m.now.disks, m.now.mapped, m.now.mounted = nil, nil, false
	c.on = on
	if _, err := Open(context.Background(), c); err != nil || on.looked != 2 {
		t.Error(err, on.looked)
	}
}

// late is a machine whose disk comes after the first look.
type late struct {
	*fake
	came   chan struct{}
	all    []*blocktest.Disk
	looked int
}

func (l *late) Disks() ([]drive, error) {
	l.looked++
	found, err := l.fake.Disks()
	if l.looked == 1 {
		l.disks = l.all
		go func() { l.came <- struct{}{} }()
	}
	return found, err
}

// TestDamagedIsKept: a partition that opens and holds no whole file system is left alone.
func TestDamagedIsKept(t *testing.T) {
	m := newMachine()
	m.mustBootAs(t, appliance.ByFile)
	m.save(t)
	_, _ = m.now.mapped.WriteAt(make([]byte, 4096), 0)
	_ = m.disk.Sync()
	steps := m.disk.Steps()
	if _, err := m.boot(); !errors.Is(err, ErrDamaged) || m.disk.Steps() != steps {
		t.Error(err)
	}
}
