package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"lazaret/internal/testnet"
)

// worker is a process of a lab that does one thing after the other, as it is told.
type worker struct {
	*testnet.Process
	in *json.Encoder
}

// order is what a worker is told.
type order struct {
	Do string `json:"do"`
	N  int    `json:"n,omitempty"` // times
}

// reply is a worker's answer.
type reply struct {
	Error string          `json:"error,omitempty"`
	Value json.RawMessage `json:"value,omitempty"`
}

// patience is how long one order may take.
const patience = 3 * time.Minute

// startWorker starts a role and waits until it is ready; what it reports then goes into v,
// which may be nil.
func startWorker(ctx context.Context, h *testnet.Host, role string, unprivileged bool, args any, v any) (*worker, error) {
	text, err := json.Marshal(args)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", role, err)
	}
	r, w := io.Pipe()
	p, err := h.Start(ctx, testnet.Spec{Role: role, Args: []string{string(text)}, Stdin: r, NoPrivileges: unprivileged})
	if err != nil {
		return nil, err
	}
	go func() { <-p.Done(); r.CloseWithError(io.ErrClosedPipe) }() // ends with the process
	k := &worker{Process: p, in: json.NewEncoder(w)}
	if err := k.answer(ctx, v); err != nil {
		return nil, fmt.Errorf("starting %s on %s: %w", role, h.Name(), err)
	}
	return k, nil
}

// ask gives an order and waits for its answer; v may be nil.
func (w *worker) ask(ctx context.Context, o order, v any) error {
	if err := w.in.Encode(o); err != nil {
		return fmt.Errorf("asking for %q: %w", o.Do, err)
	}
	if err := w.answer(ctx, v); err != nil {
		return fmt.Errorf("asking for %q: %w", o.Do, err)
	}
	return nil
}

func (w *worker) answer(ctx context.Context, v any) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var r reply
	if err := w.Next(ctx, &r); err != nil {
		return err
	}
	if r.Error != "" {
		return errors.New(r.Error)
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(r.Value, v)
}

// obey is a worker's own side: it says that it is ready, and with what, and then takes
// orders until ctx or its input ends.
func obey(ctx context.Context, ready any, do func(context.Context, order) (any, error)) error {
	if err := tell(ready, nil); err != nil {
		return err
	}
	orders := make(chan order)
	go func() { // ends with the process, which nothing outlives
		defer close(orders)
		in := json.NewDecoder(os.Stdin)
		for {
			var o order
			if in.Decode(&o) != nil {
				return
			}
			orders <- o
		}
	}()
	for {
		select {
		case o, ok := <-orders:
			if !ok {
				return nil
			}
			if err := tell(do(ctx, o)); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func tell(v any, err error) error {
	var r reply
	if err != nil {
		r.Error = err.Error()
	} else if r.Value, err = json.Marshal(v); err != nil {
		return err
	}
	return testnet.Report(r)
}

// unknown answers an order that a worker does not know.
func unknown(o order) (any, error) { return nil, fmt.Errorf("no order %q here", o.Do) }

// arguments reads what startWorker was given.
func arguments(args []string, v any) error {
	if len(args) != 1 {
		return fmt.Errorf("want one argument, got %d", len(args))
	}
	return json.Unmarshal([]byte(args[0]), v)
}
