package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lazaret/appliance/update"
	"lazaret/internal/testneed"
)

// TestBundleByOpenSSL signs with a key that openssl made, has openssl verify what was
// signed, and makes a channel of it that a machine follows.
func TestBundleByOpenSSL(t *testing.T) {
	openssl := testneed.Program(t, "openssl")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(openssl, args...).CombinedOutput(); err != nil {
			t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run("genpkey", "-algorithm", "ed25519", "-out", at("key.pem"))
	run("pkey", "-in", at("key.pem"), "-pubout", "-out", at("pub.pem"))
	if err := os.WriteFile(at("slot.efi"), bytes.Repeat([]byte("slot"), 5000), 0o600); err != nil {
		t.Fatal(err)
	}
	m := update.Manifest{Version: "1.1.0", Architecture: "amd64", Flavour: "cloud", Follows: "0", Schema: 1, Reads: 1}
	if _, _, err := writeBundle(at("a.update"), at("slot.efi"), m, []string{at("key.pem")}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(at("a.update"))
	if err != nil {
		t.Fatal(err)
	}
	n := 20 + int(binary.BigEndian.Uint32(text[16:20])) + 1
	sum := sha256.Sum256(append(bytes.Clone(text[:n]), text[n:n+8]...))
	if err := os.WriteFile(at("said"), append([]byte("lazaret update manifest 1\x00"), sum[:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("signature"), text[n+8:n+72], 0o600); err != nil {
		t.Fatal(err)
	}
	run("pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", at("pub.pem"), "-in", at("said"), "-sigfile", at("signature"))

	c := channelCommand()
	c.SetArgs([]string{"--dir", dir, "--key", at("key.pem"), "a.update"})
	c.SetOut(&bytes.Buffer{})
	if err := c.Execute(); err != nil {
		t.Fatal(err)
	}
	keys, err := update.LoadKeys(at("pub.pem"))
	if err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadFile(at(update.ChannelFile))
	if err != nil {
		t.Fatal(err)
	}
	now, _ := moment("")
	got, err := update.OpenChannel(list, keys, now, now.AddDate(0, 0, -1))
	if err != nil {
		t.Fatal(err)
	}
	next, _ := got.Next("1.0.0", "amd64", "cloud")
	if next.File != "a.update" || next.Size != int64(len(text)) || !next.Due(0, now.AddDate(0, 0, 1)) {
		t.Errorf("the channel offers %+v; the bundle has %d bytes", next, len(text))
	}
	if err := checkUKI(at("slot.efi"), "amd64"); err == nil {
		t.Error("any file passes for a unified kernel image")
	}
}
