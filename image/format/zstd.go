package format

import (
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Zstd writes the raw bytes of d, without what it was declared larger, compressed by
// Zstandard (RFC 8878) with a checksum.
func Zstd(w io.Writer, d *Disk) error {
	// One goroutine and a fixed window: the output must not depend on the machine.
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(4*MiB), zstd.WithEncoderCRC(true))
	if err != nil {
		return fmt.Errorf("writing zstd: %w", err)
	}
	done, zeros := int64(0), make([]byte, MiB)
	fill := func(to int64) error {
		for done < to {
			n, err := z.Write(zeros[:min(to-done, MiB)])
			if done += int64(n); err != nil {
				return err
			}
		}
		return nil
	}
	err = d.each(MiB, func(at int64, piece []byte) error {
		if err := fill(at); err != nil {
			return err
		}
		n, err := z.Write(piece[:min(MiB, d.raw-at)])
		done += int64(n)
		return err
	})
	if err == nil {
		err = fill(d.raw)
	}
	if e := z.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("writing zstd: %w", err)
	}
	return nil
}
