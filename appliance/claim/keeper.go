package claim

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// KeeperConfig says what the machine does for its claim.
type KeeperConfig struct {
	Code    Code                     // required: what the screen shows
	About   func() About             // optional: what everybody may know
	Serving func(fingerprint string) // optional: the door listens, with this certificate (SHA-256, hexadecimal in fours)

	// Make makes the gateway, once at a time. Its steps are for the claimant to read. An
	// error that is a *Refusal is passed on; of others the claimant learns nothing. Before a
	// Make, what an earlier one left must not be in the way.
	Make func(ctx context.Context, r Request, step func(string)) (Answer, error) // required
	// Keep makes what Make made last: the claimant has the answer. Until then nothing of it
	// may be used, and a machine that restarts begins anew.
	Keep func(ctx context.Context) error // required

	// Clock is the machine's time, and what it rests on. Optional: it rests on nothing then.
	Clock func() Clock
	// SeedCode says that a seed brought the code: whoever comes with it has no screen before
	// them, and is not asked whether the clock is right. Optional.
	SeedCode bool

	// Administrator has the claim make an administrator of a gateway that is there, and
	// nothing else. Optional.
	Administrator bool

	Wait time.Duration // optional, 10 minutes: how long an answer may be asked for again
	Log  *slog.Logger  // required
}

// Keeper takes one claim. It alone knows the code.
type Keeper struct {
	cfg   KeeperConfig
	wrong tally

	mu      sync.Mutex // guards what follows
	phase   phase
	request Sum // SHA-256 of the request that came first
	steps   []string
	answer  []byte
	refusal *Refusal
	until   time.Time     // of made
	changed chan struct{} // closed, and another, with each change
}

// phase is how far a claim is. The zero phase lets somebody claim.
type phase int

const (
	open   phase = iota
	making       // one request is being carried out
	made         // its answer is there, and not kept yet
	kept         // it is over: the claimant has it
	lapsed       // it is over: nobody said so
)

const (
	answerWait = 10 * time.Minute // an answer may be asked for again
	makeTime   = 5 * time.Minute  // the longest that making takes
	maxCalls   = 32               // under way at once; further ones wait
	endWait    = 10 * time.Second // for the door to end
)

// ErrLapsed ends a claim whose claimant never said that it has the answer: what was made is
// not to be used, and the code was used.
var ErrLapsed = errors.New("the claimant did not say that it holds the answer: what was made is void, and the machine is unclaimed")

// NewKeeper returns a keeper for one code.
func NewKeeper(cfg KeeperConfig) (*Keeper, error) {
	if cfg.Code.IsZero() || cfg.Make == nil || cfg.Keep == nil || cfg.Log == nil {
		return nil, errors.New("making a claim's keeper: code, Make, Keep and a log are required")
	}
	if cfg.Wait == 0 {
		cfg.Wait = answerWait
	}
	return &Keeper{cfg: cfg, changed: make(chan struct{})}, nil
}

// Run serves a door over conn until the claim is kept, which is no error. ErrLapsed says that
// the machine needs a new keeper with a new code. After any other error Run may be called
// again with another door: an answer that is there stays. Run closes conn.
func (k *Keeper) Run(ctx context.Context, conn net.Conn) error {
	group, ctx := errgroup.WithContext(ctx)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	group.Go(func() error {
		defer cancel() // what is under way is for nobody any more
		return k.serve(ctx, group, conn)
	})
	group.Go(func() error { return k.lapse(ctx, conn) })
	err := group.Wait()
	conn.Close()
	k.wrong.tell(k.cfg.Log)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.phase == kept {
		return nil
	}
	if err == nil {
		err = errors.New("the door ended")
	}
	return err
}

// serve answers calls, each in a goroutine of the group.
func (k *Keeper) serve(ctx context.Context, group *errgroup.Group, conn net.Conn) error {
	in, out := newLines(conn), &mouth{to: conn}
	room := make(chan struct{}, maxCalls)
	for {
		var c call
		if err := in.next(&c); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("listening to the door: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case room <- struct{}{}:
		}
		group.Go(func() error {
			defer func() { <-room }()
			r := k.reply(ctx, c, func(step string) {
				_ = out.say(reply{ID: c.ID, Progress: step}) // an end is noticed by reading
			})
			r.ID, r.Last = c.ID, true
			_ = out.say(r)
			return nil
		})
	}
}

// reply does what one call asks.
func (k *Keeper) reply(ctx context.Context, c call, step func(string)) reply {
	var r reply
	var err error
	switch c.Kind {
	case callServing:
		if k.cfg.Serving != nil {
			k.cfg.Serving(c.Text)
		}
		about := About{}
		if k.cfg.About != nil {
			about = k.cfg.About()
		}
		about.Administrator, about.SeedCode = k.cfg.Administrator, k.cfg.SeedCode
		r.About = &about
	case callClock:
		r.Clock = &Clock{Time: time.Now()}
		if k.cfg.Clock != nil {
			*r.Clock = k.cfg.Clock()
		}
	case callOpen:
		r.Machine, r.Proof, r.Seed, err = k.open(c.Exchange)
	case callClaim:
		r.Answer, r.Proof, err = k.claim(ctx, c, step)
	case callKept:
		err = k.keep(ctx, c)
	default:
		err = &Refusal{Kind: Invalid, What: "no such call"}
	}
	if err != nil {
		if refusal, ok := errors.AsType[*Refusal](err); ok {
			return reply{Refusal: refusal}
		}
		k.cfg.Log.Error("claim", "call", c.Kind, "err", err)
		return reply{Refusal: &Refusal{Kind: Broken, What: "the machine failed at it; its screen and log say more"}}
	}
	return r
}

// checked returns the exchange of a call if its proof is right.
func (k *Keeper) checked(c call, label string) (Exchange, error) {
	if c.Exchange == nil || !proves(k.cfg.Code, label, *c.Exchange, nil, c.Proof) {
		k.wrong.add(k.cfg.Log)
		return Exchange{}, &Refusal{Kind: Wrong, What: "the proof of the claim code is wrong"}
	}
	return *c.Exchange, nil
}

// claim carries out a request that proves the code, and waits until it is carried out. The
// same request again waits for, or gets, the same answer.
func (k *Keeper) claim(ctx context.Context, c call, step func(string)) (answer []byte, mac Sum, err error) {
	x, err := k.checked(c, labelClaimant)
	if err != nil {
		return nil, nil, err
	}
	sum := sha256.Sum256(c.Request)
	if string(sum[:]) != string(x.Request) {
		return nil, nil, &Refusal{Kind: Wrong, What: "another request was announced"}
	}
	r, _, err := ParseRequest(c.Request)
	if err != nil {
		return nil, nil, &Refusal{Kind: Invalid, What: err.Error()}
	}
	if err := k.fits(r); err != nil {
		return nil, nil, err
	}
	first, err := k.begin(x.Request)
	if err != nil {
		return nil, nil, err
	}
	if first {
		k.carryOut(ctx, r, step)
	}
	if answer, err = k.await(ctx, x.Request, first, step); err != nil {
		return nil, nil, err
	}
	mac, err = prove(k.cfg.Code, labelAnswer, x, answer)
	return answer, mac, err
}

// fits refuses a request for something else than this claim makes, or that cannot be made.
func (k *Keeper) fits(r Request) error {
	switch faults := CheckRequest(r); {
	case r.AdministratorOnly && !k.cfg.Administrator:
		return &Refusal{Kind: Invalid, What: "this machine is nobody's: it is claimed as a whole, with a set-up"}
	case !r.AdministratorOnly && k.cfg.Administrator:
		return &Refusal{Kind: Invalid, What: "this machine is a gateway already: its claim is for an administrator alone, without a set-up"}
	case len(faults) > 0:
		return &Refusal{Kind: Invalid, What: "the set-up has faults", Faults: faults}
	}
	return nil
}

// begin says whether this request is the first. Another than the first is refused.
func (k *Keeper) begin(request Sum) (first bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.phase == open:
		k.phase, k.request, k.steps, k.refusal = making, request, nil, nil
		k.tell()
		return true, nil
	case (k.phase == making || k.phase == made) && string(k.request) == string(request):
		return false, nil
	case k.phase == making:
		return false, &Refusal{Kind: Claimed, What: "somebody else is claiming this machine at this moment, and knows the code"}
	}
	return false, &Refusal{Kind: Claimed, What: "this machine is claimed already"}
}

// tell wakes whoever waits for a change; k.mu is held.
func (k *Keeper) tell() {
	close(k.changed)
	k.changed = make(chan struct{})
}

// carryOut makes the gateway, and notes how that went.
func (k *Keeper) carryOut(ctx context.Context, r Request, step func(string)) {
	ctx, cancel := context.WithTimeout(ctx, makeTime)
	defer cancel()
	a, err := k.cfg.Make(ctx, r, func(s string) {
		k.mu.Lock()
		k.steps = append(k.steps, s)
		k.tell()
		k.mu.Unlock()
		step(s)
	})
	var text []byte
	if err == nil {
		a.Version = version
		text, err = json.Marshal(a)
	}
	if err == nil && len(text) > MaxAnswer {
		err = fmt.Errorf("the answer has %d bytes", len(text))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.tell()
	if err == nil {
		k.phase, k.answer, k.until = made, text, time.Now().Add(k.cfg.Wait)
		return
	}
	k.phase = open
	refusal, ok := errors.AsType[*Refusal](err)
	if !ok {
		k.cfg.Log.Error("making the gateway", "err", err)
		refusal = &Refusal{Kind: Broken, What: "the machine failed to make the gateway; its screen and log say more"}
	}
	k.refusal = refusal
}

// await waits for the answer to a request. quiet: its steps are told already.
func (k *Keeper) await(ctx context.Context, request Sum, quiet bool, step func(string)) ([]byte, error) {
	for told := 0; ; {
		k.mu.Lock()
		phase, answer, refusal, changed := k.phase, k.answer, k.refusal, k.changed
		ours := string(k.request) == string(request)
		steps := k.steps[min(told, len(k.steps)):]
		k.mu.Unlock()
		told += len(steps)
		if !quiet {
			for _, s := range steps {
				step(s)
			}
		}
		switch {
		case !ours || phase == kept || phase == lapsed:
			return nil, &Refusal{Kind: Claimed, What: "this machine is claimed already"}
		case phase == made:
			return answer, nil
		case phase == open && refusal != nil:
			return nil, refusal
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		}
	}
}

// keep ends the claim: the claimant of this very answer has it.
func (k *Keeper) keep(ctx context.Context, c call) error {
	x, err := k.checked(c, labelKept)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if string(k.request) != string(x.Request) || k.phase != made && k.phase != kept {
		return &Refusal{Kind: Claimed, What: "there is no answer to this request"}
	}
	if k.phase == kept {
		return nil
	}
	// The lock is held: nobody may see the claim as kept before it is, or void while it is
	// being kept.
	if err := k.cfg.Keep(ctx); err != nil {
		return fmt.Errorf("keeping the gateway: %w", err)
	}
	k.phase = kept
	k.tell()
	return nil
}

// lapse ends Run when an answer has waited too long, or when a door stays after the end.
func (k *Keeper) lapse(ctx context.Context, conn net.Conn) error {
	for {
		k.mu.Lock()
		phase, until, changed := k.phase, k.until, k.changed
		k.mu.Unlock()
		var late <-chan time.Time
		switch phase {
		case made:
			late = time.After(time.Until(until))
		case kept:
			late = time.After(endWait)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-late:
			if phase == kept || k.void(until) {
				conn.Close()
				return ErrLapsed // nobody sees it where the claim is kept
			}
		}
	}
}

// void makes an answer nobody's, unless it was kept at the last moment.
func (k *Keeper) void(until time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.phase != made || !k.until.Equal(until) {
		return false
	}
	k.phase, k.answer = lapsed, nil
	k.tell()
	return true
}
