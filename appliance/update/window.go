package update

import "lazaret/appliance"

// Window is when updates are installed unasked.
type Window = appliance.Window

// ParseWindow is appliance.ParseWindow.
func ParseWindow(text string) (Window, error) { return appliance.ParseWindow(text) }
