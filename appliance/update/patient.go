package update

import (
	"context"
	"io"
	"time"
)

// How long a bundle may take to come in as a whole, and how long may pass without a byte.
const (
	mostTime  = 15 * time.Minute
	mostPause = time.Minute
)

// patient reads a bundle, and ends with its context, however long its sender says nothing.
type patient struct {
	ctx context.Context
	r   io.Reader
	buf []byte
	err error // it ended: what was asked of r last may still come, and is for nobody
}

// newPatient gives r its time. stop frees what was taken for that.
func newPatient(ctx context.Context, r io.Reader) (p *patient, stop func()) {
	ctx, cancel := context.WithTimeoutCause(ctx, mostTime, refused("the bundle did not come in whole within %s", mostTime))
	return &patient{ctx: ctx, r: r, buf: make([]byte, 64<<10)}, cancel
}

// Read implements io.Reader.
func (p *patient) Read(b []byte) (int, error) {
	if p.err == nil {
		p.err = context.Cause(p.ctx)
	}
	if p.err != nil {
		return 0, p.err
	}
	type result struct {
		n   int
		err error
	}
	buf, got := p.buf[:min(len(b), len(p.buf))], make(chan result, 1)
	go func() { // ends when the sender says something or goes away
		n, err := p.r.Read(buf)
		got <- result{n, err}
	}()
	t := time.NewTimer(mostPause)
	defer t.Stop()
	select {
	case g := <-got:
		return copy(b, buf[:g.n]), g.err
	case <-t.C:
		p.err = refused("nothing of the bundle came in for %s", mostPause)
	case <-p.ctx.Done():
		p.err = context.Cause(p.ctx)
	}
	return 0, p.err
}

// guarded is a reader of what is at hand that ends with ctx.
type guarded struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (g guarded) Read(b []byte) (int, error) {
	if err := context.Cause(g.ctx); err != nil {
		return 0, err
	}
	return g.r.Read(b)
}
