package tunnel

import (
	"bytes"
	"crypto/ecdh"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The example of RFC 7748, section 6.1.
func TestSharedIsRFC7748(t *testing.T) {
	alice, err := NewPrivateKey(unhex(t, "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
	if err != nil {
		t.Fatal(err)
	}
	public := alice.Public()
	if got := hex.EncodeToString(public[:]); got != "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a" {
		t.Errorf("public key %s", got)
	}
	secret, err := alice.Shared(Key(unhex(t, "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")))
	if got := hex.EncodeToString(secret); err != nil || got != "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742" {
		t.Errorf("shared secret %s, %v", got, err)
	}
	if _, err := (PrivateKey{}).Shared(public); err == nil {
		t.Error("the zero key agreed")
	}
}

func TestPrivateKeyNeverPrints(t *testing.T) {
	k, err := GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	type holder struct {
		Name   string
		hidden PrivateKey
		inner  struct{ deep PrivateKey }
	}
	h := holder{Name: "lz0", hidden: k}
	h.inner.deep = k
	c := Config{Name: "lz0", PrivateKey: k}
	var printed bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%p"} {
		fmt.Fprintf(&printed, verb+verb+verb+verb+"\n", k, &k, h, c)
	}
	for _, l := range []*slog.Logger{slog.New(slog.NewTextHandler(&printed, nil)), slog.New(slog.NewJSONHandler(&printed, nil))} {
		l.Info("key", "key", k, "holder", h, "config", c)
	}
	if b, err := json.Marshal([]any{k, c.PrivateKey}); err == nil {
		printed.Write(b)
	}
	raw := k.Bytes()
	decimal := strings.Trim(fmt.Sprint(raw[:4]), "[]")
	for _, secret := range []string{k.Text()[:8], hex.EncodeToString(raw[:4]), strings.ToUpper(hex.EncodeToString(raw[:4])), decimal, string(raw[:4])} {
		if strings.Contains(printed.String(), secret) {
			t.Errorf("%q is in what was printed:\n%s", secret, printed.String())
		}
	}
	if !strings.Contains(printed.String(), redacted) {
		t.Error("nothing was printed in the key's place")
	}
}

// The list of weak keys agrees with crypto/ecdh, which computes.
func TestValid(t *testing.T) {
	k, err := GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	var tried []Key
	for n := int64(-1); n < 19; n++ { // p-1, and every value that has two encodings
		var b [32]byte
		new(big.Int).Add(p, big.NewInt(n)).FillBytes(b[:])
		for i := range 16 {
			b[i], b[31-i] = b[31-i], b[i]
		}
		tried = append(tried, b)
	}
	tried = append(tried, weak[:]...)
	tried = append(tried, k.Public(), Key{0: 9}, Key{31: 0x80})
	for _, w := range tried[:len(tried)-1] {
		w[31] |= 0x80
		tried = append(tried, w)
	}
	refused := 0
	for _, w := range tried {
		public, err := ecdh.X25519().NewPublicKey(w[:])
		if err != nil {
			t.Fatal(err)
		}
		_, err = k.key().ECDH(public)
		if w.Valid() != (err == nil) {
			t.Errorf("key %x: Valid is %v, crypto/ecdh says %v", w, w.Valid(), err)
		}
		if _, err := k.Shared(w); !w.Valid() && !errors.Is(err, ErrWeakKey) {
			t.Errorf("Shared(%x) = %v, want ErrWeakKey", w, err)
		}
		if !w.Valid() {
			refused++
		}
	}
	if refused < 14 {
		t.Errorf("only %d keys were weak", refused)
	}
}

func TestLoadOrCreateKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tunnel.key")
	var group sync.WaitGroup
	keys := make([]PrivateKey, 20)
	for i := range keys {
		group.Go(func() {
			var err error
			if keys[i], err = LoadOrCreateKey(path); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for _, k := range keys {
		if k.IsZero() || k.Public() != keys[0].Public() {
			t.Fatal("two that raced got different keys")
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v, want 0600", info.Mode(), err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	good, err := GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]struct {
		text string
		mode fs.FileMode
	}{
		"readable by others": {good.Text() + "\n", 0o644},
		"empty":              {"", 0o600},
		"cut":                {good.Text()[:40] + "\n", 0o600},
		"zero":               {"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", 0o600},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			if err := os.WriteFile(path, []byte(file.text), file.mode); err != nil {
				t.Fatal(err)
			}
			_, err := LoadOrCreateKey(path)
			if err == nil {
				t.Fatal("taken")
			}
			if strings.Contains(err.Error(), good.Text()[:8]) {
				t.Errorf("the error shows the key: %v", err)
			}
			if now, _ := os.ReadFile(path); string(now) != file.text {
				t.Error("the file was replaced")
			}
		})
	}
}

// TestUnfinishedKeysAreSwept: what a crash left of a key goes with a later start, and what
// another process may be writing stays.
func TestUnfinishedKeysAreSwept(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "wireguard.key")
	key, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-2 * time.Hour)
	if err := os.Link(path, filepath.Join(dir, ".wireguard.key.new-1")); err != nil { // the crash came before its removal
		t.Fatal(err)
	}
	if err := errors.Join(os.Chtimes(path, long, long), os.WriteFile(filepath.Join(dir, ".key-2"), nil, 0o600), os.WriteFile(filepath.Join(dir, ".wireguard.key.new-3"), nil, 0o600),
		os.Chtimes(filepath.Join(dir, ".key-2"), long, long)); err != nil {
		t.Fatal(err)
	}
	if again, err := LoadOrCreateKey(path); err != nil || again.Text() != key.Text() {
		t.Errorf("the key is another one (%v)", err)
	}
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 2 || list[0].Name() != ".wireguard.key.new-3" || list[1].Name() != "wireguard.key" {
		t.Errorf("left are %v (%v)", list, err)
	}
}
