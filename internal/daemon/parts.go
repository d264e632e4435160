package daemon

import (
	"context"
	"fmt"
	"net/http"
)

// part is a piece of the control plane beside gate, desk and console: a source, a
// sender, a watcher.
type part struct {
	name string
	run  func(ctx context.Context) error // until ctx ends; nil: there is nothing to run
	// public are handlers on the enrollment listener, which strangers reach, by pattern of
	// http.ServeMux: each authenticates whoever calls.
	public map[string]http.Handler
}

// makeParts makes every part, in no order that matters: each sees what build made before.
func (k *control) makeParts(ctx context.Context) error {
	for _, build := range []func(context.Context) (part, error){k.makeManage, k.makeHooks, k.makeStreams, k.makeSSF, k.makePollers, k.makeMachine, k.makeAlerts, k.makeLeftovers, k.makeHeartbeat} {
		p, err := build(ctx)
		if err != nil {
			return fmt.Errorf("making %s: %w", p.name, err)
		}
		k.parts = append(k.parts, p)
	}
	return nil
}

// public is what the enrollment listener serves: the desk, and what parts add to it.
func (k *control) public() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", k.desk)
	for _, p := range k.parts {
		for pattern, h := range p.public {
			mux.Handle(pattern, h)
		}
	}
	return mux
}
