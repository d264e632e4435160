package supervise

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// slack is how much later than asked the kernel may wake a thread, so that one timer serves
// several (prctl(2), PR_SET_TIMERSLACK; by default 50 µs). Go's runtime looks at what its
// threads do every 20 µs, which costs more than what it looks at where processors are
// emulated; and no timer of an appliance's is about a millisecond.
const slack = time.Millisecond

// slacken gives the calling thread, and all that it makes, slack. Without it all works.
func slacken() error {
	return unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack), 0, 0, 0)
}

// Slacken gives all threads of this process the slack that parts have. It needs /proc and
// CAP_SYS_NICE; without it all works.
func Slacken() error {
	for range 2 { // a thread that had none yet may have made another one meanwhile
		if err := slackenAll(); err != nil {
			return fmt.Errorf("giving timers slack: %w", err)
		}
	}
	return nil
}

func slackenAll() error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, t := range threads {
		// Of a thread it is there, though lists of /proc do not show it.
		err := os.WriteFile(filepath.Join("/proc", t.Name(), "timerslack_ns"), strconv.AppendInt(nil, int64(slack), 10), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) { // it has ended
			return err
		}
	}
	return nil
}
