package agent

import (
	"context"
	"maps"
	"runtime"
	"sync"
	"time"

	"lazaret/enroll/cmp"
	postures "lazaret/internal/posture"
)

// postureLife is for how long collected facts are reported again before the device is
// looked at anew: collectors read many files, and run programs on some systems.
const postureLife = 2 * time.Minute

// recent is what was last collected of the device; it is the device's, not one agent's.
var recent lately

// lately keeps a posture for postureLife. Its zero value is ready.
type lately struct {
	mu   sync.Mutex // also held while collecting: two who ask share one look
	have postures.Posture
	at   time.Time // with the monotonic clock, so that a set clock keeps nothing alive
}

// get returns what was collected in the last postureLife, or collects it with do.
func (l *lately) get(ctx context.Context, do func(context.Context) postures.Posture) postures.Posture {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.at.IsZero() || time.Since(l.at) >= postureLife {
		l.have, l.at = do(ctx), time.Now()
		if ctx.Err() != nil { // cut short: the next one looks again
			l.at = time.Time{}
		}
	}
	out := l.have
	out.Facts = maps.Clone(out.Facts)
	return out
}

// forget makes the next get look anew.
func (l *lately) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = time.Time{}
}

// posture is what this device says of itself. What is not known is left out, and a missing
// fact never counts as good.
func posture(ctx context.Context) map[string]string { return recent.get(ctx, postures.Collect).Facts }

// claim is what this device says of itself when it enrolls. A one-time password may want
// it to say something in particular; it is never a credential.
func claim(ctx context.Context) cmp.Claim {
	return cmp.Claim{Version: 1, Platform: runtime.GOOS, Serial: posture(ctx)["device.serial"]}
}
