package posture

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// mac reads macOS: through its own tools, and from files of its root.
type mac struct {
	run  Runner
	root fs.FS
	own  process
}

func (m mac) collectors() []Collector {
	files := func(read func(fs.FS) (map[string]string, error)) func(context.Context) (map[string]string, error) {
		return func(context.Context) (map[string]string, error) { return read(m.root) }
	}
	return []Collector{
		{"agent", agent},
		{"system", m.tool(swVers, "/usr/bin/sw_vers")},
		{"patches", files(macPatched)},
		{"updates", m.tool(macPending, "/usr/bin/defaults", "read", "/Library/Preferences/com.apple.SoftwareUpdate", "LastUpdatesAvailable")},
		{"disk", m.tool(fdesetup, "/usr/bin/fdesetup", "status")},
		{"firewall", m.tool(socketfilterfw, "/usr/libexec/ApplicationFirewall/socketfilterfw", "--getglobalstate")},
		{"boot", m.tool(bridge, "/usr/sbin/system_profiler", "SPiBridgeDataType")},
		{"hardware", m.tool(ioreg, "/usr/sbin/ioreg", "-rd1", "-c", "IOPlatformExpertDevice")},
		{"management", m.tool(profiles, "/usr/bin/profiles", "status", "-type", "enrollment")},
		{"screen", m.screen},
		{"tamper", m.tamper},
	}
}

// tool is a collector that asks one tool.
func (m mac) tool(parse func(string) (map[string]string, error), path string, args ...string) func(context.Context) (map[string]string, error) {
	return func(ctx context.Context) (map[string]string, error) {
		out, code, err := m.run(ctx, path, args...)
		if err != nil {
			return nil, err
		}
		if code != 0 {
			return nil, fmt.Errorf("%s ended with %d", path, code)
		}
		facts, err := parse(out)
		if err != nil {
			return facts, fmt.Errorf("%s: %w", path, err)
		}
		return facts, nil
	}
}

// swVers reads sw_vers(1).
func swVers(out string) (map[string]string, error) {
	v := colons(out)
	facts := map[string]string{"os.name": "macos", "os.version": v["ProductVersion"], "os.build": v["BuildVersion"]}
	if v["ProductVersion"] == "" {
		return nil, errOutput
	}
	return facts, nil
}

// colons reads lines "Key: value".
func colons(out string) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(out) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			all[strings.TrimSpace(k)] = strings.TrimSpace(v)
		}
	}
	return all
}

// fdesetup reads "fdesetup status". While it encrypts or decrypts, the disk is not encrypted.
func fdesetup(out string) (map[string]string, error) {
	first, more, _ := strings.Cut(out, "\n")
	switch {
	case strings.HasPrefix(first, "FileVault is Off"), strings.Contains(more, "in progress"):
		return one("disk.encrypted", "false"), nil
	case strings.TrimSpace(first) == "FileVault is On.":
		return one("disk.encrypted", "true"), nil
	}
	return nil, errOutput
}

var globalState = regexp.MustCompile(`\(State = ([012])\)`)

// socketfilterfw reads "socketfilterfw --getglobalstate": 0 is off, 1 on, 2 on and closed
// to all that macOS does not need itself.
func socketfilterfw(out string) (map[string]string, error) {
	m := globalState.FindStringSubmatch(out)
	if m == nil {
		return nil, errOutput
	}
	return one("firewall.enabled", yes(m[1] != "0")), nil
}

// bridge reads "system_profiler SPiBridgeDataType" of a Mac with Apple silicon or a T2 chip.
func bridge(out string) (map[string]string, error) {
	switch colons(out)["Secure Boot"] {
	case "Full Security":
		return one("boot.secure", "true"), nil
	case "":
		return nil, errOutput
	default: // "Medium Security", "Reduced Security", "Permissive Security", "No Security"
		return one("boot.secure", "false"), nil
	}
}

var ioregLine = regexp.MustCompile(`(?m)^\s*"(manufacturer|model|IOPlatformSerialNumber)" = <?"([^"]*)"`)

// ioreg reads the platform's entry of the I/O registry.
func ioreg(out string) (map[string]string, error) {
	names := map[string]string{"manufacturer": "device.manufacturer", "model": "device.model", "IOPlatformSerialNumber": "device.serial"}
	facts := map[string]string{}
	for _, m := range ioregLine.FindAllStringSubmatch(out, -1) {
		facts[names[m[1]]] = m[2]
	}
	if len(facts) == 0 {
		return nil, errOutput
	}
	return facts, nil
}

// profiles reads "profiles status -type enrollment".
func profiles(out string) (map[string]string, error) {
	switch v := colons(out)["MDM enrollment"]; {
	case v == "No":
		return one("device.managed", "false"), nil
	case strings.HasPrefix(v, "Yes"):
		return one("device.managed", "true"), nil
	}
	return nil, errOutput
}

// macPending reads the number of updates that Software Update found last.
func macPending(out string) (map[string]string, error) {
	n, err := strconv.ParseUint(strings.TrimSpace(out), 10, 16)
	if err != nil {
		return nil, errOutput
	}
	return one("os.updates_pending", strconv.FormatUint(n, 10)), nil
}

// screen says whether a configuration profile locks the screen: users set their own lock
// elsewhere, and may change it.
func (m mac) screen(ctx context.Context) (map[string]string, error) {
	read := func(key string) (uint64, error) {
		out, code, err := m.run(ctx, "/usr/bin/defaults", "read", "/Library/Managed Preferences/com.apple.screensaver", key)
		if err == nil && code != 0 {
			err = fmt.Errorf("no configuration profile sets %s", key)
		}
		if err != nil {
			return 0, err
		}
		n, err := strconv.ParseUint(strings.TrimSpace(out), 10, 31)
		if err != nil {
			return 0, errOutput
		}
		return n, nil
	}
	ask, err := read("askForPassword")
	if err != nil {
		return nil, err
	}
	if ask != 1 {
		return one("screen.lock", "false"), nil
	}
	idle, err := read("idleTime")
	if err != nil {
		return nil, err
	}
	if idle == 0 { // never
		return one("screen.lock", "false"), nil
	}
	facts := one("screen.lock", "true")
	delay, err := read("askForPasswordDelay")
	if err != nil {
		return facts, err
	}
	facts["screen.lock_after"] = (time.Duration(idle+delay) * time.Second).String()
	return facts, nil
}

// tamper looks for signs that macOS no longer protects itself or the agent.
func (m mac) tamper(ctx context.Context) (map[string]string, error) {
	signs, err := writable(m.root, m.own)
	signs = append(signs, preloads(m.own.env, "DYLD_INSERT_LIBRARIES")...)
	out, _, e := m.run(ctx, "/usr/bin/csrutil", "status")
	switch {
	case e != nil:
		err = errors.Join(err, e)
	case !strings.HasPrefix(out, "System Integrity Protection status: "):
		err = errors.Join(err, fmt.Errorf("csrutil: %w", errOutput))
	case !strings.HasPrefix(out, "System Integrity Protection status: enabled."):
		signs = append(signs, "System Integrity Protection is off, wholly or in part")
	}
	return tampered(signs, err)
}

// macPatched finds when macOS itself was last updated, in the list of what was installed.
// Data of its malware scanner comes more often and does not count.
func macPatched(root fs.FS) (map[string]string, error) {
	f, err := root.Open("Library/Receipts/InstallHistory.plist")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	newest, err := newestMacOS(io.LimitReader(f, 4<<20))
	if err != nil {
		return nil, fmt.Errorf("reading the list of what was installed: %w", err)
	}
	if newest.IsZero() {
		return nil, errors.New("the list of what was installed names no update of macOS")
	}
	return one("os.patched_at", newest.UTC().Format(time.RFC3339)), nil
}

// newestMacOS reads a property list: an array of dictionaries with, among others, the keys
// date and displayName.
func newestMacOS(r io.Reader) (newest time.Time, err error) {
	d := xml.NewDecoder(r)
	var key string
	var at time.Time
	var name string
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return newest, nil
		}
		if err != nil {
			return time.Time{}, err
		}
		switch t := token.(type) {
		case xml.StartElement:
			switch t.Name.Local {
			case "dict":
				key, at, name = "", time.Time{}, ""
			case "key", "date", "string":
				var text string
				if err := d.DecodeElement(&text, &t); err != nil {
					return time.Time{}, err
				}
				switch {
				case t.Name.Local == "key":
					key = text
				case key == "date":
					at, _ = time.Parse(time.RFC3339, text) // unreadable: no date
				case key == "displayName":
					name = text
				}
			}
		case xml.EndElement:
			if t.Name.Local == "dict" && strings.HasPrefix(name, "macOS ") && at.After(newest) {
				newest = at
			}
		}
	}
}
