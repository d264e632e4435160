package quarantine

// Outlived returns what stays of a device's reports when it enrolls again, with other keys.
// What was said of it with the old ones releases nobody: only a report newer than the last
// of its source does, so that last one stays, as a verdict of unknown. What speaks against
// the device stands as long as it did. r itself stays as it is.
func (r Record) Outlived() map[string]Report {
	all := make(map[string]Report, len(r.Reports))
	for name, last := range r.Reports {
		if last.Verdict != NonCompliant {
			last = last.outlived()
		}
		all[name] = last
	}
	return all
}

// outlived is the report as no more than a place in the order of its source's reports.
func (n Report) outlived() Report {
	return Report{Device: n.Device, Source: n.Source, At: n.At, Sequence: n.Sequence, Received: n.Received,
		Detail: "about the device before it enrolled again"}
}

// forKeyOf is the change as it may be folded into r. A report that does not speak
// against the device was about it with the key that it had then. With another one it has enrolled again, or rotated at
// another gateway before this one had recorded the report; either way the report says
// nothing of it but that an older one comes too late.
func (c Change) forKeyOf(r Record) Change {
	if c.Kind != Reported || c.Report == nil || c.Report.Verdict == NonCompliant || c.Key == r.Key {
		return c
	}
	n := c.Report.outlived()
	c.Report = &n
	return c
}
