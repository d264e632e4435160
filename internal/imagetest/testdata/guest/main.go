// Guest is the first process of a virtual machine that runs tests: it loads the modules in
// /guest/modules, runs the test binaries in /guest/tests, both in the order of their names, says
// on the serial line how each ended, and turns the machine off. The file NN-TestName holds
// the test TestName.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
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
	if err := each("/guest/modules", load); err != nil {
		return err
	}
	return each("/guest/tests", func(path string) error {
		_, name, _ := strings.Cut(filepath.Base(path), "-")
		c := exec.Command(path, "-test.v", "-test.count=1", "-test.timeout=3m", "-test.run=^"+name+"$")
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		fmt.Printf("guest: %s ended: %v\n", name, c.Run())
		return nil
	})
}

// each does something with each file of a directory, sorted.
func each(dir string, do func(path string) error) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := do(filepath.Join(dir, f.Name())); err != nil {
			return err
		}
	}
	return nil
}

// load gives a module to the kernel, which unpacks what is packed.
func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if filepath.Ext(path) != ".ko" {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil {
		return fmt.Errorf("loading %s: %w", path, err)
	}
	return nil
}
