package gpt

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"lazaret/internal/testneed"
)

// A machine that starts the disk by BIOS says what to do about it.
func TestBIOSIsTold(t *testing.T) {
	m := protective(8192)
	if len(biosCode) != 0x2e || len(bios()) > 440 {
		t.Fatalf("%d bytes of code and %d in all: the text is looked for at 2eh, and 440 bytes are free", len(biosCode), len(bios()))
	}
	qemu := testneed.Program(t, "qemu-system-x86_64")
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, append(m, make([]byte, 4<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	c := exec.CommandContext(ctx, qemu, "-nodefaults", "-display", "none", "-serial", "stdio", "-accel", "tcg", "-m", "64", "-machine", "q35", "-drive", "file="+disk+",format=raw")
	c.WaitDelay = 5 * time.Second
	out := &finds{want: []byte("Choose UEFI"), found: stop}
	c.Stdout, c.Stderr = out, out
	_ = c.Run() // it halts, and is ended
	if !bytes.Contains(out.all, []byte("Lazaret needs UEFI firmware")) || !bytes.Contains(out.all, out.want) {
		t.Errorf("the machine says %q", out.all)
	}
}

// finds keeps what is written, and tells when a text was.
type finds struct {
	all, want []byte
	found     func()
}

func (f *finds) Write(b []byte) (int, error) {
	f.all = append(f.all, b...)
	if bytes.Contains(f.all, f.want) {
		f.found()
	}
	return len(b), nil
}
