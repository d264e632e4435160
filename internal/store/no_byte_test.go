package store

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"lazaret/internal/store/enrolltest"
	"lazaret/internal/testneed"
	"lazaret/quarantine"
)

const (
	diskDir   = "LAZARET_STORE_DISK"       // where the namespace's own small disk is to be
	diskPhase = "LAZARET_STORE_DISK_PHASE" // what a process on that disk is to do
)

// TestNoFreeByte: on a disk without a single free byte, of which others take whatever is given
// up, a store takes in what tightens, opens again after it was killed, again and again, lets
// nothing out, and goes on as before once there is room.
func TestNoFreeByte(t *testing.T) {
	switch {
	case os.Getenv(diskPhase) != "":
		onFullDisk(t, os.Getenv(diskDir), os.Getenv(diskPhase))
		return
	case os.Getenv(diskDir) != "":
		if err := unix.Mount("tmpfs", os.Getenv(diskDir), "tmpfs", 0, "size=224m"); err != nil {
			t.Fatal(err)
		}
		fullDisk(t, os.Getenv(diskDir))
		return
	}
	testneed.Namespaces(t)
	t.Parallel()
	c := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestNoFreeByte$", "-test.v")
	c.Env = append(os.Environ(), diskDir+"="+t.TempDir())
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := c.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

// fullDisk starts one process after the other on the disk, and fills it in between.
func fullDisk(t *testing.T, dir string) {
	for n, phase := range []string{"fill", "tighten", "snapshot", "tighten", "snapshot", "bare", "read"} {
		switch phase {
		case "tighten", "snapshot":
			fillUp(t, dir)
		case "bare": // of what was to be given up nothing is left
			if err := os.Remove(sparePath(filepath.Join(dir, "etcd"))); err != nil {
				t.Fatal(err)
			}
			fillUp(t, dir)
		case "read":
			if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
				t.Fatal(err)
			}
		}
		c := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestNoFreeByte$", "-test.v")
		c.Env = append(os.Environ(), diskPhase+"="+phase)
		out, err := c.CombinedOutput()
		t.Logf("%d, %s: %s", n, phase, out)
		var exit *exec.ExitError
		switch {
		case phase == "read" && err != nil:
			t.Fatalf("%s: %v", phase, err)
		case phase != "read" && (!errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL):
			t.Fatalf("%s, process %d ended with %v, and was to kill itself", phase, n, err)
		}
	}
}

// fillUp takes every byte that is left, page by page at the end, also what another gives back
// meanwhile that it could not get enough of.
func fillUp(t *testing.T, dir string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "filler"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for free := int64(1); free > 0; {
		for _, size := range []int{4 << 20, 128 << 10, 4 << 10} {
			for err = nil; err == nil; {
				_, err = f.Write(make([]byte, size))
			}
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
		}
		if free, err = diskFree(dir); err != nil {
			t.Fatal(err)
		}
	}
}

// onFullDisk is what one process does: it opens the store, and but for the last one ends with
// SIGKILL. Others take what it gave up, but in the phase of etcd's snapshots, which need some.
func onFullDisk(t *testing.T, dir, phase string) {
	c, err := killed(dir)
	if err != nil {
		t.Fatal(err)
	}
	c.Ballast = 4 << 20
	if phase == "snapshot" || phase == "bare" {
		c.snapshots = 100
	}
	c.Log = slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s := open(t, c)
	running := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	defer func() { stop(); <-running }()
	go func() { running <- s.Run(ctx) }()
	id := enrolltest.Record(1).ID
	switch phase {
	case "fill":
		enrolltest.Enroll(t, s, 1)
		if err := place(t, s, id, quarantine.Routed, "default"); err != nil {
			t.Fatal(err)
		}
		fillUp(t, dir)
		s.dropBallast()
		fillUp(t, dir)
	case "tighten":
		fillUp(t, dir)
	case "read":
		afterwards(t, s, c, id)
		return
	}
	for n := range 100 {
		if err := errors.Join(place(t, s, id, quarantine.Quarantined, "quarantine"), place(t, s, id, quarantine.Blocked, "")); err != nil {
			t.Fatalf("change %d: %v", n, err)
		}
	}
	if phase != "snapshot" {
		err := place(t, s, id, quarantine.Routed, "default")
		if !errors.Is(err, quarantine.ErrNoRoom) || !strings.Contains(err.Error(), "the gateway's disk is full") {
			t.Fatalf("released on a full disk: %v", err)
		}
	}
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way
}

// afterwards there is room: nothing is lost, and the device may be let out.
func afterwards(t *testing.T, s *Store, c Config, id quarantine.ID) {
	t.Helper()
	if r, err := s.Device(t.Context(), id); err != nil || r.Stage != quarantine.Blocked {
		t.Errorf("the device is %s, %v", r.Stage, err)
	}
	if err := errors.Join(place(t, s, id, quarantine.Quarantined, "quarantine"), place(t, s, id, quarantine.Routed, "default")); err != nil {
		t.Errorf("with room again: %v", err)
	}
	logged(t, s, c, 1)
	entries, err := s.AuditLog().List(t.Context(), string(id), epochStart, 0)
	if want := 1 + 1 + 6*200 + 2; err != nil || len(entries) != want {
		t.Errorf("%d entries in the audit log, %v; want %d", len(entries), err, want)
	}
	if info, err := os.Stat(sparePath(c.Dir)); err != nil || info.Size() != spareSize {
		t.Errorf("the spare is not made again: %+v, %v", info, err)
	}
}

// place records a stage of a device.
func place(t *testing.T, s *Store, id quarantine.ID, stage quarantine.Stage, pool string) error {
	t.Helper()
	next, err := s.Device(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	next.Stage, next.Pool = stage, pool
	by := quarantine.Actor{Kind: "token", Name: "fleet"}
	_, err = s.Record(t.Context(), quarantine.Change{Kind: quarantine.Reported, Device: id, By: by, Report: &quarantine.Report{Device: id, Source: "fleet"}}, next)
	return err
}
