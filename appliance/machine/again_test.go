package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

// refusing has all of a bundle read before it is refused.
type refusing struct {
	Host
	ended error // how the context of the last call was when it began
}

func (r *refusing) StageUpdate(ctx context.Context, b io.Reader, _ Options) (Staged, error) {
	r.ended = context.Cause(ctx)
	_, err := io.Copy(io.Discard, b)
	return Staged{}, errors.Join(err, fmt.Errorf("%w: it is not the one that was signed", ErrRefused))
}

// TestNextUpdate: an update that was refused does no harm to the one that comes next.
func TestNextUpdate(t *testing.T) {
	h := &refusing{}
	c := Connect(open(t, h, io.Discard, uint32(os.Getuid())))
	for range 5 {
		_, err := c.StageUpdate(t.Context(), strings.NewReader(strings.Repeat("x", 1<<20)), Options{Size: 1 << 20})
		if !errors.Is(err, ErrRefused) || h.ended != nil {
			t.Fatalf("%v, staged with a context that is %v", err, h.ended)
		}
	}
}
