package seed

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"lazaret/internal/testneed"
)

const (
	goodMeta = "instance-id: gw-2026-01\nlocal-hostname: GW7.example.com\n"
	goodUser = "#lazaret\nenroll_names: [gw7.example.com]\nclaim_code: 7K3-9QX-2MD-4RT-8WZ-1CV-6BN\n"
	goodNet  = "version: 2\nethernets:\n  eth0:\n    addresses: [192.0.2.10/24]\n    routes: [{to: default, via: 192.0.2.1}]\n"
)

func disk(files map[string]string) fstest.MapFS {
	m := make(fstest.MapFS)
	for name, text := range files {
		m[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o444}
	}
	return m
}

func TestRead(t *testing.T) {
	s, err := Read(disk(map[string]string{metaData: goodMeta, userData: goodUser, networkConfig: goodNet, "vendor-data": "#!/bin/sh\n"}))
	if err != nil || len(s.Faults) > 0 {
		t.Fatal(err, s.Faults)
	}
	if s.Instance != "gw-2026-01" || s.Setup.Name != "gw7" || s.Setup.EnrollNames[0] != "gw7.example.com" || s.Code != "7K3-9QX-2MD-4RT-8WZ-1CV-6BN" || s.Network.Ethernets["eth0"].Addresses[0].String() != "192.0.2.10/24" {
		t.Errorf("%#v", s.Setup)
	}
	if text := fmt.Sprintf("%v %+v %#v %s", s, s, s, &s); strings.Contains(text, "9QX") {
		t.Errorf("the claim code is shown: %s", text)
	}
	s, err = Read(disk(map[string]string{metaData: "instance-id: x\n", userData: "#lazaret\n"}))
	if err != nil || len(s.Faults) > 0 || s.Code != "" || s.Network != nil {
		t.Errorf("an empty seed: %v %v", err, s.Faults)
	}
}

// TestFaults: everything that is wrong is said at once with file and line, and nothing is taken.
func TestFaults(t *testing.T) {
	s, err := Read(disk(map[string]string{
		metaData:      "instance-id: gw 1\nlocal-hostname: 'a b'\n",
		userData:      "#lazaret\nenroll_names: ['a b']\nshell: true\nclaim_code: admin\n",
		networkConfig: "version: 2\nethernets:\n  eth0: {mtu: 1}\n  lo: {}\n",
	}))
	if err != nil {
		t.Fatal(err)
	}
	var where []string
	for _, f := range s.Faults {
		where = append(where, strings.Join(strings.SplitN(f, ": ", 2)[:1], ""))
	}
	if want := []string{"meta-data", "meta-data", "user-data:2", "user-data:3", "user-data:4", "network-config:3", "network-config:4"}; !reflect.DeepEqual(where, want) {
		t.Errorf("faults %q, want at %v", s.Faults, want)
	}
	if !reflect.DeepEqual(s, Seed{Faults: s.Faults}) {
		t.Errorf("half of it is taken: %#v %v %q", s.Setup, s.Network, s.Instance)
	}
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"cloud-config":     {map[string]string{metaData: goodMeta, userData: "#cloud-config\nusers: []\n"}, "cloud-config, which nothing here runs"},
		"a script":         {map[string]string{metaData: goodMeta, userData: "#!/bin/sh\nid\n"}, "runs scripts"},
		"no header":        {map[string]string{metaData: goodMeta, userData: "name: gw\n"}, "its first line should be #lazaret"},
		"a longer header":  {map[string]string{metaData: goodMeta, userData: "#lazaretx\nname: gw\n"}, "its first line should be #lazaret"},
		"version 1":        {map[string]string{metaData: goodMeta, userData: goodUser, networkConfig: "version: 1\nconfig: []\n"}, "network-config:1: this is network-config version 1"},
		"no user-data":     {map[string]string{metaData: goodMeta}, "user-data: it is missing"},
		"no meta-data":     {map[string]string{userData: goodUser}, "meta-data: it is missing"},
		"no instance":      {map[string]string{metaData: "local-hostname: gw\n", userData: goodUser}, "instance-id: give one"},
		"keys in it":       {map[string]string{metaData: goodMeta + "public-keys: [x]\n", userData: goodUser}, "public-keys is not known"},
		"two networks":     {map[string]string{metaData: goodMeta, userData: goodUser + "network: {version: 2}\n", networkConfig: goodNet}, "leave one away"},
		"a code of a word": {map[string]string{metaData: goodMeta, userData: "#lazaret\nclaim_code: admin\n"}, "claim_code: it is none"},
		"a large file":     {map[string]string{metaData: goodMeta, userData: goodUser + "#" + strings.Repeat("x", maxFile)}, "more than 65536 bytes"},
	} {
		s, err := Read(disk(c.files))
		if err != nil || len(s.Faults) != 1 || !strings.Contains(s.Faults[0], c.want) || s.Code != "" {
			t.Errorf("%s: %q %v, want %q", name, s.Faults, err, c.want)
		}
	}
}

// TestLinksAreNotFollowed: a seed names no file of the machine's.
func TestLinksAreNotFollowed(t *testing.T) {
	dir, secret := t.TempDir(), filepath.Join(t.TempDir(), "secret")
	for path, text := range map[string]string{secret: goodUser, filepath.Join(dir, metaData): goodMeta} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(secret, filepath.Join(dir, userData)); err != nil {
		t.Fatal(err)
	}
	s, err := Read(os.DirFS(dir))
	if err != nil || len(s.Faults) != 1 || !strings.Contains(s.Faults[0], "user-data: it is not a file") {
		t.Errorf("%q %v", s.Faults, err)
	}
}

func TestOnce(t *testing.T) {
	r := Record{filepath.Join(t.TempDir(), "seeds")}
	for range 2 {
		if err := r.Done("a"); err != nil {
			t.Fatal(err)
		}
	}
	for instance, want := range map[string]bool{"a": true, "b": false} {
		if got, err := r.Seen(instance); err != nil || got != want {
			t.Errorf("%s: %v %v", instance, got, err)
		}
	}
}

func openBytes(images map[string][]byte) func(string) (io.ReaderAt, io.Closer, error) {
	return func(path string) (io.ReaderAt, io.Closer, error) {
		b, ok := images[path]
		if !ok {
			return nil, nil, fs.ErrNotExist
		}
		return bytes.NewReader(b), nil, nil
	}
}

// TestWrite: another program reads what was written, by the files' real names.
func TestWrite(t *testing.T) {
	isoinfo := testneed.Program(t, "isoinfo")
	var image bytes.Buffer
	f := Files{MetaData: []byte(goodMeta), UserData: []byte(goodUser + "#" + strings.Repeat("x", 5000) + "\n"), NetworkConfig: []byte(goodNet)}
	if err := Write(&image, f); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "seed.iso")
	if err := os.WriteFile(path, image.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		out, err := exec.Command(isoinfo, append([]string{"-i", path}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("isoinfo %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	if text := run("-d"); !strings.Contains(text, "Volume id: CIDATA\n") || !strings.Contains(text, "Rock Ridge signatures version 1 found") {
		t.Errorf("%s", text)
	}
	if text := run("-R", "-l"); strings.Count(text, "-r--------") != 3 {
		t.Errorf("%s", text)
	}
	for name, want := range map[string][]byte{metaData: f.MetaData, userData: f.UserData, networkConfig: f.NetworkConfig} {
		if got := run("-R", "-x", "/"+name); got != string(want) {
			t.Errorf("%s: %d bytes, want %d", name, len(got), len(want))
		}
	}
	d, err := Find([]string{"/dev/vda", "/dev/sr0"}, openBytes(map[string][]byte{"/dev/sr0": image.Bytes()}))
	if err != nil || d != (Device{"/dev/sr0", "iso9660"}) {
		t.Errorf("%+v %v", d, err)
	}
}

// TestFind reads labels of file systems that other programs made.
func TestFind(t *testing.T) {
	mkfs := testneed.Program(t, "mkfs.vfat")
	for _, c := range []struct{ bits, size, label string }{{"12", "1024", "CIDATA"}, {"16", "16384", "cidata"}, {"32", "40960", "CIDATA"}, {"16", "16384", "OTHER"}} {
		path := filepath.Join(t.TempDir(), "fat")
		if out, err := exec.Command(mkfs, "-F", c.bits, "-n", c.label, "-C", path, c.size).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Find([]string{"a", "b"}, openBytes(map[string][]byte{"a": make([]byte, 100), "b": b}))
		if found := c.label != "OTHER"; found != (err == nil) || found && got != (Device{"b", "vfat"}) {
			t.Errorf("FAT%s %s: %+v %v", c.bits, c.label, got, err)
		}
		// Windows keeps the label in the root directory alone.
		at := map[string]int{"12": 43, "16": 43, "32": 71}[c.bits]
		copy(b[at:], "NO NAME    ")
		if _, err := Find([]string{"b"}, openBytes(map[string][]byte{"b": b})); (err == nil) != (c.label != "OTHER") {
			t.Errorf("FAT%s %s as Windows writes it: %v", c.bits, c.label, err)
		}
	}
	if _, err := Find(nil, nil); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
}

func FuzzLabel(f *testing.F) {
	var image bytes.Buffer
	if err := Write(&image, Files{}); err != nil {
		f.Fatal(err)
	}
	f.Add(image.Bytes()[:18*sector])
	fat := make([]byte, 2048)
	copy(fat, "\xeb\x3c\x90mkfs.fat\x00\x02\x04\x01\x00\x02\x00\x02\x00\x08\xf8\x02\x00")
	fat[38], fat[510], fat[511] = 0x29, 0x55, 0xaa
	f.Add(fat)
	f.Fuzz(func(_ *testing.T, b []byte) { Label(bytes.NewReader(b)) })
}

func fuzzOne(f *testing.F, make func([]byte) Files, seeds ...string) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := Parse(make(b))
		if len(s.Faults) > 0 && (s.Code != "" || s.Network != nil || !reflect.ValueOf(s.Setup).IsZero()) {
			t.Errorf("half of it is taken: %q", s.Faults)
		}
		if len(s.Faults) == 0 && s.Instance == "" {
			t.Error("no instance and no fault")
		}
	})
}

func FuzzUserData(f *testing.F) {
	fuzzOne(f, func(b []byte) Files { return Files{MetaData: []byte(goodMeta), UserData: b} }, goodUser, "#lazaret\n", "#cloud-config\n")
}

func FuzzMetaData(f *testing.F) {
	fuzzOne(f, func(b []byte) Files { return Files{MetaData: b, UserData: []byte(goodUser)} }, goodMeta, "{\"instance-id\": \"a\"}")
}

func FuzzNetworkConfig(f *testing.F) {
	fuzzOne(f, func(b []byte) Files {
		return Files{MetaData: []byte(goodMeta), UserData: []byte(goodUser), NetworkConfig: b}
	}, goodNet, "version: 1\n")
}
