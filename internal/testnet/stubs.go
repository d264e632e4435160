package testnet

import (
	"context"
	"errors"
)

type traffic struct{}

func newTraffic() *traffic { return &traffic{} }

func (*traffic) register(map[string]handler) {}

type capturing struct{}
type captures struct{ running map[uint64]*capturing }

func (*captures) register(map[string]handler) {}

func probe(ctx context.Context, s ProbeSpec) (ProbeResult, error) {
	return ProbeResult{}, errors.ErrUnsupported
}
