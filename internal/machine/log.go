package machine

import (
	"io"
	"log/slog"
	"os"

	"lazaret/appliance/ring"
)

// startLog has everything that is said kept in memory, and what is grave shown on the
// consoles as well: the kernel prints there what is written to /dev/kmsg.
func (m *Machine) startLog() {
	m.ring = ring.New(ring.Config{Console: kmsg{}, Grave: ring.Error})
	level := new(slog.LevelVar)
	m.log = slog.New(slog.NewTextHandler(m.ring.Writer("machine"), &slog.HandlerOptions{Level: level, ReplaceAttr: untimed}))
	m.kernel.Log = m.log
	slog.SetDefault(m.log)
}

// untimed leaves the time to the ring.
func untimed(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// kmsg is the kernel's log, opened for each line: the first ones come before there is a /dev.
type kmsg struct{}

func (kmsg) Write(line []byte) (int, error) {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return io.Discard.Write(line)
	}
	defer f.Close()
	return f.Write(append([]byte("<3>lazaret: "), line...))
}
