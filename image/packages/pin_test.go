package packages

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"
)

// As apt-cache show --no-all-versions printed them on Debian 12, shortened.
const shown = `Package: linux-image-6.12.117+deb12-cloud-amd64
Source: linux-signed-amd64 (6.12.117+1~deb12u1)
Version: 6.12.117-1~deb12u1
Architecture: amd64
Description: Linux 6.12 for x86-64 cloud (signed)
 The Linux kernel 6.12 and modules for use on cloud platforms.
 Filename: of no package
Filename: pool/updates/main/l/linux-signed-6.12-amd64/linux-image-6.12.117+deb12-cloud-amd64_6.12.117-1~deb12u1_amd64.deb
Size: 34307256
SHA256: 5195b288dec79e2981d6b84457f38b7ce7310a2d702930ec7d07209c7f78ce37

Package: ca-certificates
Version: 20250419~deb12u2
Architecture: all
Filename: pool/updates/main/c/ca-certificates/ca-certificates_20250419~deb12u2_all.deb
Size: 160948
SHA256: b9f76b5271a7ac373fd5e7e1b5b826a71ddd702b42a0d104955ecb1acfffc94b

Package: systemd-boot-efi
Version: 252.39-1~deb12u2
Architecture: amd64
Filename: pool/main/s/systemd/systemd-boot-efi_252.39-1~deb12u2_amd64.deb
Size: 113136
SHA256: 8f2b81bdcfafc466882a0cae460272dbf10d8d97c6a3c1c6ea33038c155a2f5e

`

const rows = `ca-certificates 20250419~deb12u2 all debian-security/pool/updates/main/c/ca-certificates/ca-certificates_20250419~deb12u2_all.deb 160948 b9f76b5271a7ac373fd5e7e1b5b826a71ddd702b42a0d104955ecb1acfffc94b
linux-image-6.12.117+deb12-cloud-amd64 6.12.117-1~deb12u1 amd64 debian-security/pool/updates/main/l/linux-signed-6.12-amd64/linux-image-6.12.117+deb12-cloud-amd64_6.12.117-1~deb12u1_amd64.deb 34307256 5195b288dec79e2981d6b84457f38b7ce7310a2d702930ec7d07209c7f78ce37
systemd-boot-efi 252.39-1~deb12u2 amd64 debian/pool/main/s/systemd/systemd-boot-efi_252.39-1~deb12u2_amd64.deb 113136 8f2b81bdcfafc466882a0cae460272dbf10d8d97c6a3c1c6ea33038c155a2f5e
`

// TestPin: what apt says of packages are the rows of the table.
func TestPin(t *testing.T) {
	list, err := Pin(strings.NewReader(shown))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Write(&out, list, time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	if again, err := parse(out.String()); err != nil || !slices.Equal(again, list) || takenAt(out.String()) != "20261122T000000Z" {
		t.Errorf("written\n%s\nread %+v, %v", out.String(), again, err)
	}
	if want := "# taken 20261122T000000Z\n" + rows; !strings.HasSuffix(out.String(), want) {
		t.Errorf("written\n%s\nwant\n%s", out.String(), want)
	}
	for what, change := range map[string][2]string{
		"no size":          {"Size: 160948\n", ""},
		"half a hash":      {"b9f76b5271a7ac37", ""},
		"another place":    {"Filename: pool/main/", "Filename: https://other/pool/main/"},
		"up and away":      {"pool/main/s/systemd/", "pool/main/../../"},
		"a space":          {"Version: 252.39-1~deb12u2", "Version: 252.39 1"},
		"no name":          {"Package: ca-certificates\n", ""},
		"two versions":     {"Package: systemd-boot-efi\nVersion: 252.39-1~deb12u2\nArchitecture: amd64", "Package: ca-certificates\nVersion: 1\nArchitecture: all"},
		"a very long line": {"Version: 252", "Version: " + strings.Repeat("1", maxStanza)},
	} {
		if list, err := Pin(strings.NewReader(strings.Replace(shown, change[0], change[1], 1))); err == nil {
			t.Errorf("%s: %+v", what, list)
		}
	}
}
