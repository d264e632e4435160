package testnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// message is one packet on the socket between the supervisor and an agent: a
// request (Op set), the cancellation of one, or its answer. Files travel beside it.
type message struct {
	ID     uint64          `json:"id"`
	Op     string          `json:"op,omitempty"`
	Cancel bool            `json:"cancel,omitempty"`
	Error  string          `json:"error,omitempty"`
	Body   json.RawMessage `json:"body,omitempty"`
}

// maxMessage bounds a message, below what the kernel sends as one packet.
const maxMessage = 128 << 10

// errGone reports that an agent ended, and with it everything on its host.
var errGone = errors.New("the lab has ended")

// socketPair returns two ends of a packet socket: ours as a connection, theirs as
// a file to hand to a child.
func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	ours, err := fileConn(os.NewFile(uintptr(fds[0]), "control"))
	if err != nil {
		unix.Close(fds[1])
		return nil, nil, err
	}
	return ours, os.NewFile(uintptr(fds[1]), "control"), nil
}

// fileConn turns an inherited socket into a connection and closes the file.
func fileConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("using the control socket: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("using the control socket: not a unix socket")
	}
	return u, nil
}

func writeMessage(c *net.UnixConn, m message, files []*os.File) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding a message: %w", err)
	}
	if len(b) > maxMessage {
		return fmt.Errorf("message of %d bytes is longer than %d", len(b), maxMessage)
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd()) // in blocking mode from here on, as programs expect of their pipes
		}
		rights = unix.UnixRights(fds...)
	}
	_, _, err = c.WriteMsgUnix(b, rights, nil)
	return err
}

func readMessage(c *net.UnixConn, buf []byte) (message, []*os.File, error) {
	oob := make([]byte, unix.CmsgSpace(8*4))
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return message{}, nil, err
	}
	if n == 0 {
		return message{}, nil, io.EOF
	}
	files, err := receivedFiles(oob[:oobn])
	if err != nil {
		return message{}, nil, err
	}
	var m message
	if err := json.Unmarshal(buf[:n], &m); err != nil {
		closeAll(files)
		return message{}, nil, fmt.Errorf("decoding a message: %w", err)
	}
	return m, files, nil
}

func receivedFiles(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	parts, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("reading control data: %w", err)
	}
	var files []*os.File
	for _, p := range parts {
		fds, err := unix.ParseUnixRights(&p)
		if err != nil {
			continue // other control data is not for us
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// caller is the supervisor's end of a control socket.
type caller struct {
	conn *net.UnixConn

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan message // closed when the agent is gone
	gone    bool
}

func newCaller(c *net.UnixConn) *caller {
	k := &caller{conn: c, waiting: make(map[uint64]chan message)}
	go k.read() // ends when the connection does
	return k
}

func (k *caller) read() {
	buf := make([]byte, maxMessage)
	for {
		m, files, err := readMessage(k.conn, buf)
		closeAll(files)
		if err != nil {
			break
		}
		k.mu.Lock()
		ch := k.waiting[m.ID]
		delete(k.waiting, m.ID)
		k.mu.Unlock()
		if ch != nil {
			ch <- m
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.gone = true
	for id, ch := range k.waiting {
		delete(k.waiting, id)
		close(ch)
	}
}

// Close ends the connection; calls under way return errGone.
func (k *caller) Close() error { return k.conn.Close() }

func (k *caller) begin(op string, in any, files []*os.File) (uint64, chan message, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return 0, nil, fmt.Errorf("encoding %s: %w", op, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone {
		return 0, nil, errGone
	}
	k.next++
	ch := make(chan message, 1)
	k.waiting[k.next] = ch
	if err := writeMessage(k.conn, message{ID: k.next, Op: op, Body: body}, files); err != nil {
		delete(k.waiting, k.next)
		return 0, nil, fmt.Errorf("asking for %s: %w", op, err)
	}
	return k.next, ch, nil
}

// call asks the agent for op and decodes its answer into out, which may be nil.
// When ctx ends first, the agent is told to give up. The caller keeps its files.
func (k *caller) call(ctx context.Context, op string, in, out any, files ...*os.File) error {
	id, ch, err := k.begin(op, in, files)
	if err != nil {
		return err
	}
	var m message
	var ok bool
	select {
	case m, ok = <-ch:
	case <-ctx.Done():
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.waiting, id)
		_ = writeMessage(k.conn, message{ID: id, Cancel: true}, nil) // a lost one costs only time
		return ctx.Err()
	}
	switch {
	case !ok:
		return errGone
	case m.Error != "":
		return errors.New(m.Error)
	case out == nil:
		return nil
	}
	return json.Unmarshal(m.Body, out)
}

// handler answers one kind of request; it owns the files.
type handler func(ctx context.Context, body json.RawMessage, files []*os.File) (any, error)

// handle makes a handler of a typed function that takes no files.
func handle[In any](f func(ctx context.Context, in In) (any, error)) handler {
	return handleFiles(func(ctx context.Context, in In, files []*os.File) (any, error) {
		closeAll(files)
		return f(ctx, in)
	})
}

// handleFiles makes a handler of a typed function that takes files, and closes
// them after it.
func handleFiles[In any](f func(ctx context.Context, in In, files []*os.File) (any, error)) handler {
	return func(ctx context.Context, body json.RawMessage, files []*os.File) (any, error) {
		var in In
		if err := json.Unmarshal(body, &in); err != nil {
			closeAll(files)
			return nil, fmt.Errorf("decoding a request: %w", err)
		}
		return f(ctx, in, files)
	}
}

// serve answers requests, each in a goroutine of its own, until the connection
// or ctx ends; then it cancels what is under way and waits for it.
func serve(ctx context.Context, c *net.UnixConn, ops map[string]handler) error {
	ctx, cancelAll := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancelAll()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()

	s := &serving{conn: c, cancels: make(map[uint64]context.CancelFunc)}
	buf := make([]byte, maxMessage)
	for {
		m, files, err := readMessage(c, buf)
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading a request: %w", err)
		}
		if m.Cancel {
			s.cancel(m.ID)
			continue
		}
		h := ops[m.Op]
		if h == nil {
			closeAll(files)
			s.answer(m.ID, nil, fmt.Errorf("no operation %q here", m.Op))
			continue
		}
		rctx := s.add(ctx, m.ID)
		body := append(json.RawMessage(nil), m.Body...)
		wg.Go(func() {
			out, err := h(rctx, body, files)
			s.answer(m.ID, out, err)
			s.cancel(m.ID)
		})
	}
}

// serving is the agent's end of a control socket.
type serving struct {
	conn    *net.UnixConn
	mu      sync.Mutex
	cancels map[uint64]context.CancelFunc
}

func (s *serving) add(ctx context.Context, id uint64) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancels[id] = cancel
	return ctx
}

func (s *serving) cancel(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cancel := s.cancels[id]; cancel != nil {
		cancel()
		delete(s.cancels, id)
	}
}

func (s *serving) answer(id uint64, out any, err error) {
	m := message{ID: id}
	if err == nil {
		m.Body, err = json.Marshal(out)
	}
	if err != nil {
		m.Error, m.Body = err.Error(), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = writeMessage(s.conn, m, nil) // fails only when the supervisor is gone, and then we end too
}
