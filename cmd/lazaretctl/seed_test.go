package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"lazaret/appliance/claim"
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

// TestSeedMakeTellsAll: every fault of all files at once, on the lines they have in the files.
func TestSeedMakeTellsAll(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	network := write("network.yaml", "version: 2\nethernets: {eth0: {mtu: 1}}\n")
	yaml := "enroll_names: [b\u00fccher.example]\nnonsense: 1\nclaim_code: "
	for name, x := range map[string]struct {
		text string
		want []string
	}{
		"no code":       {yaml + "ABC\n", []string{"FILE:1: ", "xn--", "FILE:2: ", "nonsense", "FILE:3: claim_code: "}},
		"a wrong one":   {yaml + wrongCode() + "\n", []string{"FILE:1: ", "FILE:2: ", "FILE: claim_code: not a claim code"}},
		"with a header": {"#lazaret\n" + yaml + "ABC\n", []string{"FILE:2: ", "FILE:3: ", "FILE:4: claim_code: "}},
		"JSON":          {`{"enroll_names": ["-"], "nonsense": 1}`, []string{"FILE:1: enroll_names", "nonsense", "has to bring its"}},
		"no YAML":       {"a: [", []string{"FILE"}},
	} {
		t.Run(name, func(t *testing.T) {
			file := write("setup", x.text)
			_, err := runSeed(t, "-f", file, "--network", network, "-o", filepath.Join(dir, "out.iso"))
			for _, want := range append(x.want, "network-config:2: ") {
				if want = strings.ReplaceAll(want, "FILE", file); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("no %q in %v", want, err)
				}
			}
			if _, err := os.Stat(filepath.Join(dir, "out.iso")); err == nil {
				t.Error("it was written")
			}
		})
	}
	if _, err := runSeed(t, "-f", write("empty", ""), "-o", filepath.Join(dir, "out.iso")); err == nil {
		t.Error("an empty setup passes")
	}
}

// wrongCode is a claim code with one symbol that is another's.
func wrongCode() string {
	text := claim.DrawCode().String()
	if text[0] == 'A' {
		return "B" + text[1:]
	}
	return "A" + text[1:]
}
