package pkg

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"path"
	"time"

	"lazaret/appliance/update"
)

// Gateway says what the gateway's package is made of. All is required.
type Gateway struct {
	Version      string            // the release's, which is Debian's too (update.CheckVersion)
	Architecture string            // amd64 or arm64
	Programs     map[string]string // path of each program by its name: lazaretd, lazaretctl, lazaret
	Completions  map[string]Shells // of each program
	Packaging    fs.FS             // units and what belongs to them (package packaging)
	Docs         map[string][]byte // by file name
	License      []byte
	Time         time.Time
}

// Shells are a program's completions.
type Shells struct{ Bash, Zsh []byte }

// programs are what the package installs.
var programs = []string{"lazaretd", "lazaretctl", "lazaret"}

// scripts are the maintainer scripts among the packaging files.
var scripts = []string{"postinst", "prerm", "postrm"}

// placed says where the other packaging files go.
var placed = map[string]string{
	"lazaret-dataplane.service": "/usr/lib/systemd/system/lazaret-dataplane.service",
	"lazaret-serve.service":     "/usr/lib/systemd/system/lazaret-serve.service",
	"sysusers.conf":             "/usr/lib/sysusers.d/lazaret.conf",
	"tmpfiles.conf":             "/usr/lib/tmpfiles.d/lazaret.conf",
	"modules-load.conf":         "/usr/lib/modules-load.d/lazaret.conf",
}

// Package is the gateway's package.
func (g Gateway) Package() (Package, error) {
	if err := update.CheckVersion(g.Version); err != nil { // dpkg and the appliance order versions alike
		return Package{}, fmt.Errorf("packaging the gateway: %w", err)
	}
	p := Package{
		Name: "lazaret", Version: g.Version, Architecture: g.Architecture, Maintainer: maintainer, Section: "net", Time: g.Time,
		Summary: "enrollment gateway and quarantine VPN",
		Description: `Devices enroll with a one-time password, get a certificate and a place in
a WireGuard quarantine, and leave it once they are reported compliant.

The package holds the gateway (lazaretd), the administrator's command line
(lazaretctl) and the device's agent (lazaret). The gateway needs Linux 6.12
or newer. Make it with lazaretd init; nothing runs before.`,
		Depends: []string{"systemd (>= 252)"}, Recommends: []string{"ca-certificates"},
		Scripts: make(map[string][]byte),
		Files:   []File{{Path: "/etc/lazaret", Mode: fs.ModeDir | 0o755}},
	}
	for _, name := range programs {
		from := g.Programs[name]
		if from == "" {
			return p, fmt.Errorf("packaging the gateway: the program %s is missing", name)
		}
		p.Files = append(p.Files, File{Path: "/usr/bin/" + name, Mode: 0o755, From: from},
			File{Path: "/usr/share/bash-completion/completions/" + name, Mode: 0o644, Body: g.Completions[name].Bash},
			File{Path: "/usr/share/zsh/vendor-completions/_" + name, Mode: 0o644, Body: g.Completions[name].Zsh})
	}
	if err := g.place(&p); err != nil {
		return p, fmt.Errorf("packaging the gateway: %w", err)
	}
	return p, g.document(&p)
}

// maintainer: the domain is reserved, nobody answers there (RFC 2606).
const maintainer = "Lazaret maintainers <maintainers@lazaret.invalid>"

// place puts the packaging files where they belong.
func (g Gateway) place(p *Package) error {
	for name, to := range placed {
		b, err := fs.ReadFile(g.Packaging, name)
		if err != nil {
			return err
		}
		p.Files = append(p.Files, File{Path: to, Mode: 0o644, Body: b})
	}
	for _, name := range scripts {
		b, err := fs.ReadFile(g.Packaging, name)
		if err != nil {
			return err
		}
		p.Scripts[name] = b
	}
	return nil
}

// document adds copyright, changelog and documentation.
func (g Gateway) document(p *Package) error {
	const dir = "/usr/share/doc/lazaret"
	log := fmt.Sprintf("lazaret (%s) stable; urgency=medium\n\n  * Release %s.\n\n -- %s  %s\n", p.Version, g.Version, maintainer, g.Time.UTC().Format(time.RFC1123Z))
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err == nil {
		_, err = z.Write([]byte(log))
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		return fmt.Errorf("packing the changelog: %w", err)
	}
	head := "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: lazaret\n\nFiles: *\nCopyright: the authors of Lazaret\nLicense: Apache-2.0\n On Debian systems, the text is also in /usr/share/common-licenses/Apache-2.0.\n"
	p.Files = append(p.Files, File{Path: dir + "/changelog.gz", Mode: 0o644, Body: packed.Bytes()}, File{Path: dir + "/copyright", Mode: 0o644, Body: []byte(head)},
		File{Path: dir + "/LICENSE", Mode: 0o644, Body: g.License})
	for name, b := range g.Docs {
		p.Files = append(p.Files, File{Path: path.Join(dir, path.Base(name)), Mode: 0o644, Body: b})
	}
	return nil
}
