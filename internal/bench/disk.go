package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// disk times the least that anything kept safe from a crash costs here: one small write
// with fdatasync, in the directory where everything else is kept.
type disk struct {
	file *os.File
	took samples
}

func openDisk(dir string) (*disk, error) {
	f, err := os.OpenFile(filepath.Join(dir, "disk"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening a file to measure the disk: %w", err)
	}
	return &disk{file: f}, nil
}

func (d *disk) Close() error { return d.file.Close() }

// write makes one sample.
func (d *disk) write() error {
	start := time.Now()
	_, err := d.file.Write(make([]byte, 1024))
	if err := errors.Join(err, unix.Fdatasync(int(d.file.Fd()))); err != nil {
		return fmt.Errorf("measuring the disk: %w", err)
	}
	d.took = append(d.took, time.Since(start))
	return nil
}

// rows tells how the disk did.
func (d *disk) rows(s *session, when string) {
	for _, q := range []struct {
		name string
		part float64
	}{{"p50", 0.5}, {"p99", 0.99}} {
		s.add(row{Name: "disk: 1 KiB written and synced, " + q.name, Value: millis(d.took.quantile(q.part)), Unit: "ms",
			ComparedWith: fmt.Sprintf("%s; %d samples", when, len(d.took))})
	}
}
