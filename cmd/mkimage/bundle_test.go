package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lazaret/appliance/update"
	"lazaret/image/fake"
	"lazaret/image/uki"
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
	if err := checkUKI(at("slot.efi"), m); err == nil {
		t.Error("any file passes for a unified kernel image")
	}
}

// TestBundleSaysWhatItHolds: version, kernel and architecture that the bundle would say are
// those of the slot's file.
func TestBundleSaysWhatItHolds(t *testing.T) {
	slot, err := uki.Append(fake.Stub(), []uki.Section{
		{Name: ".osrel", Data: []byte(uki.OSRelease("1.2.3", "metal"))}, {Name: ".initrd", Data: []byte("initrd")}, {Name: ".linux", Data: []byte("linux")},
	})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "slot.efi")
	if err := os.WriteFile(name, slot, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ version, flavour, arch, says string }{
		{"1.2.3", "metal", "amd64", ""},
		{"1.2.4", "metal", "amd64", `IMAGE_VERSION is "1.2.3"`},
		{"1.2.3", "cloud", "amd64", `VARIANT_ID is "metal"`},
		{"1.2.3", "metal", "arm64", "not for arm64"},
	} {
		c2 := bundleCommand()
		out := filepath.Join(t.TempDir(), "out.update")
		c2.SetArgs([]string{"--uki", name, "--key", "/no/such/key", "--version", c.version, "--flavour", c.flavour, "--arch", c.arch, "--out", out})
		c2.SetErr(&bytes.Buffer{})
		c2.SetOut(&bytes.Buffer{})
		err := c2.Execute()
		if want := cmp.Or(c.says, "reading a signing key"); err == nil || !strings.Contains(err.Error(), want) { // only what fits comes so far as to be signed
			t.Errorf("%+v: %v; want %q", c, err, want)
		}
	}
}
