package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// orders is the second serial line, on which a guest that was made for it is told what to
// do: each order is a line, answered with lines of which the last is "done" or begins with
// "error: ".
type orders struct {
	mu sync.Mutex
	f  *os.File
	in *bufio.Reader
}

func (o *orders) open(f *os.File) { o.f, o.in = f, bufio.NewReader(f) }

func (o *orders) close() {
	if o.f != nil {
		o.f.Close()
	}
}

// Order gives the guest an order, and returns what it says before "done". After an error
// that is not the guest's no more orders can be given.
func (v *VM) Order(ctx context.Context, order string) (string, error) {
	o := &v.orders
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.f.SetDeadline(time.Time{}); err != nil {
		return "", fmt.Errorf("ordering %q: %w", order, err)
	}
	stop := context.AfterFunc(ctx, func() { o.f.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := o.f.WriteString(order + "\n"); err != nil {
		return "", fmt.Errorf("ordering %q: %w", order, err)
	}
	var said strings.Builder
	for {
		line, err := o.in.ReadString('\n')
		if err != nil {
			return said.String(), fmt.Errorf("ordering %q: %w", order, err)
		}
		line = strings.TrimRight(line, "\r\n")
		if fault, ok := strings.CutPrefix(line, "error: "); ok {
			return said.String(), fmt.Errorf("ordering %q: %w", order, errors.New(fault))
		}
		if line == "done" {
			return said.String(), nil
		}
		said.WriteString(line + "\n")
	}
}
