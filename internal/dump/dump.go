// Package dump asks the kernel for lists and gets them whole. What a netlink dump returns
// while links, addresses or routes change may lack some of them or have some twice; the
// kernel says so (NLM_F_DUMP_INTR), and the list has to be asked for again.
package dump

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// tries bounds how often a list is asked for. That it changes under each of them does not
// happen to a machine that is not being reconfigured all the time.
const tries = 20

// Whole asks list until what it returns was not interrupted. After too many tries it returns
// the last list and its error, which is netlink.ErrDumpInterrupted.
func Whole[T any](list func() ([]T, error)) (all []T, err error) {
	for range tries {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}
