package fat

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lazaret/internal/testneed"
)

const volumeSize = 264 << 20

func write(t *testing.T, c Config) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "esp")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(c.Size); err != nil {
		t.Fatal(err)
	}
	if err := Write(f, c); err != nil {
		t.Fatal(err)
	}
	return name
}

// files are of all the shapes there are: short and long names, names that are the same when
// cut short, empty, of one cluster exactly and of many, and a directory of several clusters.
func files() map[string][]byte {
	random := rand.NewChaCha8([32]byte{1})
	data := func(n int) []byte {
		b := make([]byte, n)
		random.Read(b)
		return b
	}
	all := map[string][]byte{
		"EFI/BOOT/BOOTX64.EFI":            data(100000),
		"EFI/Linux/lazaret_1.2.3.efi":     data(3*cluster + 1),
		"EFI/Linux/lazaret_1.2.4+3.efi":   data(cluster),
		"EFI/Linux/lazaret_1.2.5+2-1.efi": data(1),
		"loader/loader.conf":              []byte("timeout 0\n"),
		"EMPTY":                           {},
		"thirteenchars":                   []byte("13"),
		"a name of twenty-six chars":      []byte("26"),
	}
	for i := range 150 {
		all[fmt.Sprintf("many/a file with a long name %d", i)] = []byte{byte(i)}
	}
	return all
}

// TestFsckFindsNoFault: fsck.vfat checks the volume and mcopy reads every file back.
func TestFsckFindsNoFault(t *testing.T) {
	fsck, mcopy := testneed.Program(t, "fsck.vfat"), testneed.Program(t, "mcopy")
	when := time.Date(2026, 11, 22, 5, 30, 20, 0, time.UTC)
	name := write(t, Config{Size: volumeSize, Label: "LAZARET-ESP", Serial: 0x12345678, Time: when, Files: files()})
	out, err := exec.Command(fsck, "-vn", name).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "32 bit entries") {
		t.Errorf("fsck.vfat: %v: %s", err, out)
	}
	back := t.TempDir()
	cmd := exec.Command(mcopy, "-s", "-m", "-Q", "-i", name, "::/*", back)
	cmd.Env = append(os.Environ(), "TZ=UTC")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mcopy: %v: %s", err, out)
	}
	for path, want := range files() {
		got, err := os.ReadFile(filepath.Join(back, path))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes read, %d written, %v", path, len(got), len(want), err)
			continue
		}
		if info, err := os.Stat(filepath.Join(back, path)); err != nil || !info.ModTime().Equal(when) {
			t.Errorf("%s: dated %v, want %v (%v)", path, info.ModTime(), when, err)
		}
	}
}

func TestRefusesWhatIsNoFAT32(t *testing.T) {
	good := Config{Size: volumeSize, Label: "X", Files: map[string][]byte{"a": nil}}
	change := map[string]func(*Config){
		"too small":      func(c *Config) { c.Size = 200 << 20 },
		"part sector":    func(c *Config) { c.Size++ },
		"no label":       func(c *Config) { c.Label = "" },
		"small letters":  func(c *Config) { c.Label = "esp" },
		"long label":     func(c *Config) { c.Label = "TWELVELETTER" },
		"after 2107":     func(c *Config) { c.Time = time.Date(2108, 1, 1, 0, 0, 0, 0, time.UTC) },
		"absolute path":  func(c *Config) { c.Files = map[string][]byte{"/a": nil} },
		"unclean path":   func(c *Config) { c.Files = map[string][]byte{"a//b": nil} },
		"more than fits": func(c *Config) { c.Files = map[string][]byte{"a": make([]byte, volumeSize)} },
	}
	for name, f := range change {
		c := good
		f(&c)
		if err := Write(nowhere{}, c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := Write(nowhere{}, good); err != nil {
		t.Error(err)
	}
}

type nowhere struct{}

func (nowhere) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }
