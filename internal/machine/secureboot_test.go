package machine

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lazaret/image/fake"
	"lazaret/image/sign"
)

// TestStartable: with Secure Boot on, and only then, a slot is refused that the firmware does
// not trust; so it is when it cannot be told what the firmware trusts.
func TestStartable(t *testing.T) {
	slot := fake.PE()
	digest, err := sign.Digest(slot)
	if err != nil {
		t.Fatal(err)
	}
	list := func(of [sha256.Size]byte) string { // an EFI_SIGNATURE_LIST of digests
		b := []byte("\x26\x16\xc4\xc1\x4c\x50\x92\x40\xac\xa9\x41\xf9\x36\x93\x43\x28")
		b = binary.LittleEndian.AppendUint32(b, 28+48)
		b = binary.LittleEndian.AppendUint32(b, 0)
		b = binary.LittleEndian.AppendUint32(b, 48)
		return string(append(append(b, make([]byte, 16)...), of[:]...))
	}
	const on, off = "\x01", "\x00"
	for _, c := range []struct {
		what        string
		secure      string
		db, dbx     string
		refused     string // by what reason; empty: it is not
		nothingElse bool   // there is no such variable
	}{
		{"without Secure Boot", "", "", "", "", true},
		{"switched off", off, "", "", "", false},
		{"trusted", on, list(digest), "", "", false},
		{"not trusted", on, list([32]byte{1}), "", "not signed", false},
		{"trusted, and refused", on, list(digest), list(digest), "never starts", false},
		{"no keys", on, "", "", "asking the firmware", true},
		{"keys that cannot be read", on, "xxxx", "", "firmware's keys", false},
		{"refused ones that cannot be read", on, list(digest), "xxxx", "firmware's keys", false},
		{"neither on nor off", "\x02", list([32]byte{1}), "", "not signed", false},
	} {
		dir := t.TempDir()
		for name, value := range map[string]string{secureBootVariable: c.secure, trustedVariable: c.db, refusedVariable: c.dbx} {
			if value == "" && (c.nothingElse || name == refusedVariable) {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte("\x06\x00\x00\x00"+value), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		err := startableBy(dir, bytes.NewReader(slot), int64(len(slot)))
		if c.refused == "" && err != nil || c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}
