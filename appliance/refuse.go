package appliance

import "errors"

var (
	// ErrRefused reports what the machine does not do; the error's text tells the
	// administrator why.
	ErrRefused = errors.New("refused")
	// ErrBusy reports that another update, trial or shutdown is under way.
	ErrBusy = errors.New("the machine is busy")
)
