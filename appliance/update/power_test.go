package update

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"debug/pe"
	"encoding/binary"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"testing"
	"time"
	"unicode/utf16"
)

// Versions of the tests, and what their slots hold.
const (
	older, old, new_ = "0.9.0", "1.0.0", "1.1.0"
	imageSize        = 12 * 64 * chunk // 384 KiB
)

func testKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func testKeys(all ...ed25519.PrivateKey) Keys {
	keys := Keys{}
	for _, k := range all {
		pub := k.Public().(ed25519.PublicKey)
		keys[IDOf(pub)] = pub
	}
	return keys
}

// image is a slot of a version: no machine would start it, and every one takes it for its own.
func image(version string) []byte {
	return slotFile(pe.IMAGE_FILE_MACHINE_AMD64, fmt.Sprintf("IMAGE_ID=lazaret\nIMAGE_VERSION=%s\nVARIANT_ID=cloud\n", version), ".initrd", ".linux")
}

// slotFile is a PE file of imageSize bytes with an os-release section and others, which are
// made up, and the same for the same os-release.
func slotFile(machine uint16, release string, sections ...string) []byte {
	const raw = 1024
	var head bytes.Buffer
	head.Write(append([]byte("MZ"), make([]byte, 62)...))
	binary.LittleEndian.PutUint32(head.Bytes()[0x3c:], 64)
	head.WriteString("PE\x00\x00")
	all := append([]string{".osrel"}, sections...)
	write := func(v any) { _ = binary.Write(&head, binary.LittleEndian, v) } // to memory
	write(pe.FileHeader{Machine: machine, NumberOfSections: uint16(len(all))})
	for i, name := range all {
		s := pe.SectionHeader32{VirtualSize: raw, SizeOfRawData: raw, PointerToRawData: uint32(i+1) * raw}
		if copy(s.Name[:], name); i == 0 {
			s.VirtualSize = uint32(len(release))
		}
		write(s)
	}
	b := make([]byte, imageSize)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(release))).Read(b)
	copy(b, head.Bytes())
	copy(b[raw:], release)
	return b
}

func testManifest(version, follows string) Manifest {
	return Manifest{Version: version, Architecture: "amd64", Flavour: "cloud", Follows: follows, Schema: 1, Reads: 1, Created: time.Unix(1_780_000_000, 0).UTC()}
}

func bundleOf(t testing.TB, m Manifest, img []byte, keys ...ed25519.PrivateKey) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := Write(&b, m, bytes.NewReader(img), keys...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// variable is a path as the boot loader leaves it.
func variable(path string) func() ([]byte, error) {
	return func() ([]byte, error) {
		if path == "" {
			return nil, fs.ErrNotExist
		}
		b := []byte{6, 0, 0, 0}
		for _, u := range utf16.Encode([]rune(path + "\x00")) {
			b = binary.LittleEndian.AppendUint16(b, u)
		}
		return b, nil
	}
}

func manager(t testing.TB, esp ESP, dir, version, path string, more ...func(*Config)) *Manager {
	t.Helper()
	cfg := Config{
		WithESP: func(do func(ESP) error) error { return do(esp) }, BootPath: variable(path), Keys: testKeys(testKey(1), testKey(2)),
		Version: version, Architecture: "amd64", Flavour: "cloud", Dir: dir, Log: slog.New(slog.DiscardHandler),
	}
	for _, f := range more {
		f(&cfg)
	}
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// cutting runs f and reports whether the power went.
func cutting(f func()) (cut bool) {
	defer func() {
		switch p := recover(); p.(type) {
		case nil:
		case powerCut:
			cut = true
		default:
			panic(p)
		}
	}()
	f()
	return false
}

// life is a machine over starts: whatever runs does what a machine does, until the new
// version runs and is blessed.
type life struct {
	t      testing.TB
	esp    *model
	dir    string
	bundle []byte
	images map[string][]byte
	starts int
}

// turn is from the power coming on to the next restart. done: the new version is kept.
func (l *life) turn() (done bool) {
	l.starts++
	name, path, err := l.esp.start()
	if err != nil {
		l.t.Fatalf("start %d: %v", l.starts, err)
	}
	s, _ := ParseSlot(name)
	if !bytes.Equal(l.esp.dir[name].live, l.images[s.Version]) {
		l.t.Fatalf("start %d: %s was started, and is not whole", l.starts, name)
	}
	m := manager(l.t, l.esp, l.dir, s.Version, path)
	if err := m.Begin(); err != nil {
		l.t.Fatalf("start %d of %s: %v", l.starts, name, err)
	}
	if trial, err := m.Trial(); err != nil {
		l.t.Fatal(err)
	} else if trial {
		if err := m.Bless(); err != nil {
			l.t.Fatalf("start %d: %v", l.starts, err)
		}
	}
	if s.Version == new_ {
		return true
	}
	if m.Is().Staged == "" {
		if _, _, err := m.Stage(l.t.Context(), bytes.NewReader(l.bundle), false); err != nil {
			l.t.Fatalf("start %d of %s: the update could not be tried again: %v", l.starts, name, err)
		}
	}
	return false
}

// whole fails unless a blessed slot is there, and everything that looks like one is not
// damaged: somebody may go back to it.
func (l *life) whole(when string) {
	l.t.Helper()
	found := 0
	for name, x := range l.esp.disk {
		if s, ok := ParseSlot(name); ok && s.Blessed {
			found++
			if !bytes.Equal(x.disk, l.images[s.Version]) {
				l.t.Fatalf("%s: %s is damaged", when, name)
			}
		}
	}
	if found == 0 {
		l.t.Fatalf("%s: there is no blessed slot", when)
	}
}

// TestPowerCuts cuts the power in every step of an update: before and after every write,
// rename, removal and sync, those of the boot loader too, on a file system that keeps any
// part of what was not synced. Whatever starts next must be whole, and the same update must
// come through in the end.
func TestPowerCuts(t *testing.T) {
	rounds := uint64(1)
	if os.Getenv("LONG") != "" {
		rounds = 20
	}
	images := map[string][]byte{older: image(older), old: image(old), new_: image(new_)}
	bundle := bundleOf(t, testManifest(new_, older), images[new_], testKey(1))
	cuts := 0
	for round := range rounds {
		for cut := 0; ; cut++ {
			// Two slots and no room for a third: the oldest goes.
			esp := newModel(round<<20+uint64(cut), 2*imageSize+margin+chunk, map[string][]byte{SlotName(older): images[older], SlotName(old): images[old]})
			l := &life{t: t, esp: esp, dir: t.TempDir(), bundle: bundle, images: images}
			esp.cut = cut
			before := cuts
			for done := false; !done; {
				if cutting(func() { done = l.turn() }) {
					cuts++
					esp.cut = -1
					if round%4 == 3 && esp.r.IntN(3) == 0 {
						esp.cut = esp.step + esp.r.IntN(40) // once more
					}
					esp.power()
					l.whole(fmt.Sprintf("round %d, cut at step %d", round, cut))
				}
				if l.starts > 12 {
					t.Fatalf("round %d, cut at step %d: the update does not come through", round, cut)
				}
			}
			if end, err := look(esp, new_); err != nil || !end.slots[0].Booted || !end.slots[0].Blessed || end.slots[0].Version != new_ {
				t.Fatalf("round %d, cut at step %d: in the end there are %+v, %v", round, cut, end.slots, err)
			}
			l.whole("in the end")
			if cuts == before {
				break // it was through before that step
			}
		}
	}
	t.Logf("%d power cuts survived", cuts)
	if cuts < 40 {
		t.Errorf("only %d cuts were made", cuts)
	}
}
