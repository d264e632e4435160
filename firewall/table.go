package firewall

import (
	"errors"
	"log/slog"
	"sync"

	"github.com/google/nftables"
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
// which owns the table, until Close. Its methods may be called from any goroutine.
type Table struct {
	log  *slog.Logger
	mu   sync.Mutex
	conn *nftables.Conn
}

// Open opens the socket that will own the table. It changes nothing in the kernel yet.
func Open(c Config) (*Table, error) { return nil, errors.New("not built yet") }

// Adopt makes the kernel hold r without any element, in one transaction: no device
// passes until Fill. It creates the table, or takes over the one a dead process left
// behind; a table owned by a living process is refused.
func (t *Table) Adopt(r Ruleset) error { return errors.New("not built yet") }

// Fill makes the kernel hold r and e and nothing else.
func (t *Table) Fill(r Ruleset, e Elements) error { return errors.New("not built yet") }

// Apply commits c in one transaction: deletions first, then additions. What is to be
// deleted need not exist; a routed address that is added replaces its old element.
func (t *Table) Apply(c Change) error { return errors.New("not built yet") }

// Refresh sets both freshness elements; a zero or past deadline removes its element.
func (t *Table) Refresh(fresh, alive Deadline) error { return errors.New("not built yet") }

// Verify asks the kernel whether the table is there, ours, persistent, and dropping by default.
func (t *Table) Verify() error { return errors.New("not built yet") }

// Close gives up ownership. The table stays and goes on enforcing what it holds.
func (t *Table) Close() error { return nil }
