package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"lazaret/appliance/seed"
)

func runSeed(t *testing.T, args ...string) (string, error) {
	t.Helper()
	c := root()
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&out)
	c.SetArgs(append([]string{"seed", "make"}, args...))
	err := c.Execute()
	return out.String(), err
}

func TestSeedMake(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	setup := write("setup.yaml", "enroll_names: [gw.example.com] # where devices enroll\nmanagement: [\"192.0.2.10 tcp/443\"]\n")
	net := write("network.yaml", "version: 2\nethernets: {eth0: {dhcp4: true}}\n")
	iso := filepath.Join(dir, "gw.iso")
	out, err := runSeed(t, "-f", setup, "--network", net, "-o", iso)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`claim code: ([0-9A-Z-]{27})\n`).FindStringSubmatch(out)
	image, err := os.ReadFile(iso)
	if err != nil || m == nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if info, err := os.Stat(iso); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if kind, label := seed.Label(bytes.NewReader(image)); kind != "iso9660" || label != "CIDATA" {
		t.Errorf("%s %s", kind, label)
	}
	for _, text := range []string{"#lazaret\nenroll_names: [gw.example.com] # where", "claim_code: " + m[1], "ethernets: {eth0: {dhcp4: true}}", "instance-id: \"lazaret-"} {
		if !bytes.Contains(image, []byte(text)) {
			t.Errorf("no %q on the disk", text)
		}
	}
	if _, err := runSeed(t, "-f", setup, "-o", iso); err == nil {
		t.Error("a file that is there was overwritten")
	}
	if again, err := runSeed(t, "-f", setup, "-o", iso+"2"); err != nil || strings.Contains(again, m[1]) {
		t.Errorf("the same code twice, or %v", err)
	}
	_, err = runSeed(t, "-f", setup, "--network", write("bad.yaml", "version: 2\nethernets: {eth0: {mtu: 1}, lo: {}}\n"), "-o", iso+"3")
	if err == nil || strings.Count(err.Error(), "network-config:2:") != 2 {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(iso + "3"); err == nil {
		t.Error("a seed that no machine takes was written")
	}
}
