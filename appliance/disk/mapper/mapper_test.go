package mapper

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// TestTable: what dm-crypt is told, in the words of the kernel's documentation (Documentation/
// admin-guide/device-mapper/dm-crypt.rst); no discards.
func TestTable(t *testing.T) {
	m := Crypt{Device: "/dev/vda2", Offset: 16 << 20, Sector: 512}
	if got := m.table(":64:logon:lazaret:x"); got != "aes-xts-plain64 :64:logon:lazaret:x 0 /dev/vda2 32768" {
		t.Error(got)
	}
	m.Sector = 4096
	if got := m.table("00"); got != "aes-xts-plain64 00 0 /dev/vda2 32768 1 sector_size:4096" {
		t.Error(got)
	}
}

// TestLayout holds the ioctl's bytes to <linux/dm-ioctl.h>: struct dm_ioctl has 312, struct
// dm_target_spec 40, and the next one begins at a multiple of eight.
func TestLayout(t *testing.T) {
	spec := target(2048, "aes-xts-plain64 00 0 /dev/vda2 32768")
	b := append(head("name", 1, len(spec)), spec...)
	ne := binary.NativeEndian
	if len(b)%8 != 0 || ne.Uint32(b[12:]) != uint32(len(b)) || ne.Uint32(b[16:]) != 312 || ne.Uint32(b[20:]) != 1 || ne.Uint32(b[28:]) != secureData || string(b[48:53]) != "name\x00" {
		t.Errorf("% x", b[:64])
	}
	s := b[312:]
	if ne.Uint64(s) != 0 || ne.Uint64(s[8:]) != 2048 || !bytes.HasPrefix(s[24:], []byte("crypt\x00")) || !bytes.HasPrefix(s[40:], []byte("aes-xts-plain64 ")) || b[len(b)-1] != 0 {
		t.Errorf("% x", s)
	}
}
