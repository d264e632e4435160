package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"sync"
	"time"

	"lazaret/quarantine"
)

// Client is the control plane's end: a quarantine.Enforcer that keeps itself
// connected. An order while there is no data plane, or whose answer is lost, fails
// with quarantine.ErrNotEnforced, and says why there is none. It is safe for concurrent use; orders go one at a time.
type Client struct {
	path   string // where to connect again; empty: nowhere
	cancel context.CancelFunc
	runs   sync.WaitGroup
	turn   chan struct{} // holds one token: whose order it is
	ids    uint64        // of orders; guarded by turn
	events queue
	asking sync.Mutex // one question at a time

	mu     sync.Mutex
	wire   *wire                   // nil: not connected
	lost   error                   // why not: what the last attempt met
	faults map[quarantine.ID]error // what the last plan, and moves since, left undone
	more   int                     // devices beyond those
}

var _ quarantine.Enforcer = (*Client)(nil)

// firstWait and lastWait bound the pause between attempts to connect.
const (
	firstWait = 10 * time.Millisecond
	lastWait  = time.Second
)

// Dial connects to the socket at path, waiting for it until ctx ends, and connects
// again whenever the connection breaks, until Close.
func Dial(ctx context.Context, path string) (*Client, error) {
	conn, err := redial(ctx, path, func(error) {})
	if err != nil {
		return nil, fmt.Errorf("connecting to the data plane at %s: %w", path, err)
	}
	return start(conn, path), nil
}

// Connect returns at once and connects to the socket at path as soon as there is one,
// again whenever the connection breaks, until Close. Until then orders fail with
// quarantine.ErrNotEnforced.
func Connect(path string) *Client { return start(nil, path) }

// NewClient speaks over one connection, such as an inherited one, and does not
// connect again.
func NewClient(conn net.Conn) *Client { return start(conn, "") }

func start(conn net.Conn, path string) *Client {
	ctx, cancel := context.WithCancel(context.Background())
	c := &Client{path: path, cancel: cancel, turn: make(chan struct{}, 1), faults: make(map[quarantine.ID]error), lost: errNotYet}
	c.turn <- struct{}{}
	c.events = queue{out: make(chan Event), wake: make(chan struct{}, 1)}
	c.runs.Go(func() { c.events.run(ctx) })
	c.runs.Go(func() { c.run(ctx, conn) })
	return c
}

var (
	errNotYet = errors.New("not tried yet")
	errHungUp = errors.New("it hung up without a greeting: does it list this user in its control_uids?")
)

// redial tries until it succeeds or ctx ends, and tells lost why an attempt failed.
func redial(ctx context.Context, path string, lost func(error)) (net.Conn, error) {
	var dialer net.Dialer
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		conn, err := dialer.DialContext(ctx, "unix", path)
		if err == nil {
			return conn, nil
		}
		lost(err)
		retry := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			retry.Stop()
			return nil, errors.Join(ctx.Err(), err)
		case <-retry.C:
		}
	}
}

// run keeps one connection after the other.
func (c *Client) run(ctx context.Context, conn net.Conn) {
	if conn == nil {
		var err error
		if conn, err = redial(ctx, c.path, c.disconnect); err != nil {
			return
		}
	}
	for wait := firstWait; ; wait = min(2*wait, lastWait) {
		w := &wire{conn: conn, answers: make(chan message, 1), told: make(chan message, 1), closed: make(chan struct{})}
		stop := context.AfterFunc(ctx, w.close)
		greeted, err := c.listen(w)
		stop()
		w.close()
		if !greeted && errors.Is(err, io.EOF) {
			err = errHungUp
		}
		c.disconnect(err)
		if ctx.Err() != nil {
			return
		}
		c.events.put(Event{Kind: Disconnected, Detail: err.Error()})
		if c.path == "" {
			return
		}
		if greeted {
			wait = firstWait
		}
		retry := time.NewTimer(wait) // not at once: the data plane may be hanging up on purpose
		select {
		case <-ctx.Done():
			retry.Stop()
			return
		case <-retry.C:
		}
		if conn, err = redial(ctx, c.path, c.disconnect); err != nil {
			return
		}
	}
}

// listen takes in what one connection brings, until it breaks.
func (c *Client) listen(w *wire) (greeted bool, err error) {
	for {
		m, err := readMessage(w.conn)
		if err != nil {
			return greeted, err
		}
		switch {
		case m.Kind == hello:
			greeted = true
			c.mu.Lock()
			c.wire = w
			c.mu.Unlock()
			c.events.put(Event{Kind: Connected})
		case m.Kind == answer && m.ID == 0: // to nothing we sent: the end of the connection
			return greeted, decode(m)
		case m.Kind == answer:
			w.answer(m)
		case m.Kind == event && m.Event != nil:
			c.events.put(*m.Event)
		}
	}
}

// disconnect notes why there is no connection.
func (c *Client) disconnect(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wire, c.lost = nil, why
}

// Events returns what the data plane tells, in order; none is dropped. On Connected
// and NeedPlan the receiver sends a plan. The channel is closed by Close.
func (c *Client) Events() <-chan Event { return c.events.out }

// Apply implements quarantine.Enforcer. A device that is in place but for its peer gets
// quarantine.ErrPeer.
func (c *Client) Apply(ctx context.Context, e quarantine.Entry) error {
	return c.order(ctx, message{Kind: apply, Entry: &e})
}

// Refresh implements quarantine.Enforcer.
func (c *Client) Refresh(ctx context.Context, f quarantine.Freshness) error {
	return c.order(ctx, message{Kind: refresh, Fresh: &f})
}

// Replace implements quarantine.Enforcer. The plan goes in parts, and counts with the
// last. It returns nil when the plan is in force but for single devices, which Faults names.
func (c *Client) Replace(ctx context.Context, p quarantine.Plan) error {
	parts := []message{{Kind: begin, Head: &planHead{p.Control, p.Revision, p.Pools, p.Gateway, len(p.Entries)}}}
	for rest := p.Entries; len(rest) > 0; {
		n := min(perFrame, len(rest))
		parts = append(parts, message{Kind: entries, Entries: rest[:n]})
		rest = rest[n:]
	}
	return c.order(ctx, append(parts, message{Kind: commit})...)
}

// note takes in what the answer to an order, whose last part is given, says of devices.
func (c *Client) note(order, answer message, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case order.Kind == commit && err == nil:
		c.faults, c.more = make(map[quarantine.ID]error, len(answer.Faults)), answer.More
		for _, f := range answer.Faults {
			c.faults[f.Device] = f.err()
		}
	case order.Kind == apply && (errors.Is(err, quarantine.ErrPeer) || errors.Is(err, quarantine.ErrOutdated)):
		c.faults[order.Entry.Device] = err
	case order.Kind == apply && err == nil:
		delete(c.faults, order.Entry.Device)
	}
}

// Faults returns the devices that are not as the last plan, or a later move, says, and
// why: quarantine.ErrPeer where the tunnel does not take the peer, a quarantine.Kept where
// the data plane holds the device stricter than an outdated entry says. more is how many
// devices the data plane did not name, since an answer has a limit. Nothing of it
// concerns any other device.
func (c *Client) Faults() (faults map[quarantine.ID]error, more int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.faults), c.more
}

// begin waits for its turn and returns the connection. The turn lasts until done is called.
func (c *Client) begin(ctx context.Context) (w *wire, done func(), err error) {
	select {
	case <-c.turn:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	done = func() { c.turn <- struct{}{} }
	c.mu.Lock()
	w, lost := c.wire, c.lost
	c.mu.Unlock()
	if w == nil {
		done()
		return nil, nil, fmt.Errorf("no data plane is connected (%w): %w", lost, quarantine.ErrNotEnforced)
	}
	return w, done, nil
}

// order sends the parts of one order and waits for its answer.
func (c *Client) order(ctx context.Context, parts ...message) error {
	w, done, err := c.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	c.ids++
	w.expect(c.ids)
	if err := w.sendAll(ctx, c.ids, parts); err != nil {
		w.close() // an order cut off half way would garble the next one
		return fmt.Errorf("sending to the data plane: %w: %w", errors.Join(ctx.Err(), err), quarantine.ErrNotEnforced)
	}
	select {
	case m := <-w.answers:
		err := m.err()
		c.note(parts[len(parts)-1], m, err)
		return err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the data plane: %w", ctx.Err())
	case <-w.closed:
		return fmt.Errorf("the data plane's connection broke: %w", quarantine.ErrNotEnforced)
	}
}

// Close ends the client. What the data plane enforces stays.
func (c *Client) Close() error {
	c.cancel()
	c.runs.Wait()
	return nil
}

// wire is one connection to a data plane.
type wire struct {
	conn    net.Conn
	answers chan message
	told    chan message
	closed  chan struct{}
	once    sync.Once

	mu       sync.Mutex
	want     uint64 // order whose answer is awaited
	wantTold uint64 // question whose answer is
}

func (w *wire) close() {
	w.once.Do(func() { close(w.closed); w.conn.Close() })
}

// expect makes the answer to id the one that counts; a late one of an order that was
// given up is dropped.
func (w *wire) expect(id uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.want = id
	select {
	case <-w.answers:
	default:
	}
}

func (w *wire) answer(m message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m.ID == w.wantTold {
		w.wantTold = 0
		w.told <- m // has room, likewise
		return
	}
	if m.ID != w.want {
		return
	}
	w.want = 0
	w.answers <- m // has room: expect emptied it, and one answer per id is let through
}

// sendAll writes the parts of order id, until ctx ends.
func (w *wire) sendAll(ctx context.Context, id uint64, parts []message) error {
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { w.conn.SetWriteDeadline(time.Unix(1, 0)); close(ended) })
	var err error
	for _, m := range parts {
		m.ID = id
		if err = w.send(m); err != nil {
			break
		}
	}
	if !stop() { // it ended; if only after the last byte, the connection is as good as before
		<-ended
		err = errors.Join(err, w.conn.SetWriteDeadline(time.Time{}))
	}
	return err
}

func (w *wire) send(m message) error {
	b, err := frame(m)
	if err != nil {
		return err
	}
	_, err = w.conn.Write(b)
	return err
}

// queue hands events on without ever making the sender wait.
type queue struct {
	out  chan Event
	wake chan struct{}
	mu   sync.Mutex
	all  []Event
}

func (q *queue) put(e Event) {
	q.mu.Lock()
	q.all = append(q.all, e)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) take() (Event, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.all) == 0 {
		return Event{}, false
	}
	e := q.all[0]
	q.all = q.all[1:]
	return e, true
}

func (q *queue) run(ctx context.Context) {
	defer close(q.out)
	for {
		e, ok := q.take()
		if !ok {
			select {
			case <-ctx.Done():
				return
			case <-q.wake:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case q.out <- e:
		}
	}
}
