package posture

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// registry reads values below HKEY_LOCAL_MACHINE. A value that is not there is an error
// that is fs.ErrNotExist.
type registry interface {
	number(key, name string) (uint64, error)
	text(key, name string) (string, error)
}

// microsoft reads Windows: from the registry, and BitLocker through its own tool.
type microsoft struct {
	run      Runner
	registry registry
	system   string // directory of Windows' own programs
	drive    string // that Windows lies on, like "C:"
}

func (w microsoft) collectors() []Collector {
	plain := func(read func() (map[string]string, error)) func(context.Context) (map[string]string, error) {
		return func(context.Context) (map[string]string, error) { return read() }
	}
	return []Collector{
		{"agent", agent},
		{"system", plain(w.version)},
		{"patches", plain(w.patched)},
		{"disk", w.disk},
		{"boot", plain(w.boot)},
		{"firewall", plain(w.firewall)},
		{"screen", plain(w.screen)},
		{"hardware", plain(w.hardware)},
	}
}

const currentVersion = `SOFTWARE\Microsoft\Windows NT\CurrentVersion`

// version puts the number together that Windows shows: the product's name in the registry
// still says Windows 10 on Windows 11.
func (w microsoft) version() (map[string]string, error) {
	major, err := w.registry.number(currentVersion, "CurrentMajorVersionNumber")
	if err != nil {
		return nil, err
	}
	minor, err := w.registry.number(currentVersion, "CurrentMinorVersionNumber")
	if err != nil {
		return nil, err
	}
	build, err := w.registry.text(currentVersion, "CurrentBuildNumber")
	if err != nil {
		return nil, err
	}
	if _, err := strconv.ParseUint(build, 10, 32); err != nil {
		return nil, fmt.Errorf("the build number %q: %w", build, errOutput)
	}
	revision, err := w.registry.number(currentVersion, "UBR")
	if err != nil {
		return nil, err
	}
	return map[string]string{
		"os.name": "windows", "os.version": fmt.Sprintf("%d.%d.%s.%d", major, minor, build, revision), "os.build": fmt.Sprintf("%s.%d", build, revision),
	}, nil
}

// patched is when Windows Update last installed something; UTC. Newer releases keep it elsewhere.
func (w microsoft) patched() (map[string]string, error) {
	text, err := w.registry.text(`SOFTWARE\Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update\Results\Install`, "LastSuccessTime")
	if err != nil {
		return nil, err
	}
	at, err := time.Parse(time.DateTime, text)
	if err != nil {
		return nil, fmt.Errorf("the last update's time %q: %w", text, errOutput)
	}
	return one("os.patched_at", at.UTC().Format(time.RFC3339)), nil
}

// disk asks manage-bde for an exit code instead of text, which is in the user's language:
// 0 where the volume is protected, 1 where it is not.
func (w microsoft) disk(ctx context.Context) (map[string]string, error) {
	_, code, err := w.run(ctx, w.system+`\manage-bde.exe`, "-status", w.drive, "-protectionaserrorlevel")
	if err != nil {
		return nil, err
	}
	switch code {
	case 0:
		return one("disk.encrypted", "true"), nil
	case 1:
		return one("disk.encrypted", "false"), nil
	}
	return nil, fmt.Errorf("manage-bde ended with %d", code)
}

func (w microsoft) boot() (map[string]string, error) {
	on, err := w.registry.number(`SYSTEM\CurrentControlSet\Control\SecureBoot\State`, "UEFISecureBootEnabled")
	if absent(err) {
		return nil, errors.New("this system did not boot by EFI")
	}
	if err != nil {
		return nil, err
	}
	return one("boot.secure", yes(on == 1)), nil
}

// firewall says whether the firewall is on in each kind of network, by group policy or by
// its own setting, of which the policy's counts.
func (w microsoft) firewall() (map[string]string, error) {
	for _, network := range []string{"DomainProfile", "StandardProfile", "PublicProfile"} {
		on, err := w.registry.number(`SOFTWARE\Policies\Microsoft\WindowsFirewall\`+network, "EnableFirewall")
		if absent(err) {
			on, err = w.registry.number(`SYSTEM\CurrentControlSet\Services\SharedAccess\Parameters\FirewallPolicy\`+network, "EnableFirewall")
		}
		if err != nil {
			return nil, err
		}
		if on != 1 {
			return one("firewall.enabled", "false"), nil
		}
	}
	return one("firewall.enabled", "true"), nil
}

// screen is the machine's inactivity limit, which users cannot change; what they set for
// themselves is not read.
func (w microsoft) screen() (map[string]string, error) {
	limit, err := w.registry.number(`SOFTWARE\Microsoft\Windows\CurrentVersion\Policies\System`, "InactivityTimeoutSecs")
	if absent(err) || err == nil && limit == 0 {
		return nil, errors.New("no administrator set a limit of inactivity")
	}
	if err != nil {
		return nil, err
	}
	if limit > 599940 { // the most that the policy takes, in seconds
		return nil, errOutput
	}
	return map[string]string{"screen.lock": "true", "screen.lock_after": (time.Duration(limit) * time.Second).String()}, nil
}

func (w microsoft) hardware() (map[string]string, error) {
	const bios = `HARDWARE\DESCRIPTION\System\BIOS`
	maker, err := w.registry.text(bios, "SystemManufacturer")
	model, e := w.registry.text(bios, "SystemProductName")
	facts := map[string]string{}
	for name, v := range map[string]string{"device.manufacturer": maker, "device.model": model} {
		if !filler(v) {
			facts[name] = v
		}
	}
	return facts, errors.Join(err, e)
}
