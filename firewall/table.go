package firewall

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ErrDoubt says that the kernel may or may not hold the change: the only way out is
// Fill with everything that should be there. Nothing was guessed.
var ErrDoubt = errors.New("the state of the firewall table is in doubt and must be filled again")

// Config is what Open needs.
type Config struct {
	NetNS int          // optional: open file descriptor of the network namespace; zero is the caller's own
	Log   *slog.Logger // required
}

// Table is the one writer of the kernel's table. It keeps a single netlink socket,
// which owns the table, until Close: opening one takes a hundred times as long as a
// change. It never asks the kernel what the sets hold. Its methods may be called from
// any goroutine.
type Table struct {
	log  *slog.Logger
	mu   sync.Mutex
	conn *nftables.Conn // for what is read, over the same socket as next
	next *transaction
	held *Ruleset // what the kernel holds for certain; nil: nothing is certain

	memory  *memory // what flows may be remembered by
	numbers numbers

	sizeOf func(table, set string) (uint32, error) // reads how many elements a set may hold

	rooms  rooms // what sets of held were made for
	narrow bool  // sets are made for no number of elements: the kernel does not lift their size

	pace  time.Duration // what an element of the last slow Fill took
	limit int           // this many elements do not fit in one transaction; zero: not known yet
}

// Open opens the socket that will own the table. It changes nothing in the kernel yet.
func Open(c Config) (*Table, error) {
	if c.Log == nil {
		return nil, errors.New("opening the firewall table: no log given")
	}
	var socket *netlink.Conn
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(c.NetNS), nftables.WithSockOptions(func(s *netlink.Conn) error {
		socket = s
		return nil
	}))
	if err != nil {
		return nil, fmt.Errorf("opening the firewall table: %w", err)
	}
	next, err := newTransaction(socket)
	if err != nil {
		return nil, fmt.Errorf("opening the firewall table: %w", errors.Join(err, conn.CloseLasting()))
	}
	t := &Table{log: c.Log, conn: conn, next: next, memory: &memory{}, numbers: newNumbers(), limit: sendLimit()}
	t.sizeOf = t.kernelSize
	t.memory.lose()
	return t, nil
}

// Adopt makes the kernel hold r without any element, in one transaction: no device
// passes until Fill. It creates the table, or replaces the one a dead process left
// behind, with nothing kept; a table that a living process owns is refused (EPERM).
func (t *Table) Adopt(r Ruleset) error {
	if err := r.Check(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held = nil
	t.memory.lose()
	if err := t.constant(r, nil); err != nil {
		return fmt.Errorf("adopting table %s: %w", r.Table, t.discard(err))
	}
	if err := t.commit(); err != nil {
		return fmt.Errorf("adopting table %s: %w", r.Table, err)
	}
	t.held, t.memory = &r, newMemory(nil, 0)
	t.log.Info("firewall table adopted", "table", r.Table, "pools", len(r.Pools))
	return nil
}

// constant queues what turns the table into r with empty sets: nothing but that when
// the kernel is known to hold r; the rules, when it is known to hold another ruleset; else, and
// when sets are to be made anew, a new table in place of whatever is there.
func (t *Table) constant(r Ruleset, made rooms) error {
	l := r.layout()
	switch {
	case t.held != nil && t.held.Table != r.Table:
		return errors.New("a table cannot change its name")
	case t.held == nil || len(made) > 0:
		t.next.library().DestroyTable(kernelTable(r.Table))
		t.rooms = nil
	case t.held.Text(Elements{}) == r.Text(Elements{}):
		for _, s := range l.sets {
			if s.changes() {
				t.next.library().FlushSet(s.kernel(kernelTable(r.Table)))
			}
		}
		return nil
	default:
		l.remove(t.next.library(), t.held.layout())
	}
	return l.write(t.next.library(), made)
}

// changes says whether the set holds elements that come and go.
func (s set) changes() bool { return !s.interval && s.data != "verdict" }

// commit sends what is queued. After an error nothing is certain, save that a
// transaction which is too long was not sent.
func (t *Table) commit() error {
	err := t.next.send()
	if err == nil {
		return nil
	}
	t.memory.lose()
	if !errors.Is(err, unix.EMSGSIZE) {
		t.held = nil
	}
	return fmt.Errorf("%w: %w", ErrDoubt, err)
}

// moment is what a small change may take to reach the kernel, and by how much its
// elements end early. Large ones get eachElement more for every element.
const (
	moment      = 20 * time.Millisecond
	eachElement = 4 * time.Microsecond
)

// Fill makes the kernel hold r and e and nothing else, in one transaction: packets
// meet the old state or the new one. Where the system's limit on socket buffers is
// too small for that (an unprivileged namespace and very many devices), all sets are
// emptied first and filled in steps. An element that may not be written (see Apply)
// is left out and logged, so that one device's fault is not everybody's.
func (t *Table) Fill(r Ruleset, e Elements) error {
	if err := r.Check(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	n := time.Duration(len(e.Routed) + len(e.Quarantined) + 1)
	need := moment + n*max(eachElement, t.pace*3/2)
	for range 3 {
		start := Now()
		left, err := t.fill(r, e, start, need)
		if errors.Is(err, errSize) {
			t.log.Warn("sets are made without room", "reason", err)
			t.narrow, t.held = true, nil
			left, err = t.fill(r, e, start, need)
		}
		if err != nil {
			return fmt.Errorf("filling table %s: %w", r.Table, err)
		}
		t.held = &r
		took := time.Duration(Now() - start)
		if took <= need {
			if len(left) > 0 {
				t.log.Error("elements left out of the firewall table", "count", len(left), "first", left[0])
			}
			return nil
		}
		t.pace, need = took/n, 2*took // the elements may outlive their deadlines by took-need
	}
	t.held = nil
	return fmt.Errorf("filling table %s: %w: the machine is too slow to keep deadlines", r.Table, ErrDoubt)
}

// fill is one attempt. left names what was left out; err says that nothing is certain.
func (t *Table) fill(r Ruleset, e Elements, now Deadline, need time.Duration) (left []error, err error) {
	b := batch{}
	leases, left := b.routed(r, e.Routed, now, need)
	left = append(left, b.quarantined(r, e.Quarantined)...)
	b.freshness(r, e.Fresh, e.Alive, now, need)
	m := newMemory(leases, r.freshness(e.Fresh, e.Alive, now))
	made := t.outgrown(b)
	n := len(e.Routed) + len(e.Quarantined)
	if t.limit != 0 && n >= t.limit {
		t.log.Debug("filling in steps: one transaction is more than a socket may hold", "elements", n)
		err = t.steps(r, b, made)
	} else {
		b.remember(t.renew(m, r, now, need))
		err = t.atOnce(r, b, made)
		if errors.Is(err, unix.EMSGSIZE) {
			t.limit = n
			t.log.Warn("socket buffer too small for one transaction, filling in steps", "elements", n)
			m.forget()
			err = t.steps(r, b, made)
		}
	}
	if err == nil {
		t.memory = m
		err = t.lifted(r, made)
	}
	return left, err
}

// atOnce fills in one transaction.
func (t *Table) atOnce(r Ruleset, b batch, made rooms) error {
	if err := t.constant(r, made); err != nil {
		return t.discard(err)
	}
	t.add(r, b)
	return t.commit()
}

// steps empties everything and then adds, a few messages at a time, freshness last. Nothing is
// remembered until the next Refresh.
func (t *Table) steps(r Ruleset, b batch, made rooms) error {
	if err := t.constant(r, made); err != nil {
		return t.discard(err)
	}
	if err := t.commit(); err != nil {
		return err
	}
	for _, name := range order {
		for rest := b[name]; len(rest) > 0; {
			n := min(6*chunk, len(rest)) // some 200 KiB, which any socket takes
			t.add(r, batch{name: rest[:n]})
			if err := t.commit(); err != nil {
				return err
			}
			rest = rest[n:]
		}
	}
	return nil
}

// order is that of filling.
var order = []string{"quarantined4", "quarantined6", "routed4", "routed6", "fixed4", "fixed6", "alive", "fresh"}

func (t *Table) add(r Ruleset, b batch) { t.each(r, b, unix.NFT_MSG_NEWSETELEM) }

func (t *Table) destroy(r Ruleset, b batch) { t.each(r, b, destroyElements) }

// each queues messages of a kind with the elements of b.
func (t *Table) each(r Ruleset, b batch, kind uint16) {
	sets, size := r.sets(), 0
	for _, s := range sets {
		size += t.next.size(r.Table, s, b[s.name])
	}
	t.next.bulk = slices.Grow(t.next.bulk, size)
	for _, s := range sets {
		t.next.put(kind, r.Table, s, b[s.name])
	}
}

// Apply commits c in one transaction: deletions first, then additions. What is to be
// deleted need not exist; a routed address that is added replaces its old element, so
// a new deadline or mark takes effect at once, and an addition whose deadline is over
// deletes. An addition that names an address outside the pools or an unknown mark is
// left out and named in the error; the rest of c is done. ErrDoubt means that Fill
// must follow.
func (t *Table) Apply(c Change) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held == nil {
		return fmt.Errorf("applying a change: %w", ErrDoubt)
	}
	r := *t.held
	gone := batch{}
	gone.keys(func(a netip.Addr) []string { return []string{quarantinedSet(familyOf(a))} }, c.DelQuarantined)
	gone.keys(r.routedMaybe, c.DelRouted)
	for _, x := range c.AddRouted {
		gone.keys(r.routedMaybe, []netip.Addr{x.Addr})
	}
	var left []error
	err := t.exchange(r, gone, func(now Deadline, need time.Duration) batch {
		come := batch{}
		in, faults := come.routed(r, c.AddRouted, now, need)
		left = append(faults, come.quarantined(r, c.AddQuarantined)...)
		t.memory.change(r, c, in)
		return come
	})
	if err != nil {
		return fmt.Errorf("applying a change: %w", err)
	}
	return errors.Join(left...)
}

// Refresh sets both kinds of freshness elements; a deadline that is zero or over removes
// its own. Neither lasts longer than the ruleset allows.
func (t *Table) Refresh(fresh, alive Deadline) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held == nil {
		return fmt.Errorf("refreshing: %w", ErrDoubt)
	}
	r := *t.held
	both := []element{keyed(families[0]), keyed(families[1])}
	err := t.exchange(r, batch{"fresh": both, "alive": both}, func(now Deadline, need time.Duration) batch {
		come := batch{}
		come.freshness(r, fresh, alive, now, need)
		t.memory.refresh(r.freshness(fresh, alive, now))
		return come
	})
	if err != nil {
		return fmt.Errorf("refreshing: %w", err)
	}
	return nil
}

// exchange commits the deletion of gone and the addition of what come builds, in one
// transaction. If that took longer than its timeouts allow for, elements might end
// late; then they are exchanged again with more room.
func (t *Table) exchange(r Ruleset, gone batch, come func(now Deadline, need time.Duration) batch) error {
	need := moment
	for attempt := range 3 {
		start := Now()
		ended := batch{}
		ended.keys(r.routedMaybe, t.memory.expire(start+Deadline(need), chunk))
		b := come(start, need)
		due := t.memory.due() || attempt > 0
		switch {
		case attempt > 0: // a change that needs no timeout must not fail for one
			t.memory.forget()
		case due:
			b.remember(t.renew(t.memory, r, start, need))
		}
		t.destroy(r, ended)
		t.destroy(r, gone)
		if due {
			t.unremember(r) // before all elements, wherever it is called
		}
		t.add(r, b)
		if err := t.commit(); err != nil {
			return err
		}
		took := time.Duration(Now() - start)
		if took <= need || !b.timed() {
			return nil
		}
		need = 2 * took
	}
	t.held = nil
	return fmt.Errorf("%w: the machine is too slow to keep deadlines", ErrDoubt)
}

// discard throws away what is queued, so that no later commit takes half a change along.
func (t *Table) discard(err error) error {
	t.held = nil
	t.memory.lose()
	err = errors.Join(err, t.next.discard())
	return fmt.Errorf("%w: %w", ErrDoubt, err)
}

// timed says whether b has elements with a timeout.
func (b batch) timed() bool {
	for name, list := range b {
		if !strings.HasPrefix(name, "quarantined") && len(list) > 0 {
			return true
		}
	}
	return false
}

// Remove takes the table away. From then on it enforces nothing.
func (t *Table) Remove() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held == nil {
		return fmt.Errorf("removing the firewall table: %w", ErrDoubt)
	}
	name := t.held.Table
	t.held = nil
	t.memory.lose()
	t.next.library().DestroyTable(kernelTable(name))
	if err := t.commit(); err != nil {
		return fmt.Errorf("removing table %s: %w", name, err)
	}
	return nil
}

// Close gives up ownership. The table stays and goes on enforcing what it holds.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held = nil
	if err := t.conn.CloseLasting(); err != nil {
		return fmt.Errorf("closing the firewall table: %w", err)
	}
	return nil
}
