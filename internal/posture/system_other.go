//go:build !linux && !darwin && !windows

package posture

// system is nothing but the agent itself: this system is not known.
func system() []Collector { return []Collector{{"agent", agent}} }
