package daemon

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

// TestCollectLater looks at the setting before the first collection and after it. The cleanup
// runs some time after a collection.
func TestCollectLater(t *testing.T) {
	before := debug.SetGCPercent(77)
	t.Cleanup(func() { debug.SetGCPercent(before) })
	putOff(firstCollection)
	deadline := time.Now().Add(20 * time.Second)
	for now := percent(); now != 77; now = percent() {
		if now != firstCollection {
			t.Fatalf("the setting is %d", now)
		}
		if time.Now().After(deadline) {
			t.Fatal("collections came, and the setting is not what it was before")
		}
		runtime.GC()
	}
}

// percent is the setting, as it is.
func percent() uint64 {
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
