package posture

import (
	"bytes"
	"context"
	"errors"
)

// Runner runs a tool of the operating system by its full path, with arguments that are
// fixed in this package, and returns the beginning of its output and its exit code. An
// error means that it could not be run, or did not end in time.
type Runner func(ctx context.Context, path string, args ...string) (output string, code int, err error)

// maxOutput bounds what is read of a tool's output.
const maxOutput = 64 << 10

// errOutput reports a tool's output of another form than is known.
var errOutput = errors.New("its answer is of another form")

// bounded keeps the beginning of what is written to it.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if room := maxOutput - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
