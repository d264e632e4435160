package luks

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lazaret/appliance/disk/block"
	"lazaret/appliance/disk/block/blocktest"
	"lazaret/internal/testneed"
)

func file(t *testing.T) (*block.File, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "luks")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 32<<20); err != nil {
		t.Fatal(err)
	}
	d, err := block.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, path
}

func cryptsetup(t *testing.T, in string, args ...string) (string, error) {
	t.Helper()
	c := exec.Command(testneed.Program(t, "cryptsetup"), args...)
	c.Stdin = strings.NewReader(in)
	out, err := c.CombinedOutput()
	return string(out), err
}

// made writes a new header with the given slots.
func made(t *testing.T, d block.Device, slots ...NewSlot) (*Header, []byte) {
	t.Helper()
	h, key := New(512)
	h, err := h.Prepare(d, key, nil, slots...)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(h.WriteSecond(d), h.WriteFirst(d)); err != nil {
		t.Fatal(err)
	}
	return h, key
}

// TestCryptsetupOpensOurs: cryptsetup dumps a header made here and opens its keyslots, of
// both kinds, and no other passphrase opens it.
func TestCryptsetupOpensOurs(t *testing.T) {
	d, path := file(t)
	h, key := made(t, d, NewSlot{Secret: []byte("correct horse"), Cost: Typed, Kind: "passphrase"}, NewSlot{Secret: []byte("0123456789abcdef0123456789abcdef"), Cost: Random, Kind: "tpm", Data: json.RawMessage(`{"blob":"AAAA"}`)})
	out, err := cryptsetup(t, "", "luksDump", path)
	for _, want := range []string{"Version:       \t2", "Label:         \tlazaret-data", "UUID:          \t" + h.UUID(), "argon2id", "pbkdf2", "cipher: aes-xts-plain64", "Memory:     65536", "lazaret", "offset: 16777216 [bytes]"} {
		if !strings.Contains(out, want) {
			t.Errorf("luksDump (%v) lacks %q:\n%s", err, want, out)
		}
	}
	for pass, ok := range map[string]bool{"correct horse": true, "0123456789abcdef0123456789abcdef": true, "correct horsf": false} {
		out, err := cryptsetup(t, pass, "open", "--test-passphrase", "--key-file", "-", path)
		if (err == nil) != ok {
			t.Errorf("%q opens: %v %s", pass, err, out)
		}
	}
	dump := filepath.Join(t.TempDir(), "key")
	if out, err := cryptsetup(t, "correct horse", "luksDump", "-q", "--key-file", "-", "--dump-volume-key", "--volume-key-file", dump, path); err != nil {
		t.Fatal(err, out)
	}
	if theirs, err := os.ReadFile(dump); err != nil || !bytes.Equal(theirs, key) {
		t.Error("cryptsetup finds another volume key", err)
	}
	if out, err := cryptsetup(t, "", "repair", "-q", path); err != nil {
		t.Error("cryptsetup repair:", err, out)
	}
}

// TestWeOpenCryptsetups: a header that cryptsetup made is opened and changed here, and then
// opened by cryptsetup.
func TestWeOpenCryptsetups(t *testing.T) {
	d, path := file(t)
	if out, err := cryptsetup(t, "one", "luksFormat", "-q", "--type", "luks2", "--cipher", "aes-xts-plain64", "--key-size", "512", "--pbkdf-memory", "8192", "--pbkdf-force-iterations", "4", "--pbkdf-parallel", "2", "--label", "theirs", "--key-file", "-", path); err != nil {
		t.Fatal(err, out)
	}
	h, err := Read(d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Unlock(d, 0, []byte("two")); !errors.Is(err, ErrPassphrase) {
		t.Fatal(err)
	}
	key, err := h.Unlock(d, 0, []byte("one"))
	if err != nil || h.Label() != "theirs" || len(key) != 64 {
		t.Fatal(err)
	}
	if err := h.Change(d, key, []int{0}, NewSlot{Secret: []byte("two"), Cost: Cheap, Kind: "passphrase"}); err != nil {
		t.Fatal(err)
	}
	for pass, ok := range map[string]bool{"two": true, "one": false} {
		if out, err := cryptsetup(t, pass, "open", "--test-passphrase", "--key-file", "-", path); (err == nil) != ok {
			t.Errorf("%q opens: %v %s", pass, err, out)
		}
	}
}

// TestTornFirstHeader: the second copy stands in, and heals the first.
func TestTornFirstHeader(t *testing.T) {
	d, path := file(t)
	h, key := made(t, d, NewSlot{Secret: []byte("one"), Cost: Cheap})
	if err := h.Change(d, key, nil, NewSlot{Secret: []byte("two"), Cost: Cheap}); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 100, 5000, 16384, 16384 + 4100} {
		b, _ := block.Read(d, at, 1)
		_, _ = d.WriteAt([]byte{b[0] ^ 1}, at)
		r, err := Read(d)
		if err != nil {
			t.Fatal(at, err)
		}
		if got, err := r.Unlock(d, 1, []byte("two")); err != nil || !bytes.Equal(got, key) {
			t.Fatal(at, err)
		}
		if err := r.Heal(d); err != nil {
			t.Fatal(err)
		}
		first, err1 := readCopy(d, 0)
		second, err2 := readCopy(d, headerSize)
		if err1 != nil || err2 != nil || first.seq != second.seq || first.seq != h.seq {
			t.Fatal(at, err1, err2)
		}
	}
	if out, err := cryptsetup(t, "two", "open", "--test-passphrase", "--key-file", "-", path); err != nil {
		t.Error(err, out)
	}
}

// TestChangeSurvivesPowerCuts: with the power cut at every write and sync of a change of
// passphrase, exactly one of the two opens afterwards, and it is the new one from some
// point on.
func TestChangeSurvivesPowerCuts(t *testing.T) {
	base := blocktest.New(32<<20, 512)
	_, key := made(t, base, NewSlot{Secret: []byte("old"), Cost: Cheap})
	change := func(d block.Device) error {
		h, err := Read(d)
		if err != nil {
			return err
		}
		return h.Change(d, key, []int{0}, NewSlot{Secret: []byte("new"), Cost: Cheap})
	}
	whole := base.Clone()
	if err := change(whole); err != nil {
		t.Fatal(err)
	}
	olds, news := 0, 0
	for cut := range whole.Steps() {
		for seed := range uint64(8) {
			d := base.Clone()
			d.CutAfter(cut, seed)
			_ = change(d)
			d.Restart()
			h, err := Read(d)
			if err != nil {
				t.Fatalf("cut %d seed %d: %v", cut, seed, err)
			}
			if err := h.Heal(d); err != nil {
				t.Fatal(err)
			}
			if len(h.Slots()) != 1 {
				t.Fatalf("cut %d seed %d: %v", cut, seed, h.Slots())
			}
			id := h.Slots()[0].ID
			switch got, err := h.Unlock(d, id, []byte("old")); {
			case err == nil && bytes.Equal(got, key):
				olds++
			case errors.Is(err, ErrPassphrase):
				if got, err := h.Unlock(d, id, []byte("new")); err != nil || !bytes.Equal(got, key) {
					t.Fatalf("cut %d seed %d: neither passphrase opens: %v", cut, seed, err)
				}
				news++
			default:
				t.Fatal(err)
			}
		}
	}
	if olds == 0 || news == 0 {
		t.Error(olds, "times the old one,", news, "times the new one")
	}
}

// TestReadRefuses what would make the machine write in the clear, or spend itself.
func TestReadRefuses(t *testing.T) {
	d := blocktest.New(32<<20, 512)
	good, _ := made(t, d, NewSlot{Secret: []byte("one"), Cost: Cheap})
	body, err := good.meta.bytes()
	if err != nil {
		t.Fatal(err)
	}
	var whole meta
	if err := whole.parse(body, headerSize); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string][2]string{
		"a null cipher (CVE-2025-59054)": {`"size":"dynamic","iv_tweak":"0","encryption":"aes-xts-plain64"`, `"size":"dynamic","iv_tweak":"0","encryption":"cipher_null-ecb"`},
		"a null cipher of the keys":      {`"encryption":"aes-xts-plain64","key_size":64`, `"encryption":"cipher_null-ecb","key_size":64`},
		"re-encryption (CVE-2021-4122)":  {`"type":"luks2"`, `"type":"reencrypt"`},
		"a requirement":                  {`"config":{`, `"config":{"requirements":{"mandatory":["online-reencrypt"]},`},
		"64 GiB of memory":               {`"memory":32`, `"memory":67108864`},
		"no memory":                      {`"memory":32`, `"memory":1`},
		"a year of time":                 {`"time":4`, `"time":4000000`},
		"an area among the data":         {`"offset":"32768"`, `"offset":"16777216"`},
		"an area in the header":          {`"offset":"32768"`, `"offset":"4096"`},
		"a linear segment":               {`"type":"crypt"`, `"type":"linear"`},
		"data among the keys":            {`"offset":"16777216"`, `"offset":"32768"`},
		"a shifted sector count":         {`"iv_tweak":"0"`, `"iv_tweak":"1"`},
		"a sector of another size":       {`"sector_size":512`, `"sector_size":513`},
		"a digest of few turns":          {`"iterations":1000`, `"iterations":1`},
		"something after it":             {`"keyslots_size":"16744448"}}`, `"keyslots_size":"16744448"}}{}`},
	} {
		bad := strings.Replace(string(body), edit[0], edit[1], 1)
		var m meta
		if bad == string(body) {
			t.Errorf("%s: the header has no %s in %s", name, edit[0], body)
		} else if err := m.parse([]byte(bad), headerSize); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// TestSpread: a key is lost with any one of its stripes, and comes back from all.
func TestSpread(t *testing.T) {
	key := bytes.Repeat([]byte{5, 9}, 32)
	b := spread(key)
	if !bytes.Equal(gather(b, keySize), key) {
		t.Fatal("it does not come back")
	}
	b[1234*keySize] ^= 1
	b[2345*keySize+40] ^= 1 // each half of the key has its own stripes
	if got := gather(b, keySize); bytes.Equal(got[:8], key[:8]) || bytes.Equal(got[32:40], key[32:40]) {
		t.Error("a stripe was not needed")
	}
}

func FuzzParse(f *testing.F) {
	d := blocktest.New(32<<20, 512)
	h, key := New(512)
	h, err := h.Prepare(d, key, nil, NewSlot{Secret: []byte("one"), Cost: Cheap, Kind: "tpm", Data: json.RawMessage(`{}`)})
	if err != nil {
		f.Fatal(err)
	}
	body, _ := h.meta.bytes()
	f.Add(body)
	f.Add([]byte(`{"keyslots":{},"segments":{}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		b, _ := h.bytes(0)
		if len(body) > len(b)-binarySize {
			return
		}
		clear(b[binarySize:])
		copy(b[binarySize:], body)
		sum := checksum(b)
		copy(b[448:], sum[:])
		got, err := parse(b)
		if err != nil {
			return
		}
		got.Slots()
		for _, s := range got.meta.Keyslots {
			if s.KDF.Memory > maxMemory || int64(s.Area.Offset+s.Area.Size) > 256<<20 || s.Area.Offset < uint64(2*got.size) {
				t.Fatalf("%+v", s)
			}
		}
		if off, _ := got.Segment(); off < Headers {
			t.Fatal(off)
		}
	})
}
