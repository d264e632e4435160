// Package version says which build this is.
package version

import "runtime/debug"

// Number is the release; the build sets it with -ldflags "-X lazaret/internal/version.Number=1.2.3".
var Number = "0.1.0~dev"

// String is the release with the revision it was built from, where Go recorded one.
func String() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return Number
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return Number + " (" + s.Value[:12] + ")"
		}
	}
	return Number
}
