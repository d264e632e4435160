package quarantine

import (
	"context"
	"errors"
)

// A tunnel that is full, as a userspace one is with 65,536 peers, leaves devices without a
// peer. Each peer that goes makes room for one of them.

// vain bounds how many devices in a row are tried in vain for each time that room was made:
// a key that the tunnel never takes must not keep the rest waiting.
const vain = 4

// lack notes a device that the tunnel has no room for. The caller holds mu.
func (g *Gate) lack(st *state) {
	if !st.lacks {
		st.lacks = true
		g.lacking = append(g.lacking, st)
	}
}

// freed notes that a peer went. The caller holds mu.
func (g *Gate) freed() {
	if len(g.lacking) > 0 {
		signal(g.roomier)
	}
}

// nextLacking is the device that has waited for a peer for longest, or nil.
func (g *Gate) nextLacking() *state {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.lacking) > 0 {
		st := g.lacking[0]
		g.lacking[0] = nil
		g.lacking = g.lacking[1:]
		st.lacks = false
		if st.nth >= 0 && errors.Is(st.problem, ErrPeer) {
			return st
		}
	}
	return nil
}

// admitLacking gives devices the peers that they lack when others' are gone.
func (g *Gate) admitLacking(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.roomier:
		}
		for failed := 0; failed < vain && ctx.Err() == nil; {
			st := g.nextLacking()
			if st == nil {
				break
			}
			if err := g.enforce(ctx, st.id); err != nil { // it waits at the end of the line again
				failed++
			}
		}
	}
}
