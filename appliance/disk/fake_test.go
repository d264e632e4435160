package disk

import (
	"context"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"testing"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/disk/block"
	"lazaret/appliance/disk/block/blocktest"
	"lazaret/appliance/disk/ext4"
	"lazaret/appliance/disk/gpt"
	"lazaret/appliance/disk/mapper"
)

const (
	espAt  = 1 << 20
	dataAt = 2 << 20
)

// newDisk is a disk as an image has it, on a larger medium: the table is that of the image.
func newDisk(size int64, id byte) *blocktest.Disk {
	d := blocktest.New(size, 512)
	const last = 110 << 20 / 512 // of the image, sectors
	le := binary.LittleEndian
	entries := make([]byte, 128*128)
	for i, p := range []struct {
		name        string
		first, last uint64
	}{{appliance.ESPName, espAt / 512, dataAt/512 - 1}, {appliance.DataName, dataAt / 512, last - 40}} {
		e := entries[i*128:]
		e[0], e[16] = 0xaf, id
		le.PutUint64(e[32:], p.first)
		le.PutUint64(e[40:], p.last)
		for j, c := range []byte(p.name) {
			e[56+2*j] = c
		}
	}
	for _, h := range [][3]uint64{{1, last, 2}, {last, 1, last - 32}} {
		b := make([]byte, 512)
		copy(b, "EFI PART\x00\x00\x01\x00\x5c")
		le.PutUint64(b[24:], h[0])
		le.PutUint64(b[32:], h[1])
		le.PutUint64(b[40:], 34)
		le.PutUint64(b[48:], last-33)
		b[56] = 1
		le.PutUint64(b[72:], h[2])
		le.PutUint32(b[80:], 128)
		le.PutUint32(b[84:], 128)
		le.PutUint32(b[88:], crc32.ChecksumIEEE(entries))
		le.PutUint32(b[16:], crc32.ChecksumIEEE(b[:92]))
		_, _ = d.WriteAt(b, int64(h[0])*512)
		_, _ = d.WriteAt(entries, int64(h[2])*512)
	}
	_ = d.Sync()
	return d
}

// fake is a machine of which only the disk and the EFI partition's file outlive a reboot.
type fake struct {
	disks   []*blocktest.Disk
	file    *[]byte
	booted  string
	secure  bool
	mapped  *scrambled
	mounted bool
	state   ext4.State
}

// section is a partition.
type section struct {
	*blocktest.Disk
	off, size int64
}

func (s section) ReadAt(b []byte, off int64) (int, error)  { return s.Disk.ReadAt(b, s.off+off) }
func (s section) WriteAt(b []byte, off int64) (int, error) { return s.Disk.WriteAt(b, s.off+off) }
func (s section) Size() int64                              { return s.size }

// scrambled stands in for dm-crypt: other keys read other bytes, sector by sector. Zeros
// stay zeros, or the tests would take long.
type scrambled struct {
	block.Device
	m mapper.Crypt
}

func (s *scrambled) mix(b []byte) {
	for at := 0; at < len(b); at += 512 {
		if sector := b[at : at+512]; !block.Zero(sector) {
			for i := 0; i < 512; i += 64 {
				subtle.XORBytes(sector[i:i+64], sector[i:i+64], s.m.Key)
			}
		}
	}
}

func (s *scrambled) Size() int64 { return s.m.Size }
func (s *scrambled) ReadAt(b []byte, off int64) (int, error) {
	from := off / 512 * 512
	whole := make([]byte, (off-from+int64(len(b))+511)/512*512)
	if _, err := s.Device.ReadAt(whole, s.m.Offset+from); err != nil {
		return 0, err
	}
	s.mix(whole)
	return copy(b, whole[off-from:]), nil
}
func (s *scrambled) WriteAt(b []byte, off int64) (int, error) {
	c := append([]byte(nil), b...)
	s.mix(c)
	return s.Device.WriteAt(c, s.m.Offset+off)
}

func (f *fake) Disks() (all []drive, err error) {
	for i, d := range f.disks {
		all = append(all, drive{d, fmt.Sprintf("vd%c", 'a'+i), func() error { return nil }})
	}
	return all, nil
}
func (f *fake) Booted() string   { return f.booted }
func (f *fake) SecureBoot() bool { return f.secure }
func (f *fake) Partition(d drive, t *gpt.Table, p gpt.Partition) (block.Device, error) {
	off, size := t.Range(p)
	return section{d.Device.(*blocktest.Disk), off, size}, nil
}
func (f *fake) Files(drive, *gpt.Table) error { return nil }
func (f *fake) Map(part block.Device, m mapper.Crypt) (block.Device, error) {
	if m.Offset+m.Size > part.Size() || len(m.Key) != 64 || f.mapped != nil {
		return nil, fmt.Errorf("mapping %+v", m)
	}
	f.mapped = &scrambled{part, m}
	return f.mapped, nil
}
func (f *fake) Unmap() error {
	if f.mounted {
		return errors.New("it is mounted")
	}
	f.mapped = nil
	return nil
}
func (f *fake) Mount(m block.Device) error {
	s, err := ext4.Read(m)
	if err != nil || s.Size > m.Size() {
		return fmt.Errorf("%d bytes: %w", s.Size, err)
	}
	f.mounted, f.state = true, ext4.State{Size: m.Size(), Free: m.Size() / 2}
	return nil
}
func (f *fake) Unmount() error {
	f.mounted = false
	return nil
}
func (f *fake) Stat() (ext4.State, error) { return f.state, nil }
func (f *fake) ReadKey() ([]byte, error) {
	if *f.file == nil {
		return nil, fs.ErrNotExist
	}
	return *f.file, nil
}

// WriteKey takes a step of the disk's, since the file is on it.
func (f *fake) WriteKey(key []byte) error {
	*f.file = append([]byte(nil), key...)
	return f.disks[0].Sync()
}
func (f *fake) RemoveKey() error {
	if err := f.disks[0].Sync(); err != nil {
		return err
	}
	*f.file = nil
	return nil
}

// machine is one machine over reboots.
type machine struct {
	disk     *blocktest.Disk
	file     []byte
	tpm      string
	booted   string
	secure   bool
	want     appliance.Protection
	pin      bool
	answers  []string // what the person types; then nobody is there
	prompts  []string
	recovery string
	pauses   []time.Duration
	now      *fake
}

func newMachine() *machine { return &machine{disk: newDisk(200<<20, 5), tpm: "none", secure: true} }

func (m *machine) config() Config {
	m.now = &fake{disks: []*blocktest.Disk{m.disk}, file: &m.file, booted: m.booted, secure: m.secure}
	m.prompts, m.pauses = nil, nil
	return Config{
		Log: slog.New(slog.DiscardHandler), on: m.now, quick: true, TPM: m.tpm, Protection: m.want, PIN: m.pin,
		Tell: func(r string) { m.recovery = r },
		Ask: func(_ context.Context, prompt string, _ int) ([]byte, error) {
			m.prompts = append(m.prompts, prompt)
			if len(m.answers) == 0 {
				return nil, errors.New("nobody is there")
			}
			a := m.answers[0]
			m.answers = m.answers[1:]
			return []byte(a), nil
		},
		sleep: func(_ context.Context, d time.Duration) { m.pauses = append(m.pauses, d) },
	}
}

func (m *machine) boot() (*Data, error) {
	m.disk.Restart()
	return Open(context.Background(), m.config())
}

func (m *machine) mustBoot(t *testing.T) *Data {
	t.Helper()
	d, err := m.boot()
	if err != nil {
		t.Fatal(err, m.prompts)
	}
	return d
}

const userData = "what the users keep here"

// at is a place in the mapping that a new file system does not write.
const at = 50 << 20

func (m *machine) save(t *testing.T) {
	t.Helper()
	if _, err := m.now.mapped.WriteAt(append([]byte(userData), make([]byte, 512-len(userData))...), at); err != nil {
		t.Fatal(err)
	}
	if err := m.disk.Sync(); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) hasData() bool {
	b := make([]byte, len(userData))
	_, err := m.now.mapped.ReadAt(b, at)
	return err == nil && string(b) == userData
}

// clone is a machine with the same disk and file.
func (m *machine) clone() *machine {
	c := *m
	c.disk, c.file = m.disk.Clone(), append([]byte(nil), m.file...)
	if m.file == nil {
		c.file = nil
	}
	return &c
}

// seeds is how often each cut is tried, with another loss each time.
func seeds(few, many uint64) uint64 {
	if os.Getenv("LONG") != "" {
		return many
	}
	return few
}

func writeFile(path string, b []byte) error { return os.WriteFile(path, b, 0o600) }
