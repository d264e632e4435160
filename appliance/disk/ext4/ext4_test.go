package ext4

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lazaret/appliance/disk/block"
	"lazaret/internal/testneed"
)

// update makes the template anew: go test ./appliance/disk/ext4 -run TestTemplate -update
var update = flag.Bool("update", false, "make template.gz with mke2fs")

// TestTemplate: the template is what mke2fs makes, and room is left for growing to 2 TiB
// without moving anything. Other versions of mke2fs make other ones, so that it is compared
// only where it is made.
func TestTemplate(t *testing.T) {
	if !*update {
		return // it is made with -update; TestMake shows that it is whole
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, Least)); err != nil {
		t.Fatal(err)
	}
	const id = "11111111-2222-3333-4444-555555555555"
	c := exec.Command(testneed.Program(t, "mke2fs"), "-q", "-t", "ext4", "-b", "4096", "-I", "256", "-i", "16384", "-J", "size=16", "-m", "1",
		"-O", "metadata_csum,metadata_csum_seed,64bit,^orphan_file", "-e", "remount-ro", "-L", "lazaret-data", "-U", id,
		"-E", "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,resize=536870912,hash_seed="+id, path)
	c.Env = append(os.Environ(), "E2FSPROGS_FAKE_TIME=1")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	z, _ := gzip.NewWriterLevel(&out, gzip.BestCompression)
	for n := 0; n*blockSize < len(image); n++ {
		if b := image[n*blockSize : (n+1)*blockSize]; !block.Zero(b) {
			_ = binary.Write(z, binary.LittleEndian, uint32(n))
			_, _ = z.Write(b)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("template.gz", out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestMake: e2fsck finds nothing wrong with a file system that was made on a device full of
// something else, which uses no block that was not written; two of them differ.
func TestMake(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, bytes.Repeat([]byte{0xa5}, Least), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := block.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := Read(d); !errors.Is(err, ErrNone) {
		t.Fatal(err)
	}
	var last Super
	for range 2 {
		if err := Make(d, time.Unix(1_800_000_000, 0)); err != nil {
			t.Fatal(err)
		}
		s, err := Read(d)
		if err != nil || s.Size != Least || s.UUID == last.UUID || s.Errors != 0 {
			t.Fatalf("%+v %v", s, err)
		}
		last = s
	}
	out, err := exec.Command(testneed.Program(t, "e2fsck"), "-fn", path).CombinedOutput()
	if err != nil {
		t.Errorf("e2fsck: %v %s", err, out)
	}
	out, err = exec.Command(testneed.Program(t, "dumpe2fs"), path).CombinedOutput()
	for _, want := range []string{"Errors behavior:          Remount read-only", "metadata_csum_seed", "Filesystem volume name:   lazaret-data", "Inodes per group:         4096", "Filesystem created:       Fri Jan 15 08:00:00 2027", "-16383\n"} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("dumpe2fs (%v) lacks %q: %s", err, want, out)
		}
	}
	i := strings.LastIndex(string(out), "Free blocks: ")
	var first int
	if _, rest, ok := strings.Cut(string(out)[i:], ": "); ok {
		for _, span := range strings.Split(strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0]), ", ") {
			first = atoi(strings.SplitN(span, "-", 2)[0])
		}
	}
	if first == 0 || first > writtenBlocks {
		t.Errorf("the last free run begins at block %d of %d written", first, writtenBlocks)
	}
}

func atoi(s string) (n int) {
	for _, c := range s {
		n = n*10 + int(c-'0')
	}
	return n
}

// TestReadTorn: a superblock that was altered is not believed.
func TestReadTorn(t *testing.T) {
	image, err := unpack(template)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Read(bytes.NewReader(image)); err != nil {
		t.Fatal(err)
	}
	image[superOffset+4] ^= 1
	if _, err := Read(bytes.NewReader(image)); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
}

func FuzzRead(f *testing.F) {
	image, err := unpack(template)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(image[superOffset : superOffset+superSize])
	f.Fuzz(func(t *testing.T, s []byte) {
		b := make([]byte, superOffset+superSize)
		copy(b[superOffset:], s)
		binary.LittleEndian.PutUint32(b[superOffset+0x3fc:], sum(b[superOffset:]))
		if got, err := Read(bytes.NewReader(b)); err == nil && got.Size < 0 {
			t.Fatal(got)
		}
	})
}
