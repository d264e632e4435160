package appliance

import "errors"

// ParseSetup reads a Setup from YAML or JSON, which have the same keys, and checks it. The
// error is of type Faults and lists everything that is wrong.
func ParseSetup(text []byte) (Setup, error) {
	return Setup{}, errors.ErrUnsupported
}

// Check says what is wrong with a setup; the error is of type Faults, without lines.
func (s Setup) Check() error { return errors.ErrUnsupported }
