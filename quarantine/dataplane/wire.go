package dataplane

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"lazaret/firewall"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// version is the wire's. Fields may be added under the same version, and an unknown
// one is passed over; a change that an older reader would misread raises it.
const version = 1

const (
	maxFrame = 1 << 20 // bytes of one frame's JSON
	maxText  = 4096    // bytes of an answer's text
	perFrame = 500     // entries of one frame, under 400 bytes each

	// MaxAsked is how many keys' handshakes are asked for at once: each takes less than 100
	// bytes of a frame, there and back.
	MaxAsked = 8192
)

var (
	// ErrVersion reports a peer that speaks another version of the protocol.
	ErrVersion = errors.New("the other process speaks another version of the protocol: upgrade both")
	errFrame   = errors.New("malformed frame")
)

// kind says what a message is.
type kind string

const (
	hello   kind = "hello" // data plane, first of a connection
	apply   kind = "apply"
	refresh kind = "refresh"
	ask     kind = "ask"     // when keys last shook hands; since 2026-11, refused before
	begin   kind = "begin"   // a plan's head
	entries kind = "entries" // a part of a plan
	commit  kind = "commit"  // a plan's end
	answer  kind = "answer"  // to apply, refresh, ask, commit, or to any part of a plan that is refused
	event   kind = "event"   // data plane, by itself
)

// message is one frame. On the wire it is four bytes of length, most significant
// first, and JSON.
type message struct {
	V       int                   `json:"v"`
	ID      uint64                `json:"id,omitempty"` // an order's, and its answer's; a plan's parts share one
	Kind    kind                  `json:"kind"`
	Entry   *quarantine.Entry     `json:"entry,omitempty"`
	Fresh   *quarantine.Freshness `json:"fresh,omitempty"`
	Head    *planHead             `json:"head,omitempty"`
	Entries []quarantine.Entry    `json:"entries,omitempty"`
	Code    code                  `json:"code,omitempty"` // of an answer; empty: done
	Text    string                `json:"text,omitempty"`
	Faults  []fault               `json:"faults,omitempty"` // of an answer: devices that are not as the order says
	More    int                   `json:"more,omitempty"`   // of an answer: faults that it does not list
	Event   *Event                `json:"event,omitempty"`
	Keys    []tunnel.Key          `json:"keys,omitempty"`   // of ask
	Shaken  []shaken              `json:"shaken,omitempty"` // of its answer: those of them that ever shook hands
}

// shaken is a key's last handshake.
type shaken struct {
	Key tunnel.Key `json:"key"`
	At  int64      `json:"at"` // seconds since 1970 by the wall clock
}

// planHead is a quarantine.Plan without its entries.
type planHead struct {
	Control  string          `json:"control"`
	Revision int64           `json:"revision"`
	Pools    []firewall.Pool `json:"pools"`
	Gateway  []netip.Prefix  `json:"gateway"`
	Count    int             `json:"count"` // entries that follow
}

// readMessage reads one frame. The length is checked before anything is allocated.
func readMessage(r io.Reader) (message, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return message{}, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxFrame {
		return message{}, fmt.Errorf("%w of %d bytes", errFrame, n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return message{}, fmt.Errorf("%w: %w", errFrame, err)
	}
	return parseMessage(body)
}

// parseMessage tells another version from nonsense: a version may change the type of
// anything but "v".
func parseMessage(body []byte) (message, error) {
	var m message
	err := json.Unmarshal(body, &m)
	if err != nil {
		var probe struct {
			V int `json:"v"`
		}
		if json.Unmarshal(body, &probe) == nil {
			m.V = probe.V
		}
	}
	if m.V != 0 && m.V != version {
		return message{}, fmt.Errorf("version %d: %w", m.V, ErrVersion)
	}
	if err != nil || m.V == 0 {
		return message{}, fmt.Errorf("%w: %v", errFrame, err)
	}
	return m, nil
}

// frame returns m as it goes over the wire.
func frame(m message) ([]byte, error) {
	m.V = version
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("writing a frame: %w", err)
	}
	if len(body) > maxFrame {
		return nil, fmt.Errorf("writing a frame: %d bytes, at most %d", len(body), maxFrame)
	}
	out := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	return append(out, body...), nil
}

// code is an error on the wire. A reader takes an unknown one as "not enforced".
type code string

const (
	outdated    code = "outdated"
	conflict    code = "conflict"
	notEnforced code = "not_enforced"
	refused     code = "refused"
	badVersion  code = "version"
	noPeer      code = "peer"
)

var codes = []struct {
	code code
	err  error
}{
	{outdated, quarantine.ErrOutdated},
	{conflict, quarantine.ErrConflict},
	{badVersion, ErrVersion},
	{refused, ErrRefused},
	{noPeer, quarantine.ErrPeer},
	{notEnforced, quarantine.ErrNotEnforced}, // last: the answer to everything else
}

// encode puts err into the answer to order id.
func encode(id uint64, err error) message {
	m := message{ID: id, Kind: answer}
	if err == nil {
		return m
	}
	m.Code, m.Text = notEnforced, err.Error()
	for _, c := range codes {
		if errors.Is(err, c.err) {
			m.Code = c.code
			break
		}
	}
	m.Text = short(m.Text, maxText)
	return m
}

// decode is encode's other half.
func decode(m message) error {
	if m.Code == "" {
		return nil
	}
	for _, c := range codes {
		if m.Code == c.code {
			return &remote{c.err, m.Text}
		}
	}
	return &remote{quarantine.ErrNotEnforced, m.Text}
}

// err is the error that answer m tells of. One about a single device may stand in its
// faults, with more about it.
func (m message) err() error {
	if m.Code != "" && len(m.Faults) == 1 && m.Faults[0].Code == m.Code {
		return &remote{m.Faults[0].err(), m.Text}
	}
	return decode(m)
}

// remote is an error that the data plane told of.
type remote struct {
	is   error
	text string
}

func (e *remote) Error() string { return e.text }
func (e *remote) Unwrap() error { return e.is }
