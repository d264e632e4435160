package pkg

import (
	"bytes"
	"crypto/sha256"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"lazaret/internal/testneed"
	"lazaret/packaging"
)

// gateway is the gateway's package with small files in the programs' place.
func gateway(t *testing.T) Package {
	t.Helper()
	g := Gateway{
		Version: "1.2.3~rc1", Architecture: "arm64", Programs: make(map[string]string), Completions: make(map[string]Shells), Packaging: packaging.Files,
		Docs: map[string][]byte{"running.md": []byte("# Running\n")}, License: []byte("license\n"), Time: time.Unix(1_700_000_000, 0),
	}
	for _, name := range programs {
		g.Programs[name] = filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(g.Programs[name], bytes.Repeat([]byte(name), 50_000), 0o600); err != nil {
			t.Fatal(err)
		}
		g.Completions[name] = Shells{[]byte("bash " + name), []byte("zsh " + name)}
	}
	p, err := g.Package()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// written writes p and returns its path.
func written(t *testing.T, p Package) string {
	t.Helper()
	scratch, err := os.Create(filepath.Join(t.TempDir(), "scratch"))
	if err != nil {
		t.Fatal(err)
	}
	defer scratch.Close()
	var out bytes.Buffer
	if err := p.Write(&out, scratch); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), p.Filename())
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(testneed.Program(t, name), args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestReadByDpkg: dpkg takes the package apart and finds what was put in, root's, with the
// modes and sums it ought to have.
func TestReadByDpkg(t *testing.T) {
	path := written(t, gateway(t))
	for field, want := range map[string]string{"Package": "lazaret", "Version": "1.2.3~rc1", "Architecture": "arm64", "Depends": "systemd (>= 252)"} {
		if got := strings.TrimSpace(tool(t, "dpkg-deb", "-f", path, field)); got != want {
			t.Errorf("%s is %q, want %q", field, got, want)
		}
	}
	list := tool(t, "dpkg-deb", "-c", path)
	for _, want := range []string{
		`-rwxr-xr-x root/root +400000 2023-11-14 .* \./usr/bin/lazaretd\n`, `-rwxr-xr-x root/root .* \./usr/bin/lazaretctl\n`, `-rwxr-xr-x root/root .* \./usr/bin/lazaret\n`,
		`-rw-r--r-- root/root .* \./usr/lib/systemd/system/lazaret-serve.service\n`, `drwxr-xr-x root/root .* \./etc/lazaret/\n`, `-rw-r--r-- .* \./usr/share/zsh/vendor-completions/_lazaretctl\n`,
		`-rw-r--r-- .* \./usr/share/doc/lazaret/copyright\n`, `-rw-r--r-- .* \./usr/share/doc/lazaret/changelog.gz\n`, `-rw-r--r-- .* \./usr/lib/sysusers.d/lazaret.conf\n`,
	} {
		if !regexp.MustCompile(want).MatchString(list) {
			t.Errorf("%s is not in\n%s", want, list)
		}
	}
	for line := range strings.Lines(list) {
		if !regexp.MustCompile(`^(-rwxr-xr-x|-rw-r--r--|drwxr-xr-x) root/root `).MatchString(line) {
			t.Error("mode or owner:", line)
		}
	}
	dir := t.TempDir()
	tool(t, "dpkg-deb", "-R", path, dir)
	sums := exec.Command(testneed.Program(t, "md5sum"), "--check", "--strict", "DEBIAN/md5sums")
	sums.Dir = dir
	if out, err := sums.CombinedOutput(); err != nil || strings.Count(string(out), ": OK") != strings.Count(list, "\n-")+strings.Count(list[:1], "-") {
		t.Errorf("md5sums: %v\n%s", err, out)
	}
	for _, name := range scripts {
		tool(t, "sh", "-n", filepath.Join(dir, "DEBIAN", name))
	}
}

// TestConffiles: files of the administrator's are named as such.
func TestConffiles(t *testing.T) {
	p := gateway(t)
	p.Files = append(p.Files, File{Path: "/etc/default/lazaret", Mode: 0o644, Body: []byte("# nothing\n"), Conffile: true})
	if got := tool(t, "dpkg-deb", "-I", written(t, p), "conffiles"); got != "/etc/default/lazaret\n" {
		t.Errorf("conffiles are %q", got)
	}
}

// TestSamePackage: the same files make the same bytes, in whatever order they are named.
func TestSamePackage(t *testing.T) {
	p := gateway(t)
	var sums [3][32]byte
	for i := range sums {
		if i == 1 {
			p.Files = append(p.Files[5:len(p.Files):len(p.Files)], p.Files[:5]...)
		}
		if i == 2 {
			p.Files[0].Mode ^= 0o100
		}
		b, err := os.ReadFile(written(t, p))
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = sha256.Sum256(b)
	}
	if sums[0] != sums[1] || sums[0] == sums[2] {
		t.Errorf("other order, same bytes: %t; other mode, same bytes: %t", sums[0] == sums[1], sums[0] == sums[2])
	}
}

// TestUnits: systemd finds no fault in the units, and little that they could still give up.
func TestUnits(t *testing.T) {
	dir := t.TempDir()
	tool(t, "dpkg-deb", "-x", written(t, gateway(t)), dir)
	var paths []string
	for name, worst := range map[string]string{"lazaret-dataplane.service": "20", "lazaret-serve.service": "16"} { // tenths of systemd's exposure level
		path := filepath.Join(dir, "usr/lib/systemd/system", name)
		tool(t, "systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold="+worst, path)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		// The program is not installed here, which is all that systemd would say.
		b = bytes.ReplaceAll(b, []byte("=/usr/bin/lazaretd "), []byte("=/bin/true "))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	if out := tool(t, "systemd-analyze", append([]string{"verify", "--man=no"}, paths...)...); strings.Contains(out, dir) {
		t.Error(out)
	}
}

// TestCapabilities: each unit may have one capability, as a user of its own.
func TestCapabilities(t *testing.T) {
	for name, want := range map[string]string{
		"lazaret-dataplane.service": "CAP_NET_ADMIN lazaret-dataplane", "lazaret-serve.service": "CAP_NET_BIND_SERVICE lazaret",
	} {
		b, err := packaging.Files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		set := make(map[string][]string)
		for line := range strings.Lines(string(b)) {
			if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && line[0] != '#' {
				set[key] = append(set[key], value)
			}
		}
		got := strings.Join(append(append(set["CapabilityBoundingSet"], set["AmbientCapabilities"]...), set["User"]...), " ")
		bound, rest, _ := strings.Cut(want, " ")
		if got != bound+" "+bound+" "+rest {
			t.Errorf("%s has %s", name, got)
		}
	}
}

// TestRefusedPackage: what dpkg would not take, or would take for something else.
func TestRefusedPackage(t *testing.T) {
	for what, change := range map[string]func(*Package){
		"name":     func(p *Package) { p.Name = "Lazaret" },
		"version":  func(p *Package) { p.Version = "v1" },
		"lines":    func(p *Package) { p.Summary = "a\nDepends: b" },
		"no time":  func(p *Package) { p.Time = time.Time{} },
		"relative": func(p *Package) { p.Files = append(p.Files, File{Path: "etc/x", Body: []byte{}}) },
		"upwards":  func(p *Package) { p.Files = append(p.Files, File{Path: "/etc/../x", Body: []byte{}}) },
		"twice":    func(p *Package) { p.Files = append(p.Files, p.Files[1]) },
		"missing":  func(p *Package) { p.Files = append(p.Files, File{Path: "/etc/x", From: "/nowhere/at/all"}) },
	} {
		p := gateway(t)
		change(&p)
		scratch, err := os.Create(filepath.Join(t.TempDir(), "scratch"))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Write(io.Discard, scratch); err == nil {
			t.Errorf("%s: it was written", what)
		}
		scratch.Close()
	}
}

// TestVersionIsTheReleases: there is one way to write what comes before a release, and
// dpkg puts it before it, as the appliance does.
func TestVersionIsTheReleases(t *testing.T) {
	if _, err := (Gateway{Version: "1.2.3-rc1", Architecture: "amd64"}).Package(); err == nil || !strings.Contains(err.Error(), "write 1.2.3~rc1") {
		t.Error("a version with a dash:", err)
	}
	tool(t, "dpkg", "--compare-versions", gateway(t).Version, "lt", "1.2.3")
}
