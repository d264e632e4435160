package posture

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"testing"
)

// What macOS' tools print, by their manual pages (sw_vers(1), fdesetup(8), csrutil(8),
// profiles(1), ioreg(8)) and Apple's platform deployment guide; written by hand, and none
// of it captured on a Mac.
const (
	swVersOut   = "ProductName:\t\tmacOS\nProductVersion:\t\t26.1\nBuildVersion:\t\t25B78\n"
	bridgeOut   = "Controller:\n\n      Model Identifier: Mac15,6\n      Firmware Version: mBoot-13822.41.1\n      Boot UUID: 0000-0000\n      Boot Policy:\n          Secure Boot: Full Security\n          System Integrity Protection: Enabled\n"
	ioregOut    = "+-o J514sAP  <class IOPlatformExpertDevice, id 0x100000231, registered, matched, active>\n    {\n      \"manufacturer\" = <\"Apple Inc.\">\n      \"model\" = <\"Mac15,6\">\n      \"IOPlatformSerialNumber\" = \"C02XXXXXXX\"\n      \"IOPlatformUUID\" = \"0-0\"\n    }\n"
	profilesOut = "Enrolled via DEP: No\nMDM enrollment: Yes (User Approved)\nMDM server: https://mdm.example.com/checkin\n"
	historyOut  = `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><array>
<dict><key>date</key><date>2026-09-16T06:00:00Z</date><key>displayName</key><string>macOS 26.0</string><key>processName</key><string>softwareupdated</string></dict>
<dict><key>date</key><date>2026-11-04T07:08:09Z</date><key>displayName</key><string>macOS 26.1</string><key>packageIdentifiers</key><array><string>com.apple.pkg.x</string></array></dict>
<dict><key>date</key><date>2026-11-20T07:08:09Z</date><key>displayName</key><string>XProtectPlistConfigData</string></dict>
</array></plist>`
)

// fakeRun answers for tools by their command line; others end with 1.
func fakeRun(t *testing.T, answers map[string]string) Runner {
	return func(_ context.Context, path string, args ...string) (string, int, error) {
		if !strings.HasPrefix(path, "/") && !strings.HasPrefix(path, `C:\`) {
			t.Errorf("%s is no full path", path)
		}
		out, ok := answers[strings.Join(append([]string{path}, args...), " ")]
		if !ok {
			return "The domain/default pair does not exist", 1, nil
		}
		return out, 0, nil
	}
}

func TestMac(t *testing.T) {
	const managed = "/usr/bin/defaults read /Library/Managed Preferences/com.apple.screensaver "
	m := mac{
		run: fakeRun(t, map[string]string{
			"/usr/bin/sw_vers":         swVersOut,
			"/usr/bin/fdesetup status": "FileVault is On.\n",
			"/usr/libexec/ApplicationFirewall/socketfilterfw --getglobalstate":                          "Firewall is enabled. (State = 1)\n",
			"/usr/sbin/system_profiler SPiBridgeDataType":                                               bridgeOut,
			"/usr/sbin/ioreg -rd1 -c IOPlatformExpertDevice":                                            ioregOut,
			"/usr/bin/profiles status -type enrollment":                                                 profilesOut,
			"/usr/bin/csrutil status":                                                                   "System Integrity Protection status: enabled.\n",
			"/usr/bin/defaults read /Library/Preferences/com.apple.SoftwareUpdate LastUpdatesAvailable": "2\n",
			managed + "askForPassword":                                                                  "1\n", managed + "idleTime": "600\n", managed + "askForPasswordDelay": "5\n",
		}),
		root: tree(map[string]string{"Library/Receipts/InstallHistory.plist": historyOut, "usr/local/bin/lazaret": "\xcf\xfa"}),
		own:  process{executable: "usr/local/bin/lazaret", owner: func(fs.FileInfo) (uint32, uint32, bool) { return 0, 0, true }},
	}
	p := NewSet(0, m.collectors()...).Collect(t.Context())
	delete(p.Facts, "agent.version")
	if want := map[string]string{
		"os.name": "macos", "os.version": "26.1", "os.build": "25B78", "os.patched_at": "2026-11-04T07:08:09Z", "os.updates_pending": "2",
		"disk.encrypted": "true", "firewall.enabled": "true", "boot.secure": "true", "device.manufacturer": "Apple Inc.", "device.model": "Mac15,6",
		"device.serial": "C02XXXXXXX", "device.managed": "true", "device.tampered": "false", "screen.lock": "true", "screen.lock_after": "10m5s",
	}; !maps.Equal(p.Facts, want) || len(p.Missing) > 0 {
		t.Errorf("got %v, missing %v", p.Facts, p.Missing)
	}
	m.run = fakeRun(t, nil) // tools that fail, and a Mac without a profile
	p = NewSet(0, m.collectors()...).Collect(t.Context())
	if want := map[string]string{"os.patched_at": "2026-11-04T07:08:09Z"}; p.Facts["agent.version"] == "" || p.Facts["os.patched_at"] != want["os.patched_at"] || len(p.Facts) != 2 || len(p.Missing) != 9 {
		t.Errorf("without answers: %v, missing %v", p.Facts, p.Missing)
	}
}

// TestMacAnswers: everything that is not the good answer must not be taken for it.
func TestMacAnswers(t *testing.T) {
	type answers map[string]string // output: value, empty: missing
	for name, c := range map[string]struct {
		parse func(string) (map[string]string, error)
		fact  string
		try   answers
	}{
		"fdesetup": {fdesetup, "disk.encrypted", answers{
			"FileVault is On.\n": "true", "FileVault is Off.\n": "false", "FileVault is On.\nEncryption in progress: Percent completed = 34\n": "false",
			"FileVault is Off, but will be enabled after the next restart.\n": "false", "FileVault is Off.\nDeferred enablement appears to be active for user 'user'.\n": "false",
			"FileVault is On.\nDecryption in progress: Percent completed = 10\n": "false", "": "", "Error: no permission": ""}},
		"socketfilterfw": {socketfilterfw, "firewall.enabled", answers{
			"Firewall is enabled. (State = 1)\n": "true", "Firewall is blocking all non-essential incoming connections. (State = 2)\n": "true", "Firewall is disabled. (State = 0)\n": "false", "Firewall is enabled.": ""}},
		"bridge":   {bridge, "boot.secure", answers{bridgeOut: "true", strings.Replace(bridgeOut, "Full", "Reduced", 1): "false", "      Secure Boot: No Security\n": "false", "Controller:\n": ""}},
		"profiles": {profiles, "device.managed", answers{profilesOut: "true", "Enrolled via DEP: No\nMDM enrollment: No\n": "false", "profiles: you must be root\n": ""}},
		"updates":  {macPending, "os.updates_pending", answers{"0\n": "0", "12\n": "12", "-1\n": "", "many": ""}},
		"sw_vers":  {swVers, "os.version", answers{swVersOut: "26.1", "ProductName: macOS\n": ""}},
		"ioreg":    {ioreg, "device.serial", answers{ioregOut: "C02XXXXXXX", "{}": ""}},
	} {
		for out, want := range c.try {
			if got, err := c.parse(out); got[c.fact] != want || (err == nil) != (want != "") {
				t.Errorf("%s of %q: %v, %v", name, out, got, err)
			}
		}
	}
	for out, want := range (answers{
		"System Integrity Protection status: enabled.\n": "false", "System Integrity Protection status: disabled.\n": "true",
		"System Integrity Protection status: unknown (Custom Configuration).\n\nConfiguration:\n\tApple Internal: disabled\n": "true", "csrutil: failed": "",
	}) {
		m := mac{run: fakeRun(t, map[string]string{"/usr/bin/csrutil status": out}), root: tree(map[string]string{"lazaret": ""}),
			own: process{executable: "lazaret", owner: func(fs.FileInfo) (uint32, uint32, bool) { return 0, 0, true }}}
		if got, err := m.tamper(t.Context()); got["device.tampered"] != want || (err == nil) != (want != "") {
			t.Errorf("csrutil of %q: %v, %v", out, got, err)
		}
	}
}

// fakeRegistry holds numbers and texts by key and name.
type fakeRegistry map[string]any

func (r fakeRegistry) number(key, name string) (uint64, error) {
	if n, ok := r[key+"|"+name].(int); ok {
		return uint64(n), nil
	}
	return 0, fmt.Errorf("%s, %s: %w", key, name, fs.ErrNotExist)
}

func (r fakeRegistry) text(key, name string) (string, error) {
	if s, ok := r[key+"|"+name].(string); ok {
		return s, nil
	}
	return "", fmt.Errorf("%s, %s: %w", key, name, fs.ErrNotExist)
}

// windows11 is as Microsoft documents the values: group policy settings reference, "Windows
// Defender Firewall registry", "Interactive logon: Machine inactivity limit", manage-bde
// status. Written by hand, not captured on Windows.
func windows11(change fakeRegistry) fakeRegistry {
	const profile = `SYSTEM\CurrentControlSet\Services\SharedAccess\Parameters\FirewallPolicy\`
	r := fakeRegistry{
		currentVersion + "|CurrentMajorVersionNumber": 10, currentVersion + "|CurrentMinorVersionNumber": 0,
		currentVersion + "|CurrentBuildNumber": "26200", currentVersion + "|UBR": 7171, currentVersion + "|ProductName": "Windows 10 Pro",
		`SYSTEM\CurrentControlSet\Control\SecureBoot\State|UEFISecureBootEnabled`: 1,
		profile + "DomainProfile|EnableFirewall":                                  1, profile + "StandardProfile|EnableFirewall": 1, profile + "PublicProfile|EnableFirewall": 1,
		`SOFTWARE\Microsoft\Windows\CurrentVersion\Policies\System|InactivityTimeoutSecs`:                     900,
		`HARDWARE\DESCRIPTION\System\BIOS|SystemManufacturer`:                                                 "Dell Inc.",
		`HARDWARE\DESCRIPTION\System\BIOS|SystemProductName`:                                                  "Latitude 7440",
		`SOFTWARE\Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update\Results\Install|LastSuccessTime`: "2026-11-12 03:04:05",
	}
	maps.Copy(r, change)
	return r
}

func TestWindows(t *testing.T) {
	protected := func(code int, err error) Runner {
		return func(_ context.Context, path string, args ...string) (string, int, error) {
			if path != `C:\Windows\system32\manage-bde.exe` || strings.Join(args, " ") != "-status C: -protectionaserrorlevel" {
				t.Errorf("ran %s %v", path, args)
			}
			return "", code, err
		}
	}
	device := func(r fakeRegistry, run Runner) Posture {
		p := NewSet(0, microsoft{run: run, registry: r, system: `C:\Windows\system32`, drive: "C:"}.collectors()...).Collect(t.Context())
		delete(p.Facts, "agent.version")
		return p
	}
	p := device(windows11(nil), protected(0, nil))
	if want := map[string]string{
		"os.name": "windows", "os.version": "10.0.26200.7171", "os.build": "26200.7171", "os.patched_at": "2026-11-12T03:04:05Z", "disk.encrypted": "true",
		"boot.secure": "true", "firewall.enabled": "true", "screen.lock": "true", "screen.lock_after": "15m0s", "device.manufacturer": "Dell Inc.", "device.model": "Latitude 7440",
	}; !maps.Equal(p.Facts, want) || len(p.Missing) > 0 {
		t.Errorf("got %v, missing %v", p.Facts, p.Missing)
	}
	const policy = `SOFTWARE\Policies\Microsoft\WindowsFirewall\`
	for name, c := range map[string]struct {
		change     fakeRegistry
		run        Runner
		fact, want string
	}{
		"no BitLocker":                 {nil, protected(1, nil), "disk.encrypted", "false"},
		"manage-bde fails":             {nil, protected(-1, nil), "disk.encrypted", ""},
		"manage-bde is not there":      {nil, protected(-1, errors.New("no such file")), "disk.encrypted", ""},
		"policy switches firewall off": {fakeRegistry{policy + "PublicProfile|EnableFirewall": 0}, protected(0, nil), "firewall.enabled", "false"},
		"policy switches firewall on":  {fakeRegistry{`SYSTEM\CurrentControlSet\Services\SharedAccess\Parameters\FirewallPolicy\PublicProfile|EnableFirewall`: 0, policy + "PublicProfile|EnableFirewall": 1}, protected(0, nil), "firewall.enabled", "true"},
		"one network without firewall": {fakeRegistry{`SYSTEM\CurrentControlSet\Services\SharedAccess\Parameters\FirewallPolicy\StandardProfile|EnableFirewall`: 0}, protected(0, nil), "firewall.enabled", "false"},
		"no secure boot":               {fakeRegistry{`SYSTEM\CurrentControlSet\Control\SecureBoot\State|UEFISecureBootEnabled`: 0}, protected(0, nil), "boot.secure", "false"},
		"no EFI":                       {fakeRegistry{`SYSTEM\CurrentControlSet\Control\SecureBoot\State|UEFISecureBootEnabled`: nil}, protected(0, nil), "boot.secure", ""},
		"no inactivity limit":          {fakeRegistry{`SOFTWARE\Microsoft\Windows\CurrentVersion\Policies\System|InactivityTimeoutSecs`: 0}, protected(0, nil), "screen.lock", ""},
		"odd build":                    {fakeRegistry{currentVersion + "|CurrentBuildNumber": "26x"}, protected(0, nil), "os.version", ""},
		"odd time":                     {fakeRegistry{`SOFTWARE\Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update\Results\Install|LastSuccessTime`: "12.11.2026"}, protected(0, nil), "os.patched_at", ""},
	} {
		if p := device(windows11(c.change), c.run); p.Facts[c.fact] != c.want || (len(p.Missing) == 0) != (c.want != "") {
			t.Errorf("%s: %v, missing %v", name, p.Facts, p.Missing)
		}
	}
}

// TestBounded: a tool's endless output is cut.
func TestBounded(t *testing.T) {
	var b bounded
	for range 3 {
		if n, err := b.Write(make([]byte, maxOutput/2+1)); n != maxOutput/2+1 || err != nil {
			t.Fatal(n, err)
		}
	}
	if b.Len() != maxOutput {
		t.Errorf("kept %d bytes", b.Len())
	}
}
