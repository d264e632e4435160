package image

import "fmt"

// signed signs what firmware starts, the boot loader, and what that has firmware start.
func (c *Config) signed(slot, loader []byte) (s, l []byte, err error) {
	if c.Sign == nil {
		return slot, loader, nil
	}
	if s, err = c.Sign(slot); err != nil {
		return nil, nil, fmt.Errorf("signing the slot: %w", err)
	}
	if l, err = c.Sign(loader); err != nil {
		return nil, nil, fmt.Errorf("signing the boot loader: %w", err)
	}
	return s, l, nil
}
