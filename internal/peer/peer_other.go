//go:build !linux && !darwin

package peer

import "errors"

// ask knows no way here.
func ask(int) (uint32, error) { return Nobody, errors.ErrUnsupported }
