package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"sync"
	"time"
)

// qmp is a conversation with QEMU's monitor (docs/interop/qmp-spec of QEMU): one command at
// a time, events are passed over.
type qmp struct {
	mu   sync.Mutex
	last int // id of the last command
	conn net.Conn
	in   *json.Decoder
}

type qmpMessage struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class       string `json:"class"`
		Description string `json:"desc"`
	} `json:"error"`
	Greeting json.RawMessage `json:"QMP"`
	ID       int             `json:"id"`
	Event    string          `json:"event"`
}

// answerWithin is how long QEMU may take for an answer on a busy machine.
const answerWithin = 30 * time.Second

func newQMP(f *os.File) (*qmp, error) {
	conn, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	q := &qmp{conn: conn, in: json.NewDecoder(conn)}
	if err := conn.SetDeadline(time.Now().Add(answerWithin)); err != nil {
		return nil, err
	}
	var greeting qmpMessage
	if err := q.in.Decode(&greeting); err != nil || greeting.Greeting == nil {
		return nil, fmt.Errorf("no greeting: %w", err)
	}
	_, err = q.do(context.Background(), "qmp_capabilities", nil)
	return q, err
}

func (q *qmp) do(ctx context.Context, command string, arguments map[string]any) (json.RawMessage, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { q.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := q.conn.SetDeadline(time.Time{}); err != nil {
		return nil, err
	}
	q.last++
	ask := map[string]any{"execute": command, "id": q.last}
	if arguments != nil {
		ask["arguments"] = arguments
	}
	if err := json.NewEncoder(q.conn).Encode(ask); err != nil {
		return nil, err
	}
	for {
		var m qmpMessage
		if err := q.in.Decode(&m); err != nil {
			return nil, err
		}
		switch {
		case m.ID != q.last: // an event
		case m.Error != nil:
			return nil, fmt.Errorf("%s: %s", m.Error.Class, m.Error.Description)
		case m.Return != nil:
			return m.Return, nil
		}
	}
}

func (q *qmp) close() { q.conn.Close() }

var forwarded = regexp.MustCompile(`(?m)^\s*(TCP|UDP)\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+(\d+)\s`)

// findPorts asks QEMU which ports it took for what it forwards.
func (v *VM) findPorts() error {
	if len(v.config.Forward) == 0 || v.config.Card == "none" {
		return nil
	}
	answer, err := v.Do(context.Background(), "human-monitor-command", map[string]any{"command-line": "info usernet"})
	if err != nil {
		return err
	}
	var text string
	if err := json.Unmarshal(answer, &text); err != nil {
		return err
	}
	for _, m := range forwarded.FindAllStringSubmatch(text, -1) {
		host, err := strconv.ParseUint(m[2], 10, 16)
		guest, err2 := strconv.ParseUint(m[3], 10, 16)
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		network := map[string]string{"TCP": "tcp", "UDP": "udp"}[m[1]]
		v.ports[Port{network, uint16(guest)}] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(host))
	}
	if len(v.ports) != len(v.config.Forward) {
		return fmt.Errorf("%d of %d ports are forwarded:\n%s", len(v.ports), len(v.config.Forward), text)
	}
	return nil
}
