package dataplane

import "time"

// Times is one look at the three clocks.
type Times struct {
	Wall      time.Time
	Boot      int64 // CLOCK_BOOTTIME, nanoseconds
	Monotonic int64 // CLOCK_MONOTONIC, nanoseconds
}
