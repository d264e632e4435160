// Package screen shows how a machine does on its own consoles, the video one and the serial
// one, and offers a small menu there to whoever stands before it. There is no shell behind
// it: a key starts one of the functions it was given, after a confirmation, or nothing.
//
// The video console is redrawn in place. A serial line may be a log file, a dumb terminal
// or a slow wire: there a block of lines is printed when something that matters has changed,
// without any control code, and one line that programs can read (see Line). Text that comes from
// elsewhere is reduced to printable ASCII first, since a name that someone else chose must
// not steer the terminal of whoever reads it.
package screen

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"time"

	"lazaret/appliance"
)

// Console is a place where the screen is shown and keys are read.
type Console struct {
	Name   string // below /dev, like "tty1"
	Serial bool   // lines are printed, and nothing is drawn over
}

// Consoles are those a machine has by its architecture; one that is missing is passed over.
func Consoles() []Console {
	serial := "ttyS0"
	if runtime.GOARCH == "arm64" {
		serial = "ttyAMA0"
	}
	return []Console{{Name: "tty1"}, {Name: serial, Serial: true}}
}

// Actions are what the menu offers. What is nil is not offered. Each is called from a
// console's own goroutine, at most once at a time on each console, with a context that ends with Run's;
// its error is shown to whoever pressed the key.
type Actions struct {
	// SetAddress configures one card, named as in Status.Links, and leaves the others as they are.
	SetAddress func(ctx context.Context, card string, link appliance.Link) error
	// ResetAdministrator issues a new claim code, by which a new administrator is made;
	// those there are stay listed. The code comes with the next Status.
	ResetAdministrator func(context.Context) error
	// SetPassphrase, Seal and NewRecovery change what keeps the key of the data partition.
	// pin is empty for none. A recovery passphrase is shown on the console where it was asked
	// for, once; none: the one from before stays.
	SetPassphrase func(ctx context.Context, passphrase string) error
	Seal          func(ctx context.Context, pin string) (recovery string, err error)
	NewRecovery   func(ctx context.Context) (string, error)
	// AcceptTime sets the clock to what the time servers agree on. It is offered while
	// Status.Clock has a problem, or is not synchronized once the machine stands.
	AcceptTime func(context.Context) error
	// SetTime sets the clock to a time that was typed there, for where no servers can be
	// asked, and CheckTime says beforehand whether that can be. Both optional.
	SetTime      func(context.Context, time.Time) error
	CheckTime    func(time.Time) error
	RollBack     func(context.Context) error // boots the slot before this one
	FactoryReset func(context.Context) error // destroys the key of the data partition
	Reboot       func(context.Context) error
	PowerOff     func(context.Context) error
	// Log returns the last lines of the machine's log, at most n, the oldest first. It must
	// hold no secret: whoever stands before the screen reads it.
	Log func(n int) []string
}

// Config says what a Screen is made of.
type Config struct {
	Consoles []Console                           // optional: Consoles()
	Open     func(name string) (*os.File, error) // optional: opens /dev/name; the file must be a terminal that can be polled
	Video    func() bool                         // optional: whether somebody could see the video console; asks the kernel
	Actions  Actions                             // optional
	Log      *slog.Logger                        // required; it is told of consoles that fail, never of what was typed
}

// ErrClosed is what Ask returns when the Screen's Run has ended.
var ErrClosed = errors.New("the screen is closed")

// Screen is shown on all consoles at once. Its methods may be called at any time by
// several goroutines, Run once.
type Screen struct {
	config Config

	mu       sync.Mutex
	status   appliance.Status
	question *question
	changed  chan struct{} // closed, and replaced, at every change of the two above

	idle   time.Duration // unused
	asking chan struct{} // holds one token: one question at a time
	closed chan struct{} // closed when Run returns
}

// New returns a Screen that shows a starting machine once Run is called.
func New(c Config) (*Screen, error) {
	if c.Log == nil {
		return nil, errors.New("making a screen: no log given")
	}
	if c.Consoles == nil {
		c.Consoles = Consoles()
	}
	if c.Video == nil {
		c.Video = func() bool { return hasVideo("/sys/class/vtconsole") }
	}
	if c.Open == nil {
		c.Open = openDevice
	}
	return &Screen{
		config:  c,
		status:  appliance.Status{Stage: appliance.Starting},
		changed: make(chan struct{}),
		idle:    unused,
		asking:  make(chan struct{}, 1),
		closed:  make(chan struct{}),
	}, nil
}

// Show has all consoles show st. It returns at once; what follows within a second is drawn
// together.
func (s *Screen) Show(st appliance.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = st
	s.tell()
}

// tell wakes the consoles; s.mu is held.
func (s *Screen) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// seen returns what is to be shown, and what is closed when that has changed.
func (s *Screen) seen() (appliance.Status, *question, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status, s.question, s.changed
}

// Run shows the screen on every console until ctx ends, and gives the terminals back as it
// found them. A console that fails is opened again after a while: it never ends the others.
// It returns nil.
func (s *Screen) Run(ctx context.Context) error {
	defer close(s.closed)
	var consoles sync.WaitGroup
	for _, c := range s.config.Consoles {
		consoles.Go(func() { s.serve(ctx, c) })
	}
	consoles.Wait()
	return nil
}

// serve keeps one console, opening it again and again. What fails in the same way as
// before is not told a second time.
func (s *Screen) serve(ctx context.Context, c Console) {
	told := ""
	for ctx.Err() == nil {
		err := s.show(ctx, c)
		if ctx.Err() == nil && err != nil && err.Error() != told {
			told = err.Error()
			s.config.Log.Warn("console lost; trying again every few seconds", "console", c.Name, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(again):
		}
	}
}

const (
	again  = 5 * time.Second // a console that failed is left alone so long
	unused = 3 * time.Minute // a dialog nobody types in is given up
)

// Ask puts a question on all consoles and returns the first answer, of at most MaxAnswer
// bytes. A secret one is not shown while it is typed, and not taken empty. The prompt may have several
// rows. Questions are put one after the other;
// ctx ends the wait.
func (s *Screen) Ask(ctx context.Context, prompt string, secret bool) (string, error) {
	return s.ask(ctx, &question{prompt: prompt, secret: secret})
}

// AskAside is Ask for a prompt that holds a secret itself: where there is a video console, it
// is put there alone, since what goes to a serial line may be kept by whoever is at its end.
func (s *Screen) AskAside(ctx context.Context, prompt string) (string, error) {
	return s.ask(ctx, &question{prompt: prompt, aside: s.config.Video()})
}

func (s *Screen) ask(ctx context.Context, q *question) (string, error) {
	select {
	case s.asking <- struct{}{}:
		defer func() { <-s.asking }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case <-s.closed:
		return "", ErrClosed
	}
	q.answer, q.over = make(chan string, 1), make(chan struct{})
	s.put(q)
	defer s.put(nil)
	defer close(q.over)
	select {
	case a := <-q.answer:
		return a, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case <-s.closed:
		return "", ErrClosed
	}
}

func (s *Screen) put(q *question) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.question = q
	s.tell()
}

// MaxAnswer is the length of the longest answer taken, in bytes.
const MaxAnswer = appliance.MaxTyped

// question is what Ask put and waits for.
type question struct {
	prompt string
	secret bool
	aside  bool          // not for a serial line
	answer chan string   // holds the first answer; later ones are dropped
	over   chan struct{} // closed when nobody waits any more
}
