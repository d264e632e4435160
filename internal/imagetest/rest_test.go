package imagetest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
)

// atRest looks at the disk from outside, with the power off: nothing of what the gateway
// stored is there to be read.
func (l *life) atRest(t *testing.T) {
	l.v.Kill()
	f, err := os.Open(l.config.Disks[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	magic := make([]byte, 6)
	if _, err := f.ReadAt(magic, dataPartition(t, f)); err != nil || string(magic) != "LUKS\xba\xbe" {
		t.Errorf("the data partition begins with %x (%v), and not with a LUKS header", magic, err)
	}
	found := look(t, extents(t, f), []byte("LUKS\xba\xbe"), []byte("anna@example.com"), []byte(l.device.ID), []byte(l.token))
	if found[0] == 0 {
		t.Error("no LUKS header on the disk")
	}
	for i, what := range []string{"a user's name", "a device's id", "the management token"} {
		if found[i+1] != 0 {
			t.Errorf("%s stands on the disk as it is", what)
		}
	}
}

// dataPartition finds where the data partition begins, in bytes (UEFI specification, 5.3).
func dataPartition(t testing.TB, disk io.ReaderAt) int64 {
	t.Helper()
	table := make([]byte, 128*128) // where every writer of tables puts them
	if _, err := disk.ReadAt(table, 2*512); err != nil {
		t.Fatal(err)
	}
	var name []byte
	for _, c := range []byte(appliance.DataName + "\x00") {
		name = append(name, c, 0)
	}
	for entry := range slices.Chunk(table, 128) {
		if bytes.HasPrefix(entry[56:], name) {
			return int64(binary.LittleEndian.Uint64(entry[32:])) * 512
		}
	}
	t.Fatalf("no partition is called %s", appliance.DataName)
	return 0
}

// extents reads what is not a hole of a file, one piece after the other (lseek(2)).
func extents(t testing.TB, f *os.File) io.Reader {
	t.Helper()
	var all []io.Reader
	for at := int64(0); ; {
		from, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return io.MultiReader(all...) // holes to the end
		}
		to, err2 := unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		all, at = append(all, io.NewSectionReader(f, from, to-from)), to
	}
}

// look counts how often each needle stands in r.
func look(t testing.TB, r io.Reader, needles ...[]byte) []int {
	t.Helper()
	counts := make([]int, len(needles))
	const chunk, overlap = 4 << 20, 256
	b := make([]byte, chunk+overlap)
	keep := 0
	for {
		n, err := io.ReadFull(r, b[keep:])
		text := b[:keep+n]
		for i, needle := range needles {
			for at := 0; ; {
				j := bytes.Index(text[at:], needle)
				if j < 0 {
					break
				}
				at += j + len(needle)
				if at > keep { // else it was counted with the chunk before
					counts[i]++
				}
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return counts
		}
		if err != nil {
			t.Fatal(err)
		}
		keep = copy(b, text[max(0, len(text)-overlap):])
	}
}
