package claim

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// What the door says to the keeper, one JSON value to a line. Every call has a number, which
// its replies repeat; only the last reply to it is Last.
type call struct {
	ID       uint64    `json:"id"`
	Kind     string    `json:"kind"`
	Text     string    `json:"text,omitempty"`     // serving: the certificate's fingerprint
	Exchange *Exchange `json:"exchange,omitempty"` // open: without the machine's nonce
	Request  []byte    `json:"request,omitempty"`  // claim
	Proof    Sum       `json:"proof,omitempty"`    // claim and kept
}

const (
	callServing = "serving" // the door listens
	callClock   = "clock"   // what time it is
	callOpen    = "open"    // begin an exchange
	callClaim   = "claim"   // make the gateway
	callKept    = "kept"    // the claimant has the answer
)

type reply struct {
	ID       uint64   `json:"id"`
	Last     bool     `json:"last,omitempty"`
	About    *About   `json:"about,omitempty"`    // serving
	Clock    *Clock   `json:"clock,omitempty"`    // clock
	Machine  Sum      `json:"machine,omitempty"`  // open: nonce
	Seed     []byte   `json:"seed,omitempty"`     // open: what a seed said
	Proof    Sum      `json:"proof,omitempty"`    // open: the machine's; claim: the answer's MAC
	Progress string   `json:"progress,omitempty"` // claim
	Answer   []byte   `json:"answer,omitempty"`   // claim
	Refusal  *Refusal `json:"refusal,omitempty"`
}

// maxLine is longer than any line: base64 makes four bytes of three.
const maxLine = 2 * (MaxRequest + MaxAnswer)

// lines reads JSON values from a stream, one to a line, each strictly.
type lines struct{ s *bufio.Scanner }

func newLines(r io.Reader) lines {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), maxLine)
	return lines{s}
}

// next reads a value; io.EOF is the stream's proper end.
func (l lines) next(v any) error {
	if !l.s.Scan() {
		if err := l.s.Err(); err != nil {
			return err
		}
		return io.EOF
	}
	return strict(bytes.TrimSpace(l.s.Bytes()), v)
}

// mouth writes one line at a time.
type mouth struct {
	mu sync.Mutex
	to io.Writer
}

func (m *mouth) say(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	_, err = m.to.Write(append(b, '\n'))
	return err
}

// errPipe is the end of the pipe: the keeper is gone, or does not speak as it should.
var errPipe = errors.New("the machine's first process does not answer")

// pipe is the door's end.
type pipe struct {
	conn net.Conn
	out  mouth

	mu      sync.Mutex // guards what follows
	last    uint64
	waiting map[uint64]chan reply // buffered; closed when the pipe ends
	ended   bool
}

func newPipe(conn net.Conn) *pipe {
	return &pipe{conn: conn, out: mouth{to: conn}, waiting: make(map[uint64]chan reply)}
}

// run takes replies to their calls until the pipe ends or ctx does.
func (p *pipe) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { p.conn.Close() })()
	in := newLines(p.conn)
	var err error
	for err == nil {
		var r reply
		if err = in.next(&r); err == nil {
			p.deliver(r)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	for id, c := range p.waiting {
		close(c)
		delete(p.waiting, id)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: %w", errPipe, err)
}

// deliver never waits: who does not listen any more misses progress, and a last reply always
// has room, as progress leaves one place free.
func (p *pipe) deliver(r reply) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.waiting[r.ID]
	if c == nil || !r.Last && len(c) >= cap(c)-1 {
		return
	}
	c <- r
	if r.Last {
		delete(p.waiting, r.ID)
	}
}

// ask makes one call and waits for its last reply; progress, which may be nil, gets the others.
// The error is a *Refusal where the keeper refuses.
func (p *pipe) ask(ctx context.Context, c call, progress func(string)) (reply, error) {
	answers := make(chan reply, 32)
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return reply{}, errPipe
	}
	p.last++
	c.ID = p.last
	p.waiting[c.ID] = answers
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.waiting, c.ID)
	}()
	if err := p.out.say(c); err != nil {
		return reply{}, fmt.Errorf("%w: %w", errPipe, err)
	}
	for {
		select {
		case <-ctx.Done():
			return reply{}, ctx.Err()
		case r, ok := <-answers:
			switch {
			case !ok:
				return reply{}, errPipe
			case r.Refusal != nil:
				return reply{}, r.Refusal
			case r.Last:
				return r, nil
			case progress != nil:
				progress(r.Progress)
			}
		}
	}
}
