// Guest is the first process of a virtual machine that runs tests: it loads the modules that
// /guest/modules names, as the image does, runs the test binaries in /guest/tests in the order
// of their names, says on the serial line how each ended, and turns the machine off. The file
// NN-TestName holds the test TestName.
package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
	"lazaret/appliance/modules"
)

func main() {
	if err := run(); err != nil {
		fmt.Println("MARK FAIL", err)
	}
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("MARK FAIL turning off:", err)
	}
}

func run() error {
	for _, m := range [][2]string{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m[1], err)
		}
	}
	if err := load(); err != nil {
		return err
	}
	tests, err := os.ReadDir("/guest/tests")
	if err != nil {
		return err
	}
	for _, f := range tests {
		_, name, _ := strings.Cut(f.Name(), "-")
		c := exec.Command("/guest/tests/"+f.Name(), "-test.v", "-test.count=1", "-test.timeout=3m", "-test.run=^"+name+"$")
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		fmt.Printf("guest: %s ended: %v\n", name, c.Run())
	}
	return nil
}

func load() error {
	names, err := os.ReadFile("/guest/modules")
	if err != nil {
		return err
	}
	found, err := filepath.Glob(appliance.ModuleDir + "/*/" + appliance.ModuleIndexName)
	if err != nil || len(found) != 1 {
		return fmt.Errorf("found the indexes of modules %v (%v)", found, err)
	}
	f, err := os.Open(found[0])
	if err != nil {
		return err
	}
	defer f.Close()
	index, err := appliance.ParseModuleIndex(f)
	if err != nil {
		return err
	}
	l := modules.New(modules.Config{Index: index, Log: slog.Default(), Dir: filepath.Dir(found[0])})
	return l.Load(strings.Fields(string(names))...)
}
