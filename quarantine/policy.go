package quarantine

import "time"

// DefaultValidity is how long a report is good for when neither it nor its source says.
const DefaultValidity = time.Hour

// PlainPolicy releases a device when the latest report of a source with the right to
// release, within its validity, says compliant, and no live report of any source says
// otherwise.
type PlainPolicy struct{}

// Judge implements Policy.
func (PlainPolicy) Judge(f Facts) Judgement { return Judgement{} }
