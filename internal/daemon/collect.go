package daemon

import (
	"runtime"
	"runtime/debug"
	"sync"
)

// firstCollection is how large the heap may grow before it is collected for the first time, in
// percent of Go's least heap of 4 MB. A start leaves little to collect, and two collections
// were a twentieth of what it takes.
const firstCollection = 400

// collectLater puts off the process's first collection of garbage.
var collectLater = sync.OnceFunc(func() { putOff(firstCollection) })

// putOff changes the setting until the first collection; from then on it is what it was before.
func putOff(percent int) {
	before := debug.SetGCPercent(percent)
	runtime.AddCleanup(new([64]byte), func(percent int) { debug.SetGCPercent(percent) }, before)
}
