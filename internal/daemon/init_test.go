package daemon

import (
	"bytes"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lazaret/internal/config"
	"lazaret/internal/seal"
)

// gatewayOptions makes a gateway in dir. Nothing of it is started.
func gatewayOptions(dir string) InitOptions {
	return InitOptions{
		ConfigPath: filepath.Join(dir, "etc", "lazaret.toml"), AdminDir: filepath.Join(dir, "admin"),
		Organization: "Example", Administrator: "tester",
		Values: map[string]any{
			"state": filepath.Join(dir, "state"), "dataplane.state": filepath.Join(dir, "dataplane"),
			"enroll.listen": []string{"127.0.0.1:8443"}, "enroll.names": []string{"gw.example.com"}, "api.listen": []string{"127.0.0.1:8444"},
		},
		Management: []string{"192.0.2.10 tcp/443"},
		Quarantine: []netip.Prefix{netip.MustParsePrefix("10.10.0.0/16")}, Full: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16")},
	}
}

var silent = slog.New(slog.DiscardHandler)

func makeGateway(t *testing.T, dir string) config.Config {
	t.Helper()
	o := gatewayOptions(dir)
	if _, err := Init(t.Context(), o, silent); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(o.ConfigPath)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// sealedCopies counts, by file, the values under a directory that open with the ring to
// something that has part in it. Their length is that of plain, sealed.
func sealedCopies(t *testing.T, dir, context string, ring *seal.Ring, length int, part []byte) map[string]int {
	t.Helper()
	found := map[string]int{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || d.Name() == "ballast" || d.Name() == "spare" {
			return err
		}
		b, err := os.ReadFile(path)
		for i := 0; i+length+seal.Overhead <= len(b); i++ {
			if b[i] != 1 || b[i+1] != 1 { // version and algorithm
				continue
			}
			plain, err := ring.Open(context, b[i:i+length+seal.Overhead])
			if err == nil && bytes.Contains(plain, part) {
				found[d.Name()]++
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestRemovedRootKeyOpensNowhere: etcd's write-ahead log still holds the sealed key after
// its removal, and the ring that is left does not open it.
func TestRemovedRootKeyOpensNowhere(t *testing.T) {
	dir := t.TempDir()
	c := makeGateway(t, dir)
	keyFile := filepath.Join(c.State, "node.key")
	before, err := seal.LoadOrCreate(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := openStore(t.Context(), c, silent)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := s.Secrets().Get(t.Context(), secretRoot)
	if err != nil {
		t.Fatal(err)
	}
	_, pair, err := loadCertificate(t.Context(), s.Secrets(), secretRoot)
	if err != nil || len(pair.Key) == 0 {
		t.Fatalf("root key of %d bytes, %v", len(pair.Key), err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	const context = "secret/" + secretRoot
	key := plain[bytes.Index(plain, []byte(`"key":"`))+7:]
	key = key[:bytes.IndexByte(key, '"')]
	if n := sealedCopies(t, c.State, context, before, len(plain), key); n["db"] == 0 {
		t.Fatalf("found the sealed key in %v before its removal: the search finds nothing", n)
	}

	out := filepath.Join(dir, "root-key.pem")
	if err := ExportRoot(t.Context(), c, out, true, silent); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(out); err != nil || !bytes.Contains(text, []byte("PRIVATE KEY")) {
		t.Errorf("exported %q, %v", text, err)
	}
	copies := sealedCopies(t, c.State, context, before, len(plain), key)
	if copies["db"] != 0 {
		t.Errorf("the database still holds %d sealed copies", copies["db"])
	}
	if len(copies) == 0 {
		t.Error("no sealed copy is left in the write-ahead log either: this test shows less than it should")
	}
	after, err := seal.LoadOrCreate(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	if n := sealedCopies(t, c.State, context, after, len(plain), key); len(n) != 0 {
		t.Errorf("the ring that is left opens the removed key in %v", n)
	}
	if len(after.Keys()) != 1 || after.Keys()[0] == before.Keys()[0] {
		t.Errorf("the ring has keys %v, before %v", after.Keys(), before.Keys())
	}

	s, _, err = openStore(t.Context(), c, silent)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := loadAuthorities(t.Context(), s.Secrets()); err != nil {
		t.Errorf("what stays does not open: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := filepath.Join(dir, "again.pem")
	if err := ExportRoot(t.Context(), c, again, true, silent); err == nil || !strings.Contains(err.Error(), "removed from this gateway before") {
		t.Errorf("exported twice: %v", err)
	}
	if _, err := os.Stat(again); err == nil {
		t.Error("a second export left a file")
	}
}

// TestInitRefusesBeforeItMakesAnything: whatever of a gateway is there, Init names it and
// leaves everything as it was.
func TestInitRefusesBeforeItMakesAnything(t *testing.T) {
	for _, there := range []string{
		"etc/lazaret.toml", "state/node.key", "state/node.key.ring", "state/etcd/member/snap/db", "state/audit/segment-0000000001.jsonl",
		"admin/server", "admin/root.pem", "admin/admin.pem", "admin/admin-key.pem", "admin/management-token",
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, there)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Init(t.Context(), gatewayOptions(dir), silent)
		if err == nil || !strings.Contains(err.Error(), "is there already") || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", there, err)
		}
		files := 0
		if err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				files++
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); files != 1 || err != nil || string(b) != "precious" {
			t.Errorf("%s: %d files, it holds %q", there, files, b)
		}
	}
	dir := t.TempDir()
	for _, d := range []string{"state/etcd", "state/audit", "admin"} { // a package may have made them
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	makeGateway(t, dir)
}
