package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// setting is one of the kernel's, below /proc/sys.
type setting struct{ name, value string }

// settings are those of the kernel itself; those of the network are package firewall's.
var settings = []setting{
	// What the kernel tells of itself.
	{"kernel/kptr_restrict", "2"}, {"kernel/dmesg_restrict", "1"}, {"kernel/perf_event_paranoid", "3"},
	// Doors that nobody here goes through; some of them stay shut until the next start.
	{"kernel/unprivileged_bpf_disabled", "1"}, {"net/core/bpf_jit_harden", "2"}, {"kernel/kexec_load_disabled", "1"},
	{"kernel/yama/ptrace_scope", "3"}, {"kernel/io_uring_disabled", "2"}, {"vm/unprivileged_userfaultfd", "0"},
	{"kernel/unprivileged_userns_clone", "0"}, {"user/max_user_namespaces", "0"},
	{"dev/tty/ldisc_autoload", "0"}, {"dev/tty/legacy_tiocsti", "0"}, {"kernel/sysrq", "0"},
	// Memory and files.
	{"kernel/randomize_va_space", "2"}, {"vm/mmap_min_addr", "65536"}, {"fs/suid_dumpable", "0"}, {"fs/protected_symlinks", "1"},
	{"fs/protected_hardlinks", "1"}, {"fs/protected_fifos", "2"}, {"fs/protected_regular", "2"},
	// A kernel that found itself broken restarts, so that the boot loader counts it. Want of
	// memory ends a process, the least important first, and not the machine.
	{"kernel/panic", "10"}, {"kernel/panic_on_oops", "1"}, {"vm/panic_on_oom", "0"},
	// Ctrl-Alt-Del asks process number 1 (SIGINT); and the screen is for the machine's page.
	{"kernel/ctrl-alt-del", "0"}, {"kernel/printk", "3 4 1 7"},
}

// Harden makes the kernel's settings, those of the network excepted, locks it down
// (kernel_lockdown(7)) where it can be, and rules out core dumps. A setting that the
// kernel does not know is logged and passed over; one that it refuses is an error, after
// all the others were made.
func (c Config) Harden() error {
	var faults []error
	for _, s := range settings {
		err := c.write(filepath.Join("/proc/sys", s.name), s.value)
		if errors.Is(err, fs.ErrNotExist) {
			c.Log.Info("the kernel has no such setting", "setting", s.name)
			continue
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("making the setting %s: %w", s.name, err))
		}
	}
	if err := c.os().Limit(unix.RLIMIT_CORE, unix.Rlimit{}); err != nil {
		faults = append(faults, fmt.Errorf("ruling out core dumps: %w", err))
	}
	if err := c.lockDown(); err != nil {
		faults = append(faults, err)
	}
	if err := c.write("/proc/self/oom_score_adj", "-1000"); err != nil {
		faults = append(faults, fmt.Errorf("keeping process number 1 in want of memory: %w", err))
	}
	return errors.Join(faults...)
}

// write puts a value into a file of the kernel's.
func (c Config) write(path, value string) error {
	f, err := os.OpenFile(c.at(path), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// lockDown keeps root, too, from reading and changing the kernel. The file shows all
// levels and the one that is set in brackets; it goes up alone.
func (c Config) lockDown() error {
	const path = "/sys/kernel/security/lockdown"
	text, err := os.ReadFile(c.at(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.Log.Info("the kernel cannot be locked down")
		return nil
	case err != nil:
		return fmt.Errorf("locking the kernel down: %w", err)
	case strings.Contains(string(text), "[confidentiality]"):
		return nil
	}
	if err := c.write(path, "confidentiality"); err != nil {
		return fmt.Errorf("locking the kernel down: %w", err)
	}
	return nil
}
