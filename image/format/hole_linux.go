package format

import (
	"errors"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// nextData is where f has data next, at from or behind it; past the end where there is
// none. A file system that does not know of holes has data everywhere (lseek(2)).
func nextData(f *os.File, from int64) int64 {
	raw, err := f.SyscallConn()
	if err != nil {
		return from
	}
	at := from
	err = raw.Control(func(fd uintptr) {
		found, err := unix.Seek(int(fd), from, unix.SEEK_DATA)
		switch {
		case err == nil:
			at = found
		case errors.Is(err, unix.ENXIO):
			at = math.MaxInt64
		}
	})
	if err != nil {
		return from
	}
	return at
}
