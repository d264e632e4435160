package dump

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestWhole(t *testing.T) {
	broken := errors.New("broken")
	for name, x := range map[string]struct {
		interrupted, asked int // how often it is interrupted, and how often asked then
		err, want          error
	}{
		"at once":            {0, 1, nil, nil},
		"after two":          {2, 3, nil, nil},
		"an error is one":    {0, 1, broken, broken},
		"an error after one": {1, 2, broken, broken},
		"never":              {1000, tries, nil, netlink.ErrDumpInterrupted},
	} {
		asked := 0
		got, err := Whole(func() ([]int, error) {
			if asked++; asked <= x.interrupted {
				return []int{1}, fmt.Errorf("listing: %w", netlink.ErrDumpInterrupted)
			}
			return []int{1, 2}, x.err
		})
		if asked != x.asked || !errors.Is(err, x.want) {
			t.Errorf("%s: asked %d times, want %d; error %v, want %v", name, asked, x.asked, err, x.want)
		}
		if err == nil && !slices.Equal(got, []int{1, 2}) {
			t.Errorf("%s: %v", name, got)
		}
	}
}
