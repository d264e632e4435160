package gpt

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"lazaret/appliance/disk/block"
	"lazaret/appliance/disk/block/blocktest"
	"lazaret/internal/testneed"
)

// image is a small disk with an EFI partition and a data partition, made by sfdisk.
func image(t *testing.T) string {
	t.Helper()
	program := testneed.Program(t, "sfdisk")
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 12<<20); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program, "-q", path)
	c.Stdin = strings.NewReader("label: gpt\nlabel-id: 11111111-2222-3333-4444-555555555555\nfirst-lba: 2048\nstart=2048,size=8192,type=U,name=lazaret-esp\nsize=4096,type=L,name=lazaret-data\n")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v %s", err, out)
	}
	return path
}

// load copies the beginning and the end of an image into a disk in memory of another size.
func load(t *testing.T, path string, size int64) *blocktest.Disk {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := blocktest.New(size, 512)
	for at := 0; at < len(b); at += 4096 { // what is zero stays unwritten
		if part := b[at:min(at+4096, len(b))]; !block.Zero(part) {
			if _, err := d.WriteAt(part, int64(at)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	return d
}

func grow(t *testing.T, d block.Device) (*Table, bool) {
	t.Helper()
	table, changed, err := Grow(d, Options{Name: "lazaret-data"})
	if err != nil {
		t.Fatal(err)
	}
	return table, changed
}

// TestGrowIsTakenByOthers: sfdisk finds nothing wrong with a table that was grown, and the
// data partition reaches the end.
func TestGrowIsTakenByOthers(t *testing.T) {
	path := image(t)
	for _, size := range []int64{12 << 20, 13<<20 + 512, 200<<20 + 1536, 3 << 40} {
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		d, err := block.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		fresh := GUID{15: 1}
		table, changed, err := Grow(d, Options{Name: "lazaret-data", ID: func() (GUID, bool) { fresh[15]++; return fresh, true }})
		if err != nil || !changed {
			t.Fatal(changed, err)
		}
		p, _ := table.Find("lazaret-data")
		off, n := table.Range(p)
		if end := off + n; end%(1<<20) != 0 || end > size-33*512 || size-end > 2<<20 {
			t.Errorf("of %d bytes, the partition ends at %d", size, end)
		}
		if _, again := grow(t, d); again {
			t.Error("growing twice writes twice")
		}
		d.Close()
		out, err := exec.Command(testneed.Program(t, "sfdisk"), "--verify", path).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "No errors detected") || strings.Contains(string(out), "mismatch") {
			t.Errorf("sfdisk --verify: %v %s", err, out)
		}
		out, err = exec.Command(testneed.Program(t, "sfdisk"), "--dump", path).CombinedOutput()
		want := "start=        2048, size=        8192"
		if err != nil || !strings.Contains(string(out), want) || !strings.Contains(string(out), "size="+pad(n/512)) || !strings.Contains(strings.ToLower(string(out)), fresh.String()) {
			t.Errorf("sfdisk --dump: %v %s", err, out)
		}
	}
}

func pad(n int64) string {
	s := strconv.FormatInt(n, 10)
	return strings.Repeat(" ", max(0, 12-len(s))) + s
}

// TestGrowSurvivesPowerCuts: with the power cut at every write and sync, the table can be
// read all the same, the partitions begin where they did, and the next Grow finishes.
func TestGrowSurvivesPowerCuts(t *testing.T) {
	path := image(t)
	base := load(t, path, 40<<20)
	full := base.Clone()
	before := full.Steps()
	grown, _ := grow(t, full)
	steps := full.Steps() - before
	if steps < 6 {
		t.Fatal("growing took", steps, "steps")
	}
	for cut := range steps {
		for seed := range uint64(12) {
			d := base.Clone()
			d.CutAfter(cut, seed)
			if _, _, err := Grow(d, Options{Name: "lazaret-data"}); err == nil {
				t.Fatal("the power was not cut")
			}
			d.Restart()
			if table, err := Read(d); err != nil {
				t.Fatalf("cut %d seed %d: %v", cut, seed, err)
			} else if p, ok := table.Find("lazaret-data"); !ok || p.First != grown.Partitions[1].First {
				t.Fatalf("cut %d seed %d: %+v", cut, seed, table.Partitions)
			}
			d.CutAfter(cut, seed+1) // and once more while it is finished
			_, _, _ = Grow(d, Options{Name: "lazaret-data"})
			d.Restart()
			if table, _ := grow(t, d); !table.same(grown) {
				t.Fatalf("cut %d seed %d: %+v", cut, seed, table)
			}
		}
	}
}

// TestGrowForgetsTheFormerBackup: it would lie in the data partition, which must be blank
// at the first boot.
func TestGrowForgetsTheFormerBackup(t *testing.T) {
	d := load(t, image(t), 13<<20)
	table, _ := grow(t, d)
	off, n := table.Range(table.Partitions[1])
	b, err := block.Read(d, off, int(n))
	if err != nil || !block.Zero(b) {
		t.Error("the partition is not blank", err)
	}
}

// TestLargeSectors grows a table of 4096-byte sectors.
func TestLargeSectors(t *testing.T) {
	d := blocktest.New(64<<20, 4096)
	h := header{self: 1, other: 4095, first: 256, last: 4095 - 6, array: 2, count: 128, size: 128}
	small := &Table{Sector: 4096, head: h, entries: make([]byte, 128*128), primary: true}
	e := small.entries
	copy(e, bytes.Repeat([]byte{7}, 32))
	e[33], e[41], e[40] = 1, 4, 0xff // sectors 256 to 1279
	for i, c := range []byte("lazaret-data") {
		e[56+2*i] = c
	}
	if w, err := small.grown(d, Options{Name: "lazaret-data"}); err == nil {
		t.Fatal("found a partition that was not parsed", w)
	}
	var err error
	if small.Partitions, err = parseEntries(e, h); err != nil {
		t.Fatal(err)
	}
	w, err := small.grown(d, Options{Name: "lazaret-data"})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.write(d, small); err != nil {
		t.Fatal(err)
	}
	d.Resize(256 << 20)
	table, changed := grow(t, d)
	if off, n := table.Range(table.Partitions[0]); !changed || off != 1<<20 || off+n != 255<<20 {
		t.Error(off, n, changed)
	}
}

// TestReadRefuses: what points off the disk, overlaps or was altered is no table.
func TestReadRefuses(t *testing.T) {
	path := image(t)
	for name, break_ := range map[string]func(b []byte){
		"an altered header":  func(b []byte) { b[512+40]++ },
		"an altered entry":   func(b []byte) { b[1024+40]++ },
		"no signature":       func(b []byte) { b[512]++ },
		"an enormous header": func(b []byte) { b[512+14] = 0xff },
	} {
		d := load(t, path, 12<<20)
		b, _ := block.Read(d, 0, 64<<10)
		break_(b)
		_, _ = d.WriteAt(b, 0)
		if table, err := Read(d); err != nil || table.primary {
			t.Errorf("%s: %v, read from the end: %v", name, err, table != nil && !table.primary)
		}
		_, _ = d.WriteAt(make([]byte, 512), 12<<20-512)
		if _, err := Read(d); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func FuzzRead(f *testing.F) {
	le := header{self: 1, other: 127, first: 40, last: 90, array: 2, count: 4, size: 128}
	b := make([]byte, 65536)
	copy(b[512:], le.bytes())
	f.Add(b[:2048], uint8(9))
	f.Add(append(make([]byte, 4096), le.bytes()...), uint8(12))
	f.Fuzz(func(t *testing.T, b []byte, shift uint8) {
		d := &static{bytes.NewReader(b), 512, 256 << 10}
		if shift > 10 {
			d.sector = 4096
		}
		if len(b) >= d.sector+headerSize { // or no input passes the checksum
			h := b[d.sector:]
			if s := h[12]; s >= headerSize && int(s) <= len(h) {
				reseal(h)
			}
		}
		table, err := readAt(d, 1, uint64(d.size)/uint64(d.sector))
		if err != nil {
			return
		}
		for _, p := range table.Partitions {
			if off, n := table.Range(p); off < 0 || n <= 0 || off+n > d.size {
				t.Fatalf("%+v", p)
			}
		}
	})
}

// reseal makes a header's checksum right.
func reseal(h []byte) {
	n := int(h[12])
	clear(h[13:20])
	sum := crc32.ChecksumIEEE(h[:n])
	binary.LittleEndian.PutUint32(h[16:], sum)
}

// static is a disk that begins with some bytes, and then is zero.
type static struct {
	*bytes.Reader
	sector int
	size   int64
}

func (s *static) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(b)) > s.size {
		return 0, io.EOF
	}
	n, _ := s.Reader.ReadAt(b, off)
	clear(b[n:])
	return len(b), nil
}
func (s *static) WriteAt([]byte, int64) (int, error) { return 0, io.ErrShortWrite }
func (s *static) Sync() error                        { return nil }
func (s *static) Size() int64                        { return s.size }
func (s *static) SectorSize() int                    { return s.sector }
