package policy

import "cel.dev/cel-go/common/types/ref"

// probe stands for a device of which one fact alone is known, or known to be missing.
type probe struct {
	fact string
	is   ref.Val // nil: missing
}

func (p *probe) value(name string) ref.Val {
	if name == p.fact {
		return p.is
	}
	return nil
}
