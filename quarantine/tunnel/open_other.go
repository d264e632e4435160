//go:build !linux

package tunnel

import "errors"

func open(Config) (*Link, error) {
	return nil, errors.New("no WireGuard link on this system yet")
}
