package clock

import (
	"errors"
	"fmt"
	"time"
)

// Bounds of what a person at the machine may set and is asked about.
const (
	// MaxYears is how many years after the image was built a person's time may be: more is
	// mistyped.
	MaxYears = 10
	// doubtful is how far beyond what is known a clock is taken as it comes.
	doubtful = 30 * 24 * time.Hour
)

// Check says whether a person may set the clock to at: not before the image was built, and
// not many years after. The mark is no bound, since it may be wrong.
func (k *Keeper) Check(at time.Time) error {
	built := k.config.Built
	switch last := built.AddDate(MaxYears, 0, 0); {
	case built.IsZero():
		return errors.New("it is not known when this image was built, and so not which time can be")
	case at.Before(built):
		return fmt.Errorf("this image is of %s, and that is before", built.UTC().Format(minutes))
	case at.After(last):
		return fmt.Errorf("this image is of %s, and that is more than %d years later", built.UTC().Format(minutes), MaxYears)
	}
	return nil
}

// minutes is how a time is said to a person.
const minutes = "2006-01-02 15:04 UTC"

// Set sets the clock to a time that a person gives, for where no time servers can be asked.
// What they say from then on is followed within the bounds. The clock is not called
// synchronized by it.
func (k *Keeper) Set(at time.Time) error {
	k.turn.Lock()
	defer k.turn.Unlock()
	if err := k.Check(at); err != nil {
		return fmt.Errorf("setting the clock: %w", err)
	}
	if s := k.Status(); s.Synchronized && s.Problem == "" {
		return errors.New("setting the clock: time servers agree, and the clock follows them")
	}
	was := k.config.System.Now()
	if err := k.config.System.Step(at); err != nil {
		return err
	}
	k.config.Log.Warn("a person set the clock", "from", was.UTC(), "to", at.UTC())
	k.mu.Lock()
	k.when = time.Time{}
	k.mu.Unlock()
	k.mark(true) // the one before may be ahead, and would hold at the next start
	if err := k.config.System.Save(at); err != nil {
		return fmt.Errorf("the clock is set, until the next start: %w", err)
	}
	return nil
}

// Now reads the clock that is kept, without the monotonic one.
func (k *Keeper) Now() time.Time { return k.config.System.Now().Round(0) }

// Doubtful says whether the clock may be wrong as far as can be told without time servers:
// they do not agree, and it is far beyond the last time known to have passed.
func (k *Keeper) Doubtful() bool {
	return !k.Status().Synchronized && k.config.System.Now().Sub(k.floor()) > doubtful
}
