package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lazaret/internal/agentapi"
)

// errWipe says that a wipe was begun: the agent ends all else and does it.
var errWipe = errors.New("this device is to be wiped")

// deadlines are how long commands may take; what is not listed does not exist here.
var deadlines = map[string]time.Duration{
	agentapi.Lock: 20 * time.Second, agentapi.Wipe: time.Minute, agentapi.Erase: 15 * time.Minute,
	agentapi.Renew: 90 * time.Second, agentapi.Rotate: 90 * time.Second,
	agentapi.Pool: 20 * time.Second, agentapi.Gateway: 40 * time.Second, agentapi.Notify: 5 * time.Second,
}

// perform executes a command that the gateway signed in this session, once: that it is
// begun is on the disk before it is, and what is on the disk as begun or done is not begun
// again. It returns an error where the session is to end.
func (a *Agent) perform(ctx context.Context, d *dialogue, c agentapi.Command) error {
	now := time.Now().UTC()
	o := outcome{ID: c.ID, Kind: c.Kind, Sequence: c.Sequence, At: now}
	known, refusal := a.judge(c, now)
	if known {
		return a.note(func(m *managed) { m.find(c.ID).Told = false }) // it is told again
	}
	if refusal != "" {
		a.log.Warn("command refused", "command", c.ID, "kind", c.Kind, "why", refusal)
		o.State, o.Detail = agentapi.Refused, refusal
		return a.note(func(m *managed) {
			m.Executed = max(m.Executed, c.Sequence) // it is over
			m.keep(o)
		})
	}
	if c.Kind == agentapi.Wipe {
		return a.orderWipe(o)
	}
	if err := a.note(func(m *managed) { m.Executed, m.Begun = c.Sequence, &o }); err != nil {
		return err
	}
	a.step("command begun")
	a.log.Info("command", "command", c.ID, "kind", c.Kind)
	if c.Kind == agentapi.Erase {
		o.State, o.Detail = agentapi.Begun, "the program of this device's administrator is started"
		if err := a.tellNow(ctx, d, o); err != nil {
			a.log.Warn("telling the gateway that the device is erased", "err", err) // and done all the same
		}
	}
	limited, cancel := context.WithTimeout(ctx, deadlines[c.Kind])
	detail, err := a.execute(limited, c)
	cancel()
	a.step("command executed")
	o.State, o.Detail, o.At = agentapi.Done, detail, time.Now().UTC()
	if err != nil {
		o.State, o.Detail = agentapi.Failed, err.Error()
	}
	o.Detail = clipped(o.Detail)
	a.log.Info("command ended", "command", c.ID, "kind", c.Kind, "state", o.State, "detail", o.Detail)
	err = a.note(func(m *managed) {
		m.Begun = nil
		m.keep(o)
	})
	a.step("command kept")
	return err
}

// judge says whether a command is known already, or why it is not to be executed. One that
// comes too late, or that nobody here can execute, is over all the same.
func (a *Agent) judge(c agentapi.Command, now time.Time) (known bool, refusal string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.managed.find(c.ID) != nil {
		return true, ""
	}
	switch {
	case c.Sequence <= a.managed.Executed:
		return false, fmt.Sprintf("its number %d is not above %d, the last one executed", c.Sequence, a.managed.Executed)
	case !now.Before(c.Expires):
		refusal = "it has expired, by this device's clock"
	case deadlines[c.Kind] == 0:
		refusal = fmt.Sprintf("this agent knows no command %.40q", c.Kind)
	default:
		if err := agentapi.CheckArgs(c.Kind, c.Args); err != nil {
			refusal = err.Error()
		}
		if c.Kind == agentapi.Erase && refusal == "" {
			if err := checkEraseProgram(a.config.EraseProgram); err != nil {
				refusal = err.Error()
			}
		}
	}
	return false, refusal
}

// clipped is a text that fits into a result.
func clipped(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > agentapi.MaxText {
		s = strings.ToValidUTF8(s[:agentapi.MaxText-3], "") + "..."
	}
	return s
}

// tellNow tells one outcome in this session, before anything else happens.
func (a *Agent) tellNow(ctx context.Context, d *dialogue, o outcome) error {
	a.mu.Lock()
	executed := a.managed.Executed
	a.mu.Unlock()
	orders, err := d.exchange(ctx, executed, []outcome{o})
	if err == nil && !slices.Contains(orders.Taken, o.ID) {
		err = errors.New("the gateway did not take it")
	}
	return err // what else came is given again in the next session
}

// execute does what a command says and looks at the effect: no error means that it was
// seen.
func (a *Agent) execute(ctx context.Context, c agentapi.Command) (detail string, err error) {
	switch c.Kind {
	case agentapi.Lock:
		return lockSessions(ctx)
	case agentapi.Erase:
		return erase(ctx, a.config.EraseProgram, a.log)
	case agentapi.Renew:
		return a.renewNowAndSee(ctx, false)
	case agentapi.Rotate:
		return a.renewNowAndSee(ctx, true)
	case agentapi.Pool:
		return a.readAnew(ctx)
	case agentapi.Gateway:
		return a.connectAnew(ctx)
	case agentapi.Notify:
		n := Notice{Text: c.Args["text"], At: time.Now().UTC()}
		return "kept for the user", a.note(func(m *managed) {
			m.Notices = append(m.Notices, n)
			m.Notices = m.Notices[max(len(m.Notices)-maxNotices, 0):]
		})
	}
	return "", fmt.Errorf("this agent knows no command %q", c.Kind)
}

// await waits until something about the device is so.
func (a *Agent) await(ctx context.Context, what string, so func() bool) error {
	for {
		a.mu.Lock()
		if so() {
			a.mu.Unlock()
			return nil
		}
		if a.news == nil {
			a.news = make(chan struct{})
		}
		news := a.news
		a.mu.Unlock()
		select {
		case <-news:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		}
	}
}

// renewNowAndSee renews, and sees that another certificate is in use; with key, that the
// tunnel has another key, over which the gateway has answered.
func (a *Agent) renewNowAndSee(ctx context.Context, key bool) (string, error) {
	a.mu.Lock()
	before, tunnelKey := a.state.Certificate, a.keys.current.Public()
	a.mu.Unlock()
	select {
	case a.renewNow <- struct{}{}:
	default: // ordered already
	}
	var serial string
	err := a.await(ctx, "no other certificate is in use", func() bool {
		if a.api == nil || a.api.cert.Leaf == nil || string(a.api.cert.Leaf.Raw) == string(before) {
			return false
		}
		serial = a.api.cert.Leaf.SerialNumber.Text(16)
		return true
	})
	if err != nil || !key {
		return "certificate " + serial, err
	}
	var now string
	err = a.await(ctx, "the tunnel has no other key", func() bool {
		now = a.keys.current.Public().String()
		return a.keys.current.Public() != tunnelKey
	})
	return "certificate " + serial + ", tunnel key " + now, err
}

// readAnew asks where the device belongs, and sees that its network is so.
func (a *Agent) readAnew(ctx context.Context) (string, error) {
	st, err := a.ask(ctx, true)
	if err != nil {
		return "", err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unsure {
		return "", fmt.Errorf("the network could not be set up: %s", a.problem)
	}
	return fmt.Sprintf("%s, pool %s", st.Stage, st.Pool), nil
}

// connectAnew reads the list of gateways, looks them up anew and sees that one answers.
func (a *Agent) connectAnew(ctx context.Context) (string, error) {
	if _, err := a.readAnew(ctx); err != nil {
		return "", err
	}
	a.reconnect(ctx)
	for {
		_, err := a.readAnew(ctx)
		if err == nil {
			break
		}
		if wait(ctx, retryFirst) != nil {
			return "", err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return fmt.Sprintf("connected to %s at %s", a.via.Gateway, a.via.Endpoint), nil
}
