package posture

import (
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
)

func TestScreen(t *testing.T) {
	const profile, values, locks = "user-db:user\nsystem-db:local\n", "[org/gnome/desktop/screensaver]\nlock-enabled=true\nlock-delay=uint32 5\n\n[org/gnome/desktop/session]\nidle-delay=uint32 900\n",
		"/org/gnome/desktop/screensaver/lock-enabled\n/org/gnome/desktop/screensaver/lock-delay\n/org/gnome/desktop/session/idle-delay\n"
	with := func(changes map[string]string) map[string]string {
		files := map[string]string{"run/systemd/sessions/": "", "etc/dconf/profile/user": profile, "etc/dconf/db/local.d/00-screensaver": values, "etc/dconf/db/local.d/locks/screensaver": locks}
		for k, v := range changes {
			if v == "" {
				delete(files, k)
			} else {
				files[k] = v
			}
		}
		return files
	}
	session := func(desktop string) map[string]string {
		return with(map[string]string{"run/systemd/sessions/3": "# This is private data. Do not parse.\nUID=1000\nACTIVE=1\nTYPE=wayland\nCLASS=user\nDESKTOP=" + desktop + "\n"})
	}
	locked := map[string]string{"screen.lock": "true", "screen.lock_after": "15m5s"}
	try(t, screen, []scene{
		{"set and locked", with(nil), locked, false},
		{"GNOME runs", session("gnome"), locked, false},
		{"Ubuntu's GNOME runs", session("ubuntu"), locked, false},
		{"another desktop runs", session("KDE"), nil, true},
		{"set, not locked", with(map[string]string{"etc/dconf/db/local.d/locks/screensaver": ""}), nil, true},
		{"switched off for all", with(map[string]string{"etc/dconf/db/local.d/00-screensaver": "[org/gnome/desktop/screensaver]\nlock-enabled=false\n"}), map[string]string{"screen.lock": "false"}, false},
		{"a later file switches it off", with(map[string]string{"etc/dconf/db/local.d/99-off": "[org/gnome/desktop/screensaver]\nlock-enabled=false\n"}), map[string]string{"screen.lock": "false"}, false},
		{"never idle", with(map[string]string{"etc/dconf/db/local.d/99-idle": "[org/gnome/desktop/session]\nidle-delay=uint32 0\n"}), map[string]string{"screen.lock": "false"}, false},
		{"idle time is the user's", with(map[string]string{"etc/dconf/db/local.d/locks/screensaver": lockEnabled + "\n"}), nil, true},
		{"delay is the user's", with(map[string]string{"etc/dconf/db/local.d/locks/screensaver": lockEnabled + "\n" + idleDelay + "\n"}), map[string]string{"screen.lock": "true"}, true},
		{"database not in the profile", with(map[string]string{"etc/dconf/profile/user": "user-db:user\n"}), nil, true},
		{"no profile", with(map[string]string{"etc/dconf/profile/user": ""}), nil, true},
		{"no logind", map[string]string{"etc/dconf/profile/user": profile}, nil, true},
	})
}

func TestPasscode(t *testing.T) {
	const users = "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/var/www:/usr/sbin/nologin\nuser:x:1000:1000::/home/user:/bin/bash\nnobody:x:65534:65534::/:/usr/sbin/nologin\n"
	is := func(v string) map[string]string { return map[string]string{"passcode.set": v} }
	try(t, passcode, []scene{
		{"set", map[string]string{"etc/passwd": users, "etc/shadow": "root:!:19000:0:99999:7:::\nwww-data::1\nuser:$y$j9T$abc:19000:0:99999:7:::\n"}, is("true"), false},
		{"empty", map[string]string{"etc/passwd": users, "etc/shadow": "root:!:19000:0:99999:7:::\nuser::19000:0:99999:7:::\n"}, is("false"), false},
		{"root's is empty", map[string]string{"etc/passwd": users, "etc/shadow": "root::19000:0:99999:7:::\nuser:$y$x:19000:0:99999:7:::\n"}, is("false"), false},
		{"none needed", map[string]string{"etc/passwd": "user::1000:1000::/home/user:/bin/bash\n", "etc/shadow": ""}, is("false"), false},
		{"shadow unreadable", map[string]string{"etc/passwd": users}, nil, true},
		{"no line", map[string]string{"etc/passwd": users, "etc/shadow": "root:!:1\n"}, nil, true},
		{"nobody lives here", map[string]string{"etc/passwd": "root:x:0:0:root:/root:/bin/bash\n", "etc/shadow": "root:!:1\n"}, nil, true},
	})
}

// TestTamper: each sign alone must be told; a look that failed must not be called clean.
func TestTamper(t *testing.T) {
	type change func(root fstest.MapFS, p *process, owners map[string][2]uint32)
	device := func(c change) (map[string]string, error) {
		root := tree(map[string]string{"usr/": "", "usr/bin/": "", ".": "", "usr/bin/lazaret": "\x7fELF", "proc/self/status": "Name:\tlazaret\nTracerPid:\t0\n", "proc/sys/kernel/tainted": "12288\n"})
		delete(root, ".")
		owners := map[string][2]uint32{}
		p := process{executable: "usr/bin/lazaret", env: []string{"PATH=/usr/bin", "LD_PRELOAD="}, owner: func(i fs.FileInfo) (uint32, uint32, bool) {
			o := owners[i.Name()]
			return o[0], o[1], true
		}}
		if c != nil {
			c(root, &p, owners)
		}
		return tamper(root, p)
	}
	for name, c := range map[string]struct {
		change  change
		want    string // device.tampered
		sign    string
		missing bool
	}{
		"clean":              {nil, "false", "", false},
		"binary writable":    {func(r fstest.MapFS, _ *process, _ map[string][2]uint32) { r["usr/bin/lazaret"].Mode = 0o757 }, "true", "/usr/bin/lazaret may be written", false},
		"directory writable": {func(r fstest.MapFS, _ *process, _ map[string][2]uint32) { r["usr/bin"].Mode = fs.ModeDir | 0o777 }, "true", "/usr/bin may be written", false},
		"sticky directory": {func(r fstest.MapFS, _ *process, _ map[string][2]uint32) {
			r["usr/bin"].Mode = fs.ModeDir | fs.ModeSticky | 0o777
		}, "false", "", false},
		"root's group": {func(r fstest.MapFS, _ *process, _ map[string][2]uint32) { r["usr/bin"].Mode = fs.ModeDir | 0o775 }, "false", "", false},
		"another group": {func(r fstest.MapFS, _ *process, o map[string][2]uint32) {
			r["usr/bin"].Mode = fs.ModeDir | 0o775
			o["bin"] = [2]uint32{0, 50}
		}, "true", "/usr/bin may be written", false},
		"a user's": {func(_ fstest.MapFS, _ *process, o map[string][2]uint32) { o["usr"] = [2]uint32{1000, 0} }, "true", "/usr belongs to user 1000", false},
		"debugger": {func(r fstest.MapFS, _ *process, _ map[string][2]uint32) {
			r["proc/self/status"].Data = []byte("Name:\tlazaret\nTracerPid:\t4711\n")
		}, "true", "debugger", false},
		"preload": {func(_ fstest.MapFS, p *process, _ map[string][2]uint32) {
			p.env = append(p.env, "LD_PRELOAD=/tmp/x.so")
		}, "true", "LD_PRELOAD", false},
		"forced module": {func(r fstest.MapFS, _ *process, _ map[string][2]uint32) {
			r["proc/sys/kernel/tainted"].Data = []byte("12290\n")
		}, "true", "forced into the kernel", false},
		"no status":  {func(r fstest.MapFS, _ *process, _ map[string][2]uint32) { delete(r, "proc/self/status") }, "", "", true},
		"no taint":   {func(r fstest.MapFS, _ *process, _ map[string][2]uint32) { delete(r, "proc/sys/kernel/tainted") }, "", "", true},
		"no program": {func(r fstest.MapFS, p *process, _ map[string][2]uint32) { p.executable = "" }, "", "", true},
		"deleted, and traced": {func(r fstest.MapFS, p *process, _ map[string][2]uint32) {
			p.executable = "usr/bin/gone"
			r["proc/self/status"].Data = []byte("TracerPid:\t1\n")
		}, "true", "debugger", true},
	} {
		got, err := device(c.change)
		if got["device.tampered"] != c.want || !strings.Contains(got[signsFact], c.sign) || (err != nil) != c.missing {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
