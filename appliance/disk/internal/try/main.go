//go:build linux

// Try is a process number 1 that does nothing but open the data partition, to see it done
// by a real kernel in a virtual machine; docs/appliance.md says how to start it. The kernel's
// command line says what it does: protection=file, passphrase or tpm, and do=count,
// passphrase or reset. Modules lie in /m, and are loaded by the order of their names.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
	"lazaret/appliance/disk"
)

const finitCompressed = 4 // MODULE_INIT_COMPRESSED_FILE

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "try: this is for a virtual machine's process number 1")
		os.Exit(2)
	}
	if err := run(); err != nil {
		fmt.Println("TRY FAIL", err)
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	for _, m := range [][2]string{{"/dev", "devtmpfs"}, {"/proc", "proc"}, {"/sys", "sysfs"}} {
		_ = os.MkdirAll(m[0], 0o755)
		if err := unix.Mount(m[1], m[0], m[1], 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mounting %s: %w", m[0], err)
		}
	}
	modules, _ := filepath.Glob("/m/*")
	for _, path := range modules {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(f.Fd()), "", finitCompressed); err != nil {
			fmt.Println("TRY module", path, err)
		}
		f.Close()
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	words := map[string]string{}
	for _, w := range strings.Fields(string(line)) {
		k, v, _ := strings.Cut(w, "=")
		words[k] = v
	}
	return try(words)
}

func try(words map[string]string) error {
	changed := make(chan struct{}, 1)
	changed <- struct{}{}
	asked := 0
	began := time.Now()
	d, err := disk.Open(context.Background(), disk.Config{
		Log: slog.New(slog.NewTextHandler(os.Stdout, nil)), Changed: changed, Wait: 10 * time.Second, Protection: appliance.Protection(words["protection"]),
		Tell: func(r string) { fmt.Println("TRY recovery", r) },
		Ask: func(_ context.Context, prompt string, attempt int) ([]byte, error) {
			asked++
			fmt.Println("TRY asked:", prompt)
			if asked > 4 {
				return nil, fmt.Errorf("asked too often")
			}
			return []byte("correct horse"), nil
		},
	})
	if err != nil {
		return err
	}
	took := time.Since(began)
	count := filepath.Join(appliance.DataDir, "boots")
	b, _ := os.ReadFile(count)
	n, _ := strconv.Atoi(string(b))
	f, err := os.Create(count)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(strconv.Itoa(n + 1)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	f.Close()
	fmt.Printf("TRY made=%v boots=%d took=%s status=%+v problems=%q\n", d.Made(), n+1, took.Round(time.Millisecond), d.Status(), d.Problems())
	switch words["do"] {
	case "passphrase":
		began := time.Now()
		err = d.SetPassphrase(context.Background(), []byte("correct horse"))
		fmt.Println("TRY passphrase set in", time.Since(began).Round(time.Millisecond), d.Status().Protection, err)
	case "reset":
		began := time.Now()
		err = d.Reset(context.Background())
		fmt.Println("TRY reset in", time.Since(began).Round(time.Millisecond), err)
		return nil // as a power cut would have it
	case "cut":
		return nil
	}
	if err := d.Close(); err != nil {
		return fmt.Errorf("closing: %w", err)
	}
	fmt.Println("TRY closed")
	return nil
}
