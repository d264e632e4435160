//go:build !linux

package tunnel

import (
	"errors"
	"fmt"
	"runtime"
)

// errNotHere reports a system on which no WireGuard link can be made.
var errNotHere = fmt.Errorf("not supported here: a WireGuard link is made on Linux only, this is %s: %w", runtime.GOOS, errors.ErrUnsupported)

func open(Config) (*Link, error) { return nil, errNotHere }

// SetKey is never called: there is no Link here.
func (l *Link) SetKey(PrivateKey) error { return errNotHere }
