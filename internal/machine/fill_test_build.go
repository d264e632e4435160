//go:build lazarettest

package machine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
)

// fill has a file take the room of the data partition, but for so many MiB; 0 leaves none,
// what the file system keeps for root included. What an order before took is given back
// first; "none" does no more than that.
func fill(leave string) error {
	path := filepath.Join(appliance.MachineDir, "filler")
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	if leave == "none" {
		return nil
	}
	n, err := strconv.ParseInt(leave, 10, 32)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return err
	}
	size := int64(st.Bavail)*int64(st.Bsize) - n<<20
	if size <= 0 {
		return fmt.Errorf("there are %d MiB free already", int64(st.Bavail)*int64(st.Bsize)>>20)
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil && !(n == 0 && errors.Is(err, unix.ENOSPC)) {
		return err
	}
	for more := int64(64 << 20); n == 0 && more >= st.Bsize; {
		var at unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &at); err != nil {
			return err
		}
		if err := unix.Fallocate(int(f.Fd()), 0, at.Size, more); errors.Is(err, unix.ENOSPC) {
			more /= 2
		} else if err != nil {
			return err
		}
	}
	return f.Sync()
}
