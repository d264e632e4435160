package format

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"lazaret/internal/testneed"
)

var machine = Machine{Name: "lazaret", Version: "1.2.3"}

// rawDisk makes a disk of size bytes with text, noise that does not compress, zeros that
// were written, holes, and a last sector that holds something.
func rawDisk(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.raw")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	noise := make([]byte, 300_000)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(noise) // never fails
	half := bytes.Repeat([]byte("enroll, quarantine, release. "), 9000)
	for at, b := range map[int64][]byte{
		0: []byte("first sector"), 3 * MiB: noise, 5*MiB + 512: half, 9 * MiB: make([]byte, 2*MiB), 12*MiB - 65536: noise[:65536],
		size/2 + 4096: append(bytes.Clone(half[:40_000]), noise[:40_000]...), size - 512: noise[:512],
	} {
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func opened(t testing.TB, path string, size int64) *Disk {
	t.Helper()
	d, f, err := Open(path, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return d
}

func write(t testing.TB, kind Kind, d *Disk) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "lazaret."+string(kind))
	if err := Write(t.Context(), kind, d, path, machine); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".format-*"))
	if err != nil || len(left) > 0 {
		t.Error("left behind:", left, err)
	}
	return path
}

func qemuImg(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(testneed.Program(t, "qemu-img"), args...).CombinedOutput()
	if err != nil {
		t.Errorf("qemu-img %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestReadByQEMU: QEMU finds every form sound, of the size it was declared with, and with
// the bytes of the raw disk. The last is behind the first bitmap entry of a vhdx's table;
// QEMU would take half a minute to read all its zeros, and reads its last sector.
func TestReadByQEMU(t *testing.T) {
	testneed.Program(t, "qemu-img")
	for _, x := range []struct{ raw, declared int64 }{{16 * MiB, 0}, {24*MiB + 512, 4 << 30}, {4<<30 + 2*MiB, 0}} {
		raw := rawDisk(t, x.raw)
		want := max(x.declared, (x.raw+MiB-1)/MiB*MiB)
		for kind, name := range map[Kind]string{KindQCOW2: "qcow2", KindVMDK: "vmdk", KindVHDX: "vhdx"} {
			t.Run(fmt.Sprintf("%s/%d/%d", kind, x.raw/MiB, want/MiB), func(t *testing.T) {
				path := write(t, kind, opened(t, raw, x.declared))
				qemuImg(t, "check", "-q", "-f", name, path)
				if x.raw > 1<<30 {
					sameLast(t, name, path, raw, x.raw)
				} else {
					qemuImg(t, "compare", "-q", "-f", "raw", "-F", name, raw, path)
				}
				var info struct {
					Size int64 `json:"virtual-size"`
				}
				if err := json.Unmarshal([]byte(qemuImg(t, "info", "--output=json", "-f", name, path)), &info); err != nil || info.Size != want {
					t.Errorf("QEMU sees %d bytes, want %d (%v)", info.Size, want, err)
				}
				if probed := qemuImg(t, "info", "--output=json", path); !strings.Contains(probed, `"format": "`+name+`"`) {
					t.Errorf("not recognised: %s", probed)
				}
			})
		}
	}
}

// sameLast compares the last sector, as QEMU reads it, with the raw disk's.
func sameLast(t *testing.T, name, path, raw string, size int64) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "last")
	qemuImg(t, "dd", "-f", name, "-O", "raw", "bs=512", fmt.Sprintf("skip=%d", size/512-1), "if="+path, "of="+out)
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(raw)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	last := make([]byte, 512)
	if _, err := f.ReadAt(last, size-512); err != nil || !bytes.Equal(got, last) {
		t.Errorf("the last sector is another one: %x, want %x (%v)", got, last, err)
	}
}

// TestCompareFinds: the comparison above does find one changed byte.
func TestCompareFinds(t *testing.T) {
	raw := rawDisk(t, 16*MiB)
	path := write(t, KindQCOW2, opened(t, raw, 0))
	f, err := os.OpenFile(raw, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte{1}, 14*MiB)
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command(testneed.Program(t, "qemu-img"), "compare", "-q", "-f", "raw", "-F", "qcow2", raw, path).Run(); err == nil {
		t.Error("a changed byte was not found")
	}
}

// TestSame: the same disk gives the same bytes, whether its zeros are holes or written,
// and another one does not.
func TestSame(t *testing.T) {
	raw := rawDisk(t, 16*MiB)
	full, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	dense := filepath.Join(t.TempDir(), "dense.raw")
	if err := os.WriteFile(dense, full, 0o600); err != nil {
		t.Fatal(err)
	}
	full[7*MiB] ^= 1
	other := filepath.Join(t.TempDir(), "other.raw")
	if err := os.WriteFile(other, full, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kind := range Kinds {
		var sums [3][32]byte
		for i, path := range []string{raw, dense, other} {
			b, err := os.ReadFile(write(t, kind, opened(t, path, 0)))
			if err != nil {
				t.Fatal(err)
			}
			sums[i] = sha256.Sum256(b)
		}
		if sums[0] != sums[1] || sums[0] == sums[2] {
			t.Errorf("%s: sparse and dense the same: %t; other the same: %t", kind, sums[0] == sums[1], sums[0] == sums[2])
		}
	}
}

// TestZstd: the raw bytes come back, without what the disk was declared larger.
func TestZstd(t *testing.T) {
	raw := rawDisk(t, 16*MiB+1024)
	f, err := os.Open(write(t, KindZstd, opened(t, raw, 64*MiB)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	got, err := io.ReadAll(z)
	want, err2 := os.ReadFile(raw)
	if err != nil || err2 != nil || !bytes.Equal(got, want) {
		t.Error("other bytes came back", len(got), len(want), err, err2)
	}
}

// TestOVA: what importers have stumbled over in others' appliances is not there.
func TestOVA(t *testing.T) {
	raw := rawDisk(t, 16*MiB)
	f, err := os.Open(write(t, KindOVA, opened(t, raw, 64*MiB)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var names []string
	files := make(map[string][]byte)
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Format != tar.FormatUSTAR || h.Typeflag != tar.TypeReg || h.Mode != 0o644 || h.Uid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s: %+v", h.Name, h)
		}
		names = append(names, h.Name)
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Join(names, " "); got != "lazaret.ovf lazaret.mf lazaret-disk1.vmdk" {
		t.Fatal("files are", got)
	}
	want := fmt.Sprintf("SHA256(lazaret.ovf)= %x\nSHA256(lazaret-disk1.vmdk)= %x\n", sha256.Sum256(files["lazaret.ovf"]), sha256.Sum256(files["lazaret-disk1.vmdk"]))
	if got := string(files["lazaret.mf"]); got != want {
		t.Errorf("the manifest is %q, want %q", got, want)
	}
	lintOVF(t, files["lazaret.ovf"], len(files["lazaret-disk1.vmdk"]))
	disk := filepath.Join(t.TempDir(), "d.vmdk")
	if err := os.WriteFile(disk, files["lazaret-disk1.vmdk"], 0o600); err != nil {
		t.Fatal(err)
	}
	qemuImg(t, "compare", "-q", "-f", "raw", "-F", "vmdk", raw, disk)
}

func lintOVF(t *testing.T, text []byte, diskSize int) {
	t.Helper()
	type item struct {
		Elements []struct {
			XMLName xml.Name
			Text    string `xml:",chardata"`
		} `xml:",any"`
	}
	var e struct {
		XMLName xml.Name `xml:"http://schemas.dmtf.org/ovf/envelope/1 Envelope"`
		Files   []struct {
			Href string `xml:"href,attr"`
			ID   string `xml:"id,attr"`
			Size int    `xml:"size,attr"`
		} `xml:"References>File"`
		Disks []struct {
			Capacity int    `xml:"capacity,attr"`
			File     string `xml:"fileRef,attr"`
		} `xml:"DiskSection>Disk"`
		Hardware struct {
			Type   string `xml:"System>VirtualSystemType"`
			Items  []item `xml:"Item"`
			Config struct {
				Key   string `xml:"key,attr"`
				Value string `xml:"value,attr"`
			} `xml:"http://www.vmware.com/schema/ovf Config"`
		} `xml:"VirtualSystem>VirtualHardwareSection"`
	}
	if err := xml.Unmarshal(text, &e); err != nil {
		t.Fatal(err)
	}
	if len(e.Files) != 1 || e.Files[0].Href != "lazaret-disk1.vmdk" || e.Files[0].Size != diskSize || len(e.Disks) != 1 || e.Disks[0].File != e.Files[0].ID || e.Disks[0].Capacity != 64 {
		t.Errorf("files %+v, disks %+v", e.Files, e.Disks)
	}
	if !regexp.MustCompile(`^vmx-[0-9]{2}$`).MatchString(e.Hardware.Type) || e.Hardware.Config.Key != "firmware" || e.Hardware.Config.Value != "efi" {
		t.Errorf("hardware %q, firmware %+v", e.Hardware.Type, e.Hardware.Config)
	}
	var kinds []string
	for _, i := range e.Hardware.Items {
		var last string
		for _, x := range i.Elements {
			if x.XMLName.Local <= last {
				t.Errorf("%s stands behind %s: CIM wants an order", x.XMLName.Local, last)
			}
			last = x.XMLName.Local
			if last == "ResourceType" {
				kinds = append(kinds, x.Text)
			}
		}
	}
	if got := strings.Join(kinds, " "); got != "3 4 6 17 10" { // CPU, memory, SCSI, disk, network: no IDE (5), no CD, no floppy
		t.Error("resource types are", got)
	}
}

// TestRefused: what no disk or machine can be.
func TestRefused(t *testing.T) {
	for _, x := range []struct{ raw, size int64 }{{0, 0}, {1000, 0}, {2 * MiB, MiB}, {MiB, MiB + 512}, {MiB, 2 << 40}} {
		if _, err := New(bytes.NewReader(nil), x.raw, x.size); err == nil {
			t.Errorf("a raw disk of %d bytes declared as %d was taken", x.raw, x.size)
		}
	}
	d, err := New(bytes.NewReader(make([]byte, MiB)), MiB, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []Machine{{}, {Name: "a/b", Version: "1"}, {Name: `a"`, Version: "1"}, {Name: "a", Version: "<1>"}} {
		if err := Write(t.Context(), KindOVA, d, filepath.Join(t.TempDir(), "x.ova"), m); err == nil {
			t.Errorf("machine %+v was taken", m)
		}
	}
	path := filepath.Join(t.TempDir(), "x.iso")
	if err := Write(t.Context(), "iso", d, path, machine); err == nil {
		t.Error("a form that is none was taken")
	}
	short, err := New(bytes.NewReader(make([]byte, MiB)), 2*MiB, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range Kinds {
		if err := Write(t.Context(), kind, short, path, machine); err == nil {
			t.Errorf("%s: a disk shorter than it was said to be was taken", kind)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a file was left after an error: %v", kind, err)
		}
	}
}
