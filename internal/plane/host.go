package plane

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"reflect"
	"sync"
	"time"

	"lazaret/firewall"
	"lazaret/internal/durable"
)

// The bounds of how long host rules are tried.
const (
	ShortestTry = 2 * time.Second
	LongestTry  = time.Hour
)

// revertAgain is how soon a revert that the kernel refused is tried again.
const revertAgain = 2 * time.Second

// mendAgain is how soon a record that could not be written is written again.
const mendAgain = 2 * time.Second

// HostServices is the part of the host's rules that an administrator may change while the
// data plane runs.
type HostServices struct {
	In  []firewall.Service // from outside
	Out []firewall.Service // From lists destinations
}

// servicesOf are those of a ruleset.
func servicesOf(r firewall.Ruleset) HostServices { return HostServices{r.Outside, r.Out} }

// Equal says whether both let the same in and out.
func (h HostServices) Equal(o HostServices) bool {
	same := func(a, b []firewall.Service) bool { return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b) }
	return same(h.In, o.In) && same(h.Out, o.Out)
}

// hostGuard changes the host's rules so that a mistake takes itself back. What is tried is
// in force at once and until its time is over, unless it is confirmed. The revert is this
// process's own timer and needs nobody. What was confirmed is kept in a file, so that a
// data plane that starts again begins with that, and not with what was being tried.
type hostGuard struct {
	base  firewall.Ruleset // all of the host's rules but the services
	path  string           // of the record
	write func(path string, text []byte) error
	apply func(firewall.Ruleset) error
	log   *slog.Logger

	mu        sync.Mutex
	confirmed HostServices
	recorded  bool          // the record holds confirmed
	trying    *HostServices // nil: confirmed is in force
	until     time.Time     // when trying ends
	timer     *time.Timer
	turn      int // counts tries, so that a timer of an earlier one does nothing

	doubtful bool        // the record may hold rules that nobody confirmed
	again    *time.Timer // mends the record
}

// newHostGuard begins with what was confirmed last, or with the configuration's services
// where nothing ever was.
func newHostGuard(path string, configured firewall.Ruleset, log *slog.Logger) *hostGuard {
	g := &hostGuard{base: configured, path: path, write: writeDurably, log: log, confirmed: servicesOf(configured)}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return g
	}
	var r hostRecord
	if err == nil {
		r, err = parseHostRecord(text)
	}
	if err == nil {
		err = g.with(r.services()).Check()
	}
	if err != nil { // the configuration is the administrator's word too, and dropping nothing would be worse
		log.Error("the record of confirmed host rules cannot be used; the configuration's are in force", "file", path, "error", err)
		return g
	}
	if !r.services().Equal(g.confirmed) {
		log.Warn("the configuration's host rules were never confirmed; those confirmed last are in force: run lazaretd firewall try")
	}
	g.confirmed, g.recorded = r.services(), true
	return g
}

// with is the host's whole ruleset with these services.
func (g *hostGuard) with(h HostServices) firewall.Ruleset {
	r := g.base
	r.Outside, r.Out = h.In, h.Out
	return r
}

// rules are those in force.
func (g *hostGuard) rules() firewall.Ruleset {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.with(g.inForce())
}

func (g *hostGuard) inForce() HostServices {
	if g.trying != nil {
		return *g.trying
	}
	return g.confirmed
}

// try puts h in force for d. A second try takes the place of the first; both end with what
// was confirmed.
func (g *hostGuard) try(h HostServices, d time.Duration) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d < ShortestTry || d > LongestTry {
		return fmt.Errorf("trying host rules for %s: want %s to %s", d, ShortestTry, LongestTry)
	}
	next := g.with(h)
	if err := next.Check(); err != nil {
		return fmt.Errorf("trying host rules: %w", err)
	}
	if err := g.record(g.confirmed); err != nil { // first: a restart must find them
		return err
	}
	if err := g.apply(next); err != nil {
		err = fmt.Errorf("trying host rules: %w", err)
		return errors.Join(err, g.revert())
	}
	g.trying, g.until = &h, time.Now().Add(d)
	g.arm(d)
	g.log.Info("host rules are tried", "for", d)
	return nil
}

// arm sets the timer of the present try.
func (g *hostGuard) arm(d time.Duration) {
	if g.timer != nil {
		g.timer.Stop()
	}
	g.turn++
	turn := g.turn
	g.timer = time.AfterFunc(d, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.turn != turn || g.trying == nil {
			return
		}
		if err := g.revert(); err != nil {
			g.log.Error("the tried host rules could not be taken back; trying again", "error", err)
			g.arm(revertAgain)
			return
		}
		g.log.Warn("nobody confirmed the tried host rules: those before are in force again")
	})
}

// revert puts what was confirmed back in force.
func (g *hostGuard) revert() error {
	if err := g.apply(g.with(g.confirmed)); err != nil {
		return fmt.Errorf("taking host rules back: %w", err)
	}
	g.settle()
	return nil
}

// settle ends a try.
func (g *hostGuard) settle() {
	g.trying, g.until = nil, time.Time{}
	if g.timer != nil {
		g.timer.Stop()
	}
}

var errNothingTried = errors.New("no host rules are being tried")

// confirm keeps what is being tried.
func (g *hostGuard) confirm() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.trying == nil {
		return fmt.Errorf("confirming: %w: they were taken back, or never tried", errNothingTried)
	}
	if !time.Now().Before(g.until) {
		return fmt.Errorf("confirming: %w: their time is over, and they are being taken back", errNothingTried)
	}
	g.recorded, g.doubtful = false, true
	if err := g.record(*g.trying); err != nil {
		g.mend()
		return fmt.Errorf("confirming: %w", err)
	}
	g.confirmed = *g.trying
	g.settle()
	g.log.Info("the tried host rules are confirmed")
	return nil
}

// mend writes what is confirmed over a record that may hold what nobody confirmed: writing
// may fail after the file took the place of the one before. It goes on until it succeeds.
func (g *hostGuard) mend() {
	if g.again != nil {
		g.again.Stop()
	}
	if !g.doubtful {
		return
	}
	err := g.record(g.confirmed)
	if err == nil {
		return
	}
	g.log.Error("the record of confirmed host rules may hold others, which a start now would put in force; writing it again", "file", g.path, "error", err)
	g.again = time.AfterFunc(mendAgain, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.mend()
	})
}

// takeBack ends a try at once.
func (g *hostGuard) takeBack() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.trying == nil {
		return fmt.Errorf("reverting: %w", errNothingTried)
	}
	return g.revert()
}

// end takes back what is not confirmed, since nobody will when the process is gone.
func (g *hostGuard) end() {
	if err := g.takeBack(); err != nil && !errors.Is(err, errNothingTried) {
		g.log.Error("the tried host rules stay in force until the data plane starts again", "error", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mend()
	if g.again != nil {
		g.again.Stop()
	}
}

// HostState is what `lazaretd firewall show` prints.
type HostState struct {
	InForce   HostServices
	Confirmed HostServices
	Until     time.Time // when InForce is taken back; zero: it is confirmed
}

func (g *hostGuard) state() HostState {
	g.mu.Lock()
	defer g.mu.Unlock()
	return HostState{InForce: g.inForce(), Confirmed: g.confirmed, Until: g.until}
}

// record writes h to the record, whole or not at all.
func (g *hostGuard) record(h HostServices) error {
	if g.recorded {
		return nil
	}
	text, err := json.Marshal(newHostRecord(h))
	if err == nil {
		err = g.write(g.path, append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("recording host rules: %w", err)
	}
	g.recorded, g.doubtful = true, false
	return nil
}

// writeDurably replaces the record so that it survives a power cut. After an error it is as
// it was, or replaced, though perhaps not for good.
func writeDurably(path string, text []byte) error { return durable.Write(path, text, 0o600) }
