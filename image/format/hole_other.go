//go:build !linux

package format

import "os"

// nextData says that there is data everywhere: zeros are then found by reading.
func nextData(_ *os.File, from int64) int64 { return from }
